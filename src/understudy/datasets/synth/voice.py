"""Singing voices: a glottal source through moving formants, with consonants.

Source: Klatt 1980, "Software for a cascade/parallel formant synthesizer"; vowels of men and women
after Peterson & Barney 1952, "Control methods used in a study of the vowels".
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from understudy.datasets.synth.instrument import Instrument, Note, between, line
from understudy.datasets.synth.signal import (
    RATE_HZ,
    Signal,
    add,
    bandpass,
    cycles,
    envelope,
    harmonics,
    highpass,
    impulses,
    lowpass,
    moving_filter,
    noise,
    resonators,
    samples,
)

# Formants 1 to 4 in Hz: ah, eh, ee, oh, oo.
MALE_HZ = np.array(
    [
        [730, 1090, 2440, 3400],
        [530, 1840, 2480, 3500],
        [270, 2290, 3010, 3600],
        [570, 840, 2410, 3300],
        [300, 870, 2240, 3300],
    ]
)
FEMALE_HZ = np.array(
    [
        [850, 1220, 2810, 3900],
        [610, 2330, 2990, 4000],
        [310, 2790, 3310, 4100],
        [590, 920, 2710, 3900],
        [370, 950, 2670, 3900],
    ]
)
WIDTH_HZ = np.array([80.0, 100.0, 140.0, 200.0])
BLOCK = 256


@dataclasses.dataclass(frozen=True)
class MaleVoice(Instrument):
    """A man who sings syllables: consonant, vowel, now and then a glide to a second vowel."""

    roles = ("melody",)
    compass = (43, 65)
    formants_hz: ClassVar[np.ndarray] = MALE_HZ

    tract: float = between(0.93, 1.07, field=(0.88, 1.12))
    tilt_hz: float = between(300, 900, field=(200, 1200), log=True)
    breath: float = between(0.01, 0.04, field=(0.02, 0.1), log=True)
    vibrato_hz: float = between(4.8, 6.2)
    vibrato_cents: float = between(20, 60, field=(5, 70))
    consonants: float = between(0.1, 0.4)

    def play(self, notes: Sequence[Note], n_samples: int, rng: np.random.Generator) -> Signal:
        curve = line(
            notes,
            n_samples,
            rng,
            attack_s=0.06,
            release_s=0.1,
            glide_s=0.045,
            vibrato_hz=self.vibrato_hz,
            vibrato_cents=self.vibrato_cents,
            vibrato_delay_s=0.3,
        )
        count = harmonics(curve.nominal_hz * 1.15)
        flow = impulses(cycles(curve.f0_hz), count) / np.sqrt(count)
        glottis = lowpass(lowpass(flow, self.tilt_hz, 1), 2500, 1)
        source = (glottis + self.breath * noise(rng, n_samples)) * curve.level
        vowels_hz = self._vowels(notes, n_samples, rng)
        # A tract cannot resonate below the pitch: singers raise the first formant to it.
        pitch_hz = curve.nominal_hz[::BLOCK][: len(vowels_hz)]
        vowels_hz[:, 0] = np.maximum(vowels_hz[:, 0], pitch_hz)
        sung = moving_filter(source, resonators(vowels_hz, WIDTH_HZ), BLOCK)
        voiced = highpass(sung, 70)
        loudness = np.sqrt(np.mean(voiced**2)) + 1e-9
        for note in notes:
            kind = rng.choice(["hiss", "burst", "none"], p=[0.35, 0.3, 0.35])
            if kind == "none":
                continue
            low_hz, length_s = (3500, 0.09) if kind == "hiss" else (1500, 0.03)
            sound = bandpass(noise(rng, samples(length_s)), low_hz, 2.3 * low_hz)
            sound *= envelope(sound.size, 0.25 * length_s, 0.5 * length_s)
            level = 3 * self.consonants * loudness * note.velocity
            add(voiced, sound, max(0.0, note.onset_s - 0.5 * length_s), level)
        return voiced

    def _vowels(
        self, notes: Sequence[Note], n_samples: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Formants (block, formant) in Hz, gliding from vowel to vowel within some 60 ms."""
        table = self.formants_hz * self.tract
        n_blocks = -(-n_samples // BLOCK)
        target = np.tile(table[0], (n_blocks, 1))
        for note in notes:
            start = int(note.onset_s * RATE_HZ / BLOCK)
            middle = start + int(0.5 * note.duration_s * RATE_HZ / BLOCK)
            first, second = rng.integers(len(table), size=2)
            target[start:] = table[first]
            if rng.random() < 0.4:
                target[middle:] = table[second]
        kernel = np.hanning(9)[1:-1] / np.hanning(9).sum()
        padded = np.pad(target, ((3, 3), (0, 0)), mode="edge")
        columns = [np.convolve(column, kernel, "valid") for column in padded.T]
        return np.stack(columns, axis=1)


class FemaleVoice(MaleVoice):
    """A woman who sings: shorter tract, higher compass."""

    compass = (55, 77)
    formants_hz: ClassVar[np.ndarray] = FEMALE_HZ
