"""Which clips a task works on, noted on disk: what a process had in hand when it died.

A note is a file beside the stores that only ever grows, one line by one system call, so that it
holds after any end of the process; no disk need be waited for, since the system goes on.
"""

import os
import re
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from understudy.cache import Place
from understudy.extract.plan import Clip

SUFFIX = ".in-hand.part"  # what ends so is removed once a run has read it, and at its end
LINE = re.compile(r"([+-])((?: [0-9a-f]{16})+)\n")


class InHand:
    """Notes the clips that a task works on; leaving it removes the note.

    Args:
        folder: Where to note them; none are on an object store, nor where the disk refuses.
    """

    def __init__(self, folder: Place | None) -> None:
        self._file: int | None = None
        if isinstance(folder, Path):
            self._path = folder / f".{uuid.uuid4().hex}{SUFFIX}"
            with suppress(OSError):
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @contextmanager
    def holding(self, *clips: Clip) -> Iterator[None]:
        """Has the clips in hand meanwhile; for several threads."""
        keys = "".join(f" {clip.key:016x}" for clip in clips)
        self._note(f"+{keys}\n")
        try:
            yield
        finally:
            self._note(f"-{keys}\n")

    def _note(self, line: str) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.write(self._file, line.encode())

    def __enter__(self) -> "InHand":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._path.unlink(missing_ok=True)


def left(folder: Place) -> set[int]:
    """Keys of the clips that tasks had in hand when their processes died."""
    held: Counter[int] = Counter()
    for path in folder.glob(f".*{SUFFIX}"):
        with suppress(OSError):
            for sign, keys in LINE.findall(path.read_bytes().decode("ascii", "replace")):
                for key in keys.split():
                    held[int(key, 16)] += 1 if sign == "+" else -1
    return {key for key, times in held.items() if times > 0}
