"""What a reader must know before comparing the numbers of a report."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from understudy.errors import UnderstudyError
from understudy.evaluate.audit import sentences
from understudy.evaluate.overlap import overlaps
from understudy.evaluate.runs import Run, grouped

NEAR_CHANCE = 0.03
"""An average precision that is less above chance is called at chance, however many the clips."""
FEW_RUNS = 10
"""Below this many runs of a system a table carries a caveat."""


def warnings(runs: Sequence[Run], transfers: Sequence[dict[str, Any]]) -> list[str]:
    """Sentences about overlaps with training data and about runs that do not compare."""
    found = [line for group in grouped(runs, lambda run: run.dataset).values()
             for line in _incomparable(group)]  # fmt: skip
    targets = sorted({(t["source"], t["target"]) for t in transfers})
    for run in runs:
        trained_on = teachers([run]).get(run.teacher or "", {}).get("training_data") or ()
        for dataset in (run.dataset, *(t for source, t in targets if source == run.dataset)):
            found += [
                f"Teacher {run.teacher}: {sentence}. Its embeddings of {dataset} may be better "
                "than those of recordings it has never met."
                for sentence in overlaps(dataset, trained_on)
            ]
    for source, target in targets:
        found += [f"Transfer: {sentence}." for sentence in overlaps(target, [source])]
    for transfer in transfers:
        if transfer["overlap"]:
            told = sentences(transfer["source"], transfer["target"], transfer["overlap"])
            found += [f"Transfer: {sentence}." for sentence in told]
    found += [sentence for table in transfers if (sentence := _at_chance(table))]
    return list(dict.fromkeys(found))


def chance_bounds(
    chance: dict[str, float | None], n_positive: dict[str, int]
) -> dict[str, float | None]:
    """Label -> average precision below which it cannot be told from chance.

    Two standard errors of a share of `n_positive` clips, and at least `NEAR_CHANCE`, above chance.
    """
    return {
        label: None
        if level is None or not n_positive.get(label)
        else level + max(NEAR_CHANCE, 2 * math.sqrt(level * (1 - level) / n_positive[label]))
        for label, level in chance.items()
    }


def _at_chance(table: dict[str, Any]) -> str | None:
    """Suspicion of a wrong label map: half of its labels are at chance for the best of systems."""
    known = {label: bound for label, bound in table["chance_bound"].items() if bound is not None}
    low = [
        label
        for label, bound in known.items()
        if max(row["per_class"][label] or 0.0 for row in table["rows"]) < bound
    ]
    if not known or 2 * len(low) < len(known):
        return None
    return (
        f"Transfer from {table['source']} to {table['target']} through map {table['map']}: "
        f"{len(low)} of {len(known)} labels are at chance for every system "
        f"({', '.join(low[:5])}{' ...' if len(low) > 5 else ''}). Look at the map: labels may be "
        "swapped, or mean something else."
    )


def _incomparable(runs: Sequence[Run]) -> Iterable[str]:
    """What forbids, or qualifies, comparing the runs of one dataset."""
    dataset = runs[0].dataset
    metrics = sorted({run.score()["metric"] for run in runs})
    if len(metrics) > 1:
        raise UnderstudyError(f"runs of {dataset} have different metrics: {', '.join(metrics)}")
    if len({run.score()["index_digest"] for run in runs}) > 1:
        yield f"Runs of {dataset} were scored on different clip lists: do not compare them."
    for fold, same in grouped(runs, lambda run: run.fold).items():
        where = f" fold {fold}" if fold else ""
        if len({run.score()["n_clips"] for run in same}) > 1:
            yield f"Runs of {dataset}{where} were scored on different numbers of clips."
    left_out = max(len(run.score().get("left_out_clips", ())) for run in runs)
    if left_out:
        yield f"{left_out} clips of {dataset} could not be used and are in no score."
    for group in grouped(runs, lambda run: run.digest).values():
        if len(group) > 1:
            names = ", ".join(run.name for run in group)
            yield f"{names} are one and the same run; it counts {len(group)} times."


def caveat(counts: Sequence[int], with_intervals: bool) -> str | None:
    """What `counts` runs per system do not decide; None where there are enough of them."""
    if counts[0] >= FEW_RUNS:
        return None
    many = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    noun = "run" if counts[-1] == 1 else "runs"
    beyond = " beyond what the intervals of their differences tell apart" if with_intervals else ""
    return f"{many} {noun} per system: this decides no ordering of the systems{beyond}."


def teachers(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Name to title, licences, weights and training data of the runs' teachers."""
    facts = ("title", "weights_sha256", "licence_code", "licence_weights", "training_data")
    return {
        teacher["name"]: dict.fromkeys(facts) | teacher
        for run in runs
        if (teacher := run.score().get("teacher"))
    }
