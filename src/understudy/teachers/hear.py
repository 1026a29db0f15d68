"""Any teacher as a module of the HEAR benchmark's API (hearbenchmark.com/hear-api.html).

HEAR's tools import a module by its name; `understudy.hear` holds one for each teacher.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from understudy import teachers
from understudy.errors import ConfigError
from understudy.teachers.base import Teacher

RATES_HZ = (16000, 22050, 32000, 44100, 48000)
HOP_S = 0.05
"""Longest hop that HEAR's validator takes without a warning."""


class HearModel(nn.Module):
    """What `load_model` returns: the teacher, movable with `.to(device)`.

    Attributes:
        sample_rate: Hz, of the audio it wants.
        scene_embedding_size, timestamp_embedding_size: Values per embedding.
    """

    def __init__(self, teacher: Teacher, window_s: float, hop_s: float) -> None:
        super().__init__()
        self.front_end, self.network = teacher.front_end, teacher.network
        self.teacher = teacher
        self.window_s, self.hop_s = window_s, hop_s
        self.sample_rate = int(teacher.card.sample_rate)
        self.scene_embedding_size = int(teacher.card.dim)
        self.timestamp_embedding_size = int(teacher.card.dim)
        self.eval()


class HearModule(NamedTuple):
    """The three functions of the API."""

    load_model: Callable[..., HearModel]
    get_scene_embeddings: Callable[[torch.Tensor, HearModel], torch.Tensor]
    get_timestamp_embeddings: Callable[[torch.Tensor, HearModel], tuple[torch.Tensor, torch.Tensor]]


def module(name: str, window_s: float | None = None, hop_s: float = HOP_S) -> HearModule:
    """HEAR functions of teacher `name`.

    Args:
        name: One of `teachers.names()`.
        window_s: Window around a timestamp, seconds; by default the teacher's, 1 s where that is
            the whole clip.
        hop_s: Distance of timestamps, seconds.
    """
    card = teachers.card(name)
    if card.sample_rate not in RATES_HZ:
        raise ConfigError(f"teacher {name}: HEAR takes {RATES_HZ} Hz, found {card.sample_rate}")
    if window_s is None:
        window_s = 1.0 if card.window_s == "clip" else card.window_s

    def load_model(model_file_path: str = "", **settings: Any) -> HearModel:
        """Model with the weights of a file ("random" for seeded ones), by default the published."""
        teacher = teachers.build(name, model_file_path or None, **settings)
        return HearModel(teacher, window_s, hop_s)

    return HearModule(load_model, get_scene_embeddings, get_timestamp_embeddings)


def get_scene_embeddings(audio: torch.Tensor, model: HearModel) -> torch.Tensor:
    """Embeddings float32 (sound, dim) of whole sounds, audio (sound, samples)."""
    return model.teacher.scene(audio)


def get_timestamp_embeddings(
    audio: torch.Tensor, model: HearModel
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings float32 (sound, timestamp, dim) and their timestamps (sound, timestamp).

    Timestamp i is at i * hop_s, in milliseconds, up to the sound's end: 1 + floor(duration /
    hop_s) of them, each the centre of a window of the padded sound (`Teacher.centred`).
    """
    timeline = model.teacher.centred(audio, model.window_s, model.hop_s)
    timestamps = torch.as_tensor(
        timeline.centre_s * 1000, dtype=torch.float32, device=timeline.embedding.device
    )
    return timeline.embedding, timestamps.expand(len(audio), -1).contiguous()
