"""Building blocks of the synthesiser: oscillators, envelopes and filters.

A `Signal` is float32 (time,) at `RATE_HZ`; phases are in cycles and accumulate in float64.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import signal

RATE_HZ = 22_050
TOP_HZ = 0.45 * RATE_HZ  # oscillators hold no harmonic above

Signal = np.ndarray  # float32 (time,)


def samples(duration_s: float) -> int:
    """Nearest whole number of samples, at least 1."""
    return max(1, round(duration_s * RATE_HZ))


def noise(rng: np.random.Generator, n_samples: int) -> Signal:
    """White Gaussian noise of unit variance."""
    return rng.standard_normal(n_samples, dtype=np.float32)


def cycles(f0_hz: npt.ArrayLike, n_samples: int | None = None, start: float = 0.0) -> Signal:
    """Phase in cycles, wrapped to [-0.5, 0.5), of a sinusoid of `f0_hz` (scalar or (time,))."""
    if n_samples is not None:
        phase = start + np.arange(n_samples) * (np.asarray(f0_hz, np.float64) / RATE_HZ)
    else:
        phase = start + np.cumsum(np.asarray(f0_hz, np.float64)) / RATE_HZ
    return (phase - np.round(phase)).astype(np.float32)


def sine(phase: Signal, harmonic: float = 1) -> Signal:
    """Sinusoid of `harmonic` times the phase's frequency."""
    return np.sin(np.float32(2 * np.pi * harmonic) * phase)


def impulses(phase: Signal, n_harmonics: npt.ArrayLike) -> Signal:
    """Band-limited impulse train: sum over k = 1..n_harmonics of cos(2 pi k phase).

    The closed form of the sum (Moorer 1976, "The synthesis of complex audio spectra by means of
    discrete summation formulas"; Stilson & Smith 1996, "Alias-free digital synthesis of classic
    analog waveforms"). `n_harmonics` is whole: scalar or (time,).
    """
    odd = 2 * np.asarray(n_harmonics, np.float32) + 1
    angle = np.float32(np.pi) * phase
    small = np.abs(phase) < 1e-5
    ratio = np.sin(odd * angle) / np.where(small, np.float32(1), np.sin(angle))
    return (np.where(small, odd, ratio) - 1) / 2


def sawtooth(phase: Signal, f0_hz: npt.ArrayLike, n_harmonics: npt.ArrayLike) -> Signal:
    """Band-limited sawtooth of amplitude 1: `impulses` through a leaky integrator."""
    slope = impulses(phase, n_harmonics) * (4 * np.asarray(f0_hz, np.float32) / RATE_HZ)
    return np.asarray(signal.lfilter([1.0], [1.0, -0.998], slope), np.float32)


def harmonics(f0_hz: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """How many harmonics of `f0_hz` lie below `TOP_HZ`, at least one."""
    return np.maximum(1, np.floor(TOP_HZ / np.asarray(f0_hz, np.float64))).astype(np.float32)


def decay(t60_s: float, n_samples: int) -> Signal:
    """Exponential that has fallen by 60 dB after `t60_s`."""
    return np.exp(np.arange(n_samples, dtype=np.float32) * np.float32(-6.91 / (t60_s * RATE_HZ)))


def envelope(n_samples: int, attack_s: float, release_s: float) -> Signal:
    """One, with half-cosine flanks inside its length (they shrink to share a short one)."""
    shrink = min(1.0, n_samples / (1 + samples(attack_s) + samples(release_s)))
    attack, release = (max(1, int(shrink * samples(s))) for s in (attack_s, release_s))
    shape = np.ones(n_samples, np.float32)
    shape[:attack] = 0.5 - 0.5 * np.cos(np.pi * (np.arange(attack) + 0.5) / attack)
    shape[n_samples - release :] *= 0.5 + 0.5 * np.cos(np.pi * (np.arange(release) + 0.5) / release)
    return shape


def drift(rng: np.random.Generator, n_samples: int, rate_hz: float) -> Signal:
    """Smooth random curve of about unit variance that changes some `rate_hz` times a second."""
    n_knots = int(n_samples / RATE_HZ * rate_hz) + 3
    knots = rng.standard_normal(n_knots)
    place = np.linspace(0, n_knots - 1, n_samples)
    return np.interp(place, np.arange(n_knots), knots).astype(np.float32)


def add(track: Signal, tone: Signal, onset_s: float, gain: float = 1.0) -> None:
    """Mixes `tone` into `track` in place from `onset_s`; what passes the end is cut."""
    start = int(onset_s * RATE_HZ)
    part = tone[: max(0, track.size - start)]
    track[start : start + part.size] += np.float32(gain) * part


def lowpass(x: Signal, cutoff_hz: float, order: int = 2) -> Signal:
    """Butterworth low-pass."""
    return _butter(x, min(cutoff_hz, TOP_HZ), order, "lowpass")


def highpass(x: Signal, cutoff_hz: float, order: int = 2) -> Signal:
    """Butterworth high-pass."""
    return _butter(x, cutoff_hz, order, "highpass")


def bandpass(x: Signal, low_hz: float, high_hz: float) -> Signal:
    """Butterworth band-pass, second order on each side."""
    return _butter(x, (low_hz, min(high_hz, TOP_HZ)), 2, "bandpass")


def _butter(x: Signal, cutoff_hz: float | tuple[float, float], order: int, kind: str) -> Signal:
    sections = np.asarray(signal.butter(order, cutoff_hz, kind, fs=RATE_HZ, output="sos"))
    return np.asarray(signal.sosfilt(sections.astype(np.float32), x))


def peaks(x: Signal, bands: Sequence[tuple[float, float, float]]) -> Signal:
    """Cascade of peaking equalisers (centre_hz, gain_db, q); an instrument's body.

    Source: Bristow-Johnson, "Cookbook formulae for audio equalizer biquad filter coefficients".
    """
    rows = []
    for centre_hz, gain_db, q in bands:
        omega = 2 * np.pi * min(centre_hz, TOP_HZ) / RATE_HZ
        gain, alpha, cosine = 10 ** (gain_db / 40), np.sin(omega) / (2 * q), np.cos(omega)
        top = [1 + alpha * gain, -2 * cosine, 1 - alpha * gain]
        bottom = [1 + alpha / gain, -2 * cosine, 1 - alpha / gain]
        rows.append(np.array(top + bottom) / bottom[0])
    return np.asarray(signal.sosfilt(np.array(rows, np.float32), x))


def resonators(centre_hz: npt.ArrayLike, width_hz: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Second-order sections (..., 6) of all-pole resonators with unit gain at 0 Hz.

    Source: Klatt 1980, "Software for a cascade/parallel formant synthesizer".
    """
    centre, width = np.broadcast_arrays(centre_hz, width_hz)
    radius = np.exp(-np.pi * width / RATE_HZ)
    first = -2 * radius * np.cos(2 * np.pi * np.minimum(centre, TOP_HZ) / RATE_HZ)
    second = radius**2
    one, zero = np.ones_like(radius), np.zeros_like(radius)
    return np.stack([one + first + second, zero, zero, one, first, second], axis=-1)


def moving_filter(x: Signal, sections: npt.NDArray[np.float64], block_samples: int) -> Signal:
    """Filters block by block, carrying the state over.

    Args:
        sections: (block, section, 6), one cascade for each block of `block_samples`.
    """
    out, state = np.empty_like(x), np.zeros((sections.shape[1], 2), np.float32)
    for k, start in enumerate(range(0, x.size, block_samples)):
        stop = start + block_samples
        cascade = sections[k].astype(np.float32)
        out[start:stop], state = signal.sosfilt(cascade, x[start:stop], zi=state)
    return out
