"""ClipIndex: which clips a dataset has, what is known about them, and how they are split.

Row i of `clips` is clip i everywhere: in the labels, in every store of the cache, in every score.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from understudy.errors import DataError

FORMAT = 1
SPLITS = ("train", "valid", "test")
_METADATA_KEY = b"understudy_index"
_DEFAULTS = {"start_s": 0.0, "duration_s": np.nan, "split": "", "fold": 0, "group": ""}
_TEXT = ("clip_id", "path", "split", "group")
_DTYPES = {
    "clip_id": object,
    "path": object,
    "start_s": np.float64,
    "duration_s": np.float64,
    "split": object,
    "fold": np.int64,
    "group": object,
}


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows (clip,) int64 of the three parts, ascending."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def inside(root: Path, path: str) -> Path:
    """The file that relative `path` names, links followed; DataError where that leaves `root`."""
    reason = _unusable(path)
    real = os.path.realpath(root / path) if not reason else ""
    if not reason and not Path(real).is_relative_to(os.path.realpath(root)):
        reason = f"leads to {real}, out of the root {root}"
    if reason:
        raise DataError(f"path '{path}' {reason}; wanted a path inside the root")
    return Path(real)


def _unusable(path: str) -> str:
    """Why `path` cannot be a clip's relative path; empty where it can."""
    if not path or "\0" in path:
        return "is empty or holds a NUL"
    if path.startswith("/"):
        return "is absolute"
    if ".." in PurePosixPath(path).parts:
        return "leaves the root ('..')"
    return ""


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
        for field, value in (
            ("root", Path(self.root)),
            ("label_names", tuple(map(str, self.label_names))),
            ("clips", self._checked_clips()),
        ):
            object.__setattr__(self, field, value)
        object.__setattr__(self, "labels", self._checked_labels())

    def _error(self, message: str) -> DataError:
        return DataError(f"dataset '{self.name}': {message}")

    def _checked_clips(self) -> pd.DataFrame:
        given = self.clips
        missing = [c for c in _DTYPES if c not in given and c not in _DEFAULTS]
        excess = [str(c) for c in given if c not in _DTYPES]
        if missing or excess:
            found = f"missing {', '.join(missing) or 'none'}, unknown {', '.join(excess) or 'none'}"
            raise self._error(f"columns of clips: {found}; wanted {', '.join(_DTYPES)}")
        columns = {}
        for column, dtype in _DTYPES.items():
            values = given[column].to_numpy() if column in given else _DEFAULTS[column]
            try:
                columns[column] = pd.Series(values, pd.RangeIndex(len(given)), dtype, copy=True)
            except (TypeError, ValueError) as error:
                raise self._error(f"{column}: {error}; wanted numbers") from None
        clips = pd.DataFrame(columns)
        for column in _TEXT:
            for value in clips[column]:
                if not isinstance(value, str) or not _is_utf8(value):
                    raise self._error(f"{column} {value!r}: wanted UTF-8 text")
        twice = list(clips.loc[clips.duplicated("clip_id"), "clip_id"])
        if twice:
            more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
            names = ", ".join(twice[:5])
            raise self._error(f"duplicate clip_id {names}{more}; wanted each clip once")
        for path in clips["path"]:
            if reason := _unusable(path):
                raise self._error(f"path '{path}' {reason}; wanted a path inside the root")
        start_s, duration_s = clips["start_s"].to_numpy(), clips["duration_s"].to_numpy()
        for column, bad in (
            ("clip_id", (clips["clip_id"] == "").to_numpy()),
            ("start_s", ~(np.isfinite(start_s) & (start_s >= 0))),
            ("duration_s", (duration_s <= 0) | np.isinf(duration_s)),
            ("split", ~np.isin(list(clips["split"]), ("", *SPLITS))),
            ("fold", clips["fold"].to_numpy() < 0),
        ):
            if bad.any():
                row = int(bad.argmax())
                raise self._error(f"{column} of clip {row} is {clips[column][row]!r}")
        return clips

    def _checked_labels(self) -> np.ndarray:
        labels, n_clips, n_labels = np.asarray(self.labels), len(self.clips), len(self.label_names)
        if len(set(self.label_names)) != n_labels or "" in self.label_names:
            raise self._error(f"label names {self.label_names}: wanted distinct, none empty")
        if not (labels.shape == (n_clips,) or labels.shape == (n_clips, n_labels)):
            wanted = f"({n_clips},) or ({n_clips}, {n_labels})"
            raise self._error(f"labels have shape {labels.shape}, wanted {wanted}")
        if labels.dtype.kind not in "biuf":
            raise self._error(f"labels are of type {labels.dtype}, wanted numbers")
        if labels.size == 0:
            return labels.astype(np.int8 if labels.ndim == 2 else np.int64)
        low, high = (-1, 1) if labels.ndim == 2 else (0, n_labels - 1)
        bad = ~((labels >= low) & (labels <= high) & (labels == np.rint(labels)))
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            raise self._error(f"label {at} is {labels[at]}, wanted {low} to {high}")
        return labels.astype(np.int8 if labels.ndim == 2 else np.int64)

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
        return _sha256(
            list(self.clips["clip_id"]),
            self.clips["duration_s"].to_numpy(),
            self.labels,
            list(self.label_names),
            list(self.clips["split"]),
            self.clips["fold"].to_numpy(),
        )

    @cached_property
    def split_digest(self) -> str:
        """sha256 (hex) over clip ids, splits and folds."""
        columns = self.clips
        return _sha256(list(columns["clip_id"]), list(columns["split"]), columns["fold"].to_numpy())

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
        known = sorted(set(folds[folds > 0].tolist()))
        listed = f"folds {', '.join(map(str, known))}" if known else "no folds"
        if fold is None:
            column = np.array(list(self.clips["split"]), np.str_)
            if not (column != "").any():
                advice = "; name a fold" if known else "; give it a split or a fold column"
                raise self._error(f"has no split and {listed}{advice}")
            parts = [np.flatnonzero(column == part) for part in SPLITS]
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
        path = Path(path)
        columns = {c: pa.array(self.clips[c].to_numpy()) for c in _DTYPES}
        if self.labels.ndim == 2:
            offsets = pa.array(np.arange(self.n_clips + 1, dtype=np.int32) * self.n_labels)
            values = pa.array(self.labels.ravel(), pa.int8())
            columns["labels"] = pa.ListArray.from_arrays(offsets.cast(pa.int32()), values)
        else:
            columns["label"] = pa.array(self.labels, pa.int64())
        for column in _TEXT:
            columns[column] = columns[column].cast(pa.string())
        metadata = {
            "format": FORMAT,
            "name": self.name,
            "task": self.task,
            "label_names": list(self.label_names),
            "licence": self.licence,
            "citation": self.citation,
            "digest": self.digest,
        }
        table = pa.table(columns).replace_schema_metadata({_METADATA_KEY: json.dumps(metadata)})
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                pq.write_table(table, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            raise DataError(f"{path}: cannot write the index ({error})") from None
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str], root: str | os.PathLike[str]) -> "ClipIndex":
        """Reads what `save` wrote; `root` is where the audio lies now.

        Raises:
            DataError: Missing, not an index, of a later format, or altered.
        """
        try:
            table = pq.ParquetFile(path).read()
            metadata = json.loads((table.schema.metadata or {})[_METADATA_KEY])
        except FileNotFoundError:
            raise DataError(f"{path}: no such index") from None
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            raise DataError(f"{path}: not a clip index ({error})") from None
        if metadata.get("format") != FORMAT:
            raise DataError(f"{path}: index format {metadata.get('format')}, wanted {FORMAT}")
        names = tuple(metadata["label_names"])
        if metadata["task"] == "multi-label":
            values = table["labels"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            labels = values.reshape(table.num_rows, len(names))
        else:
            labels = table["label"].to_numpy()
        clips = pd.DataFrame({column: table[column].to_numpy() for column in _DTYPES})
        index = cls(
            name=metadata["name"],
            clips=clips,
            labels=labels,
            label_names=names,
            root=Path(root),
            licence=metadata["licence"],
            citation=metadata["citation"],
        )
        if index.digest != metadata["digest"]:
            raise DataError(f"{path}: digest {index.digest}, wanted {metadata['digest']}: altered")
        return index


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _sha256(*parts: list[str] | np.ndarray) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            if part.dtype.kind == "f":  # one NaN among its many bit patterns
                part = np.where(np.isnan(part), np.nan, part)
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(json.dumps(part).encode())
    return digest.hexdigest()
