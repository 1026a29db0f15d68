"""Archives from elsewhere, unpacked without trust: nothing leaves the folder it is meant for.

Refused are absolute names and `..`, links, devices and other special entries, an entry twice, an
encrypted one, and an archive that holds more bytes or entries than forecast, whether it says so or
not. Nothing appears in the folder before the whole archive is good.
"""

import fcntl
import gzip
import io
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from tqdm import tqdm

from understudy.errors import DataError

MOST_ENTRIES = 500_000
_BLOCK_BYTES = 2**20
_MOST_HEADER_BYTES = 2**20  # of a tar entry's extended header, which is read in one piece
_WORKPLACE = ".unpacking"


@dataclass(frozen=True, kw_only=True)
class _Entry:
    name: str
    size: int
    kind: str
    """"file", "folder", or what is refused."""
    open: Callable[[], IO[bytes] | None]


def unpack(
    parts: Sequence[Path],
    wanted: Mapping[str, str],
    root: Path,
    *,
    most_bytes: int,
    most_entries: int = MOST_ENTRIES,
    progress: bool = True,
) -> None:
    """Unpacks what is `wanted` of a zip or a tar (plain or gzip) archive into the folder `root`.

    Args:
        parts: The archive; several files are one archive cut into pieces.
        wanted: File or folder in the archive ("" is all of it) -> its new name under `root`, where
            nothing of that name may be yet. They are moved there in this order, each at once, when
            the whole archive has been unpacked beside them.
        root: Made where it is missing.
        most_bytes: That the archive may hold unpacked, the unwanted entries included.
        most_entries: That it may list.
        progress: Show a bar where stderr is a terminal.

    Raises:
        DataError: Refused, damaged, without something wanted, or no space.
    """
    title = ", ".join(map(str, parts))
    try:
        with _workplace(root) as place, ExitStack() as stack:
            for name in wanted.values():
                if os.path.lexists(root / name):
                    raise DataError(f"{root / name}: is there already")
            file = stack.enter_context(_joined(parts))
            bar = tqdm(
                desc="unpacking", unit="B", unit_scale=True, disable=None if progress else True
            )
            stack.enter_context(bar)
            _extract(_entries(file, most_bytes), wanted, place, most_bytes, most_entries, bar)
            for i, inside in enumerate(wanted):
                if not (place / str(i)).exists():
                    raise DataError(f"lacks '{inside}'")
            for i, outside in enumerate(wanted.values()):
                target = root / outside
                target.parent.mkdir(parents=True, exist_ok=True)
                (place / str(i)).rename(target)
    except DataError as error:
        raise DataError(f"archive {title}: {error}") from None
    except OSError as error:
        raise DataError(f"archive {title}: cannot be unpacked in {root} ({error})") from None


@contextmanager
def _workplace(root: Path) -> Iterator[Path]:
    """An empty folder under `root`, for one process at a time; gone afterwards."""
    root.mkdir(parents=True, exist_ok=True)
    place = root / _WORKPLACE
    handle = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)
    finally:
        os.close(handle)


def _extract(
    entries: Iterator[_Entry],
    wanted: Mapping[str, str],
    place: Path,
    most_bytes: int,
    most_entries: int,
    bar: tqdm,
) -> None:
    total = 0
    for count, entry in enumerate(_readable(entries), start=1):
        parts = _checked_parts(entry)
        total += entry.size
        if total > most_bytes or count > most_entries:
            raise DataError(
                f"holds more than forecast: {total} bytes in {count} entries up to '{entry.name}', "
                f"wanted at most {most_bytes} in {most_entries}; refused as a size bomb"
            )
        target = _target(parts, wanted, place)
        if target is None:
            continue
        try:
            if entry.kind == "folder":
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as sink:
                _copy(entry, sink, bar)
        except (FileExistsError, NotADirectoryError):
            raise DataError(f"'{entry.name}' is there twice, or inside a file") from None


def _checked_parts(entry: _Entry) -> tuple[str, ...]:
    name = entry.name
    if entry.kind not in ("file", "folder"):
        raise DataError(f"'{name}' is {entry.kind}; refused")
    reason = ""
    if "\0" in name or "\\" in name:
        reason = "holds a NUL or a backslash"
    elif name.startswith("/") or name[1:2] == ":":
        reason = "is an absolute path"
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        reason = "leaves the folder ('..')"
    elif not parts and entry.kind == "file":
        reason = "has no name"
    if reason:
        raise DataError(f"entry {name!r} {reason}; refused")
    return parts


def _target(parts: tuple[str, ...], wanted: Mapping[str, str], place: Path) -> Path | None:
    for i, inside in enumerate(wanted):
        head = tuple(inside.split("/")) if inside else ()
        if parts[: len(head)] == head:
            return place.joinpath(str(i), *parts[len(head) :])
    return None


def _copy(entry: _Entry, sink: BinaryIO, bar: tqdm) -> None:
    """Copies an entry, of exactly the bytes it declares."""
    source = _guarded(entry.open, f" at '{entry.name}'")
    if source is None:
        raise DataError(f"'{entry.name}' has no content")
    left = entry.size
    with source:
        for block in _blocks(source, entry.name):
            left -= len(block)
            if left < 0:
                raise DataError(
                    f"'{entry.name}' holds more than the {entry.size} bytes it declares"
                )
            sink.write(block)
            bar.update(len(block))
    if left:
        raise DataError(f"'{entry.name}' ends {left} bytes before the {entry.size} it declares")


_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # zipfile: a compression it does not know
    RuntimeError,  # zipfile: encrypted
    ValueError,  # tarfile: numbers and headers out of range
)


def _guarded(step: Callable[[], Any], where: str) -> Any:
    try:
        return step()
    except DataError:
        raise
    except _DAMAGE as error:
        raise DataError(f"damaged{where}: {error or type(error).__name__}") from None


def _readable(entries: Iterator[_Entry]) -> Iterator[_Entry]:
    while (entry := _guarded(lambda: next(entries, None), "")) is not None:
        yield entry


def _blocks(source: IO[bytes], name: str) -> Iterator[bytes]:
    while block := _guarded(lambda: source.read(_BLOCK_BYTES), f" at '{name}'"):
        yield block


def _entries(file: BinaryIO, most_bytes: int) -> Iterator[_Entry]:
    magic = file.read(2)
    file.seek(0)
    if magic == b"PK":
        yield from _zip_entries(file)
    elif magic == b"\x1f\x8b":
        with gzip.GzipFile(fileobj=file) as stream:
            yield from _tar_entries(_Forward(stream, most_bytes))
    else:
        yield from _tar_entries(_Forward(file, most_bytes))


def _zip_entries(file: BinaryIO) -> Iterator[_Entry]:
    kinds = {stat.S_IFLNK: "a link", 0: "file", stat.S_IFREG: "file", stat.S_IFDIR: "folder"}
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            kind = kinds.get(stat.S_IFMT(info.external_attr >> 16), "a special file")
            if kind == "file" and info.is_dir():
                kind = "folder"
            yield _Entry(
                name=info.orig_filename,
                size=info.file_size,
                kind=kind,
                open=lambda info=info: archive.open(info),
            )


def _tar_entries(stream: "_Forward") -> Iterator[_Entry]:
    with tarfile.open(fileobj=stream, mode="r:") as archive:  # type: ignore[call-overload]
        while info := archive.next():
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps all it has seen
            kind = "a special file"
            if info.issym() or info.islnk():
                kind = "a link"
            elif info.isdir():
                kind = "folder"
            elif info.isreg() and not info.issparse():
                kind = "file"
            yield _Entry(
                name=info.name,
                size=info.size,
                kind=kind,
                open=lambda info=info: archive.extractfile(info),
            )
    stream.expect_padding()


class _Forward(io.RawIOBase):
    """A stream read once, from front to back, and no further than `most` bytes and tar's padding.

    Bounds what a compressed tar can make us read, in all and in one piece.
    """

    def __init__(self, stream: BinaryIO | gzip.GzipFile, most: int) -> None:
        self._stream = stream
        self._most = 2 * most + 2**26  # 512 to 1,024 bytes an entry on top of the content
        self._at = 0
        self._last = b""

    def expect_padding(self) -> None:
        """DataError unless the block read last and all behind it are zeros, as a tar ends.

        tarfile takes a damaged header for the end; and only here gzip compares its checksum.
        """
        while not any(self._last):
            if not self.read(_MOST_HEADER_BYTES):
                return
        raise DataError(f"damaged: no entry and no end before byte {self._at}")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_HEADER_BYTES:
            raise DataError(f"asks to be read {size} bytes in one piece; refused")
        block = self._last = self._stream.read(size)
        self._at += len(block)
        if self._at > self._most:
            raise DataError(f"holds more than {self._most} bytes; refused as a size bomb")
        return block

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence != 0 or offset < self._at:
            raise DataError("its entries are not in order")
        while self._at < offset and self.read(min(_MOST_HEADER_BYTES, offset - self._at)):
            pass
        return self._at


class _Joined(io.RawIOBase):
    """Files read as one."""

    def __init__(self, files: Sequence[BinaryIO]) -> None:
        self._files = files
        self._sizes = [os.fstat(file.fileno()).st_size for file in files]
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: sum(self._sizes)}[whence]
        if base + offset < 0:
            raise ValueError("before the beginning")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        start = 0
        for file, size in zip(self._files, self._sizes, strict=True):
            if self._at < start + size:
                file.seek(self._at - start)
                block = file.read(min(len(buffer), start + size - self._at))
                buffer[: len(block)] = block
                self._at += len(block)
                return len(block)
            start += size
        return 0


@contextmanager
def _joined(parts: Sequence[Path]) -> Iterator[BinaryIO]:
    with ExitStack() as stack:
        files = [stack.enter_context(part.open("rb")) for part in parts]
        yield stack.enter_context(io.BufferedReader(_Joined(files), _BLOCK_BYTES))  # type: ignore[misc]
