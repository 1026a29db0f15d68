"""What a clip's windows hold: their samples, and their levels."""

import numpy as np

from understudy.extract.spool import BLOCK_SAMPLES, Samples
from understudy.timing import WindowPlan

LEVEL_FLOOR_DB = -120.0  # digital silence; minus infinity does not survive arithmetic


def window_levels(samples: Samples, start: np.ndarray, length: int) -> np.ndarray:
    """RMS of every window in dBFS, float16 (time,): over the samples it holds, not its padding."""
    stop = np.clip(start + length, 0, len(samples))
    start = np.clip(start, 0, len(samples))
    energy, at_stop = np.split(energy_until(samples, np.concatenate([start, stop])), 2)
    mean = (at_stop - energy) / np.maximum(stop - start, 1)
    floor = 10.0 ** (LEVEL_FLOOR_DB / 10)
    return (10.0 * np.log10(np.maximum(mean, floor))).astype(np.float16)


def energy_until(samples: Samples, points: np.ndarray) -> np.ndarray:
    """Sum of squares of samples[:point], float64, of every point from 0 to len(samples)."""
    energy, total = np.zeros(len(points)), 0.0
    for first in range(0, len(samples), BLOCK_SAMPLES):
        block = samples[first : first + BLOCK_SAMPLES]
        sums = total + np.cumsum(np.square(block, dtype=np.float64))
        here = (points > first) & (points <= first + len(block))
        energy[here] = sums[points[here] - first - 1]
        total = float(sums[-1])
    return energy


def cut(samples: Samples, plan: WindowPlan, first: int, length: int) -> np.ndarray:
    """Samples from `first` of the plan's count on: `length`, or fewer where the clip ends.

    What the plan puts before the clip, or mirrors at its ends, is there.
    """
    first -= plan.mirrored + plan.silent
    stop = first + length
    part = samples[max(0, first) : max(0, min(stop, len(samples)))]
    before, behind = max(0, -first), max(0, stop - len(samples))
    if plan.mirrored and (before or behind):
        return np.pad(part, (before, behind), "reflect")
    return np.pad(part, (before, 0)) if before else part
