"""Where stores lie: a folder of this machine, one of a network file system, or an object store.

A `Place` is a `Path` or an `ObjectPath`; this module is all that knows the difference, besides
`files` (writing) and `locking`.
"""

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

import numpy as np

from understudy.cache.objects import ObjectPath, Stat
from understudy.errors import CacheError

Place = Path | ObjectPath
Listing = Mapping[Place, Stat] | None
Span = tuple[Place, int, int]
Item = TypeVar("Item")
Result = TypeVar("Result")

MOUNTS = Path("/proc/self/mounts")
REMOTE = re.compile(
    r"nfs4?|cifs|smb\w*|9p|afs|ceph|lustre|gpfs|beegfs\w*|orangefs|glusterfs|fuse\..*|fuse"
)
AT_ONCE = 64  # requests under way
GAP_BYTES = 128 << 10  # read along where it saves a request
MOST_BYTES = 8 << 20  # of one request for several spans


def place(where: "str | Place") -> Place:
    """The place that a path or a URL names.

    Raises:
        CacheError: A URL of a kind that is not known.
    """
    if isinstance(where, ObjectPath):
        return where
    # Path("s3://bucket") has one slash left.
    if url := re.fullmatch(r"([a-z][a-z0-9+.-]+):/(?!$)/?(.*)", str(where)):
        scheme, rest = url.groups()
        if scheme == "file":
            return Path("/" + unquote(rest).lstrip("/"))
        return ObjectPath.parse(f"{scheme}://{rest}")
    return Path(where)


def mappable(where: Place) -> bool:
    """Whether files there may be mapped: a file of another machine may be cut short meanwhile,
    which kills whoever reads it through a map."""
    return isinstance(where, Path) and not REMOTE.fullmatch(_filesystem(where))


def _filesystem(path: Path) -> str:
    """Type of the file system that holds `path`; empty where the system does not say."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    real = path.resolve()
    found = (-1, "")
    for line in lines:
        _, point, kind, *_ = line.split(" ")
        point = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), point))
        if real.is_relative_to(point):  # of mounts on one point, the last one is seen
            found = max(found, (len(point.parts), kind), key=lambda item: item[0])
            if found[0] == len(point.parts):
                found = (found[0], kind)
    return found[1]


def spread(where: Place, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`map`, side by side where each call waits for another machine."""
    items = list(items)
    if mappable(where) or len(items) < 2:
        return [function(item) for item in items]
    return list(_pool(os.getpid()).map(function, items))


@lru_cache(maxsize=1)
def _pool(pid: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(AT_ONCE, thread_name_prefix="understudy-read")


def listing(where: Place) -> Listing:
    """The objects below a place, by one request in place of one for each; None for a folder, whose
    files are looked at one by one."""
    if isinstance(where, ObjectPath):
        return {path: path.stat() for path in where.rglob("*")}
    return None


def read(where: Place, start: int, stop: int) -> memoryview:
    """Bytes [start, stop) of a file, without a map; fewer beyond its end."""
    if isinstance(where, ObjectPath):
        return where.read(start, stop)
    with where.open("rb", buffering=0) as file:
        buffer = bytearray(stop - start)
        view, done = memoryview(buffer), 0
        while done < len(view) and (n := os.preadv(file.fileno(), [view[done:]], start + done)):
            done += n
        return view[:done]


def tail(where: Place, n_bytes: int) -> tuple[memoryview, int]:
    """The last bytes of a file, at most `n_bytes`, and its size; OSError if there is none."""
    if isinstance(where, ObjectPath):
        return where.tail(n_bytes)
    size = where.stat().st_size
    return read(where, max(0, size - n_bytes), size), size


def view(where: Place) -> memoryview:
    """All bytes of a file; OSError if there is none."""
    if isinstance(where, Path) and mappable(where) and where.stat().st_size:
        return np.memmap(where, np.uint8, "r").data
    return memoryview(where.read_bytes())


def fetch(spans: Sequence[Span]) -> list[memoryview]:
    """Bytes [start, stop) of files, all side by side; neighbours come in one request."""
    order = sorted(range(len(spans)), key=spans.__getitem__)
    groups: list[list[int]] = []
    ends: list[int] = []
    for i in order:
        where, start, stop = spans[i]
        first = spans[groups[-1][0]] if groups else None
        if (
            first is not None
            and first[0] == where
            and start <= ends[-1] + GAP_BYTES
            and stop - first[1] <= MOST_BYTES
        ):
            groups[-1].append(i)
            ends[-1] = max(ends[-1], stop)
        else:
            groups.append([i])
            ends.append(stop)

    def request(number: int) -> memoryview:
        where, start, _ = spans[groups[number][0]]
        return read(where, start, ends[number])

    result: list[memoryview] = [memoryview(b"")] * len(spans)
    if spans:
        parts = spread(spans[0][0], request, range(len(groups)))
        for group, part in zip(groups, parts, strict=True):
            base = spans[group[0]][1]
            for i in group:
                result[i] = part[spans[i][1] - base : spans[i][2] - base]
    return result


@contextlib.contextmanager
def changed_copy(where: Place) -> Iterator[Path]:
    """A file of this machine to be written, which becomes the one at `where`."""
    if isinstance(where, Path):
        yield where
        return
    with tempfile.TemporaryDirectory(prefix="understudy-") as folder:
        yield (copy := Path(folder) / where.name)
        where.write_bytes(copy.read_bytes())


@contextlib.contextmanager
def local_copy(where: Place) -> Iterator[Path]:
    """A file of this machine with the same bytes, for libraries that want one; it may not exist."""
    if isinstance(where, Path):
        yield where
        return
    with tempfile.TemporaryDirectory(prefix="understudy-") as folder:
        copy = Path(folder) / where.name
        with contextlib.suppress(FileNotFoundError):
            copy.write_bytes(where.read_bytes())
        yield copy


_keeping = threading.Lock()
_kept: dict[ObjectPath, tuple[Stat, int]] = {}  # as it was, and the descriptor of the copy


def kept_copy(where: Place) -> Path:
    """A file of this machine with the same bytes, brought here once per process for as long as it
    stays as it is; CacheError if it cannot be."""
    if isinstance(where, Path):
        return where
    with _keeping:
        try:
            seen = where.stat()
            known, descriptor = _kept.get(where, (None, -1))
            if known != seen:
                with tempfile.TemporaryFile() as file:  # it has no name: nothing is left of it
                    file.write(where.read_bytes())
                    file.flush()
                    _kept[where] = seen, os.dup(file.fileno())
                if known is not None:
                    os.close(descriptor)
        except OSError as error:
            raise CacheError(f"cannot read {where}: {error.strerror or error}") from None
        return Path(f"/proc/self/fd/{_kept[where][1]}")
