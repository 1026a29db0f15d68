"""What every student shares: front end, layers, pooling, classifier, time grid, checkpoints."""

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy import config
from understudy.errors import ConfigError, WeightsError
from understudy.students.frontend import HOP_SAMPLES, RATE_HZ, FrontEnd

Task = Literal["multi-label", "single-label"]


class StudentOutput(NamedTuple):
    """What a student says about a batch of audio."""

    logits: Tensor
    """(batch, label), before any sigmoid or softmax."""
    feature_map: Tensor
    """(batch, step, channel): the last layer's map at the student's `tap`."""


@dataclass(frozen=True, kw_only=True)
class StudentSettings:
    """Settings common to all students."""

    width: int = 128
    """Channels of the first layers; later ones are multiples of it."""
    tap: Literal["post", "pre"] = "post"
    """Where the feature map is read: after the last layer's ReLU, or before it."""
    dropout: float = 0.5
    """Probability, before the last linear layer."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"width: wanted at least 1, found {self.width}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout: wanted 0 to below 1, found {self.dropout}")


class Student(nn.Module):
    """Decibel image -> normalisation -> layers -> maximum over time -> two linear layers.

    Layers return their map *before* their last ReLU, and the ReLU is applied here (it commutes
    with max pooling), so that the map is at hand on both sides of it.

    Parameter names equal those of minzwon/sota-music-tagging-models, so its checkpoints load.

    Attributes:
        n_classes: Number of labels.
        label_names, task: What its logits stand for, where it comes from a run or an export.
        channels: Of its feature map and of its embeddings.
    """

    name: ClassVar[str]
    settings_class: ClassVar[type[StudentSettings]] = StudentSettings
    front_end_name: ClassVar[str]
    front_end_class: ClassVar[type[FrontEnd]]
    sample_rate: ClassVar[int] = RATE_HZ
    input_samples: ClassVar[int]
    """Length of a training crop."""
    min_samples: ClassVar[int]
    """Shorter audio is padded with zeros at its end up to this length."""
    frames_per_step: ClassVar[int]
    first_centre_frames: ClassVar[int]
    """Centre of step 0, in frames from the start."""

    def __init__(self, n_classes: int, **settings: Any) -> None:
        super().__init__()
        parsed = config.from_mapping(self.settings_class, settings, f"student {self.name}")
        self.n_classes = n_classes
        self.label_names: tuple[str, ...] = ()
        self.task: Task = "multi-label"
        self.settings: dict[str, Any] = config.to_mapping(parsed)
        self.tap = parsed.tap
        front_end = self.front_end_class()
        layers = self._layers(parsed, front_end.n_images)
        self.channels = layers[-1].n_out
        self.add_module(self.front_end_name, front_end)
        self.add_module(f"{self.front_end_name}_bn", nn.BatchNorm2d(front_end.n_images))
        self._layer_names = [f"layer{i}" for i in range(1, len(layers) + 1)]
        for layer_name, layer in zip(self._layer_names, layers, strict=True):
            self.add_module(layer_name, layer)
        self.dense1 = nn.Linear(self.channels, self.channels)
        self.bn = nn.BatchNorm1d(self.channels)
        self.dropout = nn.Dropout(parsed.dropout)
        self.dense2 = nn.Linear(self.channels, n_classes)

    def _layers(self, settings: Any, n_images: int) -> "Sequence[Layer]":
        raise NotImplementedError

    @classmethod
    def _n_steps(cls, n_frames: int) -> int:
        raise NotImplementedError

    def forward(self, audio: Tensor) -> StudentOutput:
        """Logits and feature map of `audio`, (batch, samples) float in [-1, 1] or int16."""
        return self.from_image(self.front_end(audio))

    def from_image(self, log_mel: Tensor) -> StudentOutput:
        """Logits and feature map of a decibel image (batch, image, band, frame)."""
        activation = self.forward_features(log_mel)
        rectified = activation.relu()
        feature_map = activation if self.tap == "pre" else rectified
        return StudentOutput(self.classify(rectified), feature_map)

    def front_end(self, audio: Tensor) -> Tensor:
        """Decibel image (batch, image, band, frame) of `audio`, float32 even under autocast."""
        if audio.ndim != 2:
            raise ConfigError(
                f"student {self.name}: wanted audio (batch, samples), found {tuple(audio.shape)}"
            )
        missing = self.min_samples - audio.shape[1]
        if missing > 0:
            audio = F.pad(audio, (0, missing))
        return self.get_submodule(self.front_end_name)(audio)

    def forward_features(self, log_mel: Tensor) -> Tensor:
        """The last layer's map before its ReLU, (batch, step, channel), of a decibel image."""
        x = log_mel.to(self.dense1.weight.dtype)
        x = self.get_submodule(f"{self.front_end_name}_bn")(x)
        for i, name in enumerate(self._layer_names):
            x = self.get_submodule(name)(x.relu() if i else x)
        return x.squeeze(2).transpose(1, 2)

    def classify(self, rectified: Tensor) -> Tensor:
        """Logits (batch, label) of the last layer's map after its ReLU (batch, step, channel)."""
        return self.dense2(self.dropout(self._pooled(rectified)))

    def embed(self, audio: Tensor) -> Tensor:
        """What the last linear layer reads of `audio` (batch, samples): (batch, channel)."""
        return self._pooled(self.forward_features(self.front_end(audio)).relu())

    def _pooled(self, rectified: Tensor) -> Tensor:
        return self.bn(self.dense1(rectified.amax(1))).relu()

    @classmethod
    def n_steps(cls, n_samples: int) -> int:
        """Steps of the feature map of `n_samples` samples."""
        return cls._n_steps(1 + max(n_samples, cls.min_samples) // HOP_SAMPLES)

    @classmethod
    def step_centres(cls, n_samples: int) -> np.ndarray:
        """Centres of the steps, (step,) float64, in seconds from the start of the audio."""
        return _seconds(cls._centre_frames(n_samples))

    @classmethod
    def step_spans(cls, n_samples: int) -> tuple[np.ndarray, np.ndarray]:
        """Start and end of each step, two (step,) float64 in seconds: half a step to both sides
        of its centre. They adjoin, and may begin before the audio or end apart from its end."""
        centre = cls._centre_frames(n_samples)
        half = cls.frames_per_step // 2
        return _seconds(centre - half), _seconds(centre + half)

    @classmethod
    def _centre_frames(cls, n_samples: int) -> np.ndarray:
        return np.arange(cls.n_steps(n_samples)) * cls.frames_per_step + cls.first_centre_frames

    def load_published(self, source: str | Path | Mapping[str, Tensor]) -> None:
        """Loads a published checkpoint: a state_dict, or a `.pth` or `.safetensors` file of one.

        Front-end constants in it are ignored, whatever their shape. Files are never unpickled
        beyond plain tensors.

        Raises:
            WeightsError: A file that cannot be read, or tensors of another network.
        """
        where = f"{source}" if isinstance(source, (str, Path)) else "the state_dict"
        state = _read_state(Path(source)) if isinstance(source, (str, Path)) else source
        wanted = {key: tuple(value.shape) for key, value in self.state_dict().items()}
        constants = {f"{self.front_end_name}.{key}" for key in self.front_end_class.published}
        found = {k: tuple(v.shape) for k, v in state.items() if k not in constants}
        if absent := sorted(wanted.keys() - found.keys()):
            raise WeightsError(f"{where}: no tensor {_some(absent)}, wanted by {self.name}")
        if extra := sorted(found.keys() - wanted.keys()):
            raise WeightsError(f"{where}: {self.name} has no tensor {_some(extra)}")
        for key, shape in wanted.items():
            if found[key] != shape:
                raise WeightsError(
                    f"{where}: {key} is {found[key]}, wanted {shape}"
                    f" by {self.name} with {self.settings}, {self.n_classes} classes"
                )
        self.load_state_dict(dict(state))


class Layer(nn.Module):
    """One layer: an image after a ReLU (the first: normalised decibels) to one before its ReLU."""

    n_out: int
    """Channels of the result."""


_UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
    safetensors.SafetensorError,
)


def _seconds(frames: np.ndarray) -> np.ndarray:
    return frames * HOP_SAMPLES / RATE_HZ


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(keys[:3]) + more


def _read_state(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = next(iter(str(error).splitlines()), "it is empty")
        raise WeightsError(f"{path}: not a readable checkpoint ({reason})") from None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path}: wanted a state_dict of tensors, found {type(state).__name__}")
    return state
