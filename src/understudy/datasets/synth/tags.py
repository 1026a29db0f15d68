"""What an annotator says of a clip: dense tags in the studio, sparse instruments in the field."""

import numpy as np

from understudy.datasets.synth.clip import ClipPlan, generator

STUDIO_LABELS = (
    "guitar",
    "slow",
    "strings",
    "drums",
    "fast",
    "piano",
    "beat",
    "violin",
    "vocal",
    "synth",
    "no vocals",
    "loud",
    "quiet",
    "flute",
    "solo",
    "male vocal",
    "female vocal",
    "cello",
)
FIELD_LABELS = (
    "cello",
    "cymbals",
    "drums",
    "flute",
    "guitar",
    "piano",
    "synthesizer",
    "violin",
    "voice",
)
SLOW_BPM, FAST_BPM = 80, 125
QUIET, LOUD = 0.3, 0.7  # of the dynamics, 0 to 1
KNOWN_IF_PRESENT, KNOWN_IF_CONFUSABLE, KNOWN_IF_ABSENT = 0.65, 0.5, 0.14
# What is heard -> what one might take it for: annotators are asked about likely candidates.
CONFUSABLE = {
    "bass": "cello",
    "cello": "violin",
    "clarinet": "flute",
    "cymbals": "drums",
    "drums": "cymbals",
    "female-voice": "flute",
    "flute": "voice",
    "guitar": "piano",
    "harp": "guitar",
    "marimba": "piano",
    "organ": "synthesizer",
    "piano": "guitar",
    "shaker": "cymbals",
    "synth": "cello",
    "violin": "voice",
}


def studio_labels(clip: ClipPlan) -> list[int]:
    """-1 or 1 for each of `STUDIO_LABELS`."""
    heard = set(clip.instruments)
    vocal = bool(heard & {"male-voice", "female-voice"})
    performers = len(heard - {"cymbals"})  # the drummer strikes them
    tags = {name: name in heard for name in STUDIO_LABELS} | {
        "strings": bool(heard & {"violin", "cello"}),
        "beat": any(part.role == "groove" for part in clip.parts),
        "slow": clip.tempo_bpm < SLOW_BPM,
        "fast": clip.tempo_bpm > FAST_BPM,
        "quiet": clip.dynamics < QUIET,
        "loud": clip.dynamics > LOUD,
        "solo": performers == 1,
        "vocal": vocal,
        "no vocals": not vocal,
        "male vocal": "male-voice" in heard,
        "female vocal": "female-voice" in heard,
    }
    return [1 if tags[name] else -1 for name in STUDIO_LABELS]


def field_labels(clip: ClipPlan) -> list[int]:
    """-1, 0 (unknown, some three in four) or 1 for each of `FIELD_LABELS`; one at least known."""
    names = {"synth": "synthesizer", "male-voice": "voice", "female-voice": "voice"}
    heard = {names.get(name, name) for name in clip.instruments}
    present = np.array([name in heard for name in FIELD_LABELS])
    rng = generator(clip.style, clip.seed, "annotation", clip.number)
    candidates = {CONFUSABLE.get(name) for name in clip.instruments}
    confusable = np.array([name in candidates for name in FIELD_LABELS])
    absent = np.where(confusable, KNOWN_IF_CONFUSABLE, KNOWN_IF_ABSENT)
    known = rng.random(present.size) < np.where(present, KNOWN_IF_PRESENT, absent)
    known[rng.integers(present.size)] |= not known.any()
    return (np.where(present, 1, -1) * known).tolist()
