"""Downloads that resume, are verified, and never leave half a file under the final name."""

import fcntl
import hashlib
import http.client
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from understudy import __version__
from understudy.errors import DataError

_BLOCK_BYTES = 2**18
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}


def home() -> Path:
    """Folder of downloaded files: the environment's UNDERSTUDY_HOME, or ~/.cache/understudy."""
    return Path(os.environ.get("UNDERSTUDY_HOME") or "~/.cache/understudy").expanduser()


def download(
    url: str,
    destination: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    size: int | None = None,
    md5: str | None = None,
    sha1: str | None = None,
    retries: int = 5,
    backoff_s: float = 1.0,
    timeout_s: float = 30.0,
    progress: bool = True,
) -> Path:
    """The file `destination`, fetched from `url` unless it is there already.

    What has arrived lies in `destination` + ".part"; a later call goes on from there if the server
    can and a checksum is given to tell that the file has not changed meanwhile.

    Args:
        url: http or https.
        destination: A file that exists is never fetched or replaced, only verified.
        sha256: Expected digest (hex), as are md5 and sha1.
        size: Expected bytes.
        retries: Attempts in a row that may bring nothing new, once the server was reached.
        backoff_s: Pause before the first repetition; doubles each time, up to 60 s.
        timeout_s: Of a connection that says nothing.
        progress: Show a bar where stderr is a terminal.

    Raises:
        DataError: Unreachable, refused by the server, cut short, or not what was expected.
    """
    destination = Path(destination)
    digests = {"sha256": sha256, "sha1": sha1, "md5": md5}
    expected = {name: value.lower() for name, value in digests.items() if value}
    if destination.exists():
        _verify(destination, destination, expected, size, "delete it to fetch it again")
        return destination
    if not url.startswith(("http://", "https://")):
        raise DataError(f"{url}: wanted an http or https address")
    part = destination.with_name(destination.name + ".part")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _locked(part) as file:
            if destination.exists():  # another process brought it while this one waited
                _verify(destination, destination, expected, size, "delete it to fetch it again")
                return destination
            if not expected:
                file.truncate(0)
            resumed = os.fstat(file.fileno()).st_size > 0
            while True:
                _arrive(url, file, size, retries, backoff_s, timeout_s, progress, destination.name)
                try:
                    _verify(part, url, expected, size, "not kept")
                    break
                except DataError:
                    file.truncate(0)
                    if not resumed:
                        raise
                    resumed = False  # the old part was perhaps of another version of the file
            os.fsync(file.fileno())
            part.replace(destination)
    except OSError as error:
        raise DataError(f"{destination}: cannot be written ({error.strerror or error})") from None
    return destination


@contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """`part`, open for reading and appending; other processes wait for their turn."""
    while True:
        with part.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                current = part.stat().st_ino == os.fstat(file.fileno()).st_ino
            except FileNotFoundError:
                current = False
            if not current:
                continue
            try:
                yield file
            finally:
                if part.exists() and part.stat().st_size == 0:
                    part.unlink()
            return


def _verify(
    path: Path, source: object, expected: dict[str, str], size: int | None, consequence: str
) -> None:
    if not path.is_file():
        raise DataError(f"{path}: not a file")
    found_bytes = path.stat().st_size
    if size is not None and found_bytes != size:
        raise DataError(f"{source}: {found_bytes} bytes, wanted {size}; {consequence}")
    for name, wanted in expected.items():
        with path.open("rb") as file:
            found = hashlib.file_digest(file, name).hexdigest()
        if found != wanted:
            raise DataError(f"{source}: {name} is {found}, wanted {wanted}; {consequence}")


def _arrive(
    url: str,
    file: BinaryIO,
    size: int | None,
    retries: int,
    backoff_s: float,
    timeout_s: float,
    progress: bool,
    title: str,
) -> None:
    """Appends to `file` until all bytes are there, over as many connections as it takes."""
    failures, reached = 0, False
    most = file.seek(0, os.SEEK_END)
    validator = ""
    bar = tqdm(
        desc=title, total=size, unit="B", unit_scale=True, disable=None if progress else True
    )
    with bar:
        while True:
            try:
                validator, done = _one_connection(url, file, validator, timeout_s, bar)
                if done:
                    return
                reason = f"the connection ended after {file.tell()} bytes"
            except urllib.error.HTTPError as error:
                reason = f"the server says {error.code} {error.reason}"
                error.close()
                if error.code not in _TRY_AGAIN:
                    raise DataError(f"{url}: {reason}") from None
            except urllib.error.URLError as error:
                reason = f"{error.reason}"
                if not reached:
                    raise DataError(f"{url}: cannot be reached ({reason})") from None
            except (
                http.client.HTTPException,
                TimeoutError,
                ConnectionError,
                ssl.SSLError,
            ) as error:
                reason = f"{type(error).__name__} {error}".strip()
            reached = True
            here = file.seek(0, os.SEEK_END)
            failures = 0 if here > most else failures + 1
            most = max(most, here)
            if failures > retries:
                raise DataError(f"{url}: {reason}; gave up after {retries} repetitions")
            time.sleep(min(60.0, backoff_s * 2 ** max(0, failures - 1)))


def _one_connection(
    url: str, file: BinaryIO, validator: str, timeout_s: float, bar: tqdm
) -> tuple[str, bool]:
    """Appends what one connection brings; (validator of the file's version, all there?)."""
    start = file.seek(0, os.SEEK_END)
    headers = {"User-Agent": f"understudy/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator:
            headers["If-Range"] = validator
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        error.close()
        if error.headers.get("Content-Range", "").rpartition("/")[2] == str(start):
            return validator, True
        file.truncate(0)
        return "", False
    with response:
        etag = response.headers.get("ETag", "")
        validator = etag if etag and not etag.startswith("W/") else ""
        total = _integer(response.headers.get("Content-Length"))
        if response.status == 206:
            found = response.headers.get("Content-Range", "")
            match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", found.strip())
            if not match or int(match[1]) != start:
                file.truncate(0)
                return "", False
            total = _integer(match[2])
        elif start:  # the server sends the whole file: begin again
            file.truncate(0)
        bar.total = total
        bar.n = file.seek(0, os.SEEK_END)
        while block := response.read1(_BLOCK_BYTES):
            file.write(block)
            bar.update(len(block))
        file.flush()
        here = file.seek(0, os.SEEK_END)
        return validator, total is None or here == total


def _integer(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None
