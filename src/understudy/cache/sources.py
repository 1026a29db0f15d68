"""How bytes of open shards are had: through memory maps, or by reading ranges.

Both take the places of inner chunks as `Shards` keeps them: shard << 44 | offset in the file.
"""

import errno
import mmap
import os
from collections.abc import Iterable
from itertools import repeat
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from understudy.cache import places
from understudy.cache.places import Place

OFFSET_BITS = 44
OFFSET_MASK = (1 << OFFSET_BITS) - 1


class Parts(NamedTuple):
    """Bytes [begin, begin + size) from each place on, for byte `to` of a buffer."""

    place: np.ndarray
    """int64 (part,)"""
    begin: np.ndarray | int
    size: np.ndarray | int
    to: np.ndarray


class Source(Protocol):
    """Open shards of one store."""

    def open(self, shard: int, path: Place, n_bytes: int) -> tuple[memoryview, int]:
        """Opens a shard; its last bytes, at least `n_bytes` where it has as many, and its size."""
        ...

    def ask(self, place: np.ndarray, n_bytes: int) -> None:
        """Says that so many bytes from these places on will be read."""
        ...

    def chunk(self, place: int, n_bytes: int) -> memoryview:
        """Bytes from one place on."""
        ...

    def copy(self, parts: Parts, out: memoryview) -> None:
        """Copies each part to its byte of `out`."""
        ...


class Mapped:
    """Files of this machine, each mapped as a whole; the system keeps what was read.

    Args:
        drops: Whether pages read once may have been dropped again, so that they are asked for.
    """

    def __init__(self, drops: bool) -> None:
        self._drops = drops
        self._maps: dict[int, mmap.mmap] = {}
        self._views: dict[int, memoryview] = {}

    def open(self, shard: int, path: Place, n_bytes: int) -> tuple[memoryview, int]:
        """See Source."""
        assert isinstance(path, Path)
        with path.open("rb", buffering=0) as file:
            # Through the map, the system would read megabytes around the few bytes at the end.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            if not (size := file.seek(0, os.SEEK_END)):
                return memoryview(b""), 0
            file.seek(max(0, size - n_bytes))
            last = file.read()
            self._maps[shard] = mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ)
        self._views[shard] = memoryview(self._maps[shard])
        return memoryview(last), size

    def ask(self, place: np.ndarray, n_bytes: int) -> None:
        """See Source; the system then reads them side by side."""
        for one in np.sort(place).tolist():
            shard, at = divmod(one, 1 << OFFSET_BITS)
            page = at - at % mmap.PAGESIZE
            self._maps[shard].madvise(mmap.MADV_WILLNEED, page, at - page + n_bytes)

    def chunk(self, place: int, n_bytes: int) -> memoryview:
        """See Source."""
        shard, at = divmod(place, 1 << OFFSET_BITS)
        return self._views[shard][at : at + n_bytes]

    def copy(self, parts: Parts, out: memoryview) -> None:
        """See Source."""
        place, begin, size, to = parts
        if self._drops and len(place):
            self.ask(place + begin, int(np.max(size)))
        views = self._views
        for shard, at, into, n in zip(
            (place >> OFFSET_BITS).tolist(),
            ((place & OFFSET_MASK) + begin).tolist(),
            to.tolist(),
            _each(size),
            strict=False,
        ):
            out[into : into + n] = views[shard][at : at + n]


class Ranged:
    """Files of other machines: all ranges of a batch are read side by side.

    What `ask` read is kept for the next `copy`, so that a batch that is checked is read once.
    """

    def __init__(self) -> None:
        self._paths: dict[int, Place] = {}
        self._held: dict[int, memoryview] = {}

    def open(self, shard: int, path: Place, n_bytes: int) -> tuple[memoryview, int]:
        """See Source."""
        self._paths[shard] = path
        return places.tail(path, n_bytes)

    def ask(self, place: np.ndarray, n_bytes: int) -> None:
        """See Source."""
        wanted = np.unique(place)
        read = self._read(wanted, repeat(n_bytes))
        self._held = dict(zip(wanted.tolist(), read, strict=True))

    def chunk(self, place: int, n_bytes: int) -> memoryview:
        """See Source."""
        held = self._held.get(place)
        return self._read(np.array([place]), [n_bytes])[0] if held is None else held[:n_bytes]

    def copy(self, parts: Parts, out: memoryview) -> None:
        """See Source; OSError where a file has become shorter."""
        place, begin, size, to = parts
        held, self._held = self._held, {}
        here = np.array([one in held for one in place.tolist()], bool)
        begins, sizes = (np.broadcast_to(value, len(place)) for value in (begin, size))
        read = iter(self._read((place + begins)[~here], sizes[~here].tolist()))
        for one, kept, first, n, into in zip(
            *(values.tolist() for values in (place, here, begins, sizes, to)), strict=True
        ):
            part = held[one][first : first + n] if kept else next(read)
            if len(part) != n:
                raise OSError(
                    errno.EIO, "shorter than its index says", str(self._paths[one >> OFFSET_BITS])
                )
            out[into : into + n] = part

    def _read(self, place: np.ndarray, sizes: Iterable[int]) -> list[memoryview]:
        spans = []
        for one, n in zip(place.tolist(), sizes, strict=False):
            shard, at = divmod(one, 1 << OFFSET_BITS)
            spans.append((self._paths[shard], at, at + n))
        return places.fetch(spans)


def _each(size: np.ndarray | int) -> Iterable[int]:
    return repeat(size) if isinstance(size, int) else size.tolist()
