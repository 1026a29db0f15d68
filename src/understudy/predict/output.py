"""What `understudy predict` prints: a readable table, CSV or JSON, file by file as they come."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from understudy.predict.tagger import Tagged

_COLUMNS = ("path", "start_s", "end_s", "label", "probability", "error")


@dataclass
class Output:
    """Prints results in one format.

    Attributes:
        echo: Prints one line.
        label_names: Of the scores' columns.
        top, threshold: Labels shown: the `top` likeliest, of those at `threshold` or above.
        timeline: Whether to show every window, or else the whole file.
    """

    echo: Callable[[str], None]
    label_names: tuple[str, ...]
    top: int
    threshold: float
    timeline: bool

    def begin(self) -> None:
        """Before the first result."""

    def show(self, result: Tagged) -> None:
        """One result."""
        raise NotImplementedError

    def end(self) -> None:
        """After the last result."""

    def best(self, scores: np.ndarray) -> dict[str, float]:
        """Labels to show with their probabilities, the likeliest first."""
        order = np.argsort(-scores, kind="stable")[: self.top]
        found = {self.label_names[k]: round(float(scores[k]), 6) for k in order}
        return {name: value for name, value in found.items() if value >= self.threshold}

    def spans(self, result: Tagged) -> Iterator[tuple[float, float, dict[str, float]]]:
        """(start_s, end_s, labels) of what is to be shown of a result."""
        if self.timeline:
            for start_s, end_s, scores in result.timeline():
                yield start_s, end_s, self.best(scores)
        else:
            yield 0.0, result.duration_s, self.best(result.scores)


class Table(Output):
    """For people."""

    def show(self, result: Tagged) -> None:
        if result.error is not None:
            return  # standard error has it
        self.echo(result.path)
        width = max(map(len, self.label_names))
        for start_s, end_s, labels in self.spans(result):
            if self.timeline:
                named = "  ".join(f"{name} {value:.3f}" for name, value in labels.items())
                self.echo(f"  {_clock(start_s)} - {_clock(end_s)}  {named}".rstrip())
                continue
            for name, value in labels.items():
                self.echo(f"  {name:<{width}}  {value:.3f}  {'█' * round(20 * value)}".rstrip())


class Csv(Output):
    """One row for each label shown, or for a file that cannot be decoded."""

    def begin(self) -> None:
        self._row(_COLUMNS)

    def show(self, result: Tagged) -> None:
        if result.error is not None:
            self._row((result.path, "", "", "", "", result.error))
            return
        for start_s, end_s, labels in self.spans(result):
            for name, value in labels.items():
                self._row((result.path, f"{start_s:.3f}", f"{end_s:.3f}", name, value, ""))

    def _row(self, cells: tuple[object, ...]) -> None:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="").writerow(cells)
        self.echo(buffer.getvalue())


class Json(Output):
    """One list with an object a file, written as they come."""

    def begin(self) -> None:
        self._first = True

    def show(self, result: Tagged) -> None:
        content: dict[str, object] = {"path": result.path}
        if result.error is not None:
            content["error"] = result.error
        else:
            content["duration_s"] = round(result.duration_s, 3)
            content["labels"] = self.best(result.scores)
            if self.timeline:
                content["timeline"] = [
                    {"start_s": round(start_s, 3), "end_s": round(end_s, 3), "labels": labels}
                    for start_s, end_s, labels in self.spans(result)
                ]
        self.echo(("[" if self._first else ",") + json.dumps(content, ensure_ascii=False))
        self._first = False

    def end(self) -> None:
        self.echo("[]" if self._first else "]")


KINDS: dict[str, type[Output]] = {"table": Table, "csv": Csv, "json": Json}


def _clock(time_s: float) -> str:
    minutes, seconds = divmod(time_s, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{seconds:04.1f}"
