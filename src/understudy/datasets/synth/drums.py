"""A drum kit and cymbals.

A note's pitch names the piece, as in General MIDI's percussion map. Membranes: a falling sinusoid
and modes with a noise of stick or wires; metal: dense inharmonic modes in a long noise (Fletcher &
Rossing 1998, "The physics of musical instruments", chapters 18 and 20).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from understudy.datasets.synth.instrument import Instrument, Note, between
from understudy.datasets.synth.signal import (
    RATE_HZ,
    TOP_HZ,
    Signal,
    add,
    bandpass,
    cycles,
    decay,
    envelope,
    highpass,
    noise,
    samples,
    sine,
)

KICK, SNARE, CLOSED_HAT, LOW_TOM, OPEN_HAT, HIGH_TOM, CRASH, RIDE = 36, 38, 42, 45, 46, 50, 49, 51


def drum(f0_hz: float, drop: float, drop_s: float, t60_s: float) -> Signal:
    """A struck membrane: a sinusoid that starts `drop` times higher and falls within `drop_s`."""
    time = np.arange(samples(t60_s)) / RATE_HZ
    glide = f0_hz * (1 + (drop - 1) * np.exp(-time / drop_s))
    return sine(cycles(glide)) * decay(t60_s, time.size)


def metal(
    rng: np.random.Generator, low_hz: float, t60_s: float, n_modes: int, wash: float
) -> Signal:
    """A struck plate: `n_modes` random modes, the high ones shorter, in a noisy `wash`."""
    n_samples = samples(t60_s)
    time = np.arange(n_samples, dtype=np.float32) / RATE_HZ
    plate = np.zeros(n_samples, np.float32)
    for f_hz in low_hz * (0.95 * TOP_HZ / low_hz) ** rng.random(n_modes):
        # A mode that is 60 dB down is not computed further.
        t60_mode = t60_s * min(1.0, float(0.35 + 0.65 * (2500 / f_hz) ** 0.7))
        n_mode = min(n_samples, samples(t60_mode))
        phase = cycles(f_hz, n_mode, rng.random())
        plate[:n_mode] += sine(phase) * decay(t60_mode, n_mode)
    plate /= np.sqrt(n_modes / 2)
    hiss = highpass(noise(rng, n_samples), 3500) * np.exp(-time * np.float32(9 / t60_s))
    return (plate + wash * hiss) * envelope(n_samples, 0.002, 0.02)


@dataclasses.dataclass(frozen=True)
class Drums(Instrument):
    """Kick, snare, toms and hi-hat of one kit."""

    roles = ("groove", "groove", "groove", "toms")
    compass = (KICK, RIDE)

    kick_hz: float = between(42, 65, field=(40, 75))
    kick_s: float = between(0.2, 0.5)
    snare_hz: float = between(160, 230, field=(150, 260))
    wires: float = between(0.5, 1.1, field=(0.3, 1.2))
    tom_hz: float = between(85, 130)
    hat_s: float = between(0.05, 0.12)
    hat_level: float = between(0.15, 0.4)

    def play(self, notes: Sequence[Note], n_samples: int, rng: np.random.Generator) -> Signal:
        track, kit = np.zeros(n_samples, np.float32), {}
        for note in notes:
            piece = int(note.pitch)
            if piece not in kit:
                kit[piece] = self._piece(piece, rng)
            # A harder stroke is brighter: its stick's part grows faster than its body's.
            body, stick = kit[piece]
            add(track, body, note.onset_s, note.velocity)
            add(track, stick, note.onset_s, note.velocity**2)
        return track

    def _piece(self, piece: int, rng: np.random.Generator) -> tuple[Signal, Signal]:
        if piece == KICK:
            click = highpass(noise(rng, samples(0.015)), 1500) * decay(0.012, samples(0.015))
            return drum(self.kick_hz, 3.5, 0.03, self.kick_s), 0.3 * click
        if piece == SNARE:
            head = 0.6 * drum(self.snare_hz, 1.4, 0.01, 0.18)
            rattle = highpass(noise(rng, samples(0.22)), 900) * decay(0.2, samples(0.22))
            ring = 0.4 * drum(1.78 * self.snare_hz, 1.2, 0.01, 0.12)
            add(head, ring, 0)
            return head, 0.45 * self.wires * rattle
        if piece in (LOW_TOM, HIGH_TOM):
            f0_hz = self.tom_hz * (1.6 if piece == HIGH_TOM else 1.0)
            head = 0.9 * drum(f0_hz, 1.5, 0.05, 0.5)
            add(head, drum(1.59 * f0_hz, 1.3, 0.04, 0.2), 0, 0.35)
            stick = bandpass(noise(rng, samples(0.03)), 400, 4000) * decay(0.03, samples(0.03))
            return head, 0.4 * stick
        t60_s = self.hat_s if piece == CLOSED_HAT else 5 * self.hat_s
        hat = highpass(metal(rng, 3000, 2 * t60_s, 30, 1.5), 5000)
        return 0.5 * self.hat_level * hat, self.hat_level * hat


@dataclasses.dataclass(frozen=True)
class Cymbals(Instrument):
    """Crash and ride; strokes overlap into a roll where the score asks for one."""

    roles = ("cymbals",)
    compass = (CRASH, RIDE)

    crash_s: float = between(1.6, 3.2, field=(1.2, 3.5))
    ride_s: float = between(0.9, 2.0)
    low_hz: float = between(250, 450, field=(220, 600))
    wash: float = between(0.5, 1.2, field=(0.4, 1.5))
    bell_hz: float = between(700, 1100)

    def play(self, notes: Sequence[Note], n_samples: int, rng: np.random.Generator) -> Signal:
        track = np.zeros(n_samples, np.float32)
        crash = metal(rng, self.low_hz, self.crash_s, 110, self.wash)
        ride = 0.35 * metal(rng, 1.3 * self.low_hz, self.ride_s, 60, 0.4 * self.wash)
        for ratio in (1.0, 2.7, 4.1):
            add(ride, drum(ratio * self.bell_hz, 1.0, 1.0, 0.5), 0, 0.12)
        for note in notes:
            tone = crash if int(note.pitch) == CRASH else ride
            add(track, tone, note.onset_s, 0.5 * note.velocity)
        return track


@dataclasses.dataclass(frozen=True)
class Shaker(Instrument):
    """Beads in a gourd: short swells of high noise, pitchless: a distractor.

    Source: Cook 1997, "Physically informed sonic modeling (PhISM)".
    """

    roles = ("arpeggio",)

    centre_hz: float = between(3500, 7000, log=True)
    grain_s: float = between(0.04, 0.12)

    def play(self, notes: Sequence[Note], n_samples: int, rng: np.random.Generator) -> Signal:
        track = np.zeros(n_samples, np.float32)
        for note in notes:
            beads = noise(rng, samples(self.grain_s))
            beads *= (rng.random(beads.size) < 0.3) * envelope(
                beads.size, 0.4 * self.grain_s, 0.5 * self.grain_s
            )
            grain = bandpass(beads, 0.7 * self.centre_hz, 1.4 * self.centre_hz)
            add(track, grain, note.onset_s, note.velocity)
        return track
