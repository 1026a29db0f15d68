"""Open shards of a store's data array: where clips lie, whether they are sound, copying them."""

import os

import numpy as np

from understudy.cache import layout, places
from understudy.cache.sources import OFFSET_BITS, Mapped, Parts, Ranged, Source
from understudy.cache.store import Store
from understudy.errors import CacheError

UNKNOWN, ABSENT = -2, -1


class Shards:
    """Shards opened as their rows are asked for: mapped, or read by ranges over a network.

    Args:
        store: A store whose data array is laid out as the schema says.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._name = store.kind.data
        # Per row: shard << 44 | offset, which also sorts by place on disk.
        self._place = np.full(store.sizes["n_clips"], UNKNOWN, np.int64)
        self._sound = np.zeros(store.sizes["n_clips"], bool)
        shape = store.arrays[self._name]["shape"]
        self.clip_bytes = int(np.prod(shape[1:])) * store.dtype(self._name).itemsize
        self._source: Source = Ranged()
        if places.mappable(store.path):
            self._source = Mapped(self.clip_bytes * len(self._place) > _memory_bytes() // 2)

    def present(self, rows: np.ndarray) -> np.ndarray:
        """bool (batch,): whether the store holds data of these rows; opens their shards.

        Raises:
            CacheError: A shard is missing or truncated, or its index is damaged.
        """
        place = self._place[rows]
        if (unknown := place == UNKNOWN).any():
            self._open_all(rows[unknown] // self._store.sizes["clips_per_shard"])
            place = self._place[rows]
        return place >= 0

    def check(self, rows: np.ndarray) -> None:
        """Reads rows not checked before, all at once, and compares them with their crc32c."""
        fresh = rows[~self._sound[rows]]
        n_bytes = self.clip_bytes + layout.CRC_BYTES
        self._source.ask(self._place[fresh], n_bytes)
        for row in fresh[self._place[fresh].argsort()].tolist():
            place = int(self._place[row])
            try:
                layout.without_crc(self._source.chunk(place, n_bytes), self._store.path)
            except CacheError as error:
                raise CacheError(
                    f"{error} in shard {place >> OFFSET_BITS}, {self._owner(row)}; "
                    "run `understudy cache verify`"
                ) from None
            self._sound[row] = True

    def copy(
        self, rows: np.ndarray, to: np.ndarray, begin: np.ndarray, size: np.ndarray, out: memoryview
    ) -> None:
        """Copies bytes [begin, begin + size) of each row to byte `to` of `out`, in disk order."""
        place = self._place[rows]
        order = place.argsort()
        self._copy(Parts(place[order], begin[order], size[order], to[order]), out)

    def copy_whole(self, rows: np.ndarray, to: np.ndarray, out: memoryview) -> None:
        """`copy` of whole rows, the fast case."""
        place = self._place[rows]
        order = place.argsort()
        self._copy(Parts(place[order], 0, self.clip_bytes, to[order]), out)

    def _copy(self, parts: Parts, out: memoryview) -> None:
        try:
            self._source.copy(parts, out)
        except OSError as error:
            what = error.filename or self._store.path
            raise CacheError(f"cannot read {what}: {error.strerror or error}") from None

    def _owner(self, row: int) -> str:
        """Whose data this is, for messages."""
        return self._store.clip_names([row])[0]

    def _open_all(self, shards: np.ndarray) -> None:
        places.spread(self._store.path, self._open, np.unique(shards).tolist())

    def _open(self, shard: int) -> None:
        rows = self._store.rows(shard)
        offset = self._index(shard, self._store.sizes["clips_per_shard"])[: len(rows)]
        place = np.where(offset < 0, ABSENT, shard << OFFSET_BITS | offset)
        self._place[rows.start : rows.stop] = place

    def _index(self, shard: int, slots: int) -> np.ndarray:
        """Opens a shard of so many inner chunks; int64 (slot,) their offsets, -1 where absent."""
        path = self._store.chunk_path(self._name, shard)
        rows = self._store.rows(shard)
        try:
            footer, size = self._source.open(shard, path, layout.footer_bytes(slots))
        except OSError as error:
            raise CacheError(
                f"cannot read {path}: {error.strerror or error}; "
                f"it holds rows {rows.start} to {rows.stop - 1}; run `understudy cache verify`"
            ) from None
        offset, length = layout.decode_footer(footer, slots, path, size)
        if np.any(length[offset >= 0] != self.clip_bytes + layout.CRC_BYTES):
            raise CacheError(f"{path}: its index names chunks of a wrong size")
        return offset


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
