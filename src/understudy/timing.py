"""Where windows lie in a clip and which instants their embeddings stand for.

Pure functions, shared by teachers, stored timelines and training, so that one frame has one time.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from understudy.errors import ConfigError, DataError

Window = float | Literal["clip"]

Grid = Literal["inside", "centred"]
"""Where windows lie: from the clip's start on as long as they fit, or with their centres at hop_s,
2 hop_s, ... up to the clip's end, moved to lie inside the clip."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowPlan:
    """Windows of one clip, in samples at the rate they were planned for.

    Attributes:
        start: First sample of each window, int64 (frame,).
        length: Samples in every window. Only the window of a clip shorter than `length` reaches
            past the clip's end; the rest of it is zeros.
        centre_s: Instant each window stands for, seconds from the clip's start, float64 (frame,).
        mirrored: Samples by which the clip is continued at both ends, mirrored there, before it is
            cut into windows; `start` counts from the first of them.
        silent: Samples of silence put before the clip; `start` counts from the first of them, and
            the last windows may reach past the clip's end, too.
    """

    start: np.ndarray
    length: int
    centre_s: np.ndarray
    mirrored: int = 0
    silent: int = 0

    @property
    def n(self) -> int:
        """Number of windows, at least 1."""
        return len(self.start)


def plan_windows(n_samples: int, rate_hz: int, window_s: Window, hop_s: float) -> WindowPlan:
    """Places windows fully inside a clip: 1 + floor((n_samples - window) / hop) of them.

    A clip shorter than a window gets one window, padded with zeros, that stands for the clip's
    middle; so does `window_s="clip"`, whose one window is the clip (hop_s is then not used).
    Window i starts at round(i * hop_s * rate_hz), so a hop of no whole samples does not drift.

    Raises:
        DataError: A clip without samples.
        ConfigError: A window or a hop that is not a finite number of at least one sample.
    """
    if n_samples < 1:
        raise DataError(f"wanted a clip of at least one sample, found {n_samples}")
    if window_s == "clip":
        start, length = np.zeros(1, np.int64), n_samples
    else:
        length = duration_samples(window_s, rate_hz, "window")
        duration_samples(hop_s, rate_hz, "hop")
        hop = hop_s * rate_hz
        upper = 2 + max(0, math.floor((n_samples - length) / hop))
        start = np.floor(np.arange(upper) * hop + 0.5).astype(np.int64)
        start = start[: max(1, int(np.count_nonzero(start + length <= n_samples)))]
    centre_s = frame_centres(len(start), window_s, hop_s, n_samples / rate_hz)
    return WindowPlan(start=start, length=length, centre_s=centre_s)


def frame_centres(
    n_frames: int, window_s: Window, hop_s: float, duration_s: float, grid: Grid = "inside"
) -> np.ndarray:
    """Instants of a timeline's frames, seconds from the clip's start, float64 (n_frames,).

    Frame i of a planned timeline is centred at i * hop_s + window_s / 2, on the grid "centred" at
    (i + 1) * hop_s or as near to it as the window lies inside the clip; a frame that stands for the
    whole clip (window "clip", or a clip shorter than the window) at the clip's middle.
    """
    if window_s == "clip":
        return np.full(n_frames, duration_s / 2)
    if grid == "centred":
        half = min(window_s, duration_s) / 2
        return np.clip(np.arange(1, n_frames + 1) * hop_s, half, duration_s - half)
    first = min(window_s, duration_s) if n_frames == 1 else window_s
    return np.arange(n_frames) * hop_s + first / 2


def duration_samples(duration_s: float, rate_hz: int, what: str = "duration") -> int:
    """Nearest number of samples in `duration_s`; ConfigError below one sample."""
    samples = duration_s * rate_hz if math.isfinite(duration_s) else 0.0
    if samples < 1:
        raise ConfigError(f"wanted a {what} of at least one sample, found {duration_s:g} s")
    return math.floor(samples + 0.5)


def covering_starts(n_samples: int, length: int) -> np.ndarray:
    """Starts, int64, of the fewest windows of `length` samples that cover a clip.

    Evenly placed from the first sample to the last, so they overlap where they must and none is
    shorter than the others. A clip of at most `length` samples has the one start 0.
    """
    n = max(1, -(-n_samples // length))
    last = max(0, n_samples - length)
    return np.floor(np.linspace(0, last, n) + 0.5).astype(np.int64)
