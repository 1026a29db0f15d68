"""Object stores by URL (s3://, gs://): paths whose methods are requests.

obstore does the requests: one package without dependencies for all of them, whose ranges run side
by side outside of Python.
"""

import contextlib
import errno
import fnmatch
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote

from understudy.cache.connections import SCHEMES, connect, from_machine, no_credentials
from understudy.errors import CacheError

# obstore repeats requests that fail; a body that breaks off is repeated here.
TRIES, FIRST_WAIT_S = 4, 0.1
PARTS_AT_ONCE = 4  # of an object that is put; they share the line
_BROKEN_OFF = ("decod", "reading a body", "incomplete", "unexpected end", "end of file")


@dataclass(frozen=True)
class Stat:
    """Of `os.stat_result` what an object has."""

    st_size: int
    st_mtime_ns: int


class Tag(NamedTuple):
    """What an object has until it changes: S3 goes by the first, Google's store by the second."""

    e_tag: str | None
    version: str | None

    @classmethod
    def of(cls, meta: Any) -> "Tag":
        """From what obstore says of an object."""
        return cls(meta["e_tag"], meta["version"])


@dataclass(frozen=True, order=True)
class ObjectPath:
    """A place in an object store, with the methods of `pathlib.Path` that stores need.

    Attributes:
        root: Scheme and bucket, "s3://bucket".
        key: Names joined by "/"; empty is the bucket.
        listed: What a listing said about the object.

    Raises:
        CacheError: Any request that the store refuses, or that fails however often it is repeated.
        FileNotFoundError: `read_bytes`, `read`, `tail` and `stat` of what is not there.
        OSError: `read` and `tail` where the object is shorter than wanted.
    """

    root: str
    key: str = ""
    listed: Stat | None = field(default=None, compare=False, repr=False)

    @classmethod
    def parse(cls, url: str) -> "ObjectPath":
        """From a URL."""
        scheme, _, rest = url.partition("://")
        bucket, _, key = rest.partition("/")
        if scheme not in SCHEMES or not bucket:
            wanted = ", ".join(f"{name}://..." for name in SCHEMES)
            raise CacheError(f"{url}: wanted a folder, file://FOLDER or {wanted}")
        return cls(f"{scheme}://{bucket}", "/".join(part for part in key.split("/") if part))

    def __str__(self) -> str:
        return f"{self.root}/{self.key}".rstrip("/")

    def __truediv__(self, name: object) -> "ObjectPath":
        return self.joinpath(str(name))

    def joinpath(self, *names: str) -> "ObjectPath":
        """The place below this one."""
        parts = [part for name in (self.key, *names) for part in name.split("/") if part]
        return ObjectPath(self.root, "/".join(parts))

    @property
    def name(self) -> str:
        """The last name of the key; the bucket's where that is empty."""
        return self.key.rpartition("/")[2] or self.root.partition("://")[2]

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> "ObjectPath":
        """The place around this one."""
        return ObjectPath(self.root, self.key.rpartition("/")[0])

    @property
    def parents(self) -> tuple["ObjectPath", ...]:
        """The places around this one, from the inside out."""
        return (self.parent, *self.parent.parents) if self.key else ()

    def with_name(self, name: str) -> "ObjectPath":
        """The place of another name beside this one."""
        return self.parent / name

    def absolute(self) -> "ObjectPath":
        """Itself."""
        return self

    def relative_to(self, other: "ObjectPath") -> PurePosixPath:
        """The way from `other` to here."""
        return PurePosixPath(self.key).relative_to(other.key or ".")

    def is_file(self) -> bool:
        """Whether there is an object."""
        if self.listed:
            return True
        try:
            self.stat()
        except FileNotFoundError:
            with contextlib.suppress(FileNotFoundError):
                self.read_bytes()  # unlike a HEAD, a GET says when it is the bucket that is missing
            return False
        return True

    exists = is_file

    def stat(self) -> Stat:
        """Size and time of change."""
        if self.listed:
            return self.listed
        return _stat(self._request(lambda api, store: api.head(store, self.key)))

    def read_bytes(self) -> bytes:
        """The whole object."""
        return self._request(lambda api, store: api.get(store, self.key).bytes().to_bytes())

    def read(self, start: int, stop: int) -> memoryview:
        """Bytes [start, stop)."""
        return self._request(
            lambda api, store: memoryview(api.get_range(store, self.key, start=start, end=stop))
        )

    def tail(self, n_bytes: int) -> tuple[memoryview, int]:
        """The last bytes, at most `n_bytes`, and the object's size."""

        def request(api: Any, store: Any) -> tuple[memoryview, int]:
            found = api.get(store, self.key, options={"range": {"suffix": n_bytes}})
            return memoryview(found.bytes()), found.meta["size"]

        return self._request(request)

    def tagged(self) -> tuple[bytes, Tag]:
        """The whole object, and the tag that it has until it changes."""

        def request(api: Any, store: Any) -> tuple[bytes, Tag]:
            found = api.get(store, self.key)
            return found.bytes().to_bytes(), Tag.of(found.meta)

        return self._request(request)

    def write_bytes(self, data: bytes | bytearray) -> None:
        """Puts the object, in parts where it is large; it appears whole or not at all."""
        for attempt in range(TRIES):
            try:
                self._request(
                    lambda api, store: api.put(
                        store, self.key, data, max_concurrency=PARTS_AT_ONCE
                    ),
                    uploads=True,
                )
                return
            except FileNotFoundError:  # parts expired, or whose end the store did before: no answer
                if attempt + 1 == TRIES:
                    raise CacheError(f"{self}: the store loses the parts of an upload") from None

    def write_if(self, data: bytes, tag: Tag | None) -> Tag | None:
        """Puts the object if it still has `tag` (None: if there is none); its new tag, or None.

        None says as well that the answer to such a request got lost, and it was made twice.
        """
        import obstore.exceptions

        mode: Any = "create"
        if tag is not None:
            mode = {name: value for name, value in tag._asdict().items() if value is not None}
        try:
            put = self._request(lambda api, store: api.put(store, self.key, data, mode=mode))
        except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError):
            return None
        except FileNotFoundError:
            return None
        return Tag.of(put)

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes the object; most stores do not say whether there was one."""
        try:
            self._request(lambda api, store: api.delete(store, self.key))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def glob(self, pattern: str) -> Iterator["ObjectPath"]:
        """Places below that match, name by name; `*` and `?` as in a shell."""
        name, _, rest = pattern.partition("/")
        if not any(char in name for char in "*?["):
            place = self / name
            found = place.glob(rest) if rest else [place] * place.is_file()
            yield from found
            return
        listing = self._request(
            lambda api, store: api.list_with_delimiter(store, f"{self.key}/" if self.key else None)
        )
        places = [ObjectPath(self.root, str(key).rstrip("/")) for key in listing["common_prefixes"]]
        if not rest:
            places += [ObjectPath(self.root, m["path"], _stat(m)) for m in listing["objects"]]
        for place in sorted(place for place in places if fnmatch.fnmatchcase(place.name, name)):
            yield from place.glob(rest) if rest else [place]

    def rglob(self, pattern: str) -> Iterator["ObjectPath"]:
        """Objects at any depth whose name matches."""

        def request(api: Any, store: Any) -> list[ObjectPath]:
            chunks = api.list(store, prefix=f"{self.key}/" if self.key else None)
            return [
                ObjectPath(self.root, meta["path"], _stat(meta)) for some in chunks for meta in some
            ]

        found = self._request(request)
        yield from sorted(path for path in found if fnmatch.fnmatchcase(path.name, pattern))

    def zarr_store(self) -> Any:
        """What zarr-python reads, from here down."""
        from zarr.storage import ObjectStore

        return ObjectStore(connect(f"{self.root}/{quote(self.key)}", os.getpid()), read_only=True)

    def _request(self, request: Callable[[Any, Any], Any], uploads: bool = False) -> Any:
        """Calls `request(obstore, store)`, again where what came back broke off."""
        store = connect(self.root, os.getpid(), uploads)
        import obstore
        from obstore import exceptions

        for attempt in range(TRIES):
            try:
                return request(obstore, store)
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                raise
            except (exceptions.BaseError, OSError) as error:
                text = str(error)
                if isinstance(error, FileNotFoundError) and not _no_bucket(text):
                    raise FileNotFoundError(errno.ENOENT, "no such object", str(self)) from None
                if "416 " in text:
                    raise OSError(errno.EINVAL, "shorter than wanted", str(self)) from None
                again = any(sign in text.lower() for sign in _BROKEN_OFF)
                if attempt + 1 == TRIES or not again:
                    raise CacheError(self._explain(error)) from None
            time.sleep(FIRST_WAIT_S * 2**attempt)
        raise AssertionError("unreachable")

    def _explain(self, error: Exception) -> str:
        from obstore import exceptions

        text = " ".join(str(error).split("\n\nDebug source")[0].split())
        denied = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
        if from_machine(text):
            return f"{self}: {no_credentials(self.root)} ({text[:300]})"
        if _no_bucket(text):
            return f"{self}: there is no bucket '{self.root.partition('://')[2]}'"
        if isinstance(error, denied) or "Forbidden" in text or "credential" in text.lower():
            return (
                f"{self}: access denied. Credentials come from the environment "
                "(s3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION; gs: "
                "GOOGLE_APPLICATION_CREDENTIALS) or the machine's role; a public bucket of s3 "
                f"wants AWS_SKIP_SIGNATURE=true ({text[:300]})"
            )
        return f"{self}: the request failed, and so did repeating it: {text[:400]}"


def _no_bucket(text: str) -> bool:
    return "NoSuchBucket" in text or "bucket does not exist" in text


def _stat(meta: Any) -> Stat:
    return Stat(meta["size"], int(meta["last_modified"].timestamp() * 1e9))
