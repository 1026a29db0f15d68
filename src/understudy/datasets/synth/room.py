"""What lies between instruments and file: room, background, microphone, level."""

import dataclasses
from typing import Self

import numpy as np
from scipy import signal

from understudy.datasets.synth.instrument import Style
from understudy.datasets.synth.signal import (
    RATE_HZ,
    Signal,
    bandpass,
    drift,
    lowpass,
    noise,
    peaks,
    samples,
)


@dataclasses.dataclass(frozen=True)
class Room:
    """One session's acoustics and recording chain.

    Attributes:
        response: Impulse response after the direct sound, of unit energy.
        wet: Reverberant over direct sound, as an amplitude.
        snr_db: Background noise below the music's level.
        hum_hz: Mains hum in the background; 0 is none.
        band_hz: What the microphone lets through.
        tone_db: Its colour: gains at 200, 1000 and 4000 Hz.
        drive: Saturation of its preamplifier; 0 is none.
    """

    response: Signal
    wet: float
    snr_db: float
    hum_hz: float
    band_hz: tuple[float, float]
    tone_db: tuple[float, float, float]
    drive: float

    @classmethod
    def draw(cls, rng: np.random.Generator, style: Style) -> Self:
        """Studio: dry, quiet, flat. Field: a hall or street, noise, a cheap microphone."""
        field = style == "field"
        t60_s = rng.uniform(0.6, 2.2) if field else rng.uniform(0.2, 0.8)
        tone = rng.normal(0, 4.0 if field else 1.5, 3)
        return cls(
            response=reverberation(rng, t60_s),
            wet=rng.uniform(0.4, 1.2) if field else rng.uniform(0.08, 0.3),
            snr_db=rng.uniform(2, 18) if field else rng.uniform(30, 50),
            hum_hz=float(rng.choice([0.0, 50.0, 60.0])) if field else 0.0,
            band_hz=(rng.uniform(60, 200), rng.uniform(5000, 9500)) if field else (30.0, 9900.0),
            tone_db=(float(tone[0]), float(tone[1]), float(tone[2])),
            drive=rng.uniform(0, 1.5) if field else 0.0,
        )

    def record(self, dry: Signal, peak_dbfs: float, rng: np.random.Generator) -> Signal:
        """The mixture (time,) as the file holds it, its peak at `peak_dbfs`."""
        reverb = signal.fftconvolve(dry, self.response)[: dry.size].astype(np.float32)
        sound = dry + self.wet * reverb
        level = np.sqrt(np.mean(sound**2)) + 1e-9
        sound = sound + level * 10 ** (-self.snr_db / 20) * self._background(dry.size, rng)
        colour = zip((200.0, 1000.0, 4000.0), self.tone_db, (0.7, 0.7, 0.7), strict=True)
        sound = peaks(bandpass(sound, *self.band_hz), list(colour))
        sound /= np.max(np.abs(sound)) + 1e-9
        if self.drive > 0:
            sound = np.tanh(self.drive * sound) / np.tanh(self.drive)
        return (sound * 10 ** (peak_dbfs / 20)).astype(np.float32)

    def _background(self, n_samples: int, rng: np.random.Generator) -> Signal:
        """Pink-like noise that swells and falls, and hum; unit variance."""
        white = noise(rng, n_samples)
        pink = white + 3 * lowpass(white, 1200, 1) + 9 * lowpass(white, 150, 1)
        pink = pink / np.std(pink) * (1 + 0.3 * np.tanh(drift(rng, n_samples, 1.5)))
        if self.hum_hz:
            time_s = np.arange(n_samples, dtype=np.float32) / RATE_HZ
            for k in (1, 2, 3):
                pink = pink + 0.5 / k * np.sin(np.float32(2 * np.pi * k * self.hum_hz) * time_s)
        return pink.astype(np.float32)


def reverberation(rng: np.random.Generator, t60_s: float) -> Signal:
    """Impulse response: a few early echoes, then decaying noise whose high part dies sooner.

    Source: Moorer 1979, "About this reverberation business".
    """
    n_samples = samples(min(t60_s, 1.5))
    time_s = np.arange(n_samples, dtype=np.float32) / RATE_HZ
    bright = noise(rng, n_samples) * np.exp(time_s * np.float32(-6.91 / (0.5 * t60_s)))
    dark = lowpass(noise(rng, n_samples), 1500, 1) * np.exp(time_s * np.float32(-6.91 / t60_s))
    tail = (bright + 2 * dark) * (1 - np.exp(-time_s / 0.02))
    for delay_s in rng.uniform(0.004, 0.04, 6):
        tail[samples(delay_s)] += 8 * rng.choice([-1, 1]) * np.exp(-delay_s / 0.03)
    tail[0] = 0
    return (tail / np.sqrt(np.sum(tail**2))).astype(np.float32)
