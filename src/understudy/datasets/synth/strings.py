"""Plucked, struck and bowed strings.

A plucked or struck string is a loop: a travelling wave comes back once a period, a little weaker
and duller (Karplus & Strong 1983, "Digital synthesis of plucked-string and drum timbres"; Jaffe &
Smith 1983, "Extensions of the Karplus-Strong plucked-string algorithm"). The loop is linear, so it
is solved in the frequency domain, where tuning and stiffness are exact.
"""

import dataclasses
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy import fft
from scipy.fft import next_fast_len

from understudy.datasets.synth.instrument import Instrument, Note, between, line
from understudy.datasets.synth.signal import (
    RATE_HZ,
    Signal,
    add,
    bandpass,
    cycles,
    decay,
    envelope,
    harmonics,
    highpass,
    lowpass,
    noise,
    peaks,
    samples,
    sawtooth,
)


def vibrating_string(
    excitation: Signal,
    f0_hz: float,
    n_samples: int,
    *,
    t60_s: float,
    damping_hz: float,
    stiffness: float = 0.0,
    position: float = 0.13,
) -> Signal:
    """A string's motion after `excitation`.

    Args:
        t60_s: Decay by 60 dB of the lowest partials.
        damping_hz: Partials at this frequency decay twice as fast, above faster still.
        stiffness: B in f_k = k f0 sqrt(1 + B k^2) (Fletcher, Blackham & Stratton 1962).
        position: Where it is plucked or struck, as a part of its length: a comb's zeros.
    """
    # Fractional delays ring before their time, which wraps into a margin that is cut off. What
    # rings on past the end wraps into the start: it is 60 dB down on a circle outside the unit one.
    size = cast("int", next_fast_len(n_samples + 512, real=True))
    guard = np.log(1e3) / size
    weighted = excitation[:n_samples] * np.exp(-guard * np.arange(min(excitation.size, n_samples)))
    f_hz = fft.rfftfreq(size, 1 / RATE_HZ)
    if stiffness > 0:
        squared = (np.sqrt(1 + 4 * stiffness * (f_hz / f0_hz) ** 2) - 1) / (2 * stiffness)
        turns = np.sqrt(squared)
    else:
        turns = f_hz / f0_hz
    loss = 6.91 / (t60_s * f0_hz) * (1 + (f_hz / damping_hz) ** 2) + guard * RATE_HZ / f0_hz
    loop = np.exp(-loss - 2j * np.pi * turns)
    comb = 1 - np.exp(-2j * np.pi * position * turns)
    top = 0.5 + 0.5 * np.cos(np.pi * np.clip((2 * f_hz / RATE_HZ - 0.7) / 0.3, 0, 1))
    spectrum = fft.rfft(weighted, size) * top * comb / (1 - loop)
    motion = fft.irfft(spectrum, size)[:n_samples] * np.exp(guard * np.arange(n_samples))
    return motion.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Guitar(Instrument):
    """Noise-burst pluck on a steel or nylon string, and a wooden body."""

    roles = ("chords", "arpeggio", "melody")
    compass = (40, 76)

    brightness_hz: float = between(1800, 5000, field=(1300, 4000), log=True)
    t60_s: float = between(2.0, 4.5, field=(1.2, 3.5))
    position: float = between(0.1, 0.3)
    body_hz: float = between(95, 125)

    def play(self, notes: Sequence[Note], n_samples: int, rng: np.random.Generator) -> Signal:
        track = np.zeros(n_samples, np.float32)
        for note in notes:
            burst = noise(rng, samples(1 / note.f0_hz))
            burst = lowpass(burst, self.brightness_hz * (0.5 + note.velocity), 1)
            n_tone = samples(note.duration_s + 0.25)
            tone = vibrating_string(
                burst,
                note.f0_hz * 2 ** (rng.normal(0, 4) / 1200),
                n_tone,
                t60_s=self.t60_s,
                damping_hz=self.brightness_hz * 0.6,
                stiffness=4e-5,
                position=self.position,
            )
            level = note.velocity / np.sqrt(1e-9 + np.mean(tone[:2000] ** 2))
            add(track, tone * envelope(n_tone, 0.001, 0.12), note.onset_s, 0.2 * level)
        return peaks(track, [(self.body_hz, 6, 3), (2 * self.body_hz, 5, 4), (430, 3, 4)])


class Harp(Guitar):
    """A guitar's cousin without a body's peaks, ringing on: a distractor."""

    roles = ("arpeggio",)
    compass = (48, 88)

    def play(self, notes: Sequence[Note], n_samples: int, rng: np.random.Generator) -> Signal:
        track = np.zeros(n_samples, np.float32)
        for note in notes:
            pluck = np.hanning(samples(0.25 / note.f0_hz) + 4).astype(np.float32)
            n_tone = samples(note.duration_s + 0.8)
            tone = vibrating_string(
                pluck, note.f0_hz, n_tone, t60_s=self.t60_s, damping_hz=1500, position=0.45
            )
            level = note.velocity / np.sqrt(1e-9 + np.mean(tone[:2000] ** 2))
            add(track, tone * envelope(n_tone, 0.001, 0.4), note.onset_s, 0.2 * level)
        return highpass(track, 90)


@dataclasses.dataclass(frozen=True)
class Bass(Instrument):
    """Plucked electric bass, finger near the middle: a distractor."""

    roles = ("bass",)
    compass = (28, 48)

    brightness_hz: float = between(300, 900, log=True)
    t60_s: float = between(2.0, 4.0)

    def play(self, notes: Sequence[Note], n_samples: int, rng: np.random.Generator) -> Signal:
        track = np.zeros(n_samples, np.float32)
        for note in notes:
            burst = lowpass(noise(rng, samples(1 / note.f0_hz)), self.brightness_hz)
            n_tone = samples(note.duration_s + 0.1)
            tone = vibrating_string(
                burst,
                note.f0_hz,
                n_tone,
                t60_s=self.t60_s,
                damping_hz=self.brightness_hz,
                position=0.28,
            )
            level = note.velocity / np.sqrt(1e-9 + np.mean(tone[:4000] ** 2))
            add(track, tone * envelope(n_tone, 0.003, 0.08), note.onset_s, 0.2 * level)
        return track


@dataclasses.dataclass(frozen=True)
class Piano(Instrument):
    """Stiff strings in detuned pairs, struck by a felt hammer, with its knock.

    The pair's beating and two decays: Weinreich 1977, "Coupled piano strings".
    """

    roles = ("chords", "melody", "arpeggio")
    compass = (36, 88)

    hardness: float = between(0.7, 1.6, field=(0.5, 1.3), log=True)
    t60_s: float = between(4.0, 8.0, field=(2.5, 6.0))
    detune_cents: float = between(0.6, 2.0, field=(1.5, 9.0))
    knock: float = between(0.02, 0.08)

    def play(self, notes: Sequence[Note], n_samples: int, rng: np.random.Generator) -> Signal:
        track = np.zeros(n_samples, np.float32)
        for note in notes:
            hardness = self.hardness * note.velocity**0.3 * 2 ** ((note.pitch - 60) / 30)
            hammer = np.hanning(samples(0.0022 / hardness) + 2).astype(np.float32)
            n_tone = samples(note.duration_s + 0.3)
            tone = np.zeros(n_tone, np.float32)
            for cents, gain, t60 in (
                (0.0, 1.0, 0.45),
                (self.detune_cents, 0.5, 1.0),
            ):
                tone += gain * vibrating_string(
                    hammer,
                    note.f0_hz * 2 ** (cents / 1200),
                    n_tone,
                    t60_s=t60 * self.t60_s * 2 ** ((60 - note.pitch) / 24),
                    damping_hz=2200,
                    stiffness=3e-4 * 2 ** ((note.pitch - 60) / 9),
                    position=0.12,
                )
            tone *= note.velocity / np.sqrt(1e-9 + np.mean(tone[:2000] ** 2))
            thump = bandpass(noise(rng, min(n_tone, samples(0.06))), 80, 900)
            tone[: thump.size] += self.knock * 8 * note.velocity * thump * decay(0.06, thump.size)
            add(track, tone * envelope(n_tone, 0.001, 0.15), note.onset_s, 0.2)
        return track


@dataclasses.dataclass(frozen=True)
class Violin(Instrument):
    """Helmholtz motion (a sawtooth) with vibrato, through body resonances, with bow noise.

    Source: Mathews & Kohut 1973, "Electronic simulation of violin resonances".
    """

    roles = ("melody", "held")
    compass = (55, 90)
    body = ((280, 8, 8), (460, 7, 8), (700, 4, 6), (1100, -5, 3), (2600, 8, 1.5))
    cutoff_hz = 6000.0

    vibrato_hz: float = between(5.0, 6.5)
    vibrato_cents: float = between(12, 35, field=(5, 30))
    size: float = between(0.92, 1.08, field=(0.85, 1.1))
    bow: float = between(0.02, 0.06, field=(0.03, 0.12))
    attack_s: float = between(0.04, 0.12)

    def play(self, notes: Sequence[Note], n_samples: int, rng: np.random.Generator) -> Signal:
        curve = line(
            notes,
            n_samples,
            rng,
            attack_s=self.attack_s,
            release_s=0.08,
            vibrato_hz=self.vibrato_hz,
            vibrato_cents=self.vibrato_cents,
        )
        phase = cycles(curve.f0_hz, start=rng.random())
        wave = sawtooth(phase, curve.nominal_hz, harmonics(curve.nominal_hz * 1.1))
        # The bow slips for part of each period: its noise comes in bursts.
        hiss = bandpass(noise(rng, n_samples), 1200, 7000) * (phase > 0.1) * self.bow * 6
        string = lowpass((wave + hiss) * curve.level, self.cutoff_hz / self.size, 2)
        return highpass(peaks(string, [(f / self.size, g, q) for f, g, q in self.body]), 120)


class Cello(Violin):
    """A violin's mechanism, lower and darker, in a body two and a half times as large."""

    roles = ("melody", "bass", "held")
    compass = (36, 67)
    body = ((105, 6, 6), (190, 6, 8), (300, 5, 6), (600, -4, 3), (1500, 5, 1.5))
    cutoff_hz = 3500.0
