"""A subtractive synthesizer: detuned saws or pulses through a swept resonant low-pass.

Source: Moog 1965, "Voltage-controlled electronic music modules"; filter as digital two-pole pair.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from understudy.datasets.synth.instrument import Instrument, Note, between
from understudy.datasets.synth.signal import (
    RATE_HZ,
    Signal,
    add,
    cycles,
    envelope,
    harmonics,
    moving_filter,
    samples,
    sawtooth,
)

BLOCK = 256


@dataclasses.dataclass(frozen=True)
class Synthesizer(Instrument):
    """Two detuned oscillators a note; one filter for all, opened by each onset and an LFO."""

    roles = ("pad", "arpeggio", "bass", "melody")
    compass = (36, 84)

    pulse: float = between(0.0, 1.0)
    width: float = between(0.2, 0.5)
    detune_cents: float = between(6, 22, field=(2, 30))
    cutoff_hz: float = between(350, 1200, field=(250, 1800), log=True)
    sweep: float = between(1.0, 3.0)
    resonance: float = between(1.5, 6.0, field=(1.0, 8.0))
    fall_s: float = between(0.12, 0.8, log=True)
    lfo_hz: float = between(0.15, 1.2, log=True)

    def play(self, notes: Sequence[Note], n_samples: int, rng: np.random.Generator) -> Signal:
        track = np.zeros(n_samples, np.float32)
        for note in notes:
            n_tone = min(samples(note.duration_s + 0.1), n_samples)
            tone = np.zeros(n_tone, np.float32)
            for cents in (-self.detune_cents, self.detune_cents):
                f0_hz = note.f0_hz * 2 ** (cents / 2400)
                phase = cycles(f0_hz, n_tone, rng.random())
                wave = sawtooth(phase, f0_hz, harmonics(f0_hz))
                if self.pulse > 0.5:  # a pulse is the difference of two saws
                    wave = wave - np.roll(wave, round(self.width * RATE_HZ / f0_hz))
                tone += wave
            tone *= envelope(n_tone, 0.008, 0.1) * (note.velocity * 0.25)
            add(track, tone, note.onset_s)
        return moving_filter(track, self._sections(notes, n_samples, rng), BLOCK)

    def _sections(
        self, notes: Sequence[Note], n_samples: int, rng: np.random.Generator
    ) -> np.ndarray:
        """The low-pass (block, 2 sections, 6): its cutoff falls after each onset."""
        time_s = np.arange(-(-n_samples // BLOCK)) * BLOCK / RATE_HZ
        octaves = 0.6 * np.sin(2 * np.pi * (self.lfo_hz * time_s + rng.random()))
        opened = np.zeros_like(time_s)
        for note in notes:
            since_s = time_s - note.onset_s
            fall = np.exp(-np.maximum(since_s, 0) / self.fall_s) * note.velocity
            opened = np.maximum(opened, np.where(since_s >= 0, fall, 0))
        cutoff_hz = np.minimum(self.cutoff_hz * 2 ** (octaves + self.sweep * opened), 0.4 * RATE_HZ)
        rows = []
        for q in (self.resonance, 0.6):
            omega = 2 * np.pi * cutoff_hz / RATE_HZ
            alpha, cosine = np.sin(omega) / (2 * q), np.cos(omega)
            gain = (1 - cosine) / 2
            row = np.stack([gain, 2 * gain, gain, 1 + alpha, -2 * cosine, 1 - alpha], axis=-1)
            rows.append(row / row[:, 3:4])
        return np.stack(rows, axis=1)
