"""Errors that a user can cause and mend; the command line prints them and exits with code 2.

Everything else (an `AssertionError`, a `TypeError`) is a defect of understudy's own.
"""

import difflib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

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


@contextmanager
def stoppable(message: str) -> Iterator[None]:
    """Ctrl-C in the block of a command ends it with `message` and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(message, err=True)
        sys.exit(130)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Message for an unknown `name` of `kind`: the nearest known name, then all of them."""
    choices = sorted(known)
    near = nearest(name, choices)
    hint = f"; did you mean '{near}'?" if near else "."
    return f"unknown {kind} '{name}'{hint} Known: {', '.join(choices) or 'none'}"
