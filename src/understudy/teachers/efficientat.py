"""EfficientAT's MobileNets `mn01` ... `mn40`: one network at eight widths.

A MobileNetV3-Large with channel squeeze-and-excitation, on 128-band log-mels at 32 kHz, trained
on AudioSet by distillation from PaSST. Own implementation from the facts of the papers
(arXiv:2211.04772, arXiv:2303.01879); its state_dict has the published keys and shapes.
"""

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from understudy.teachers.frontends import KaldiLogMel
from understudy.teachers.tagger import CLASSES, Tagger


class Stage(NamedTuple):
    """One inverted-residual block at width 1.0."""

    kernel: int
    expanded: int
    out: int
    squeeze: bool
    hard_swish: bool
    stride: int


STAGES = (
    Stage(3, 16, 16, False, False, 1),
    Stage(3, 64, 24, False, False, 2),
    Stage(3, 72, 24, False, False, 1),
    Stage(5, 72, 40, True, False, 2),
    Stage(5, 120, 40, True, False, 1),
    Stage(5, 120, 40, True, False, 1),
    Stage(3, 240, 80, False, True, 2),
    Stage(3, 200, 80, False, True, 1),
    Stage(3, 184, 80, False, True, 1),
    Stage(3, 184, 80, False, True, 1),
    Stage(3, 480, 112, True, True, 1),
    Stage(3, 672, 112, True, True, 1),
    Stage(5, 672, 160, True, True, 2),
    Stage(5, 960, 160, True, True, 1),
    Stage(5, 960, 160, True, True, 1),
)
STEM = 16
HIDDEN = 1280


def rounded(channels: float) -> int:
    """Nearest multiple of 8 (halves up), at least 8, and never below 90 % of `channels`."""
    result = max(8, 8 * int((channels + 4) // 8))
    return result + 8 if result < 0.9 * channels else result


def unit(
    n_in: int,
    n_out: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = None,
) -> nn.Sequential:
    """Convolution without bias, batch normalisation, activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(n_out, eps=1e-3, momentum=0.01),
    ]
    if activation is not None:
        layers.append(activation())
    return nn.Sequential(*layers)


class Squeeze(nn.Module):
    """Gate per channel from the mean over frequency and time; sigmoid, not hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        bottleneck = rounded(channels // 4)
        self.fc1 = nn.Linear(channels, bottleneck)
        self.fc2 = nn.Linear(bottleneck, channels)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        gate = self.fc2(torch.relu(self.fc1(image.mean((2, 3))))).sigmoid()
        return image * gate[:, :, None, None]


class ConcurrentSqueeze(nn.Module):
    """Holder of the one squeeze the published weights use, for their keys' sake."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conc_se_layers = nn.ModuleList([Squeeze(channels)])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conc_se_layers[0](image)


class InvertedResidual(nn.Module):
    """Expand, filter each channel, gate, project; plus the input where shapes allow."""

    def __init__(self, n_in: int, stage: Stage, width: float) -> None:
        super().__init__()
        expanded, n_out = rounded(stage.expanded * width), rounded(stage.out * width)
        activation = nn.Hardswish if stage.hard_swish else nn.ReLU
        layers: list[nn.Module] = []
        if expanded != n_in:
            layers.append(unit(n_in, expanded, activation=activation))
        layers.append(unit(expanded, expanded, stage.kernel, stage.stride, expanded, activation))
        if stage.squeeze:
            layers.append(ConcurrentSqueeze(expanded))
        layers.append(unit(expanded, n_out))
        self.block = nn.Sequential(*layers)
        self.residual = stage.stride == 1 and n_in == n_out

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        result = self.block(image)
        return result + image if self.residual else result


class MobileNet(nn.Module):
    """Log-mel (batch, 128, frames) -> logits (batch, 527), embedding (batch, dim).

    The embedding is the mean of the last map, (batch, dim, 4, ceil(frames / 32)), over frequency
    and time. dim is 6 times the last block's channels: 384 at width 0.4.
    """

    def __init__(self, width: float) -> None:
        super().__init__()
        channels = [rounded(STEM * width)] + [rounded(stage.out * width) for stage in STAGES]
        self.dim = 6 * channels[-1]
        blocks = [
            InvertedResidual(n_in, stage, width)
            for n_in, stage in zip(channels[:-1], STAGES, strict=True)
        ]
        self.features = nn.Sequential(
            unit(1, channels[0], kernel=3, stride=2, activation=nn.Hardswish),
            *blocks,
            unit(channels[-1], self.dim, activation=nn.Hardswish),
        )
        hidden = rounded(HIDDEN * width)
        layers = {
            "2": nn.Linear(self.dim, hidden),
            "3": nn.Hardswish(),
            "4": nn.Dropout(0.2),
            "5": nn.Linear(hidden, CLASSES),
        }
        self.classifier = nn.Sequential(OrderedDict(layers))

    def embed(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Embedding (batch, dim) alone."""
        return self.features(log_mel.unsqueeze(1)).mean((2, 3))

    def forward(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedding = self.embed(log_mel)
        return self.classifier(embedding), embedding


def folded(network: nn.Module) -> nn.Module:
    """`network` (eval) with every batch normalisation folded into its convolution, in place.

    The same function to rounding, twice as fast on a CPU in channels-last order; its state_dict
    is no longer the published one.
    """
    for parent in list(network.modules()):
        if isinstance(parent, nn.Sequential) and isinstance(parent[0], nn.Conv2d):
            parent[0] = fuse_conv_bn_eval(parent[0], parent[1])  # type: ignore[arg-type]
            parent[1] = nn.Identity()
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class EfficientAT(Tagger):
    """Teacher `mnXX`, whose width is XX / 10. Its network is folded."""

    def _make_front_end(self) -> KaldiLogMel:
        return KaldiLogMel()

    def _make_network(self) -> MobileNet:
        return MobileNet(int(self.card.name.removeprefix("mn")) / 10)

    def _prepared(self, network: nn.Module) -> nn.Module:
        return folded(network)
