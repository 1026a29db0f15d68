"""What every instrument of the synthesiser is: drawn parameters and a way to play notes."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from scipy.signal import lfilter

from understudy.datasets.synth.signal import RATE_HZ, Signal, drift, envelope, samples

Style = Literal["studio", "field"]
Role = Literal["melody", "chords", "arpeggio", "bass", "pad", "held", "groove", "toms", "cymbals"]


@dataclasses.dataclass(frozen=True)
class Note:
    """One note of a score; `velocity` in (0, 1] is how hard it is played."""

    onset_s: float
    duration_s: float
    pitch: float  # MIDI number
    velocity: float

    @property
    def f0_hz(self) -> float:
        return 440.0 * 2 ** ((self.pitch - 69) / 12)


def between(
    low: float, high: float, field: tuple[float, float] | None = None, log: bool = False
) -> Any:
    """A timbre parameter drawn uniformly from [low, high], in the field style from `field`."""
    ranges = {"studio": (low, high), "field": field or (low, high), "log": log}
    return dataclasses.field(metadata=ranges)


@dataclasses.dataclass(frozen=True)
class Instrument(ABC):
    """One individual of its kind: its fields are the timbre that a session keeps.

    Class attributes: the roles it can take in an ensemble and its compass in MIDI pitches.
    """

    roles: ClassVar[tuple[Role, ...]] = ("melody",)
    compass: ClassVar[tuple[int, int]] = (55, 84)

    @classmethod
    def draw(cls, rng: np.random.Generator, style: Style) -> Self:
        """An individual with every parameter drawn from the ranges of `style`."""
        values = {}
        for parameter in dataclasses.fields(cls):
            low, high = parameter.metadata[style]
            if parameter.metadata["log"]:
                values[parameter.name] = float(low * (high / low) ** rng.random())
            else:
                values[parameter.name] = float(rng.uniform(low, high))
        return cls(**values)

    @abstractmethod
    def play(self, notes: Sequence[Note], n_samples: int, rng: np.random.Generator) -> Signal:
        """The notes as (time,) of `n_samples`; the level is the mixer's matter."""


@dataclasses.dataclass(frozen=True)
class Line:
    """A legato line of one voice: three curves (time,)."""

    f0_hz: np.ndarray
    level: Signal
    nominal_hz: Signal  # without glide and vibrato: constant within a note


def line(
    notes: Sequence[Note],
    n_samples: int,
    rng: np.random.Generator,
    *,
    attack_s: float,
    release_s: float,
    glide_s: float = 0.02,
    vibrato_hz: float = 5.5,
    vibrato_cents: float = 0.0,
    vibrato_delay_s: float = 0.2,
) -> Line:
    """Pitch and level of a monophonic phrase; vibrato sets in after each note's onset."""
    pitch = np.full(n_samples, notes[0].pitch if notes else 60.0)
    level, depth = np.zeros(n_samples, np.float32), np.zeros(n_samples, np.float32)
    for note in notes:
        start = int(note.onset_s * RATE_HZ)
        stop = min(n_samples, start + samples(note.duration_s))
        if stop <= start:
            continue
        pitch[start:] = note.pitch
        level[start:stop] = note.velocity * envelope(stop - start, attack_s, release_s)
        rise = (np.arange(stop - start) / RATE_HZ - vibrato_delay_s) / 0.25
        depth[start:stop] = np.clip(rise, 0, 1)
    nominal_hz = (440 * 2 ** ((pitch - 69) / 12)).astype(np.float32)
    pole = np.exp(-1 / max(1.0, glide_s * RATE_HZ))
    glided, _ = lfilter([1 - pole], [1, -pole], pitch, zi=[pole * pitch[0]])
    wander_hz = vibrato_hz * (1 + 0.06 * drift(rng, n_samples, 2.0))
    swing = np.sin(2 * np.pi * (rng.random() + np.cumsum(wander_hz) / RATE_HZ))
    cents = vibrato_cents * depth * swing + 4 * drift(rng, n_samples, 6.0)
    return Line(440 * 2 ** ((glided - 69 + cents / 100) / 12), level, nominal_hz)
