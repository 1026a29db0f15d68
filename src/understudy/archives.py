"""Entries of zip and tar archives from elsewhere, read without trust: what is damaged is a
DataError, and so is a tar that would have us read much more than forecast.
"""

import gzip
import io
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from understudy.errors import DataError

_BLOCK_BYTES = 2**20
_MOST_HEADER_BYTES = 2**20  # of a tar entry's extended header, which is read in one piece
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


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What an archive says of one entry; `size` in bytes."""

    name: str
    size: int
    kind: str
    """"file", "folder", or what is refused."""
    open: Callable[[], IO[bytes] | None]


@contextmanager
def joined(parts: Sequence[Path]) -> Iterator[BinaryIO]:
    """Files read as one."""
    with ExitStack() as stack:
        files = [stack.enter_context(part.open("rb")) for part in parts]
        yield stack.enter_context(io.BufferedReader(_Joined(files), _BLOCK_BYTES))  # type: ignore[misc]


def entries(file: BinaryIO, most_bytes: int) -> Iterator[Entry]:
    """Entries of a zip or a tar (plain or gzip) archive, in its order.

    Args:
        file: The archive, at its beginning.
        most_bytes: That a tar may hold unpacked.

    Raises:
        DataError: Damaged, or a tar that holds more.
    """
    found = _entries(file, most_bytes)
    while (entry := _guarded(lambda: next(found, None), "")) is not None:
        yield entry


def blocks(entry: Entry) -> Iterator[bytes]:
    """Content of a file; DataError where it is damaged."""
    where = f" at '{entry.name}'"
    source = _guarded(entry.open, where)
    if source is None:
        raise DataError(f"'{entry.name}' has no content")
    with source:
        while block := _guarded(lambda: source.read(_BLOCK_BYTES), where):
            yield block


def _guarded(step: Callable[[], Any], where: str) -> Any:
    try:
        return step()
    except DataError:
        raise
    except _DAMAGE as error:
        raise DataError(f"damaged{where}: {error or type(error).__name__}") from None


def _entries(file: BinaryIO, most_bytes: int) -> Iterator[Entry]:
    magic = file.read(2)
    file.seek(0)
    if magic == b"PK":
        yield from _zip_entries(file)
    elif magic == b"\x1f\x8b":
        with gzip.GzipFile(fileobj=file) as stream:
            yield from _tar_entries(_Forward(stream, most_bytes))
    else:
        yield from _tar_entries(_Forward(file, most_bytes))


def _zip_entries(file: BinaryIO) -> Iterator[Entry]:
    kinds = {stat.S_IFLNK: "a link", 0: "file", stat.S_IFREG: "file", stat.S_IFDIR: "folder"}
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            kind = kinds.get(stat.S_IFMT(info.external_attr >> 16), "a special file")
            if kind == "file" and info.is_dir():
                kind = "folder"
            yield Entry(
                name=info.orig_filename,
                size=info.file_size,
                kind=kind,
                open=lambda info=info: archive.open(info),
            )


def _tar_entries(stream: "_Forward") -> Iterator[Entry]:
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
            yield Entry(
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
