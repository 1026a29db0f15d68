"""The table of a study: mean, spread and paired differences, from the runs' files alone."""

import csv
import io
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from understudy import __version__, intervals
from understudy.evaluate.runs import Run
from understudy.evaluate.uncertainty import Uncertainty, own_test, transferred
from understudy.intervals import Scored
from understudy.study.grid import TEACHER_LR, Cell

ROW = ("dataset", "tested_on", "student", "teacher", "system", "variant")
"""What tells the rows of the table apart; runs of one row differ in fold and seed."""
COLUMNS = (*ROW, "metric", "n", "mean", "low", "high", "sd", "min", "max",
           "difference", "difference_low", "difference_high", "p_value", "p_holm",
           "difference_sd", "difference_n", "better")  # fmt: skip
TEST = ("dataset", "tested_on")
"""What tells test sets apart."""
BASELINE = "baseline"
CHOSEN = "chosen on validation"


@dataclass(frozen=True, kw_only=True)
class Result:
    """A run's score on one test set."""

    run: str
    dataset: str
    tested_on: str
    student: str | None
    teacher: str | None
    system: str
    variant: str
    fold: int | None
    seed: int | None
    validation: float
    metric: str
    value: float
    variant_of_baseline: str
    measured: Run
    map: str
    """Label map of a test set that is another dataset's."""

    def predictions(self, run: Run) -> Scored | None:
        """What a run of the same test set predicted on it."""
        if self.tested_on == self.dataset:
            return own_test(run)
        return transferred(run, self.tested_on, self.map)

    def __getitem__(self, names: tuple[str, ...]) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in names)


def summarise(name: str, runs: Mapping[Path, Cell], failures: Mapping[str, str]) -> dict[str, Any]:
    """Content of summary.json: `rows` as the table has them, `runs` as they were measured.

    `difference` is the mean over pairs of run minus baseline: same dataset, student, fold and seed,
    and so the same batches and crops. (teacher_lr has no student and no seed: its pair is the mean
    of the fold's baselines, where the study has one student.) `sd` is the standard deviation over
    folds and seeds; folds share training clips, so it does not tell how sure the mean is. `low` to
    `high` does, over clips and seeds (see `understudy.intervals`), as does `p_value` for the
    difference; `p_holm` is corrected for the number of systems compared on one test set. They are
    empty where a run's predictions are not kept, which only earlier versions left out.

    Where the file has a grid, rows "chosen on validation" take for every fold the variant with the
    best validation, a mean over seeds, and its test score.
    """
    results = [result for path, cell in runs.items() for result in _results(path, cell)]
    return {
        "study": name,
        "understudy": __version__,
        "rows": _rows(results),
        "resampling": {
            "level": intervals.LEVEL,
            "n_resamples": intervals.N_RESAMPLES,
            "seed": intervals.SEED,
        },
        "runs": [
            {key: value for key, value in vars(result).items() if key != "measured"}
            for result in results
        ],
        "failed": dict(failures),
    }


def csv_table(content: Mapping[str, Any]) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(content["rows"])
    return text.getvalue()


def table(content: Mapping[str, Any]) -> str:
    """The rows for a terminal."""
    shown = [
        (
            *(f"{row[key] or '–'}" for key in ROW),
            f"{row['mean']:.3f}",
            _span(row["low"], row["high"], ".3f"),
            "–" if row["sd"] is None else f"{row['sd']:.3f}",
            f"{row['n']}",
            "–" if row["difference"] is None else f"{row['difference']:+.3f}",
            _span(row["difference_low"], row["difference_high"], "+.3f"),
            _p(row["p_holm"]),
            "–" if row["difference"] is None else f"{row['better']}/{row['difference_n']}",
        )
        for row in content["rows"]
    ]
    interval = f"{content['resampling']['level']:.0%} interval"
    head = [name.replace("_", " ") for name in ROW]
    head += ["mean", interval, "sd", "n", "diff", interval, "p (Holm)", "better"]
    lines = [tuple(head), *shown]
    keep = [i for i in range(len(head)) if i > 5 or any(line[i] != "–" for line in shown)]
    widths = {i: max(len(line[i]) for line in lines) for i in keep}
    return "\n".join(
        "  ".join(line[i].ljust(widths[i]) if i < 6 else line[i].rjust(widths[i]) for i in keep)
        for line in lines
    )


def _results(path: Path, cell: Cell) -> Iterator[Result]:
    """What a run came to on its own test split, and on other datasets."""
    run = Run.read(path)
    best = json.loads((path / "best.json").read_text(encoding="utf-8"))
    tests = {cell.dataset.name: ("", run.score())}
    for name in cell.dataset.transfer:
        maps = run.evaluations["transfer"]["targets"][name]["maps"]
        tests[name] = next(iter(maps.items()))  # the main map comes first
    for name, (label_map, score) in tests.items():
        if score["value"] is not None:
            yield Result(
                run=path.name,
                dataset=cell.dataset.name,
                tested_on=name,
                student=cell.student,
                teacher=cell.teacher,
                system=cell.system,
                variant=cell.variant,
                fold=cell.fold,
                seed=cell.seed,
                validation=best["value"],
                metric=score["metric"],
                value=score["value"],
                variant_of_baseline=cell.variant_of_baseline,
                measured=run,
                map=label_map,
            )


def _chosen(results: Sequence[Result]) -> list[Result]:
    """For each system and fold the runs of the variant that validates best."""
    chosen = []
    for case in _grouped(results, (*ROW[:-1], "fold")).values():
        variants = _grouped(case, ("variant",))
        if len(variants) > 1:
            best = max(variants.values(), key=lambda v: statistics.fmean(r.validation for r in v))
            chosen += [replace(r, variant=CHOSEN, variant_of_baseline=CHOSEN) for r in best]
    return chosen


def _rows(measured: Sequence[Result]) -> list[dict[str, Any]]:
    results = [*measured, *_chosen(measured)]
    uncertainties = {
        key: Uncertainty([result.measured for result in group], group[0].predictions)
        for key, group in _grouped(measured, TEST).items()
    }
    rows = []
    for key, group in _grouped(results, ROW).items():
        uncertainty = uncertainties[group[0][TEST]]
        pairs = [(r, partners) for r in group if (partners := _baselines(r, results))]
        differences = [r.value - statistics.fmean(p.value for p in partners)
                       for r, partners in pairs]  # fmt: skip
        paired = uncertainty.difference(
            [(r.measured, [p.measured for p in partners]) for r, partners in pairs]
        )
        values = [result.value for result in group]
        low, high = uncertainty.mean([r.measured for r in group]) or (None, None)
        difference_low, difference_high = paired["interval"] or (None, None)
        rows.append(
            dict(zip(ROW, key, strict=True))
            | {
                "metric": group[0].metric,
                "n": len(values),
                "mean": statistics.fmean(values),
                "low": low,
                "high": high,
                "sd": _sd(values),
                "min": min(values),
                "max": max(values),
                "difference": statistics.fmean(differences) if differences else None,
                "difference_low": difference_low,
                "difference_high": difference_high,
                "p_value": paired["p_value"],
                "p_holm": None,
                "difference_sd": _sd(differences),
                "difference_n": len(differences),
                "better": sum(difference > 0 for difference in differences),
            }
        )
    for test in uncertainties:
        same = [row for row in rows if tuple(row[name] for name in TEST) == test]
        known = {k: row["p_value"] for k, row in enumerate(same) if row["p_value"] is not None}
        for k, corrected in intervals.holm(known).items():
            same[k]["p_holm"] = corrected
    return rows


def _baselines(result: Result, results: Sequence[Result]) -> list[Result]:
    """What a result is compared with; none for a baseline itself."""
    if result.system == BASELINE:
        return []
    same = ("dataset", "tested_on", "fold")
    if result.system != TEACHER_LR:
        same += ("student", "seed")
    found = [r for r in results if r.system == BASELINE and r[same] == result[same]]
    if len({r.student for r in found}) != 1:
        return []
    # Where the baseline has no variants to choose from, its only one goes with those chosen.
    variants = _grouped(found, ("variant",))
    wanted = (result.variant_of_baseline,)
    return variants.get(wanted) or (found if len(variants) == 1 else [])


def _grouped(
    results: Sequence[Result], names: tuple[str, ...]
) -> dict[tuple[Any, ...], list[Result]]:
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        groups.setdefault(result[names], []).append(result)
    return groups


def _span(low: float | None, high: float | None, style: str) -> str:
    return "–" if low is None or high is None else f"{low:{style}} to {high:{style}}"


def _p(value: float | None) -> str:
    return "–" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _sd(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
