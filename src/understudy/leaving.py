"""Leaving a process in which something hangs."""

import os
import sys
import threading
import weakref
from contextlib import suppress
from typing import NoReturn

_working: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def may_hang(thread: threading.Thread) -> None:
    """Notes a thread that others' code may hold for ever, such as a decoder's."""
    _working.add(thread)


def leave(code: int | str | None) -> NoReturn:
    """`sys.exit`, which waits for what runs in thread pools, unless that hangs."""
    if any(thread.is_alive() for thread in _working):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
    sys.exit(code)
