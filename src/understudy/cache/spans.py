"""Open shards of a concat store: a clip is a span of frames, over several inner chunks."""

import numpy as np

from understudy.cache.shards import ABSENT, UNKNOWN, Shards
from understudy.cache.sources import OFFSET_BITS
from understudy.cache.store import Store
from understudy.errors import CacheError


class SpanShards(Shards):
    """`Shards` of the layout concat; `_place` is per inner chunk here.

    Args:
        store: A concat store whose data array is laid out as the schema says.
        first: uint64 (clip,) place of each clip's first frame along the data array.
        n_frames: int64 (clip,) frames of rows that are ok, 0 of others.
    """

    def __init__(self, store: Store, first: np.ndarray, n_frames: np.ndarray) -> None:
        super().__init__(store)
        sizes = store.sizes
        self.frame_bytes = sizes["dim"] * store.dtype(self._name).itemsize
        self.chunk_bytes = sizes["chunk_frames"] * self.frame_bytes
        self.clip_bytes = self.chunk_bytes  # what one read asks for
        self._slots = sizes["shard_frames"] // sizes["chunk_frames"]
        self._place = np.full(store.n_shards * self._slots, UNKNOWN, np.int64)
        self._sound = np.zeros(len(self._place), bool)
        self._first = np.minimum(first, 2**62).astype(np.int64) * (n_frames > 0)
        self._n_frames = n_frames
        shard = np.arange(len(first)) // sizes["clips_per_shard"] * sizes["shard_frames"]
        inside = (self._first >= shard) & (self._first + n_frames <= shard + sizes["shard_frames"])
        if len(bad := np.flatnonzero(~inside & (n_frames > 0))):
            clip = store.clip_names([int(bad[0])])[0]
            raise CacheError(f"{store.path}: {clip} lies outside its shard; its offset is wrong")

    def present(self, rows: np.ndarray) -> np.ndarray:
        chunks, counts = self._chunks(rows)
        if (unknown := self._place[chunks] == UNKNOWN).any():
            self._open_all(chunks[unknown] // self._slots)
        result = np.ones(len(rows), bool)
        np.logical_and.at(result, np.repeat(np.arange(len(rows)), counts), self._place[chunks] >= 0)
        return result

    def check(self, rows: np.ndarray) -> None:
        chunks = np.unique(self._chunks(rows)[0])
        super().check(chunks)

    def copy(
        self, rows: np.ndarray, to: np.ndarray, begin: np.ndarray, size: np.ndarray, out: memoryview
    ) -> None:
        some = size > 0
        start = (self._first[rows] * self.frame_bytes + begin)[some]
        stop, to = start + size[some], to[some]
        chunk = start // self.chunk_bytes
        counts = (stop - 1) // self.chunk_bytes - chunk + 1
        piece = _ranges(chunk, counts)
        start, stop, to = (np.repeat(values, counts) for values in (start, stop, to))
        low = np.maximum(start, piece * self.chunk_bytes)
        high = np.minimum(stop, (piece + 1) * self.chunk_bytes)
        super().copy(piece, to + low - start, low - piece * self.chunk_bytes, high - low, out)

    def _chunks(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inner chunks of each row, all in one array, and how many each row has."""
        n = self._n_frames[rows]
        size = self._store.sizes["chunk_frames"]
        chunk = self._first[rows] // size
        counts = np.where(n > 0, (self._first[rows] + n - 1) // size - chunk + 1, 0)
        return _ranges(chunk, counts), counts

    def _open(self, shard: int) -> None:
        offset = self._index(shard, self._slots)
        place = np.where(offset < 0, ABSENT, shard << OFFSET_BITS | offset)
        self._place[shard * self._slots : (shard + 1) * self._slots] = place

    def _owner(self, row: int) -> str:
        size = self._store.sizes["chunk_frames"]  # `row` is a chunk here
        inside = (self._first < (row + 1) * size) & (self._first + self._n_frames > row * size)
        rows = np.flatnonzero(inside & (self._n_frames > 0))
        return " and ".join(self._store.clip_names(rows.tolist()[:2]))


def _ranges(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """first[0], first[0] + 1, ... counts[0] of them, then first[1], ..."""
    before = np.cumsum(counts) - counts
    return np.repeat(first - before, counts) + np.arange(counts.sum())
