"""ClipIndex: which clips a dataset has, what is known about them, and how they are split.

Row i of `clips` is clip i everywhere: in the labels, in every store of the cache, in every score.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from understudy.errors import DataError
from understudy.index import file
from understudy.index.columns import SPLITS, checked_clips, checked_labels, sha256
from understudy.index.paths import inside

__all__ = ["SPLITS", "ClipIndex", "Split", "inside"]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows (clip,) int64 of the three parts, ascending."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


@dataclass(frozen=True, eq=False)
class ClipIndex:
    """The clips of one dataset, with labels and splits.

    Attributes:
        name: Name of the dataset; its folder in a cache.
        clips: One row per clip. `clip_id` (unique) and `path` (relative to the root, with /) are
            wanted; `start_s` (0), `duration_s` (NaN: the header cannot be read), `split` ("train",
            "valid", "test" or ""), `fold` (0 is none) and `group` ("" is none) have defaults.
        labels: Multi-label: int8 (clip, label), 1 present, -1 absent, 0 unknown. Single-label:
            int64 (clip,), the position in `label_names`.
        label_names: Names of the labels, in the order of the columns.
        root: Folder of the audio files; not part of the saved index.
        licence: Of the recordings, as the dataset's authors state it.
        citation: What to cite.

    Raises:
        DataError: Anything that does not hold, with the value found and the one wanted.
    """

    name: str
    clips: pd.DataFrame
    labels: np.ndarray
    label_names: tuple[str, ...]
    root: Path
    licence: str = ""
    citation: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            wanted = "letters, digits, '.', '_' and '-'"
            raise DataError(f"dataset name '{self.name}': wanted {wanted} (it names a folder)")
        names = tuple(map(str, self.label_names))
        try:
            clips = checked_clips(self.clips)
            labels = checked_labels(self.labels, len(clips), names)
        except DataError as error:
            raise self._error(str(error)) from None
        for field, value in (
            ("root", Path(self.root)),
            ("label_names", names),
            ("clips", clips),
            ("labels", labels),
        ):
            object.__setattr__(self, field, value)

    def _error(self, message: str) -> DataError:
        return DataError(f"dataset '{self.name}': {message}")

    @property
    def task(self) -> Literal["multi-label", "single-label"]:
        """Kind of the labels: any number of them per clip, or exactly one."""
        return "multi-label" if self.labels.ndim == 2 else "single-label"

    @property
    def n_clips(self) -> int:
        """Number of clips, unreadable ones included."""
        return len(self.clips)

    @property
    def n_labels(self) -> int:
        """Number of labels (classes)."""
        return len(self.label_names)

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def groups(self) -> np.ndarray:
        """str (clip,): the group of every clip; one without a group is a group of its own."""
        pairs = zip(self.clips["group"], self.clips["clip_id"], strict=True)
        return np.array([f"group {g}" if g else f"clip {c}" for g, c in pairs], np.str_)

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) over clip ids, durations, labels with their names, splits and folds."""
        return sha256(
            self.clips["clip_id"],
            self.clips["duration_s"].to_numpy(),
            self.labels,
            list(self.label_names),
            self.clips["split"],
            self.clips["fold"].to_numpy(),
        )

    @cached_property
    def split_digest(self) -> str:
        """sha256 (hex) over clip ids, splits and folds."""
        columns = self.clips
        return sha256(columns["clip_id"], columns["split"], columns["fold"].to_numpy())

    def absolute(self, row: int) -> Path:
        """The clip's file, links followed; DataError where that leaves the root."""
        return inside(self.root, self.clips["path"].iat[row])

    def split(self, fold: int | None = None) -> Split:
        """Rows of train, valid and test.

        Args:
            fold: None for the `split` column (a part without clips is empty). Fold k: k is for
                test, the next fold (after the last, the first) for validation, the others for
                training, so that a checkpoint is never chosen on its test fold.

        Raises:
            DataError: No such split or fold.
        """
        folds = self.clips["fold"].to_numpy()
        known = np.unique(folds[folds > 0]).tolist()
        listed = f"folds {', '.join(map(str, known))}" if known else "no folds"
        if fold is None:
            column = self.clips["split"]
            if np.all(column == ""):
                advice = "; name a fold" if known else "; give it a split or a fold column"
                raise self._error(f"has no split and {listed}{advice}")
            parts = [np.flatnonzero((column == part).to_numpy()) for part in SPLITS]
        else:
            if fold not in known:
                raise self._error(f"has {listed}, wanted fold {fold}")
            if len(known) < 3:
                raise self._error(f"has {listed}; wanted three or more to train, validate and test")
            following = known[(known.index(fold) + 1) % len(known)]
            is_valid, is_test = folds == following, folds == fold
            train = (folds > 0) & ~is_valid & ~is_test
            parts = [np.flatnonzero(part) for part in (train, is_valid, is_test)]
        return Split(train=parts[0], valid=parts[1], test=parts[2])

    def subset(self, rows: Sequence[int] | np.ndarray) -> "ClipIndex":
        """The clips at `rows` (int row numbers, not a mask), in that order."""
        rows = np.asarray(rows, np.int64)
        return replace(self, clips=self.clips.iloc[rows], labels=self.labels[rows])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one parquet file, labels included, atomically; the root is left out."""
        metadata = {
            "name": self.name,
            "task": self.task,
            "label_names": list(self.label_names),
            "licence": self.licence,
            "citation": self.citation,
            "digest": self.digest,
        }
        file.write(Path(path), self.clips, self.labels, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str], root: str | os.PathLike[str]) -> "ClipIndex":
        """Reads what `save` wrote; `root` is where the audio lies now.

        Raises:
            DataError: Missing, not an index, of a later format, or altered.
        """
        clips, labels, metadata = file.read(path)
        index = cls(
            name=metadata["name"],
            clips=clips,
            labels=labels,
            label_names=tuple(metadata["label_names"]),
            root=Path(root),
            licence=metadata["licence"],
            citation=metadata["citation"],
        )
        if index.digest != metadata["digest"]:
            raise DataError(f"{path}: digest {index.digest}, wanted {metadata['digest']}: altered")
        return index
