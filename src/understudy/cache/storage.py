"""Where files are read from: a folder, or any URL that fsspec knows (s3://, gs://, memory://)."""

from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from understudy.errors import CacheError


class Storage(Protocol):
    """Files by their names below one root, posix style."""

    root: str

    def read(self, name: str) -> bytes | None:
        """All bytes of a file; None if there is none. CacheError if it cannot be read."""
        ...

    def glob(self, pattern: str) -> list[str]:
        """Names that match, in order."""
        ...

    def up(self) -> "tuple[Storage, str]":
        """The folder around the root, and the root's name in it."""
        ...


class LocalStorage:
    """A folder on this machine."""

    def __init__(self, root: Path) -> None:
        self.path, self.root = root, str(root)

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            where = self.path / name
            raise CacheError(f"cannot read {where}: {error.strerror or error}") from error

    def glob(self, pattern: str) -> list[str]:
        return sorted(p.relative_to(self.path).as_posix() for p in self.path.glob(pattern))

    def up(self) -> "tuple[Storage, str]":
        path = self.path.absolute()
        return LocalStorage(path.parent), path.name


class UrlStorage:
    """What fsspec reaches."""

    def __init__(self, filesystem: Any, path: str, protocol: str) -> None:
        self.filesystem, self.path, self.protocol = filesystem, path.rstrip("/"), protocol
        self.root = f"{protocol}://{self.path.lstrip('/') if protocol != 'file' else self.path}"

    def read(self, name: str) -> bytes | None:
        try:
            return self.filesystem.cat_file(f"{self.path}/{name}")
        except FileNotFoundError:
            return None
        except Exception as error:  # each backend has exceptions of its own
            raise CacheError(f"cannot read {self.root}/{name}: {error}") from error

    def glob(self, pattern: str) -> list[str]:
        try:
            found = self.filesystem.glob(f"{self.path}/{pattern}")
        except Exception as error:  # as above
            raise CacheError(f"cannot list {self.root}: {error}") from error
        start = len(self.path) + 1
        return sorted(name[start:] for name in map(str, found))

    def up(self) -> "tuple[Storage, str]":
        path = PurePosixPath(self.path)
        return UrlStorage(self.filesystem, str(path.parent), self.protocol), path.name


def open_storage(place: str | Path) -> Storage:
    """Storage at a path or a URL.

    Raises:
        CacheError: A URL of a kind that this installation cannot read.
    """
    if "://" not in str(place):
        return LocalStorage(Path(place))
    try:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(str(place))
    except (ImportError, ValueError) as error:
        raise CacheError(f"{place}: cannot be opened: {error}") from None
    return UrlStorage(filesystem, path, str(place).partition("://")[0])
