"""The run's log (one JSON object a line), and on stderr how it goes."""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from understudy.errors import ConfigError, WeightsError

PLAIN_S = 10.0
"""Least seconds between the plain lines of two epochs."""


class RunLog:
    """RUN/log.jsonl, appended to and, on resume, cut back to where the checkpoint was taken.

    An interrupted and resumed run thus leaves the same lines as an undisturbed one; only what is
    under "timing" differs.

    Args:
        path: The log.
        offset: Its length in bytes at the checkpoint; 0 begins a new log.
        tensorboard: Write the same numbers to `tensorboard` beside it.

    Raises:
        WeightsError: The log is shorter than the checkpoint says.
        ConfigError: TensorBoard is not installed.
    """

    def __init__(self, path: Path, offset: int = 0, tensorboard: bool = False) -> None:
        self._board = _board(path.with_name("tensorboard")) if tensorboard else None
        self._file = path.open("ab")
        size = self._file.tell()
        if size < offset:
            self._file.close()
            raise WeightsError(
                f"{path}: {size} bytes, but the checkpoint was taken at {offset}: the log was "
                "altered; begin in a new run directory"
            )
        self._file.truncate(offset)

    def write(self, kind: str, **fields: Any) -> None:
        """Appends one line; values are JSON-able and finite."""
        line = json.dumps({"kind": kind, **fields}, allow_nan=False)
        self._file.write(line.encode() + b"\n")
        if self._board is not None and "step" in fields:
            for name, value in _numbers(fields):
                self._board.add_scalar(f"{kind}/{name}", value, fields["step"])

    def sync(self) -> int:
        """Everything written so far is on disk; returns the log's length in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Flushes and closes."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _board(path: Path) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        raise ConfigError(
            "run.tensorboard: TensorBoard is not installed: pip install 'understudy[tensorboard]'"
        ) from None
    return SummaryWriter(str(path))


def _numbers(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Names such as "train/total", and values, of all floats."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, float):
            yield prefix + name, value


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, as dicts."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Progress:
    """On a terminal one live line: steps, it/s, share of the time spent waiting for data, losses.
    Elsewhere a plain line at the start and, now and then, one of an epoch.

    Args:
        total: Steps of the whole run.
        done: Steps already taken.
        enabled: False shows nothing.
    """

    def __init__(self, total: int, done: int, enabled: bool) -> None:
        self._bar = tqdm(
            total=total, initial=done, unit="step", dynamic_ncols=True, disable=not enabled or None
        )
        self._fields: dict[str, str] = {}
        self._total, self._done = total, done
        self._plain = enabled and self._bar.disable
        self._told_s = -math.inf
        self._epoch_began_s = time.monotonic()

    def begin(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Says, as a plain line, what is trained: the config.json of each student."""
        if self._plain:
            click.echo(headline(records, self._total, self._done), err=True)

    def step(self, done: int) -> None:
        """`done` steps are done."""
        self._bar.update(done - self._bar.n)

    def show(self, **fields: str) -> None:
        """Sets fields behind the bar; earlier ones stay."""
        self._fields |= fields
        self._bar.set_postfix(self._fields, refresh=False)

    def end_epoch(self, epoch: int, step: int, **fields: str) -> None:
        """Shows the fields of an epoch that is done; as a plain line not too often."""
        self.show(**fields)
        now_s = time.monotonic()
        epoch_s, self._epoch_began_s = now_s - self._epoch_began_s, now_s
        if self._plain and now_s - self._told_s >= PLAIN_S:
            self._told_s = now_s
            shown = ", ".join(f"{name} {text}" for name, text in fields.items())
            click.echo(
                f"epoch {epoch}, step {step} of {self._total}: {shown}; {epoch_s:.1f} s/epoch",
                err=True,
            )

    def close(self) -> None:
        """Leaves the line as it is."""
        self._bar.close()


def headline(records: Sequence[Mapping[str, Any]], total: int, done: int) -> str:
    """What is trained, for how many steps and where, from the config.json of each student."""
    first = records[0]
    fold = "" if first["fold"] is None else f" fold {first['fold']}"
    clips = ", ".join(f"{n} {split}" for split, n in first["clips"].items())
    students = (
        f"{one['student']} {one['system']}{' of ' + one['teacher'] if one['teacher'] else ''}"
        for one in records
    )
    steps = f"{total} steps at most{f', {done} done' if done else ''}"
    return (
        f"{first['dataset']}{fold}: {clips} clips; {', '.join(dict.fromkeys(students))}; "
        f"{steps}; on {first['provenance']['device']}"
    )
