"""Errors that a user can cause and mend; the command line prints them and exits with code 2.

Everything else (an `AssertionError`, a `TypeError`) is a defect of understudy's own.
"""

import difflib
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import click


class UnderstudyError(ValueError):
    """Base of all errors a user can mend. The message says what was found and what was wanted."""


class ConfigError(UnderstudyError):
    """A setting, an option or a recipe that cannot be used."""


class DataError(UnderstudyError):
    """A dataset, an index or a label file that does not hold what it should."""


class AudioError(UnderstudyError):
    """An audio file that cannot be decoded; `reason` is what the ledger records."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type["AudioError"], tuple[str, str]]:
        return type(self), (self.path, self.reason)


class CacheError(UnderstudyError):
    """A cache that is damaged, from the future, or not the one that was asked for."""


class WeightsError(UnderstudyError):
    """A weights file that is missing, altered, or belongs to another network."""


_LOOK_ALIKES = str.maketrans("oli", "011")


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The known name that `name` may be meant for: look-alikes (o and 0, l and 1) go first."""
    choices = sorted(known)

    def seen(text: str) -> str:
        return text.lower().translate(_LOOK_ALIKES)

    alike = [choice for choice in choices if seen(choice) == seen(name)]
    near = alike or difflib.get_close_matches(name, choices, n=1, cutoff=cutoff)
    return near[0] if near else None


STOPS = (signal.SIGTERM, signal.SIGHUP)
"""What Slurm, systemd and docker send to stop a process, and a terminal that is closed."""


class Terminated(KeyboardInterrupt):
    """One of STOPS: what a Ctrl-C does, with an exit code of its own."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


def _terminate(number: int, _: FrameType | None) -> None:
    raise Terminated(number)


@contextmanager
def stoppable(message: str) -> Iterator[None]:
    """Ctrl-C in the block of a command ends it with `message` and exit code 130; SIGTERM with 143
    and SIGHUP with 129, unless they are ignored or handled already."""
    here = threading.current_thread() is threading.main_thread()
    free = [number for number in STOPS if here and signal.getsignal(number) == signal.SIG_DFL]
    for number in free:
        signal.signal(number, _terminate)
    try:
        yield
    except KeyboardInterrupt as stop:
        with suppress(OSError):  # a terminal that was closed
            click.echo(message, err=True)
        sys.exit(stop.code if isinstance(stop, Terminated) else 130)
    finally:
        for number in free:
            signal.signal(number, signal.SIG_DFL)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Message for an unknown `name` of `kind`: the nearest known name, then all of them."""
    choices = sorted(known)
    near = nearest(name, choices)
    hint = f"; did you mean '{near}'?" if near else "."
    return f"unknown {kind} '{name}'{hint} Known: {', '.join(choices) or 'none'}"
