"""MULE's network SF-NFNet-F0, and the teacher `mule` (McCallum et al., arXiv:2210.03799).

Two NFNets side by side: a slow one of many channels and few frames, a fast one of few channels
and many frames, which feeds into the slow one before every stage. Own implementation from the
facts of the papers (arXiv:2210.03799, arXiv:2111.12124, arXiv:2102.06171) and of the published
weights' shapes; `mule_keras` maps the names of those to the names here.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, gelu, pad

from understudy.errors import ConfigError, WeightsError
from understudy.teachers import library, mule_keras
from understudy.teachers import weights as weights_files
from understudy.teachers.base import Teacher, TeacherSettings
from understudy.teachers.mule_frontend import SLICE_HOP_S, SLICE_S, SliceLogMel, slice_plan
from understudy.timing import Window, WindowPlan

GELU_GAIN = 1.7015043497085571
"""Makes GELU keep the variance of a standard normal variable."""

DEPTHS = (1, 2, 6, 3)
POOLS = (1, 2, 2, 2)
"""Of each stage: its blocks, and the factor by which its first one thins out frequency."""
SLOW_IN, SLOW_OUT, SLOW_GROUP = (256, 512, 1024, 4608), (256, 512, 1536, 1536), 128
FAST_IN, FAST_OUT, FAST_GROUP = (16, 32, 64, 192), (32, 64, 192, 192), 16
THINNED, FUSED = (32, 32, 64, 192), (128, 256, 512, 3072)
"""Channels of the fast network's map on its way into each slow stage."""
RESIDUAL_SHARE = 0.2


class StandardisedConv(nn.Module):
    """Convolution whose kernels have mean 0 and norm `gain`, padded as TensorFlow's SAME.

    SAME gives ceil(n / stride) outputs, and the odd one of the zeros it takes comes behind. Kernels
    are (frequency, time). The input is multiplied by `scale` first, in effect: it is put into the
    kernels, so that activations need no scaling of their own.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: tuple[int, int] = (1, 1),
        stride: tuple[int, int] = (1, 1),
        group: int | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.stride, self.scale = stride, scale
        self.groups = 1 if group is None else n_in // group
        self.weight = nn.Parameter(torch.empty(n_out, n_in // self.groups, *kernel))
        self.gain: nn.Parameter | None = nn.Parameter(torch.empty(n_out))
        self.bias = nn.Parameter(torch.empty(n_out))

    def kernels(self) -> torch.Tensor:
        """Kernels (n_out, n_in / groups, frequency, time) that are convolved with."""
        if self.gain is None:
            return self.weight
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), correction=0, keepdim=True)
        norm = (variance * self.weight[0].numel()).clamp(min=1e-4).sqrt()
        return (self.weight - mean) * (self.scale * self.gain[:, None, None, None] / norm)

    def fold_(self) -> None:
        """Replaces weight and gain by the kernels, for good."""
        self.weight = nn.Parameter(self.kernels(), requires_grad=False)
        self.gain = None

    def random_(self, generator: torch.Generator) -> None:
        """Random weights that keep the variance of GELU's output."""
        assert self.gain is not None
        nn.init.normal_(self.weight, generator=generator)
        nn.init.ones_(self.gain)
        nn.init.zeros_(self.bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        before, after = [], []
        for n, kernel, stride in zip(
            image.shape[2:], self.weight.shape[2:], self.stride, strict=True
        ):
            total = max((-(-n // stride) - 1) * stride + kernel - n, 0)
            before.append(total // 2)
            after.append(total - total // 2)
        if before != after:
            image = pad(image, (before[1], after[1], before[0], after[0]))
            before = [0, 0]
        return conv2d(image, self.kernels(), self.bias, self.stride, before, 1, self.groups)


class Block(nn.Module):
    """Bottleneck with grouped convolutions along time and frequency, and a gate per channel.

    A stage's first block (`first`) changes channels, and frequency by a factor `pool`; the skip
    of the others is their input. `spread` is the standard deviation that the input is expected
    to have, which is divided out.
    """

    def __init__(
        self, n_in: int, n_out: int, group: int, pool: int, first: bool, spread: float
    ) -> None:
        super().__init__()
        half, scale = n_out // 2, GELU_GAIN / spread
        self.pool = pool
        self.conv1 = StandardisedConv(n_in, half, scale=scale)
        self.conv2 = StandardisedConv(half, half, (1, 3), (pool, 1), group, GELU_GAIN)
        self.conv3 = StandardisedConv(half, half, (3, 1), (1, 1), group, GELU_GAIN)
        self.conv4 = StandardisedConv(half, n_out, scale=GELU_GAIN)
        self.squeeze = nn.Linear(n_out, half)
        self.excite = nn.Linear(half, n_out)
        self.gain = nn.Parameter(torch.empty(()))
        self.skip = StandardisedConv(n_in, n_out, scale=scale) if first else None

    def random_(self, _: torch.Generator) -> None:
        """A gain that lets the residual count: it is 0 before training."""
        nn.init.ones_(self.gain)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        active = gelu(image)
        if self.skip is not None:
            pooled = active if self.pool == 1 else avg_pool2d(active, (self.pool, 1))
            image = self.skip(pooled)
        residual = gelu(self.conv1(active))
        residual = gelu(self.conv3(gelu(self.conv2(residual))))
        residual = self.conv4(residual)
        gate = self.excite(torch.relu(self.squeeze(residual.mean((2, 3))))).sigmoid()
        gate = (2 * RESIDUAL_SHARE * self.gain) * gate
        return torch.addcmul(image, residual, gate[:, :, None, None])


class Fusion(nn.Module):
    """What the fast network passes to the slow one: its map, 4 times coarser in time."""

    def __init__(self, n_in: int, n_thinned: int, n_out: int) -> None:
        super().__init__()
        self.thin = StandardisedConv(n_in, n_thinned, (1, 7), (1, 4))
        self.mix = StandardisedConv(n_thinned, n_out)

    def forward(self, fast: torch.Tensor) -> torch.Tensor:
        return self.mix(self.thin(fast))


class Stem(nn.Sequential):
    """Four convolutions with GELUs between them."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        first, *others = self
        image = first(input)
        for conv in others:
            image = conv(gelu(image))
        return image


class SlowFastNFNet(nn.Module):
    """Slices (batch, 96 mel, time) -> embeddings (batch, 1728); 300 frames in its training.

    1536 values are the slow network's last map averaged over frequency and time, 192 the fast
    one's; both after a GELU, so that none is below -0.2893.
    """

    def __init__(self) -> None:
        super().__init__()
        gain = GELU_GAIN
        self.slow_stem = Stem(
            StandardisedConv(1, 16, (3, 1), (2, 8)),
            StandardisedConv(16, 32, (3, 1), scale=gain),
            StandardisedConv(32, 64, (3, 1), scale=gain),
            StandardisedConv(64, 128, (3, 3), (2, 2), scale=gain),
        )
        self.fast_stem = Stem(
            StandardisedConv(1, 2, (3, 3), (2, 2)),
            StandardisedConv(2, 4, (3, 3), scale=gain),
            StandardisedConv(4, 8, (3, 3), scale=gain),
            StandardisedConv(8, 16, (3, 3), (2, 2), scale=gain),
        )
        self.slow = _stages(SLOW_IN, SLOW_OUT, SLOW_GROUP)
        self.fast = _stages(FAST_IN, FAST_OUT, FAST_GROUP)
        self.fuse = nn.ModuleList(map(Fusion, FAST_IN, THINNED, FUSED))

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        image = log_mel.unsqueeze(1)
        slow, fast = self.slow_stem(image), self.fast_stem(image)
        for fuse, slow_stage, fast_stage in zip(self.fuse, self.slow, self.fast, strict=True):
            slow = slow_stage(torch.cat([slow, fuse(fast)], 1))
            fast = fast_stage(fast)
        return GELU_GAIN * gelu(torch.cat([slow.mean((2, 3)), fast.mean((2, 3))], 1))


def _stages(n_in: tuple[int, ...], n_out: tuple[int, ...], group: int) -> nn.ModuleList:
    stages = nn.ModuleList()
    for place, (channels, n, depth, pool) in enumerate(
        zip(n_in, n_out, DEPTHS, POOLS, strict=True)
    ):
        first_variance = 1.0 if place == 0 else 1 + RESIDUAL_SHARE**2
        spreads = [math.sqrt(first_variance + k * RESIDUAL_SHARE**2) for k in range(depth)]
        first = Block(channels, n, group, pool, True, spreads[0])
        stages.append(
            nn.Sequential(first, *(Block(n, n, group, 1, False, spread) for spread in spreads[1:]))
        )
    return stages


@dataclass(frozen=True, kw_only=True)
class MuleSettings(TeacherSettings):
    """Settings of teacher `mule`."""

    source_channels: int = 1
    """Channels that the recordings had: MULE adds them up and halves the sum, we average them."""


class Mule(Teacher):
    """Teacher `mule`. Its own timing gives the slices that MULE takes, see `slice_plan`."""

    Settings = MuleSettings
    options: MuleSettings

    def _make_front_end(self) -> SliceLogMel:
        if self.options.source_channels < 1:
            raise ConfigError(
                f"teacher mule: wanted source_channels of at least 1, "
                f"found {self.options.source_channels}"
            )
        return SliceLogMel(self.options.source_channels / 2)

    def _make_network(self) -> SlowFastNFNet:
        return SlowFastNFNet()

    def _fill_(self, network: nn.Module | None, weights: Any, seed: int) -> str:
        if weights == weights_files.RANDOM:
            return super()._fill_(network, weights, seed)
        assert isinstance(network, SlowFastNFNet)
        path = library.locate(self.card, weights)
        content = weights_files.contents(path)
        weights_files.fill_(network, _state(network, content, path), path)
        return hashlib.sha256(content).hexdigest()

    def _prepared(self, network: nn.Module) -> nn.Module:
        for module in network.modules():
            if isinstance(module, StandardisedConv):
                module.fold_()
        return network

    def _embed(self, features: torch.Tensor) -> torch.Tensor:
        assert self.network is not None
        return self.network(features)

    def _plan(self, n_samples: int, window_s: Window, hop_s: float) -> WindowPlan:
        slices = slice_plan(n_samples) if _is_own(window_s, hop_s) else None
        return slices or super()._plan(n_samples, window_s, hop_s)

    def identity(self) -> dict[str, Any]:
        facts = super().identity()
        if self.options.source_channels != MuleSettings.source_channels:
            settings = {"source_channels": self.options.source_channels}
            facts["settings"] = facts.get("settings", {}) | settings
        return facts | ({"grid": "centred"} if _is_own(self.window_s, self.hop_s) else {})


def _is_own(window_s: Window, hop_s: float) -> bool:
    return (window_s, hop_s) == (SLICE_S, SLICE_HOP_S)


def _state(network: SlowFastNFNet, content: bytes, path: Path) -> dict[str, torch.Tensor]:
    """State_dict of `network` in a published Keras file or a safetensors file."""
    try:
        if path.suffix == ".safetensors":
            return load_safetensors(content)
        convs = [k for k, part in network.named_modules() if isinstance(part, StandardisedConv)]
        blocks = [k for k, part in network.named_modules() if isinstance(part, Block)]
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        return mule_keras.read(content, convs, blocks, list(_chains(network)), shapes)
    except (WeightsError, SafetensorError) as error:
        raise WeightsError(f"{path}: {error}") from None


def _chains(network: SlowFastNFNet) -> Iterator[list[str]]:
    """Modules with weights, by name, of which each computes on what the one before gives."""
    for name, module in network.named_modules():
        if isinstance(module, Stem | Fusion):
            yield [f"{name}.{part}" for part, _ in module.named_children()]
        elif isinstance(module, Block):
            convs = [f"{name}.conv{k}" for k in range(1, 5)]
            yield [*convs, f"{name}.squeeze", f"{name}.excite", name]
