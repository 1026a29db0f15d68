"""What teachers that others bring (`onnx_file`, `hear_module`) have in common."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from understudy.teachers.base import TeacherSettings


@dataclass(frozen=True, kw_only=True)
class Float32Settings(TeacherSettings):
    """Settings of a network that is run as it is."""

    precision: Literal["float32"] = "float32"
    compile: Literal[False] = False


class Waveform(nn.Module):
    """The front end of a network that has its own: audio (batch, samples), as it is."""

    place: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("place", torch.empty(0), persistent=False)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        return audio


FRONT_END = "the network's own; it takes samples within [-1, 1]"
