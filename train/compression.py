"""Transformations C that bring a teacher's embedding to the student's width."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from understudy import config
from understudy.errors import ConfigError, unknown


class Compression(nn.Module):
    """(..., teacher channel) -> (..., `n_out`)."""

    def __init__(self, n_out: int) -> None:
        super().__init__()
        self.n_out = n_out


@dataclass(frozen=True, kw_only=True)
class NoSettings:
    """Nothing to set."""


@dataclass(frozen=True, kw_only=True)
class MlpSettings:
    """Settings of `mlp`."""

    hidden: int = 512
    """Width of the hidden layer."""

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ConfigError(f"mlp: wanted hidden of at least 1, found {self.hidden}")


class Nothing(Compression):
    """The embedding as it is, at its own width; no parameters."""

    settings_class = NoSettings

    def __init__(self, teacher_dim: int, student_dim: int, settings: NoSettings) -> None:
        super().__init__(teacher_dim)

    def forward(self, embedding: Tensor) -> Tensor:
        return embedding


class Linear(Compression):
    """One linear layer with bias: the paper's choice."""

    settings_class = NoSettings

    def __init__(self, teacher_dim: int, student_dim: int, settings: NoSettings) -> None:
        super().__init__(student_dim)
        self.linear = nn.Linear(teacher_dim, student_dim)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.linear(embedding)


class Mlp(Compression):
    """Linear, ReLU, linear. The paper found transformations deeper than linear to overfit."""

    settings_class = MlpSettings

    def __init__(self, teacher_dim: int, student_dim: int, settings: MlpSettings) -> None:
        super().__init__(student_dim)
        self.hidden = nn.Linear(teacher_dim, settings.hidden)
        self.linear = nn.Linear(settings.hidden, student_dim)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.linear(self.hidden(embedding).relu())


@dataclass(frozen=True, kw_only=True)
class PcaSettings:
    """Settings of `pca`."""

    whiten: bool = False
    """Give every component unit variance."""


class Pca(Compression):
    """Principal components of the training clips' standardised frames; nothing in it is trained.

    As many as the student has channels, or as the teacher has where those are fewer. They are
    buffers, so a checkpoint keeps them; until `fit` they are zero.
    """

    settings_class = PcaSettings
    components: Tensor

    def __init__(self, teacher_dim: int, student_dim: int, settings: PcaSettings) -> None:
        super().__init__(min(teacher_dim, student_dim))
        self.whiten = settings.whiten
        self.register_buffer("components", torch.zeros(self.n_out, teacher_dim))

    def fit(self, blocks: Iterable[Tensor]) -> None:
        """Sets the components to those of all frames of `blocks`, each (frame, channel), in
        float64. Frames are taken as centred. A component's largest weight is positive."""
        dim = self.components.shape[1]
        scatter, n_frames = torch.zeros(dim, dim, dtype=torch.float64), 0
        for block in blocks:
            frames = block.double().cpu()
            scatter += frames.T @ frames
            n_frames += len(frames)
        variance, axes = torch.linalg.eigh(scatter / max(1, n_frames))
        chosen = axes.T.flip(0)[: self.n_out]
        largest = chosen.gather(1, chosen.abs().argmax(1, keepdim=True))
        chosen = chosen * largest.sign()
        if self.whiten:
            least = torch.finfo(torch.float32).eps * variance[-1]
            scale = variance.flip(0)[: self.n_out, None].clamp(min=least)
            chosen = chosen / scale.clamp(min=torch.finfo(torch.float64).tiny).sqrt()
        self.components.copy_(chosen)

    def forward(self, embedding: Tensor) -> Tensor:
        return embedding @ self.components.T


_KINDS = {"none": Nothing, "linear": Linear, "mlp": Mlp, "pca": Pca}


def names() -> list[str]:
    """Names that `build` knows."""
    return list(_KINDS)


def build(name: str, teacher_dim: int, student_dim: int, **settings: Any) -> Compression:
    """The transformation `name` from `teacher_dim` to `student_dim` channels ("none" keeps them).

    Raises:
        ConfigError: An unknown name or setting; the nearest is named.
    """
    if name not in _KINDS:
        raise ConfigError(unknown("compression", name, _KINDS))
    kind = _KINDS[name]
    parsed = config.from_mapping(kind.settings_class, settings, f"compression {name}")
    return kind(teacher_dim, student_dim, parsed)
