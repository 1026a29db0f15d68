"""SC-CNN: the short-chunk CNN with residual connections (Won et al., 2020).

Two readings of the shortcut convolutions. Kernel 1: 9,088,564 parameters at 50 classes, the 9.1 M
that Ding & Lerch (2024) report; the default. Kernel 3: 12,104,244, as published with weights.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from understudy.students.base import Layer, Student, StudentSettings
from understudy.students.frontend import MelFrontEnd


@dataclass(frozen=True, kw_only=True)
class ScCnnSettings(StudentSettings):
    """Settings of SC-CNN."""

    shortcut: Literal[1, 3] = 1
    """Kernel of the shortcut convolutions; published checkpoints have 3."""


class StridedResidual(Layer):
    """Two 3x3 convolutions and a convolved shortcut; halves both axes, rounding up."""

    def __init__(self, n_in: int, n_out: int, shortcut: int) -> None:
        super().__init__()
        self.n_out = n_out
        self.conv_1 = nn.Conv2d(n_in, n_out, 3, stride=2, padding=1)
        self.bn_1 = nn.BatchNorm2d(n_out)
        self.conv_2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.bn_2 = nn.BatchNorm2d(n_out)
        self.conv_3 = nn.Conv2d(n_in, n_out, shortcut, stride=2, padding=shortcut // 2)
        self.bn_3 = nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        main = self.bn_2(self.conv_2(self.bn_1(self.conv_1(x)).relu()))
        return main + self.bn_3(self.conv_3(x))


class ScCnn(Student):
    """Seven strided residual layers over a 128-band log-mel image; steps of 2.048 s."""

    name = "sc-cnn"
    settings_class = ScCnnSettings
    front_end_name = "spec"
    front_end_class = MelFrontEnd
    input_samples = 59_049
    min_samples = 257
    frames_per_step = 128
    first_centre_frames = 0

    def _layers(self, settings: ScCnnSettings, n_images: int) -> Sequence[Layer]:
        widths = [n_images, *(settings.width * k for k in (1, 1, 2, 2, 2, 2, 4))]
        pairs = itertools.pairwise(widths)
        return [StridedResidual(n_in, n_out, settings.shortcut) for n_in, n_out in pairs]

    @classmethod
    def _n_steps(cls, n_frames: int) -> int:
        return -(-n_frames // cls.frames_per_step)
