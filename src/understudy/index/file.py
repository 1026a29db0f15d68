"""The file of an index: one parquet table, read whole or a few rows at a time."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from understudy.errors import DataError
from understudy.index.columns import DTYPES, TEXT_DTYPE, arrow, as_text

FORMAT = 1
_METADATA_KEY = b"understudy_index"
_GROUP_ROWS = 2**16  # what `read_rows` reads at least


def write(path: Path, clips: pd.DataFrame, labels: np.ndarray, metadata: Mapping[str, Any]) -> None:
    """Writes an index atomically; DataError where the system refuses."""
    columns = {
        name: arrow(clips[name]) if dtype is TEXT_DTYPE else pa.array(clips[name].to_numpy())
        for name, dtype in DTYPES.items()
    }
    if labels.ndim == 2:
        offsets = np.arange(len(labels) + 1, dtype=np.int64) * labels.shape[1]
        values = pa.array(labels.ravel(), pa.int8())
        columns["labels"] = pa.LargeListArray.from_arrays(pa.array(offsets), values)
    else:
        columns["label"] = pa.array(labels, pa.int64())
    text = json.dumps({"format": FORMAT, **metadata})
    table = pa.table(columns).replace_schema_metadata({_METADATA_KEY: text})
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            pq.write_table(table, file, row_group_size=_GROUP_ROWS)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot write the index ({error})") from None
    finally:
        part.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> tuple[pd.DataFrame, np.ndarray, dict[str, Any]]:
    """Clips, labels and metadata of what `write` wrote.

    Raises:
        DataError: Missing, not an index, or of a later format.
    """
    file, metadata = _open(path)
    try:
        table = file.read()
        clips = _frame(table, DTYPES)
        if metadata["task"] == "multi-label":
            values = table["labels"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            labels = values.reshape(table.num_rows, len(metadata["label_names"]))
        else:
            labels = table["label"].to_numpy()
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a clip index ({error})") from None
    return clips, labels, metadata


def read_rows(
    path: str | os.PathLike[str], parts: Iterable[range], columns: Iterable[str]
) -> Iterator[pd.DataFrame]:
    """Some `columns` of the clips in each of `parts`, ascending; reads little more than these.

    Raises:
        DataError: As `read` does.
    """
    columns = list(columns)
    file, _ = _open(path)
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    begin = np.concatenate([[0], np.cumsum(sizes)])
    held: tuple[list[int], pd.DataFrame] = [], pd.DataFrame()
    for rows in parts:
        first, last = np.searchsorted(begin, [rows.start, rows.stop - 1], "right") - 1
        groups = list(range(first, last + 1))
        try:
            if held[0] != groups:
                held = groups, _frame(file.read_row_groups(groups, columns), columns)
        except (OSError, KeyError, ValueError, IndexError, pa.ArrowException) as error:
            raise DataError(f"{path}: not a clip index ({error})") from None
        at = rows.start - int(begin[first])
        yield held[1].iloc[at : at + len(rows)]


def _open(path: str | os.PathLike[str]) -> tuple[pq.ParquetFile, dict[str, Any]]:
    try:
        file = pq.ParquetFile(path)
        metadata = json.loads((file.schema_arrow.metadata or {})[_METADATA_KEY])
    except FileNotFoundError:
        raise DataError(f"{path}: no such index") from None
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a clip index ({error})") from None
    if metadata.get("format") != FORMAT:
        raise DataError(f"{path}: index format {metadata.get('format')}, wanted {FORMAT}")
    return file, metadata


def _frame(table: pa.Table, columns: Iterable[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            name: as_text(table[name]) if DTYPES[name] is TEXT_DTYPE else table[name].to_numpy()
            for name in columns
        }
    )
