"""Bytes of the files in a store, after the Zarr v3 specification.

A sharded file holds its inner chunks, each followed by its crc32c, then the index: little-endian
uint64 (offset, length) per slot, (2^64 - 1, 2^64 - 1) for an absent one, and the index's crc32c.
Any other file holds one chunk and its crc32c. So every file ends with a checksum: its *tail*.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import google_crc32c
import numpy as np

from understudy.cache import places
from understudy.cache.places import Place
from understudy.errors import CacheError

CRC_BYTES = 4
ABSENT = 2**64 - 1

Buffer = bytes | memoryview


def crc32c(data: Any) -> int:
    """crc32c of a contiguous buffer of bytes."""
    # The C function wants an object whose buffer needs no release: bytes or a NumPy array.
    return google_crc32c.value(np.frombuffer(data, np.uint8))  # type: ignore[arg-type]


def row_crcs(rows: Iterable[np.ndarray]) -> np.ndarray:
    """uint32 (clip,) crc32c of each row's values."""
    return np.array([crc32c(row.reshape(-1).view(np.uint8)) for row in rows], dtype="<u4")


def shard_index(n_rows: int, row_bytes: int, slots: int) -> bytes:
    """Index of a shard whose first `n_rows` slots are full, in row order."""
    chunk_bytes = row_bytes + CRC_BYTES
    index = np.full((slots, 2), ABSENT, dtype="<u8")
    index[:n_rows, 0] = np.arange(n_rows) * chunk_bytes
    index[:n_rows, 1] = chunk_bytes
    return with_crc(index.tobytes())


def shard_parts(rows: np.ndarray, crcs: np.ndarray, index: bytes) -> Iterator[Buffer]:
    """Bytes of a shard, one row or checksum at a time, without a copy.

    Args:
        rows: C-contiguous (clip, ...) little-endian values, each row an inner chunk of its own.
        crcs: uint32 (clip,), filled with the rows' crc32c as these are yielded, so that a disk
            can write one row while the next is summed.
        index: From `shard_index`.
    """
    values = rows.reshape(len(rows), int(np.prod(rows.shape[1:]))).view(np.uint8)
    checks = crcs.view(np.uint8).reshape(len(rows), CRC_BYTES)
    for row, (value, check) in enumerate(zip(values, checks, strict=True)):
        crcs[row] = crc32c(value)
        yield value.data
        yield check.data
    yield index


def encode_chunk(rows: np.ndarray, shape: tuple[int, ...], fill: float) -> bytes:
    """Encodes one whole chunk of `shape`; what `rows` lacks along the first axis is `fill`."""
    chunk = np.full(shape, fill, dtype=rows.dtype)
    chunk[: len(rows)] = rows
    return with_crc(chunk.tobytes())


def with_crc(data: bytes) -> bytes:
    """`data` followed by its crc32c."""
    return data + crc32c(data).to_bytes(CRC_BYTES, "little")


def without_crc(data: Any, where: object) -> memoryview:
    """The inverse of `with_crc`; a mismatch raises CacheError."""
    view = memoryview(data)
    body, tail = view[:-CRC_BYTES], view[-CRC_BYTES:]
    if len(tail) < CRC_BYTES or crc32c(body) != int.from_bytes(tail, "little"):
        raise CacheError(f"{where}: checksum mismatch")
    return body


def footer_bytes(slots: int) -> int:
    """Size of the index of a shard with `slots` inner chunks."""
    return 16 * slots + CRC_BYTES


def decode_footer(
    file: Any, slots: int, where: object, n_bytes: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Reads the index at the end of a shard.

    Args:
        file: The file, a buffer (a memory map), or no less of its end than the index.
        slots: Inner chunks of a full shard.
        where: The file's name, for messages.
        n_bytes: Size of the whole file, where `file` may be its end alone.

    Returns:
        offset and length, int64 (slot,) in bytes; offset -1 for an absent chunk.

    Raises:
        CacheError: The file is truncated, or the index is damaged or points outside the file.
    """
    view = memoryview(file)
    whole = len(view) if n_bytes is None else n_bytes
    size = footer_bytes(slots)
    if whole < size:
        raise CacheError(f"{where}: truncated ({whole} bytes; its index alone has {size})")
    index = np.frombuffer(without_crc(view[-size:], f"{where}: index"), "<u8").reshape(-1, 2)
    offset, length = index.astype(np.int64).T  # ABSENT becomes -1
    present = offset >= 0
    if np.any((length < 0) & present) or np.any((offset + length)[present] > whole - size):
        raise CacheError(f"{where}: the index points outside the file ({whole} bytes)")
    return offset, length


def decode_chunk(file: Buffer, shape: tuple[int, ...], dtype: str, where: object) -> np.ndarray:
    """Values of an unsharded file; CacheError if it is damaged or of another size."""
    body = without_crc(file, where)
    wanted = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if len(body) != wanted:
        raise CacheError(f"{where}: wanted {wanted} bytes, found {len(body)}")
    return np.frombuffer(body, np.dtype(dtype).newbyteorder("<")).reshape(shape)


def tail(path: Place) -> tuple[int, int]:
    """Size of a file and its last four bytes as an integer: enough to tell it from a torn one."""
    last, size = places.tail(path, CRC_BYTES)
    return size, int.from_bytes(last, "little")


def same_layout(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether an array's metadata promise the bytes of this module; sizes are not compared."""
    return (
        found.get("chunk_key_encoding") == wanted["chunk_key_encoding"]
        and not found.get("storage_transformers")
        and found["chunk_grid"]["name"] == wanted["chunk_grid"]["name"]
        and normalised(found["codecs"]) == normalised(wanted["codecs"])
    )


def normalised(codecs: Any) -> Any:
    """Codec metadata without what says nothing: empty configurations, defaults spelt out."""
    if isinstance(codecs, Mapping):
        items = {key: normalised(value) for key, value in codecs.items()}
        if codecs.get("name") == "sharding_indexed":
            items["configuration"] = {"index_location": "end", **items["configuration"]}
        return {key: value for key, value in items.items() if value not in ({}, None)}
    if isinstance(codecs, (list, tuple)):
        return [normalised(item) for item in codecs]
    return codecs
