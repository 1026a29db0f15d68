"""Columns of an index, checked as a whole: ten million clips take seconds, not minutes.

Text is kept in Arrow's form, a tenth of what as many Python strings would take.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from understudy.errors import DataError
from understudy.index.paths import check_relative

SPLITS = ("train", "valid", "test")
TEXT_DTYPE = pd.StringDtype("pyarrow", na_value=np.nan)
DTYPES = {
    "clip_id": TEXT_DTYPE,
    "path": TEXT_DTYPE,
    "start_s": np.float64,
    "duration_s": np.float64,
    "split": TEXT_DTYPE,
    "fold": np.int64,
    "group": TEXT_DTYPE,
}
_DEFAULTS = {"start_s": 0.0, "duration_s": np.nan, "split": "", "fold": 0, "group": ""}
_DIGEST_ROWS = 2**16  # turned into Python strings at a time


def checked_clips(given: pd.DataFrame) -> pd.DataFrame:
    """A copy of `given` with all columns, in order, of `DTYPES`; DataError where that cannot be."""
    missing = [c for c in DTYPES if c not in given and c not in _DEFAULTS]
    excess = [str(c) for c in given if c not in DTYPES]
    if missing or excess:
        found = f"missing {', '.join(missing) or 'none'}, unknown {', '.join(excess) or 'none'}"
        raise DataError(f"columns of clips: {found}; wanted {', '.join(DTYPES)}")
    rows, columns = pd.RangeIndex(len(given)), {}
    for column, dtype in DTYPES.items():
        if column not in given:
            columns[column] = pd.Series(_DEFAULTS[column], rows, dtype)
        elif dtype is TEXT_DTYPE:
            columns[column] = as_text(_arrow_text(column, given[column]))
        else:
            try:
                columns[column] = pd.Series(given[column].to_numpy(), rows, dtype, copy=True)
            except (TypeError, ValueError) as error:
                raise DataError(f"{column}: {error}; wanted numbers") from None
    clips = pd.DataFrame(columns)
    _check_distinct(clips["clip_id"])
    check_relative(arrow(clips["path"]))
    start_s, duration_s = clips["start_s"].to_numpy(), clips["duration_s"].to_numpy()
    for column, bad in (
        ("clip_id", clips["clip_id"] == ""),
        ("start_s", ~(np.isfinite(start_s) & (start_s >= 0))),
        ("duration_s", (duration_s <= 0) | np.isinf(duration_s)),
        ("split", ~clips["split"].isin(["", *SPLITS])),
        ("fold", clips["fold"].to_numpy() < 0),
    ):
        bad = np.asarray(bad)
        if bad.any():
            row = int(bad.argmax())
            raise DataError(f"{column} of clip {row} is {clips[column][row]!r}")
    return clips


def checked_labels(given: np.ndarray, n_clips: int, names: tuple[str, ...]) -> np.ndarray:
    """Labels as int8 (clip, label) or int64 (clip,); DataError where they are neither."""
    labels, n_labels = np.asarray(given), len(names)
    if len(set(names)) != n_labels or "" in names:
        raise DataError(f"label names {names}: wanted distinct, none empty")
    if not (labels.shape == (n_clips,) or labels.shape == (n_clips, n_labels)):
        wanted = f"({n_clips},) or ({n_clips}, {n_labels})"
        raise DataError(f"labels have shape {labels.shape}, wanted {wanted}")
    if labels.dtype.kind not in "biuf":
        raise DataError(f"labels are of type {labels.dtype}, wanted numbers")
    dtype = np.int8 if labels.ndim == 2 else np.int64
    if labels.size:
        low, high = (-1, 1) if labels.ndim == 2 else (0, n_labels - 1)
        bad = ~((labels >= low) & (labels <= high))
        if labels.dtype.kind == "f":
            bad |= labels != np.rint(labels)
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            raise DataError(f"label {at} is {labels[at]}, wanted {low} to {high}")
    return labels.astype(dtype)


def arrow(column: Any) -> pa.ChunkedArray:
    """A text column as Arrow has it, without a copy."""
    values = pa.array(column)
    return values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])


def as_text(values: pa.ChunkedArray) -> pd.Series:
    """The column of an index that holds `values`, without a copy."""
    return values.cast(pa.large_string()).to_pandas(
        types_mapper={pa.large_string(): TEXT_DTYPE}.get
    )


def sha256(*parts: Any) -> str:
    """Digest (hex) of arrays, and of text columns and lists of text as JSON."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            if part.dtype.kind == "f":  # one NaN among its many bit patterns
                part = np.where(np.isnan(part), np.nan, part)
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(b"[")
            for first in range(0, len(part), _DIGEST_ROWS):
                rows = part[first : first + _DIGEST_ROWS]
                text = json.dumps(rows if isinstance(rows, list) else arrow(rows).to_pylist())
                digest.update(b", " * (first > 0) + text[1:-1].encode())
            digest.update(b"]")
    return digest.hexdigest()


def _arrow_text(column: str, given: Any) -> pa.ChunkedArray:
    try:
        values = arrow(given)
    except (pa.ArrowException, UnicodeEncodeError):
        values = None
    if values is None or values.null_count or not (_is_text(values.type) or not len(given)):
        odd = next((value for value in given if not _is_utf8(value)), None)
        raise DataError(f"{column} {odd!r}: wanted UTF-8 text")
    return values


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_utf8(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeEncodeError:
        return False


def _check_distinct(clip_ids: Any) -> None:
    if pc.call_function("count_distinct", [arrow(clip_ids)]).as_py() == len(clip_ids):
        return
    twice: Iterable[str] = clip_ids[clip_ids.duplicated()]
    names, count = ", ".join(list(twice)[:5]), int(clip_ids.duplicated().sum())
    more = f" and {count - 5} more" if count > 5 else ""
    raise DataError(f"duplicate clip_id {names}{more}; wanted each clip once")
