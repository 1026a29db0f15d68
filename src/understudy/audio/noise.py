"""What decoders in C print by themselves, kept from the terminal and summed up."""

import io
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

KINDS = 3  # that a summary quotes
# What differs between two complaints of one kind: numbers, offsets, headers.
VALUE = re.compile(r"0x[0-9a-f]+|\d+(\.\d+)?", re.IGNORECASE)


class Noise:
    """Lines that went to file descriptor 2 past Python, once `set_aside` is left.

    Args:
        kept: Where they lie until then.
    """

    def __init__(self, kept: IO[bytes] | None = None) -> None:
        self._kept = kept
        self._kinds: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def __len__(self) -> int:
        """How many there were."""
        return self._kinds.total()

    def n_bytes(self) -> int:
        """What was kept so far, while it is being kept; for any thread."""
        return 0 if self._kept is None else os.fstat(self._kept.fileno()).st_size

    def add(self, text: str) -> None:
        """Counts the lines of a text."""
        for line in filter(None, map(str.strip, text.splitlines())):
            kind = VALUE.sub("#", line)
            self._kinds[kind] += 1
            self._examples.setdefault(kind, line)

    def __str__(self) -> str:
        """The most frequent kinds, an example of each."""
        kinds = self._kinds.most_common(KINDS)
        listed = "; ".join(f"{times} x '{self._examples[kind]}'" for kind, times in kinds)
        return listed + "; and others" * (len(self._kinds) > KINDS)


@contextmanager
def set_aside() -> Iterator[Noise]:
    """Keeps what this process and its children write to file descriptor 2, but for Python's
    `sys.stderr`, which stays where it is.

    libmpg123 tells of damage in MP3 frames there and nowhere else, without a file's name, in the
    middle of whatever else is shown. One process at a time, not one thread, may do this.

    Returns:
        What was kept, complete once the block is left.
    """
    shown, replaced = sys.stderr, False
    try:
        saved = os.dup(2)
    except OSError:  # closed, as a service may have it
        yield Noise()
        return
    with suppress(AttributeError, io.UnsupportedOperation, ValueError):  # a notebook's, a test's
        replaced = shown.fileno() == 2
    with tempfile.TemporaryFile() as kept:
        noise = Noise(kept)
        if replaced:
            shown.flush()
            sys.stderr = os.fdopen(os.dup(saved), "w", 1, shown.encoding, shown.errors)
        os.dup2(kept.fileno(), 2)
        try:
            yield noise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            if replaced:
                sys.stderr.flush()  # not closed: a log handler made meanwhile may hold it
                sys.stderr = shown
            kept.seek(0)
            noise.add(kept.read().decode(errors="replace"))
