"""The table of a study: mean, spread and paired differences, from the runs' files alone."""

import csv
import io
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from understudy import __version__
from understudy.evaluate.runs import Run
from understudy.study.grid import TEACHER_LR, Cell

ROW = ("dataset", "tested_on", "student", "teacher", "system", "variant")
"""What tells the rows of the table apart; runs of one row differ in fold and seed."""
COLUMNS = (*ROW, "metric", "n", "mean", "sd", "min", "max",
           "difference", "difference_sd", "difference_n", "better")  # fmt: skip
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

    def __getitem__(self, names: tuple[str, ...]) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in names)


def summarise(name: str, runs: Mapping[Path, Cell], failures: Mapping[str, str]) -> dict[str, Any]:
    """Content of summary.json: `rows` as the table has them, `runs` as they were measured.

    `difference` is the mean over pairs of run minus baseline: same dataset, student, fold and seed,
    and so the same batches and crops. (teacher_lr has no student and no seed: its pair is the mean
    of the fold's baselines, where the study has one student.) `sd` is the standard deviation over
    folds and seeds; folds share clips, so it does not tell how sure the mean is.

    Where the file has a grid, rows "chosen on validation" take for every fold the variant with the
    best validation, a mean over seeds, and its test score.
    """
    results = [result for path, cell in runs.items() for result in _results(path, cell)]
    return {
        "study": name,
        "understudy": __version__,
        "rows": _rows([*results, *_chosen(results)]),
        "runs": [vars(result) for result in results],
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
            "–" if row["sd"] is None else f"{row['sd']:.3f}",
            f"{row['n']}",
            "–" if row["difference"] is None else f"{row['difference']:+.3f}",
            "–" if row["difference_sd"] is None else f"{row['difference_sd']:.3f}",
            "–" if row["difference"] is None else f"{row['better']}/{row['difference_n']}",
        )
        for row in content["rows"]
    ]
    head = [name.replace("_", " ") for name in ROW]
    head += ["mean", "sd", "n", "diff", "sd", "better"]
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
    tests = {cell.dataset.name: run.score()}
    for name in cell.dataset.transfer:
        maps = run.evaluations["transfer"]["targets"][name]["maps"]
        tests[name] = next(iter(maps.values()))  # the main map comes first
    for name, score in tests.items():
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


def _rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    rows = []
    for key, group in _grouped(results, ROW).items():
        values = [result.value for result in group]
        baselines = [_baseline(result, results) for result in group]
        pairs = [
            value - baseline
            for value, baseline in zip(values, baselines, strict=True)
            if baseline is not None
        ]
        rows.append(
            dict(zip(ROW, key, strict=True))
            | {
                "metric": group[0].metric,
                "n": len(values),
                "mean": statistics.fmean(values),
                "sd": _sd(values),
                "min": min(values),
                "max": max(values),
                "difference": statistics.fmean(pairs) if pairs else None,
                "difference_sd": _sd(pairs),
                "difference_n": len(pairs),
                "better": sum(pair > 0 for pair in pairs),
            }
        )
    return rows


def _baseline(result: Result, results: Sequence[Result]) -> float | None:
    """What a result is compared with; None for a baseline itself, or where there is none."""
    if result.system == BASELINE:
        return None
    same = ("dataset", "tested_on", "fold")
    if result.system != TEACHER_LR:
        same += ("student", "seed")
    found = [r for r in results if r.system == BASELINE and r[same] == result[same]]
    if len({r.student for r in found}) != 1:
        return None
    # Where the baseline has no variants to choose from, its only one goes with those chosen.
    variants = _grouped(found, ("variant",))
    wanted = (result.variant_of_baseline,)
    pair = variants.get(wanted) or (found if len(variants) == 1 else None)
    return None if pair is None else statistics.fmean(r.value for r in pair)


def _grouped(
    results: Sequence[Result], names: tuple[str, ...]
) -> dict[tuple[Any, ...], list[Result]]:
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        groups.setdefault(result[names], []).append(result)
    return groups


def _sd(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
