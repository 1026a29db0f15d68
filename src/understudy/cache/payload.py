"""What one shard of one track holds, and the bytes of its files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from understudy import schema
from understudy.cache import layout
from understudy.cache.store import Store


@dataclass(kw_only=True)
class ShardPayload:
    """One shard of one track, rows in the order of the index.

    Attributes:
        data: (clip, frame, channel), or (clip, sample) for audio, in the storage dtype. In the
            layout concat, frames may end with those of the payload's own longest clip.
        n_frames: (clip,) valid frames or samples; what lies beyond is replaced by the fill value.
        status: (clip,) codes of the schema; rows that are not ok are replaced by the fill value.
        clip_key: (clip,) uint64, from `clip_key`.
        level_db: (clip, frame) dBFS; None for audio.
        centre_s: (clip, frame) float64 seconds, where the store keeps them.
    """

    data: np.ndarray
    n_frames: np.ndarray
    status: np.ndarray
    clip_key: np.ndarray
    level_db: np.ndarray | None = None
    centre_s: np.ndarray | None = None


@dataclass(frozen=True)
class Encoded:
    """The files of one shard.

    Attributes:
        pieces: Array name to the bytes of its file, to be taken once, piece by piece.
        files: Array name to the file's size and the last four of its bytes, as committed.
        clips: (frame, ...) values of each clip, where an inner chunk is not a clip.
        crcs: uint32 (chunk,) crc32c of the inner chunks, filled while the pieces are taken.
    """

    pieces: dict[str, Iterable[layout.Buffer]]
    files: dict[str, dict[str, int]]
    clips: Sequence[np.ndarray] | None
    crcs: np.ndarray

    def clip_crcs(self) -> np.ndarray:
        """uint32 (clip,) crc32c of each clip's values, once all pieces were taken."""
        return self.crcs if self.clips is None else layout.row_crcs(self.clips)


def encode(store: Store, shard: int, payload: ShardPayload) -> Encoded:
    """The files of a shard; a payload of a wrong shape or dtype raises AssertionError."""
    contents = _contents(store, shard, payload)
    data, slots, clips = store.kind.data, store.sizes["clips_per_shard"], None
    if _concat(store):
        slots = store.sizes["shard_frames"] // store.sizes["chunk_frames"]
        clips = np.split(contents[data], np.cumsum(contents["n_frames"])[:-1])
        contents[data] = _chunks(store, contents[data])
    pieces: dict[str, Iterable[layout.Buffer]] = {}
    files: dict[str, dict[str, int]] = {}
    crcs = np.zeros(len(contents[data]), "<u4")
    for name, array in store.kind.arrays.items():
        rows = contents[name]
        if array.inner:
            last = layout.shard_index(len(rows), rows[:1].nbytes, slots)
            pieces[name] = layout.shard_parts(rows, crcs, last)
            size = rows.nbytes + crcs.nbytes + len(last)
        else:
            last = layout.encode_chunk(rows, array.chunk_shape(store.sizes), array.fill_value)
            pieces[name], size = [last], len(last)
        crc = int.from_bytes(last[-layout.CRC_BYTES :], "little")
        files[name] = {"bytes": size, "crc32c": crc}
    return Encoded(pieces, files, clips, crcs)


def _contents(store: Store, shard: int, payload: ShardPayload) -> dict[str, np.ndarray]:
    """The payload by array name, with padding and failed rows set to the fill value."""
    concat, dtype = _concat(store), store.attributes["dtype"]
    contract = schema.load()
    dense = contract.kind(store.kind.name).arrays  # the layout of payloads
    bad = payload.status != contract.code("ok")
    n_frames = np.where(bad, 0, payload.n_frames)
    sizes = {**store.sizes, "n_clips": len(store.rows(shard))}
    if concat:  # stores no padding
        sizes["max_frames"] = payload.data.shape[1]
    padded = np.arange(sizes["max_frames"]) >= n_frames[:, None]
    contents = {}
    for name, array in store.kind.arrays.items():
        if name == "offset":
            first = shard * store.sizes["shard_frames"]
            contents[name] = (first + np.cumsum(n_frames) - n_frames).astype(np.uint64)
            continue
        values = payload.data if array.inner else getattr(payload, name)
        meta = dense[name].metadata(sizes, dtype, {})
        assert values.shape == tuple(meta["shape"]), (name, values.shape, meta["shape"])
        assert values.dtype == meta["data_type"], (name, values.dtype, meta["data_type"])
        if name != "n_frames" and values.ndim > 1 and concat:
            values = values[~padded]
        elif name == "n_frames":
            values = n_frames.astype(values.dtype)
        elif values.ndim > 1 and padded.any():
            values = values.copy()
            values[padded] = array.fill_value
        contents[name] = np.ascontiguousarray(values)
    room = min(sizes["max_frames"], store.sizes["max_frames"])
    assert n_frames.max(initial=0) <= room, n_frames.max()
    if concat:
        assert n_frames.sum() <= store.sizes["shard_frames"], n_frames.sum()
    return contents


def _chunks(store: Store, frames: np.ndarray) -> np.ndarray:
    """(frame, ...) of a shard as (chunk, frame, ...), the last chunk filled up."""
    size = store.sizes["chunk_frames"]
    n_chunks = -(-len(frames) // size)
    chunks = np.full((n_chunks * size, *frames.shape[1:]), store.data.fill_value, frames.dtype)
    chunks[: len(frames)] = frames
    return chunks.reshape(n_chunks, size, *frames.shape[1:])


def _concat(store: Store) -> bool:
    return "shard_frames" in store.sizes
