"""Intervals and paired tests of whole systems, from the predictions kept beside their scores.

A run whose predictions are not there, or were kept without groups (by an earlier version), takes no
part; a system with such a run has no interval. Scoring it again is enough.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from understudy import intervals
from understudy.errors import UnderstudyError
from understudy.evaluate.runs import Run
from understudy.evaluate.transfer import columns, mapped
from understudy.intervals import Draws, Scored, Trial

Predictions = Callable[[Run], Scored | None]
"""What a run predicted on the test set at hand; None where that is not kept."""


class Uncertainty:
    """The runs of one test set, resampled together."""

    def __init__(self, runs: Sequence[Run], predictions: Predictions) -> None:
        """Reads and resamples the runs' predictions; `level` and the like are intervals' own."""
        kept = {run.path: one for run in runs if (one := predictions(run)) is not None}
        self.draws = Draws.over(kept.values()) if kept else None
        if self.draws is not None and len(self.draws.groups) < 2:
            self.draws = None
        self._trials: dict[Any, tuple[Trial, Trial]] = {}
        self._held: dict[Any, np.ndarray] = {}
        if self.draws is None:
            return
        for run in runs:
            if run.path in kept:
                values = intervals.resampled(kept[run.path], self.draws)
                self._held[run.path] = intervals.held(kept[run.path], self.draws)
                main = values["mAP" if "mAP" in values else "accuracy"]
                self._trials[run.path] = (
                    Trial(run.fold, run.seed, main),
                    Trial(run.fold, run.seed, values["per_class"]),
                )

    def describe(self) -> dict[str, Any] | None:
        """How the intervals are made; None where there are none."""
        return None if self.draws is None else self.draws.describe()

    def mean(self, runs: Sequence[Run]) -> list[float] | None:
        """Interval [low, high] of the mean of runs of one system."""
        if self.draws is None or not self._known(runs):
            return None
        trials = [self._trials[run.path][0] for run in runs]
        values = intervals.mean_over_runs(trials, self.draws)
        return intervals.listed(intervals.interval(values, self._n_groups(runs)))

    def per_class(
        self, runs: Sequence[Run], label_names: Sequence[str]
    ) -> dict[str, list[float] | None]:
        """Interval of each label's mean; empty where there are none."""
        if self.draws is None or not self._known(runs):
            return {}
        trials = [self._trials[run.path][1] for run in runs]
        values = intervals.mean_over_runs(trials, self.draws)
        held = np.any([self._held[run.path] for run in runs], axis=0).sum(axis=1)
        found = [
            intervals.listed(intervals.interval(*row)) for row in zip(values, held, strict=True)
        ]
        return dict(zip(label_names, found, strict=True))

    def difference(self, pairs: Sequence[tuple[Run, Sequence[Run]]]) -> dict[str, Any]:
        """`interval` and `p_value` of the mean of runs minus their partners' mean."""
        involved = [one for run, partners in pairs for one in (run, *partners)]
        if self.draws is None or not pairs or not self._known(involved):
            return {"interval": None, "p_value": None}
        trials = [(self._trials[run.path][0], [self._trials[p.path][0] for p in partners])
                  for run, partners in pairs]  # fmt: skip
        values = intervals.mean_difference(trials, self.draws)
        n_groups = self._n_groups(involved)
        return {
            "interval": intervals.listed(intervals.difference_interval(values, n_groups)),
            "p_value": intervals.p_value(values, n_groups),
        }

    def _n_groups(self, runs: Sequence[Run]) -> int:
        """Groups that hold a positive clip, or any clip of a class."""
        return int(np.any([self._held[run.path] for run in runs], axis=(0, 1)).sum())

    def _known(self, runs: Sequence[Run]) -> bool:
        return all(run.path in self._trials for run in runs)


def own_test(run: Run) -> Scored | None:
    """Predictions behind a run's score."""
    stored = _read(run, run.score().get("predictions"))
    if stored is None:
        return None
    return Scored(stored["score"], stored["label"], stored["group"])


def transferred(run: Run, target: str, map_name: str) -> Scored | None:
    """Predictions behind a run's score on another dataset, through one of its label maps."""
    entry = run.evaluations["transfer"]["targets"][target]
    stored = _read(run, entry.get("predictions"))
    if stored is None:
        return None
    used = entry["maps"][map_name]
    names = stored["score_names"].tolist()
    scores = mapped(stored["score"], names, used["sources"], used["aggregate"])
    labels = columns(stored["label"], stored["label_names"].tolist(), used["sources"])
    return Scored(scores, labels, stored["group"])


def _read(run: Run, file: str | None) -> Mapping[str, np.ndarray] | None:
    path = run.path / "evaluation" / Path(file or "").name
    if file is None or not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            stored = dict(arrays)
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise UnderstudyError(f"{path}: not readable ({error}); score the run again") from None
    return stored if "group" in stored else None
