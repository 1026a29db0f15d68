"""Recordings too long for memory: samples in a nameless file, resampled block by block."""

import math
import tempfile
import weakref
from pathlib import Path
from typing import Protocol

import numpy as np

from understudy import audio
from understudy.errors import CacheError

LONG_S = 600.0
"""Clips beyond it are not held in memory."""
BLOCK_SAMPLES = 1 << 20
ITEM_BYTES = 4


class Samples(Protocol):
    """float32 samples (sample,): an array, or a `Spool`."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> np.ndarray: ...


class Spool:
    """float32 samples (sample,) in a file that has no name and ends with this object.

    Raises:
        CacheError: `folder` cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder, self._length = folder, 0
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        except OSError as error:
            raise self._unwritable(error) from None
        weakref.finalize(self, self._file.close)

    def _unwritable(self, error: OSError) -> CacheError:
        return CacheError(f"{self._folder}: cannot be written ({error.strerror or error})")

    def append(self, block: np.ndarray) -> None:
        """Writes samples behind those that are there."""
        rest = memoryview(np.ascontiguousarray(block, np.float32).tobytes())
        self._length += len(block)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise self._unwritable(error) from None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(self._length)
        self._file.seek(ITEM_BYTES * start)
        return np.fromfile(self._file, np.float32, max(0, stop - start))


def resampled(samples: Spool, from_hz: int, to_hz: int, resampler: str, folder: str) -> Spool:
    """What `audio.resample` gives, to rounding: of blocks with a second more at both ends."""
    if from_hz == to_hz:
        return samples
    common = math.gcd(from_hz, to_hz)
    up, down = to_hz // common, from_hz // common
    step, margin = down * -(-BLOCK_SAMPLES // down), from_hz
    result = Spool(folder)
    for at in range(0, len(samples), step):
        first = max(0, at - margin)
        block = audio.resample(samples[first : at + step + margin], from_hz, to_hz, resampler)
        skipped = (at - first) // down * up
        is_last = at + step >= len(samples)
        result.append(block[skipped : None if is_last else skipped + step // down * up])
    return result
