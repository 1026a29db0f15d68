"""Blown pipes and free-ringing bars: flute, clarinet, organ, marimba."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from understudy.datasets.synth.instrument import Instrument, Note, between, line
from understudy.datasets.synth.signal import (
    RATE_HZ,
    TOP_HZ,
    Signal,
    add,
    bandpass,
    cycles,
    decay,
    drift,
    envelope,
    harmonics,
    lowpass,
    noise,
    samples,
    sawtooth,
    sine,
)


@dataclasses.dataclass(frozen=True)
class Flute(Instrument):
    """A few harmonics under breath noise, a vibrato of loudness more than of pitch, and a chiff.

    Sources: Fletcher 1975, "Acoustical correlates of flute performance technique"; Serra & Smith
    1990 for harmonics plus noise.
    """

    roles = ("melody",)
    compass = (60, 93)

    breath: float = between(0.05, 0.16, field=(0.1, 0.3), log=True)
    second: float = between(0.2, 0.5, field=(0.15, 0.7))
    vibrato_hz: float = between(4.5, 6.0)
    vibrato_cents: float = between(4, 10, field=(2, 14))
    tremolo: float = between(0.08, 0.25)

    def play(self, notes: Sequence[Note], n_samples: int, rng: np.random.Generator) -> Signal:
        curve = line(
            notes,
            n_samples,
            rng,
            attack_s=0.06,
            release_s=0.07,
            vibrato_hz=self.vibrato_hz,
            vibrato_cents=self.vibrato_cents,
        )
        phase = cycles(curve.f0_hz, start=rng.random())
        tone = sine(phase)
        for k, gain in ((2, self.second), (3, 0.5 * self.second), (4, 0.12), (5, 0.05)):
            audible = k * curve.nominal_hz < TOP_HZ
            tone += gain * curve.level ** (0.5 * k - 0.5) * sine(phase, k) * audible
        # Breath sounds through the pipe: white noise, and noise that rides on the pitch.
        air = bandpass(noise(rng, n_samples), 700, 6000)
        rough = lowpass(noise(rng, n_samples), 120, 1) * sine(phase)
        swell = 1 + self.tremolo * np.sin(
            2 * np.pi * (self.vibrato_hz * np.arange(n_samples) / RATE_HZ + rng.random())
        )
        sound = (tone + self.breath * (air + 2 * rough)) * curve.level * swell.astype(np.float32)
        for note in notes:
            chiff = bandpass(noise(rng, samples(0.07)), note.f0_hz, 5 * note.f0_hz)
            chiff *= 3 * self.breath * note.velocity
            add(sound, chiff * decay(0.08, chiff.size), note.onset_s)
        return sound


@dataclasses.dataclass(frozen=True)
class Clarinet(Instrument):
    """A closed pipe: odd harmonics under a soft low-pass, little vibrato: a distractor."""

    roles = ("melody",)
    compass = (52, 84)

    even: float = between(0.0, 0.2)
    cutoff_hz: float = between(1500, 3500, log=True)

    def play(self, notes: Sequence[Note], n_samples: int, rng: np.random.Generator) -> Signal:
        curve = line(notes, n_samples, rng, attack_s=0.05, release_s=0.06, vibrato_cents=2)
        phase, count = cycles(curve.f0_hz), harmonics(curve.nominal_hz * 1.05)
        half = phase + np.float32(0.5)
        other = sawtooth(half - np.round(half), curve.nominal_hz, count)
        wave = sawtooth(phase, curve.nominal_hz, count) - (1 - self.even) * other
        air = 0.02 * bandpass(noise(rng, n_samples), 500, 5000)
        return lowpass(wave * curve.level, self.cutoff_hz) + air * curve.level


@dataclasses.dataclass(frozen=True)
class Organ(Instrument):
    """Drawbars: sinusoids at whole multiples, steady, with a rotor's tremolo: a distractor."""

    roles = ("pad", "chords")
    compass = (41, 77)

    third: float = between(0.2, 0.9)
    upper: float = between(0.05, 0.5)
    rotor_hz: float = between(0.8, 7.0, log=True)

    def play(self, notes: Sequence[Note], n_samples: int, rng: np.random.Generator) -> Signal:
        track = np.zeros(n_samples, np.float32)
        bars = ((0.5, 0.6), (1, 1.0), (1.5, self.third), (2, 0.7), (3, self.upper), (4, self.upper))
        for note in notes:
            n_tone = samples(note.duration_s)
            phase = cycles(note.f0_hz / 2, n_tone, rng.random())
            tone = np.zeros(n_tone, np.float32)
            for multiple, gain in bars:
                if multiple * note.f0_hz < TOP_HZ:
                    tone += gain * sine(phase, 2 * multiple)
            add(track, tone * envelope(n_tone, 0.01, 0.03), note.onset_s, 0.3 * note.velocity)
        time = np.arange(n_samples, dtype=np.float32) / RATE_HZ
        return track * (1 + 0.25 * np.sin(2 * np.pi * self.rotor_hz * time))


@dataclasses.dataclass(frozen=True)
class Marimba(Instrument):
    """A tuned bar's modes at 1, 3.93 and 9.24 times the pitch: a distractor.

    Source: Fletcher & Rossing 1998, "The physics of musical instruments", chapter 19.
    """

    roles = ("arpeggio", "melody")
    compass = (48, 84)

    t60_s: float = between(0.5, 1.6, log=True)
    mallet: float = between(0.2, 0.7)

    def play(self, notes: Sequence[Note], n_samples: int, rng: np.random.Generator) -> Signal:
        track = np.zeros(n_samples, np.float32)
        for note in notes:
            n_tone = samples(self.t60_s)
            tone = np.zeros(n_tone, np.float32)
            for ratio, gain, shorter in ((1, 1, 1), (3.93, self.mallet, 4), (9.24, 0.2, 10)):
                if ratio * note.f0_hz < TOP_HZ:
                    mode = sine(cycles(ratio * note.f0_hz, n_tone))
                    tone += gain * mode * decay(self.t60_s / shorter, n_tone)
            add(track, tone * envelope(n_tone, 0.002, 0.02), note.onset_s, 0.5 * note.velocity)
        return track * (1 + 0.02 * drift(rng, n_samples, 3.0))
