"""What happened during training, from the epochs in the runs' logs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from understudy.evaluate.runs import Run

MEANING = {
    "validation metric": "what picks the checkpoint",
    "validation loss": "of the student, what ends training",
    "training loss": "of the student, prediction and distance weighted",
    "prediction loss": "cross-entropy with the labels, in training",
    "distance": "between student and teacher, in training; those of different kinds do not compare",
    "teacher's loss": "cross-entropy of the compressed embedding's own prediction, in training",
}
_WHERE = {
    "validation loss": ("valid", "student"),
    "training loss": ("train", "student"),
    "prediction loss": ("train", "prediction"),
    "distance": ("train", "distance"),
    "teacher's loss": ("train", "teacher"),
}


@dataclass(frozen=True)
class Panel:
    """The curves of all runs of one dataset."""

    heading: str
    quantities: list[tuple[str, dict[str, tuple[list[int], list[float]]]]]
    """Name, as in MEANING, and the epochs and values of each run that has it, by its name."""


def panels(runs: Sequence[Run]) -> list[Panel]:
    """One panel per dataset on which something was trained step by step."""
    result = []
    for dataset in dict.fromkeys(run.dataset for run in runs):
        lines: dict[str, dict[str, tuple[list[int], list[float]]]] = {n: {} for n in MEANING}
        for run in (run for run in runs if run.dataset == dataset):
            epochs = run.lines("epoch")
            number = [line["epoch"] for line in epochs]
            values = {"validation metric": [line["value"] for line in epochs]}
            for name, (part, loss) in _WHERE.items():
                values[name] = [line[part].get(loss, 0.0) for line in epochs]
            for name, y in values.items():
                if any(y):  # a term the system does not have is 0 throughout
                    lines[name][run.name] = number, y
        quantities = [(name, drawn) for name, drawn in lines.items() if drawn]
        if quantities:
            result.append(Panel(dataset, quantities))
    return result


def outcome(run: Run) -> dict[str, Any] | None:
    """Length of a run's training and its best epoch; None where there was none."""
    if not (epochs := run.lines("epoch")):
        return None
    best = max(epochs, key=lambda line: line["value"])
    ends = run.lines("end")
    return {
        "epochs": epochs[-1]["epoch"],
        "steps": epochs[-1]["step"],
        "best_epoch": best["epoch"],
        "best_value": best["value"],
        "ended": ends[-1]["reason"] if ends else None,
    }
