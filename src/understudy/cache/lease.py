"""The lock of an object store, which has no flock: an object with a time of expiry.

Who holds it renews it. Who finds it expired takes it over, by a put on the condition that it is
still the same object, so that of several only one succeeds. Clocks that differ by less than the
lease's length do no harm: an expired lease that its holder still renews changes its tag.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from understudy.cache.objects import ObjectPath, Tag
from understudy.errors import CacheError

LEASE_S = 60.0
RENEW_S = 15.0


@contextlib.contextmanager
def lease(path: ObjectPath) -> Iterator[Callable[[], None]]:
    """Holds `path` for this process; gives a function that raises once it is lost.

    Raises:
        CacheError: Another process holds it, or took it over meanwhile (this one did not renew it
            in time: it stood still, or lost its connection).
    """
    owner = uuid.uuid4().hex
    tag = _write(path, owner, None) or _take_over(path, owner)
    done, lost = threading.Event(), threading.Event()

    def renew() -> None:
        held, renewed = tag, time.monotonic()
        while not done.wait(RENEW_S):
            try:
                held = _write(path, owner, held)
            except CacheError:  # a store that does not answer for a while
                if time.monotonic() - renewed > LEASE_S:
                    return lost.set()
                continue
            if held is None:
                return lost.set()
            renewed = time.monotonic()

    def check() -> None:
        if lost.is_set():
            raise CacheError(
                f"{path.parent}: the lease was lost to another process, or could not be renewed "
                f"for {LEASE_S:.0f} s; the same command continues"
            )

    thread = threading.Thread(target=renew, name="understudy-lease", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        done.set()
        thread.join()
        if not lost.is_set():
            path.unlink(missing_ok=True)
    check()


def _write(path: ObjectPath, owner: str, tag: Tag | None) -> Tag | None:
    """`write_if` of the lease; where an answer got lost, the object says whose it is."""
    written = path.write_if(_content(owner), tag)
    if written is None:
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            content, found = path.tagged()
            if json.loads(content)["owner"] == owner:
                return found
    return written


def _take_over(path: ObjectPath, owner: str) -> Tag:
    """The tag of the lease, taken from a holder that let it expire or released it meanwhile."""
    try:
        content, found = path.tagged()
    except FileNotFoundError:
        content, found = b"", None
    who, expires = "another process", 0.0
    with contextlib.suppress(ValueError, KeyError, TypeError):
        holder = json.loads(content)
        expires = float(holder["expires_unix_s"])
        who = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    left_s = expires - time.time()
    tag = _write(path, owner, found) if left_s <= 0 else None
    if tag is None:
        raise CacheError(
            f"{path.parent} is in use by {who}; a lease that nobody renews ends after "
            f"{LEASE_S:.0f} s"
        )
    return tag


def _content(owner: str) -> bytes:
    return json.dumps(
        {
            "owner": owner,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "expires_unix_s": time.time() + LEASE_S,
        }
    ).encode()
