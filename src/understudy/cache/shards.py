"""Open shards of a store's data array: where clips lie, whether they are sound, copying them."""

import mmap
import os
from functools import cached_property

import numpy as np

from understudy.cache import layout
from understudy.cache.store import Store
from understudy.errors import CacheError

OFFSET_BITS = 44
_OFFSET_MASK = (1 << OFFSET_BITS) - 1
UNKNOWN, ABSENT = -2, -1


class Shards:
    """Memory maps of shards, opened as their rows are asked for.

    Args:
        store: A store whose data array is laid out as the schema says.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._name = store.kind.data
        self._maps: dict[int, mmap.mmap] = {}
        self._views: dict[int, memoryview] = {}
        # Per row: shard << 44 | offset, which also sorts by place on disk.
        self._place = np.full(store.sizes["n_clips"], UNKNOWN, np.int64)
        self._sound = np.zeros(store.sizes["n_clips"], bool)
        shape = store.arrays[self._name]["shape"]
        self.clip_bytes = int(np.prod(shape[1:])) * store.dtype(self._name).itemsize

    def present(self, rows: np.ndarray) -> np.ndarray:
        """bool (batch,): whether the store holds data of these rows; opens their shards.

        Raises:
            CacheError: A shard is missing or truncated, or its index is damaged.
        """
        place = self._place[rows]
        if (unknown := place == UNKNOWN).any():
            for shard in np.unique(rows[unknown] // self._store.sizes["clips_per_shard"]).tolist():
                self._open(shard)
            place = self._place[rows]
        return place >= 0

    def check(self, rows: np.ndarray) -> None:
        """Reads rows not checked before, all at once, and compares them with their crc32c."""
        fresh = rows[~self._sound[rows]]
        self.ask(fresh)
        for row in fresh[self._place[fresh].argsort()].tolist():
            shard, at = divmod(int(self._place[row]), 1 << OFFSET_BITS)
            chunk = self._views[shard][at : at + self.clip_bytes + layout.CRC_BYTES]
            try:
                layout.without_crc(chunk, self._store.path)
            except CacheError as error:
                raise CacheError(
                    f"{error} in shard {shard}, {self._owner(row)}; run `understudy cache verify`"
                ) from None
            self._sound[row] = True

    def ask(self, rows: np.ndarray) -> None:
        """Tells the system that these rows will be read, so that it reads them side by side."""
        for place in np.sort(self._place[rows]).tolist():
            shard, at = divmod(place, 1 << OFFSET_BITS)
            page = at - at % mmap.PAGESIZE
            self._maps[shard].madvise(mmap.MADV_WILLNEED, page, at - page + self.clip_bytes)

    def copy(
        self, rows: np.ndarray, to: np.ndarray, begin: np.ndarray, size: np.ndarray, out: memoryview
    ) -> None:
        """Copies bytes [begin, begin + size) of each row to byte `to` of `out`, in disk order."""
        if self.exceed_memory:
            self.ask(rows)
        place = self._place[rows]
        order = place.argsort()
        views = self._views
        for shard, at, into, n in zip(
            (place >> OFFSET_BITS)[order].tolist(),
            ((place & _OFFSET_MASK) + begin)[order].tolist(),
            to[order].tolist(),
            size[order].tolist(),
            strict=True,
        ):
            out[into : into + n] = views[shard][at : at + n]

    def copy_whole(self, rows: np.ndarray, to: np.ndarray, out: memoryview) -> None:
        """`copy` of whole rows, the fast case."""
        if self.exceed_memory:
            self.ask(rows)
        place = self._place[rows]
        order = place.argsort()
        place = place[order]
        views, n = self._views, self.clip_bytes
        for shard, at, into in zip(
            (place >> OFFSET_BITS).tolist(),
            (place & _OFFSET_MASK).tolist(),
            to[order].tolist(),
            strict=True,
        ):
            out[into : into + n] = views[shard][at : at + n]

    @cached_property
    def exceed_memory(self) -> bool:
        """Whether pages read once may have been dropped again."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return len(self._place) * self.clip_bytes > memory // 2

    def _owner(self, row: int) -> str:
        """Whose data this is, for messages."""
        return self._store.clip_names([row])[0]

    def _open(self, shard: int) -> None:
        rows = self._store.rows(shard)
        offset = self._map(shard, self._store.sizes["clips_per_shard"])[: len(rows)]
        place = np.where(offset < 0, ABSENT, shard << OFFSET_BITS | offset)
        self._place[rows.start : rows.stop] = place

    def _map(self, shard: int, slots: int) -> np.ndarray:
        """Maps a shard of so many inner chunks; int64 (slot,) their offsets, -1 where absent."""
        path = self._store.chunk_path(self._name, shard)
        rows = self._store.rows(shard)
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size == 0:
                    raise CacheError(f"{path}: truncated (0 bytes)")
                view = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except OSError as error:
            raise CacheError(
                f"cannot read {path}: {error.strerror or error}; "
                f"it holds rows {rows.start} to {rows.stop - 1}; run `understudy cache verify`"
            ) from None
        offset, length = layout.decode_footer(view, slots, path)
        if np.any(length[offset >= 0] != self.clip_bytes + layout.CRC_BYTES):
            raise CacheError(f"{path}: its index names chunks of a wrong size")
        self._maps[shard], self._views[shard] = view, memoryview(view)
        return offset
