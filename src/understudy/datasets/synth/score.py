"""Who plays what when: a key, a tempo, a chord progression, and a part for each role."""

import dataclasses
from collections.abc import Callable
from typing import Self

import numpy as np

from understudy.datasets.synth import drums
from understudy.datasets.synth.instrument import Note, Role

SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 3, 5, 7, 9, 10))
UNPITCHED: tuple[Role, ...] = ("groove", "toms", "cymbals")
PROGRESSIONS = ((0, 3, 4, 0), (0, 5, 3, 4), (0, 4, 5, 3), (5, 3, 0, 4), (0, 0, 3, 4))


@dataclasses.dataclass(frozen=True)
class Score:
    """What all parts of a clip share.

    Attributes:
        root: Pitch class of the key, 0 to 11.
        chords: Scale degree of each bar of four beats.
        tempo_bpm: Beats a minute.
        dynamics: How loud it is played, 0 to 1; parts vary about it.
        tuning: Offset in semitones from A = 440 Hz.
    """

    root: int
    scale: tuple[int, ...]
    chords: tuple[int, ...]
    tempo_bpm: float
    dynamics: float
    duration_s: float
    tuning: float = 0.0

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        tempo_bpm: float,
        dynamics: float,
        duration_s: float,
        tuning: float,
    ) -> Self:
        scale = SCALES[rng.integers(len(SCALES))]
        chords = PROGRESSIONS[rng.integers(len(PROGRESSIONS))]
        root = int(rng.integers(12))
        return cls(root, scale, chords, tempo_bpm, dynamics, duration_s, tuning)

    @property
    def beat_s(self) -> float:
        return 60 / self.tempo_bpm

    @property
    def n_beats(self) -> int:
        return int(np.ceil(self.duration_s / self.beat_s))

    def pitch(self, degree: int) -> int:
        """MIDI pitch of a scale degree, 0 the key's root in the octave above C-1."""
        octave, step = divmod(degree, len(self.scale))
        return self.root + 12 * octave + self.scale[step]

    def chord(self, beat: float, compass: tuple[int, int], n_notes: int) -> list[int]:
        """`n_notes` notes of the chord at `beat`, close together low in `compass`, ascending."""
        degree = self.chords[int(beat // 4) % len(self.chords)]
        classes = {self.pitch(degree + step) % 12 for step in (0, 2, 4)}
        inside = [p for p in range(compass[0], compass[1] + 1) if p % 12 in classes]
        return inside[:n_notes]

    def part(self, role: Role, compass: tuple[int, int], rng: np.random.Generator) -> list[Note]:
        """The notes of one part, in order of onset, all onsets within the clip."""
        notes = []
        for beat, length, pitch, accent in _PARTS[role](self, compass, rng):
            onset_s = max(0.0, beat * self.beat_s + rng.normal(0, 0.008))
            if onset_s >= self.duration_s - 0.05:
                continue
            velocity = np.clip(0.25 + 0.7 * self.dynamics + accent + rng.normal(0, 0.05), 0.1, 1)
            tuning = 0.0 if role in UNPITCHED else self.tuning
            notes.append(Note(onset_s, length * self.beat_s, pitch + tuning, float(velocity)))
        return sorted(notes, key=lambda note: note.onset_s)


Beats = list[tuple[float, float, int, float]]  # onset and length in beats, pitch, accent


def _melody(score: Score, compass: tuple[int, int], rng: np.random.Generator) -> Beats:
    """A walk over the scale that returns to the middle, with chord notes on strong beats."""
    low, high = compass
    ladder = [p for p in range(low, high + 1) if (p - score.root) % 12 in score.scale]
    centre = rng.uniform(0.35, 0.65) * (len(ladder) - 1)
    place, beat, out = centre, 0.0, []
    while beat < score.n_beats:
        length = float(rng.choice([0.5, 1.0, 1.5, 2.0], p=[0.4, 0.35, 0.1, 0.15]))
        if rng.random() < 0.1 and out:
            beat += 0.5  # a breath
            continue
        place += rng.integers(-2, 3) + 0.25 * (centre - place)
        place = float(np.clip(place, 0, len(ladder) - 1))
        out.append((beat, 0.96 * length, ladder[round(place)], 0.05 * (beat % 4 == 0)))
        beat += length
    return out


def _chords(score: Score, compass: tuple[int, int], rng: np.random.Generator) -> Beats:
    """Chords on a bar's pattern, the notes strummed one after another."""
    pattern = ((0, 2), (0, 1, 2, 3), (0, 1.5, 3), (0, 1, 1.5, 2.5, 3))[rng.integers(4)]
    n_notes, spread = int(rng.integers(3, 5)), rng.uniform(0, 0.03)
    base = int(rng.integers(compass[0], max(compass[0] + 1, compass[1] - 20)))
    out = []
    for bar in range(0, score.n_beats, 4):
        for start, stop in zip(pattern, (*pattern[1:], 4.0), strict=True):
            for k, pitch in enumerate(score.chord(bar, (base, compass[1]), n_notes)):
                out.append((bar + start + k * spread, stop - start, pitch, 0.06 * (start == 0)))
    return out


def _arpeggio(score: Score, compass: tuple[int, int], rng: np.random.Generator) -> Beats:
    """Broken chords in eighths or sixteenths."""
    step = 0.25 if score.tempo_bpm < 100 and rng.random() < 0.5 else 0.5
    base = int(rng.integers(compass[0], max(compass[0] + 1, compass[1] - 20)))
    order = ((0, 1, 2, 3), (0, 2, 1, 3), (3, 2, 1, 0))[rng.integers(3)]
    out = []
    for k in range(int(score.n_beats / step)):
        chord = score.chord(k * step, (base, compass[1]), 4)
        out.append((k * step, 1.5 * step, chord[order[k % 4] % len(chord)], 0.05 * (k % 4 == 0)))
    return out


def _bass(score: Score, compass: tuple[int, int], rng: np.random.Generator) -> Beats:
    """Root and fifth on the beat."""
    walk = rng.random() < 0.5
    out = []
    for beat in range(0, score.n_beats, 1 if walk else 2):
        chord = score.chord(beat, compass, 3)
        pitch = chord[0] if beat % 4 == 0 else chord[rng.integers(len(chord))]
        out.append((beat, 0.9 if walk else 1.9, pitch, 0.05 * (beat % 4 == 0)))
    return out


def _pad(score: Score, compass: tuple[int, int], rng: np.random.Generator) -> Beats:
    """A chord held for each bar."""
    base = int(rng.integers(compass[0], max(compass[0] + 1, compass[1] - 24)))
    bars = range(0, score.n_beats, 4)
    return [(bar, 4.0, p, 0.0) for bar in bars for p in score.chord(bar, (base, compass[1]), 3)]


def _held(score: Score, compass: tuple[int, int], rng: np.random.Generator) -> Beats:
    """Single long notes of the chord, two beats or four."""
    length = float(rng.choice([2.0, 4.0]))
    base = int(rng.integers(compass[0], max(compass[0] + 1, compass[1] - 20)))
    out = []
    for beat in np.arange(0, score.n_beats, length):
        chord = score.chord(float(beat), (base, compass[1]), 3)
        out.append((float(beat), 0.97 * length, chord[rng.integers(len(chord))], 0.0))
    return out


def _groove(score: Score, compass: tuple[int, int], rng: np.random.Generator) -> Beats:
    """Kick and snare under hats, with a fill now and then."""
    out: Beats = []
    hat_step = 0.5 if score.tempo_bpm > 90 else 0.25
    kicks = ((0, 2), (0, 2.5), (0, 0.75, 2), (0, 1, 2, 3))[rng.integers(4)]
    hats = rng.random() < 0.75
    for bar in range(0, score.n_beats, 4):
        out += [(bar + k, 0.5, drums.KICK, 0.05) for k in kicks]
        out += [(bar + k, 0.5, drums.SNARE, 0.05) for k in (1, 3)]
        if hats:
            for k in np.arange(0, 4, hat_step):
                piece = drums.OPEN_HAT if rng.random() < 0.08 else drums.CLOSED_HAT
                out.append((bar + float(k), 0.25, piece, 0.1 * (k % 1 == 0) - 0.1))
        if rng.random() < 0.4:
            for k, piece in enumerate((drums.HIGH_TOM, drums.HIGH_TOM, drums.LOW_TOM)):
                out.append((bar + 3.25 + 0.25 * k, 0.25, piece, 0.05))
    return out


def _toms(score: Score, compass: tuple[int, int], rng: np.random.Generator) -> Beats:
    """Free strokes on toms and kick, without a backbeat."""
    pieces = np.array([drums.HIGH_TOM, drums.LOW_TOM, drums.KICK])
    beats = np.flatnonzero(rng.random(2 * score.n_beats) < 0.45) / 2
    return [(float(beat), 0.5, int(rng.choice(pieces)), 0.0) for beat in beats]


def _cymbals(score: Score, compass: tuple[int, int], rng: np.random.Generator) -> Beats:
    """A ride's pattern, a crash on each bar, or rolls."""
    out: Beats = []
    manner = rng.choice(["ride", "crash", "roll"], p=[0.4, 0.4, 0.2])
    for bar in range(0, score.n_beats, 4):
        if manner == "ride":
            out += [(bar + k, 0.5, drums.RIDE, 0.0) for k in (0, 1, 1.67, 2, 3, 3.67)]
        elif manner == "roll":
            steps = np.arange(0, 2.5, 0.06 / score.beat_s)
            out += [(bar + float(k), 0.2, drums.CRASH, 0.12 * float(k) - 0.5) for k in steps]
        if manner == "crash" or bar == 0:
            out.append((bar, 2.0, drums.CRASH, 0.1))
    return out


_PARTS: dict[Role, Callable[[Score, tuple[int, int], np.random.Generator], Beats]] = {
    "melody": _melody,
    "chords": _chords,
    "arpeggio": _arpeggio,
    "bass": _bass,
    "pad": _pad,
    "held": _held,
    "groove": _groove,
    "toms": _toms,
    "cymbals": _cymbals,
}
