"""What is known of a teacher without building it. Free of torch, so that listing is quick."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from understudy.timing import Window


def non_commercial(licence: str) -> bool:
    """Whether a licence, as its owner words it, is one of Creative Commons' non-commercial ones."""
    return "NC" in re.split(r"[\s-]+", licence)


@dataclass(frozen=True, kw_only=True)
class TeacherCard:
    """Facts of one teacher; those that change its embeddings enter a cache's identity."""

    name: str
    """Registered name, also the name of its tracks."""
    title: str
    version: str
    """Of this implementation; raised when its embeddings change."""
    licence_code: str
    """Of the code here."""
    licence_weights: str
    training_data: tuple[str, ...]
    """Everything its weights have seen, labels and teachers of its own included."""
    sample_rate: int
    """Hz, mono."""
    dim: int
    """Values per embedding."""
    window_s: Window
    """Default window, or "clip" for one embedding per clip."""
    hop_s: float
    """Default hop; 0 with window "clip"."""
    min_samples: int
    """Shortest window the network takes; shorter clips are padded with zeros."""
    chunk_s: float = 10.0
    """Longer windows are cut into passes of this length and averaged."""
    longest_pass_s: float | None = None
    """Longest window that passes whole all the same, where that is longer than chunk_s."""
    parameters: int
    """Trainable parameters of the network, counted as its publication does (see policy)."""
    macs_per_s: float
    """Multiply-accumulates of the network per second of audio, in one pass of 10 s."""
    resampler: str = "soxr_hq"
    front_end: str
    """Exact facts of what happens before the network."""
    policy: str
    """Short, long and silent clips."""
    citation: str
    weights_file: str | None = None
    """Published name, looked for in UNDERSTUDY_HOME/weights."""
    url: str | None = None
    weights_sha256: str | None = None
    weights_bytes: int | None = None
    storage_dtype: str = "float16"

    @property
    def non_commercial(self) -> bool:
        """Whether the weights' licence forbids commercial use, as CC BY-NC does."""
        return non_commercial(self.licence_weights)

    @property
    def whole_s(self) -> float:
        """Longest window that passes whole, seconds."""
        return self.longest_pass_s or self.chunk_s


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """Settings of `teachers.build`."""

    window_s: float | Literal["clip"] | None = None
    """Window of the timeline, seconds; by default the card's."""
    hop_s: float | None = None
    """Hop, seconds; by default the card's, or back to back where window_s is given."""
    seed: int = 0
    """Of random weights; of no use with others."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the network, under autocast; the front end always computes in float32."""
    compile: bool = False
    """Whether the network runs through torch.compile: quicker, and other in the last bits."""


@dataclass(frozen=True, kw_only=True)
class TeacherSpec:
    """What a worker needs to build the same teacher again. Picklable."""

    name: str
    weights: str | None
    """Absolute path, "random", or None for the published file."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights_sha256: str
    """Of the weights the first teacher was built with; others are refused."""
