"""One table of a report: the systems of one test set, with spread, intervals and paired tests."""

import math
import statistics
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

from understudy import intervals
from understudy.evaluate.caveats import caveat
from understudy.evaluate.plots import SERIES
from understudy.evaluate.runs import Run, grouped
from understudy.evaluate.uncertainty import Predictions, Uncertainty

Result = dict[str, Any]
"""What `understudy.metrics.evaluate` returns, with provenance: the content of score.json."""


def comparison(
    runs: Sequence[Run],
    variants: dict[str, str],
    result: Callable[[Run], Result],
    predictions: Predictions,
) -> dict[str, Any]:
    """One table: runs of one test set, a row per system with mean, spread, interval and difference.

    Args:
        runs: Scored on the same dataset.
        variants: Run name to the settings that tell it from others of its system.
        result: Score of a run, as written by `understudy.metrics.evaluate`.
        predictions: What the score was made of, for intervals.
    """
    rows = []
    uncertainty = Uncertainty(runs, predictions)
    labels = list(result(runs[0])["per_class"])
    groups = grouped(runs, lambda run: _row_key(run, variants))
    for key, group in groups.items():
        values = [_number(result(run)["value"]) for run in group]
        student, system, teacher, variant = key
        rows.append(
            {
                "system": system,
                "preset": group[0].preset,
                "student": student,
                "teacher": teacher,
                "variant": variant,
                "runs": [
                    {"run": run.name, "fold": run.fold, "seed": run.seed, "value": value}
                    for run, value in zip(group, values, strict=True)
                ],
                **_spread([value for value in values if value is not None]),
                "interval": uncertainty.mean(group),
                "difference": None
                if group[0].preset == "baseline"
                else _difference(group, _baselines(runs, student), result, uncertainty),
                "also": _means([result(run).get("also", {}) for run in group]),
                "per_class": _means([result(run)["per_class"] for run in group]),
                "per_class_interval": uncertainty.per_class(group, labels),
            }
        )
    rows.sort(key=lambda row: (row["student"] or "", _order(row["preset"]), row["teacher"] or ""))
    _correct([row["difference"] for row in rows if row["difference"]])
    results = [result(run) for run in runs]
    counts = sorted({len(row["runs"]) for row in rows})
    return {
        "metric": results[0]["metric"],
        "per_class_metric": results[0]["per_class_metric"],
        "rows": rows,
        "resampling": uncertainty.describe(),
        "pairs": _pairs([(row, groups[_key(row)]) for row in rows], result, uncertainty),
        "chance": _means([one["chance"] for one in results]),
        "left_out": sorted({label for one in results for label in one["left_out"]}),
        "n_clips": sorted({one["n_clips"] for one in results}),
        "caveat": caveat(counts, uncertainty.describe() is not None),
    }


def _row_key(run: Run, variants: dict[str, str]) -> tuple[str | None, str, str | None, str]:
    return run.student, run.system, run.teacher, variants[run.digest]


def _baselines(runs: Sequence[Run], student: str | None) -> list[Run]:
    """Baseline runs to compare with: the same student's; any, for a system without a student."""
    found = [run for run in runs if run.preset == "baseline"]
    students = {run.student for run in found}
    if student is None and len(students) == 1:
        return found
    return [run for run in found if run.student == student]


def _difference(
    group: Sequence[Run],
    others: Sequence[Run],
    result: Callable[[Run], Result],
    uncertainty: Uncertainty,
) -> dict[str, Any] | None:
    """Differences of runs to others of the same fold and seed (of the same fold, where one of the
    two has no seed); None where there are no others."""
    if not others:
        return None
    pairs, differences = [], []
    for run in group:
        value = _number(result(run)["value"])
        partners = {
            other.path: (other, number)
            for other in others
            if other.fold == run.fold
            and (None in (run.seed, other.seed) or other.seed == run.seed)
            and (number := _number(result(other)["value"])) is not None
        }
        if partners and value is not None:
            pairs.append((run, [other for other, _ in partners.values()]))
            differences.append(value - statistics.fmean(n for _, n in partners.values()))
    return {
        "n_pairs": len(differences),
        "values": differences,
        **_spread(differences),
        **uncertainty.difference(pairs),
    }


def _pairs(
    rows: Sequence[tuple[dict[str, Any], Sequence[Run]]],
    result: Callable[[Run], Result],
    uncertainty: Uncertainty,
) -> list[dict[str, Any]]:
    """Every two systems of one student (or without one), the later row minus the earlier."""
    found = []
    for (one, minuend), (other, subtrahend) in combinations(reversed(rows), 2):
        if None in (one["student"], other["student"]) or one["student"] == other["student"]:
            difference = _difference(minuend, subtrahend, result, uncertainty)
            if difference and difference["interval"]:
                found.append({"system": _named(one), "minus": _named(other), **difference})
    _correct(found)
    return found


def _correct(differences: Sequence[dict[str, Any]]) -> None:
    """Adds `p_holm`, corrected for the number of `differences`."""
    known = {k: p for k, one in enumerate(differences) if (p := one["p_value"]) is not None}
    corrected = intervals.holm(known)
    for k, one in enumerate(differences):
        one["p_holm"] = corrected.get(k)


def _named(row: dict[str, Any]) -> dict[str, Any]:
    return {k: row[k] for k in ("system", "preset", "student", "teacher", "variant")}


def _key(row: dict[str, Any]) -> tuple[str | None, str, str | None, str]:
    return row["student"], row["system"], row["teacher"], row["variant"]


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    return {
        "mean": statistics.fmean(values) if values else None,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "min": min(values, default=None),
        "max": max(values, default=None),
    }


def _means(mappings: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    """Mean of each key over the mappings that have a number for it."""
    keys = {key: None for mapping in mappings for key in mapping}
    values = {k: [x for m in mappings if (x := _number(m.get(k))) is not None] for k in keys}
    return {key: statistics.fmean(known) if known else None for key, known in values.items()}


def _order(system: str) -> tuple[int, str]:
    return (SERIES.index(system) if system in SERIES else len(SERIES), system)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
