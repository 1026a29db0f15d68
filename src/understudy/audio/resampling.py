"""Resampling of mono audio, by name, so that a store can say how it was made."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

import numpy as np
import soxr

from understudy.errors import AudioError, unknown


def resampled_length(n: int, from_hz: int, to_hz: int) -> int:
    """Samples after resampling: `ceil(n * to_hz / from_hz)`, exactly."""
    return -(-n * to_hz // from_hz)


def _soxr_hq(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    wanted = resampled_length(len(samples), from_hz, to_hz)
    result = soxr.resample(samples, from_hz, to_hz, quality="HQ")
    if len(result) < wanted:  # soxr rounds; silence behind the end brings out the last sample
        silence = np.zeros(math.ceil(from_hz / to_hz) + 1, np.float32)
        result = soxr.resample(np.concatenate((samples, silence)), from_hz, to_hz, quality="HQ")
    return result[:wanted]


def _torchaudio_sinc(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    import torch
    from torchaudio.functional import resample as sinc

    common = math.gcd(from_hz, to_hz)
    taps = (to_hz // common) * (from_hz // common) * (1 + 12 / min(from_hz, to_hz) * common)
    _refuse_long_filter("torchaudio_sinc", taps, from_hz, to_hz)
    with torch.inference_mode():
        result = sinc(torch.from_numpy(samples.copy()), from_hz, to_hz).numpy()
    return result[: resampled_length(len(samples), from_hz, to_hz)]


_KAISER_CROSSINGS, _KAISER_ROLL_OFF, _KAISER_BETA = 50, 0.9173473712608761, 12.984585247040012
_KAISER_BLOCKS = 1024  # of one product: bounds memory on long clips


@lru_cache(maxsize=8)
def _kaiser_filter(up: int, down: int) -> tuple[np.ndarray, int]:
    """Weights (tap, phase) float32 of `up` outputs per `down` inputs, and the taps before them.

    The taper spans 50 crossings of the sinc without its roll-off, as in resampy.
    """
    scale = min(1.0, up / down)
    reach = math.ceil(_KAISER_CROSSINGS / scale)
    phase = np.arange(up) * (down / up)
    tap = np.arange(-reach, math.floor(phase[-1]) + reach + 1)
    t = scale * (phase - tap[:, None])
    taper = np.i0(_KAISER_BETA * np.sqrt(np.clip(1 - (t / _KAISER_CROSSINGS) ** 2, 0, None)))
    taper = np.where(np.abs(t) < _KAISER_CROSSINGS, taper / np.i0(_KAISER_BETA), 0)
    sinc = np.sinc(_KAISER_ROLL_OFF * t)
    return (scale * _KAISER_ROLL_OFF * sinc * taper).astype(np.float32), reach


def _kaiser_best(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    common = math.gcd(from_hz, to_hz)
    up, down = to_hz // common, from_hz // common
    _refuse_long_filter("kaiser_best", up * (down + 100 * max(1, down / up)), from_hz, to_hz)
    weights, reach = _kaiser_filter(up, down)
    n_blocks = -(-len(samples) // down)
    behind = n_blocks * down + len(weights) - reach - len(samples)
    padded = np.pad(samples, (reach, behind))
    blocks = np.lib.stride_tricks.sliding_window_view(padded, len(weights))[::down][:n_blocks]
    result = np.empty((n_blocks, up), np.float32)
    for start in range(0, n_blocks, _KAISER_BLOCKS):
        part = np.ascontiguousarray(blocks[start : start + _KAISER_BLOCKS])
        np.matmul(part, weights, out=result[start : start + _KAISER_BLOCKS])
    return result.reshape(-1)[: resampled_length(len(samples), from_hz, to_hz)]


def _refuse_long_filter(resampler: str, taps: float, from_hz: int, to_hz: int) -> None:
    if taps > 2**26:
        found = f"{resampler} needs {taps:.0f} filter taps for {from_hz} to {to_hz} Hz"
        raise AudioError("resample", f"{found}, wanted at most {2**26}; use soxr_hq")


_RESAMPLERS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "soxr_hq": _soxr_hq,
    "torchaudio_sinc": _torchaudio_sinc,
    "kaiser_best": _kaiser_best,
}
RESAMPLERS = tuple(_RESAMPLERS)


def resample(
    samples: np.ndarray, from_hz: int, to_hz: int, resampler: str = "soxr_hq"
) -> np.ndarray:
    """Resamples mono audio (sample,) to float32 of exactly `resampled_length` samples.

    `soxr_hq` is soxr's HQ recipe, `torchaudio_sinc` torchaudio.functional.resample's defaults,
    `kaiser_best` the windowed sinc of that name in resampy 0.4 and librosa.
    """
    if resampler not in _RESAMPLERS:
        raise AudioError("resample", unknown("resampler", resampler, RESAMPLERS))
    samples = np.ascontiguousarray(samples, np.float32)
    if from_hz == to_hz or not len(samples):
        return samples
    result = _RESAMPLERS[resampler](samples, from_hz, to_hz)
    assert len(result) == resampled_length(len(samples), from_hz, to_hz)
    return result


def resample_blocks(blocks: Iterable[np.ndarray], from_hz: int, to_hz: int) -> Iterator[np.ndarray]:
    """What `resample` gives for blocks put together, by `soxr_hq`, without holding them all."""
    if from_hz == to_hz:
        yield from blocks
        return
    stream = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality="HQ")
    n_read, n_given = 0, 0
    for block in blocks:
        n_read += len(block)
        result = stream.resample_chunk(np.ascontiguousarray(block, np.float32))
        n_given += len(result)
        yield result
    silence = np.zeros(math.ceil(from_hz / to_hz) + 1, np.float32)  # as in `_soxr_hq`
    rest = stream.resample_chunk(silence, last=True)
    yield rest[: max(0, resampled_length(n_read, from_hz, to_hz) - n_given)]
