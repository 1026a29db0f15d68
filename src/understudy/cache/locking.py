"""One writer per dataset folder.

On disks by flock: the system frees the lock when its process dies. On object stores by a lease.
"""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from understudy.cache.files import make_folder
from understudy.cache.lease import lease
from understudy.cache.objects import ObjectPath
from understudy.cache.places import Place, place
from understudy.disk import existing
from understudy.errors import CacheError

LOCK_FILE = ".lock"


@contextlib.contextmanager
def lock(dataset_dir: Place | str) -> Iterator[Callable[[], None]]:
    """Holds the dataset folder for this process; not reentrant.

    Gives a function to be called during long work, which raises CacheError if a lease was lost.

    Raises:
        CacheError: Another process holds it; the message names its pid, host and start.
    """
    path = place(dataset_dir) / LOCK_FILE
    if isinstance(path, ObjectPath):
        with lease(path) as check:
            yield check
        return
    try:
        make_folder(path.parent)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except (FileExistsError, NotADirectoryError):
        raise CacheError(f"{existing(path.parent)}: a file, wanted a folder") from None
    except OSError as error:
        raise CacheError(f"cannot lock {path.parent}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CacheError(f"{path.parent} is in use by {_holder(handle)}") from None
        except OSError as error:
            raise CacheError(f"cannot lock {path.parent}: {error.strerror or error}") from error
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(holder).encode(), 0)
        try:
            yield lambda: None
        finally:
            # A child forked meanwhile shares the handle; closing ours would not free the lock.
            fcntl.flock(handle, fcntl.LOCK_UN)
    finally:
        os.close(handle)


def _holder(handle: int) -> str:
    try:
        holder = json.loads(os.pread(handle, 4096, 0))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
