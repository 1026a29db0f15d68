"""One clip: its plan (who plays, how fast, how loud) and its sound.

A clip is a pure function of (style, seed, number). Four clips in a row form a session: the same
individuals of each instrument, the same room and the same tuning.
"""

import dataclasses
import hashlib

import numpy as np

from understudy.datasets.synth.drums import Cymbals, Drums, Shaker
from understudy.datasets.synth.electronic import Synthesizer
from understudy.datasets.synth.instrument import Instrument, Role, Style
from understudy.datasets.synth.room import Room
from understudy.datasets.synth.score import Score
from understudy.datasets.synth.signal import Signal, samples
from understudy.datasets.synth.strings import Bass, Cello, Guitar, Harp, Piano, Violin
from understudy.datasets.synth.voice import FemaleVoice, MaleVoice
from understudy.datasets.synth.winds import Clarinet, Flute, Marimba, Organ

VERSION = 1  # of the sound: one more whenever a clip's samples or labels change
CLIPS_PER_SESSION = 4

INSTRUMENTS: dict[str, type[Instrument]] = {
    "guitar": Guitar,
    "piano": Piano,
    "violin": Violin,
    "cello": Cello,
    "flute": Flute,
    "drums": Drums,
    "cymbals": Cymbals,
    "synth": Synthesizer,
    "male-voice": MaleVoice,
    "female-voice": FemaleVoice,
    "bass": Bass,
    "clarinet": Clarinet,
    "harp": Harp,
    "marimba": Marimba,
    "organ": Organ,
    "shaker": Shaker,
}
DISTRACTORS = ("bass", "clarinet", "harp", "marimba", "organ", "shaker")
PLAYERS = tuple(name for name in INSTRUMENTS if name not in (*DISTRACTORS, "cymbals"))


@dataclasses.dataclass(frozen=True)
class Part:
    """One instrument in a clip; `gain_db` is its level in the mixture."""

    instrument: str
    role: Role
    gain_db: float


@dataclasses.dataclass(frozen=True)
class ClipPlan:
    """Everything about a clip but its samples."""

    style: Style
    seed: int
    number: int
    parts: tuple[Part, ...]
    tempo_bpm: float
    dynamics: float
    n_samples: int

    @property
    def session(self) -> int:
        return self.number // CLIPS_PER_SESSION

    @property
    def instruments(self) -> tuple[str, ...]:
        return tuple(part.instrument for part in self.parts)


def generator(*key: object) -> np.random.Generator:
    """A generator of random numbers of its own for each key."""
    text = "/".join(map(str, ("understudy", "toy", VERSION, *key)))
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
    return np.random.Generator(np.random.PCG64(seed))


def plan(style: Style, seed: int, number: int) -> ClipPlan:
    """What clip `number` of a collection holds."""
    rng = generator(style, seed, "plan", number)
    lead = _lead(style, seed, number)
    if lead == "distractor":
        lead = str(rng.choice(DISTRACTORS))
    others = [name for name in (*PLAYERS, *DISTRACTORS) if name != lead]
    n_others = rng.choice(3, p=[0.3, 0.4, 0.3])
    names = [lead, *map(str, rng.permutation(others)[:n_others])]
    # A kit has cymbals more often than not, and cymbals seldom play without a kit.
    if "drums" in names and "cymbals" not in names and rng.random() < 0.75:
        names.append("cymbals")
    elif "cymbals" in names and "drums" not in names and rng.random() < 0.6:
        names.append("drums")
    quietest_db = -9.0 if style == "studio" else -18.0
    parts = []
    for k, name in enumerate(names):
        gain_db = 0.0 if k == 0 else float(rng.uniform(quietest_db, 1.0))
        parts.append(Part(name, rng.choice(np.array(INSTRUMENTS[name].roles)).item(), gain_db))
    return ClipPlan(
        style=style,
        seed=seed,
        number=number,
        parts=tuple(parts),
        tempo_bpm=float(55 * (180 / 55) ** rng.random()),
        dynamics=float(rng.random()),
        n_samples=samples(rng.uniform(6, 8)),
    )


def _lead(style: Style, seed: int, number: int) -> str:
    """The instrument in front: each takes its turn once in a shuffled round."""
    leads = (*PLAYERS, "distractor", *(("cymbals",) if style == "field" else ()))
    turn, place = divmod(number, len(leads))
    return str(generator(style, seed, "lead", turn).permutation(leads)[place])


def render(clip: ClipPlan) -> Signal:
    """The clip's samples (time,) at `RATE_HZ`, within [-1, 1]."""
    rng = generator(clip.style, clip.seed, "sound", clip.number)
    session = (clip.style, clip.seed, "session", clip.session)
    tuning = generator(*session, "tuning").normal(0, 0.08 if clip.style == "studio" else 0.3)
    duration_s = clip.n_samples / samples(1)
    score = Score.draw(rng, clip.tempo_bpm, clip.dynamics, duration_s, float(tuning))
    mixture = np.zeros(clip.n_samples, np.float32)
    for part in clip.parts:
        kind = INSTRUMENTS[part.instrument]
        player = kind.draw(generator(*session, part.instrument), clip.style)
        notes = score.part(part.role, kind.compass, rng)
        track = player.play(notes, clip.n_samples, rng)
        level = np.sqrt(np.mean(track**2)) + 1e-9
        mixture += track * np.float32(10 ** (part.gain_db / 20) / level)
    room = Room.draw(generator(*session, "room"), clip.style)
    # How loud it is played says something about the file's level, but not all.
    loudest_dbfs, spread_db = (-11.0, 2.5) if clip.style == "studio" else (-20.0, 5.0)
    peak_dbfs = rng.normal(loudest_dbfs + 14 * (clip.dynamics - 0.5), spread_db)
    return room.record(mixture, float(np.clip(peak_dbfs, -40, -1)), rng)
