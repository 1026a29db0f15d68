"""Teacher frames of audio crops: which ones, when, which of them count, and their statistics."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from understudy.cache import CacheReader
from understudy.errors import DataError
from understudy.timing import frame_centres

_BLOCK_CLIPS = 256


class FramesKey(NamedTuple):
    """One teacher's frames, without those below a level."""

    teacher: str
    silence_db: float


class TeacherFrames:
    """The frames of a stored timeline that belong to a crop, by timestamp.

    A frame belongs to the crop [start, start + crop_s) if its centre lies in it; where none does
    (a hop longer than the crop, a clip-level vector) the one nearest to the crop's middle does.

    Args:
        reader: The teacher's store.
        duration_s: float64 (clip,), seconds.
        silence_db: Frames quieter than this, in dBFS, are not valid: a teacher's embedding of
            silence is noise.
    """

    def __init__(self, reader: CacheReader, duration_s: np.ndarray, silence_db: float) -> None:
        self.reader = reader
        self.dim = reader.dim
        self.dtype = reader.dtype
        self._duration_s = duration_s
        self._silence_db = silence_db
        self._stored = reader.timing.get("grid") == "stored"

    def centres(self, row: int) -> np.ndarray:
        """Centres of a clip's frames, float64 (frame,), seconds from the clip's start."""
        n_frames = int(self.reader.n_frames[row])
        if self._stored:
            return self.reader.centre_s([row])[0, :n_frames]
        return frame_centres(n_frames, duration_s=self._duration_s[row], **self.reader.timing)

    def capacity(self, crop_s: float) -> int:
        """The most frames that can belong to a crop of `crop_s` seconds."""
        timing = self.reader.timing
        if timing["window_s"] == "clip":
            return 1
        if self._stored:
            every = map(self.centres, np.flatnonzero(self.reader.n_frames).tolist())
            return max((_most_within(crop_s, centres) for centres in every), default=1)
        moved = timing.get("grid") == "centred"  # a clip's last frame may be nearer than a hop
        return min(self.reader.max_frames, max(1, math.ceil(crop_s / timing["hop_s"])) + moved)

    def crops(
        self,
        rows: np.ndarray,
        start_s: np.ndarray,
        crop_s: float,
        out: np.ndarray,
        centre_s: np.ndarray,
        valid: np.ndarray,
    ) -> None:
        """Reads the frames of one crop per row into the caller's buffers.

        Args:
            rows: (batch,) index rows.
            start_s: (batch,) seconds from the clip's start.
            crop_s: Length of every crop.
            out: (batch, frame, channel) in the stored dtype; NaN behind a clip's last frame.
            centre_s: (batch, frame), seconds from the crop's start.
            valid: bool (batch, frame): belongs to the crop and is not silent.
        """
        n_slots = out.shape[1]
        first = np.zeros(len(rows), np.int64)
        count = np.zeros(len(rows), np.int64)
        centre_s[:] = 0
        for i, row in enumerate(rows.tolist()):
            centres = self.centres(row) - start_s[i]
            low, high = np.searchsorted(centres, (0.0, crop_s))
            if low == high:
                low = np.abs(centres - crop_s / 2).argmin()
                high = low + 1
            first[i], count[i] = low, high - low
            centre_s[i, : high - low] = centres[low:high]
        self.reader.gather(rows, out=out, frames=(first, n_slots))
        slot = np.arange(n_slots)
        place = np.minimum(first[:, None] + slot, self.reader.max_frames - 1)
        level_db = np.take_along_axis(self.reader.level_db(rows), place, axis=1)
        valid[:] = (slot < count[:, None]) & (level_db >= self._silence_db)

    def timelines(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """The valid frames of whole clips, (frame, channel) float64, a block of clips at a time."""
        for start in range(0, len(rows), _BLOCK_CLIPS):
            block = np.sort(rows)[start : start + _BLOCK_CLIPS]
            data, n_frames = self.reader.gather(block)
            inside = np.arange(data.shape[1]) < np.asarray(n_frames)[:, None]
            loud = self.reader.level_db(block)[:, : data.shape[1]] >= self._silence_db
            yield data[inside & loud].astype(np.float64)


def _most_within(span_s: float, centres: np.ndarray) -> int:
    """The most of `centres` (ascending, at least one) within any `span_s` seconds."""
    return int((np.searchsorted(centres, centres + span_s) - np.arange(len(centres))).max())


class Standardise(nn.Module):
    """Takes the mean off every channel and divides by its standard deviation, in float32.

    A constant channel is only centred. The statistics are buffers, so a checkpoint keeps them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def fit(self, blocks: Iterator[np.ndarray]) -> None:
        """Sets the statistics to those of all frames of `blocks`, each (frame, channel) float64.

        Raises:
            DataError: There is no frame.
        """
        n, mean, squares = 0, np.zeros(len(self.mean)), np.zeros(len(self.mean))
        for block in blocks:
            if not len(block):
                continue
            block_mean = block.mean(axis=0)
            step = block_mean - mean
            total = n + len(block)
            squares += np.square(block - block_mean).sum(axis=0)
            squares += np.square(step) * (n * len(block) / total)
            mean += step * (len(block) / total)
            n = total
        if not n:
            raise DataError("no teacher frame of the training clips is louder than silence_db")
        std = np.sqrt(squares / n)
        std[std <= 1e-7 * np.abs(mean)] = 1.0
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(std))

    def forward(self, frames: Tensor) -> Tensor:
        """Standardised float32 of frames (..., channel) in any float dtype."""
        return (frames.float() - self.mean) / self.std
