"""Teachers `onnx:FILE`: any ONNX model of windows of audio, with a card in FILE.yaml beside it.

    name: birds                # the track is called onnx:birds
    sample_rate: 32000         # Hz, mono
    dim: 1024                  # values per embedding
    window_s: 5.0              # or "clip"
    hop_s: 2.5
    output: embedding          # where the model has several
    licence_code: Apache-2.0
    licence_weights: CC BY-NC 4.0
    training_data: [Xeno-canto]

The model takes float32 (batch, samples) within [-1, 1] and gives float32 (batch, dim). It lies in
FILE alone, whose sha256 is its identity. Further keys: see `OnnxCard`.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from understudy import config
from understudy.errors import ConfigError, WeightsError
from understudy.teachers import weights as weights_files
from understudy.teachers.base import Teacher
from understudy.teachers.card import TeacherCard
from understudy.teachers.foreign import FRONT_END, Float32Settings, Waveform
from understudy.teachers.onnx_network import OnnxNetwork
from understudy.timing import Window, duration_samples


@dataclass(frozen=True, kw_only=True)
class OnnxCard:
    """Keys of FILE.yaml."""

    name: str
    """Letters, digits, ".", "_" and "-"."""
    sample_rate: int
    dim: int
    window_s: Window
    hop_s: float = 0.0
    """By default back to back."""
    licence_code: str
    licence_weights: str
    training_data: tuple[str, ...]
    """Everything the weights have seen; [] if that is nothing."""
    input: str | None = None
    """Name of the model's input, to be certain of it."""
    output: str | None = None
    """Name of the output that is the embedding; may be left out where there is one output."""
    title: str = ""
    version: str = "1"
    front_end: str = FRONT_END
    """Facts worth knowing; part of the identity."""
    policy: str = ""
    citation: str = "none given"
    resampler: str = "soxr_hq"
    storage_dtype: str = "float16"
    min_samples: int = 1
    """Shortest input; shorter clips are padded with zeros."""
    longest_pass_s: float | None = None
    """Longest input; by default the window, or 10 s. Longer clips pass in pieces, averaged."""
    parameters: int = 0
    macs_per_s: float = 0.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", self.name):
            raise ConfigError(f"name: wanted letters, digits, '.', '_' or '-', found '{self.name}'")
        for key in ("sample_rate", "dim", "min_samples"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}: wanted 1 or more, found {getattr(self, key)}")
        if isinstance(self.window_s, str) and self.window_s != "clip":
            raise ConfigError(f"window_s: wanted seconds or 'clip', found '{self.window_s}'")
        if self.storage_dtype not in ("float16", "float32"):
            raise ConfigError(
                f"storage_dtype: wanted float16 or float32, found '{self.storage_dtype}'"
            )


class OnnxFile(Teacher):
    """Teacher `onnx:FILE`.

    Args:
        reference: FILE.
        weights: None: FILE is its own weights.
        device, settings: As of `teachers.build`.

    Raises:
        ConfigError: No FILE.yaml, one that cannot be used, a window the model does not take.
        WeightsError: No FILE, or a model that takes or gives something else.
    """

    Settings = Float32Settings
    keeps_times = True

    def __init__(
        self, reference: str, weights: Any, device: str, settings: Mapping[str, Any]
    ) -> None:
        if weights is not None:
            raise ConfigError(f"teacher onnx:{reference} is its own weights, found '{weights}'")
        path = Path(reference)
        self._described = described(path)
        super().__init__(_card(self._described, path), path, device, settings)
        self.spec = replace(self.spec, name=f"onnx:{path.absolute()}", weights=None)

    @staticmethod
    def describe(reference: str) -> TeacherCard:
        """Card of `onnx:reference`; ConfigError without a usable one."""
        path = Path(reference)
        return _card(described(path), path)

    def _make_front_end(self) -> Waveform:
        return Waveform()

    def _make_network(self) -> nn.Module:
        return nn.Module()  # `_fill_` makes the real one: it comes with its weights

    def _prepared(self, network: nn.Module) -> OnnxNetwork:
        return self._loaded

    def _fill_(self, network: nn.Module | None, weights: Any, seed: int) -> str:
        content, facts = weights_files.contents(weights), self._described
        loaded = OnnxNetwork(content, weights, facts.output)
        if facts.input not in (None, loaded.input):
            raise WeightsError(f"{weights}: wanted input '{facts.input}', found '{loaded.input}'")
        if len(loaded.shape) != 2:
            raise WeightsError(f"{weights}: wanted input (batch, samples), found {loaded.shape}")
        loaded.fixed_batch, fixed_samples = loaded.shape
        samples = self._window_samples()
        if fixed_samples not in (None, samples):
            raise ConfigError(
                f"{weights}: it takes windows of {fixed_samples} samples "
                f"({fixed_samples / facts.sample_rate:g} s), found window_s {self.window_s}"
            )
        n_batch = loaded.fixed_batch or 1
        found = loaded.probe(n_batch, samples)
        if found != (n_batch, facts.dim):
            raise WeightsError(
                f"{weights}: wanted embeddings (batch, dim) = {(n_batch, facts.dim)}, found {found}"
            )
        loaded.settle(facts.dim)
        self._loaded = loaded
        return hashlib.sha256(content).hexdigest()

    def _window_samples(self) -> int:
        window_s = 1.0 if self.window_s == "clip" else self.window_s
        samples = duration_samples(window_s, self._described.sample_rate, "window")
        return max(samples, self._described.min_samples)

    def _embed(self, features: torch.Tensor) -> torch.Tensor:
        assert self.network is not None
        return self.network(features)


def described(path: Path) -> OnnxCard:
    """What FILE.yaml says; ConfigError naming the file and what is wrong with it."""
    beside = path.with_name(path.name + ".yaml")
    try:
        content = yaml.safe_load(beside.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{beside}: wanted a card of the model: name, sample_rate, dim, window_s, "
            f"licence_code, licence_weights, training_data ({error.strerror})"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{beside}: no YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(content, Mapping):
        raise ConfigError(f"{beside}: wanted a mapping, found {type(content).__name__}")
    try:
        return config.from_mapping(OnnxCard, content, str(beside))
    except ConfigError as error:
        where = "" if str(error).startswith(str(beside)) else f"{beside}: "
        raise ConfigError(f"{where}{error}") from None


def _card(facts: OnnxCard, path: Path) -> TeacherCard:
    whole = facts.window_s == "clip"
    window_s = 10.0 if isinstance(facts.window_s, str) else facts.window_s
    longest_s = facts.longest_pass_s or window_s
    pieces = f"Clips beyond {longest_s:g} s: the fewest such pieces that cover them, averaged."
    return TeacherCard(
        name=f"onnx:{facts.name}",
        title=facts.title or f"{facts.name}, an ONNX model",
        version=facts.version,
        licence_code=facts.licence_code,
        licence_weights=facts.licence_weights,
        training_data=facts.training_data,
        sample_rate=facts.sample_rate,
        dim=facts.dim,
        window_s=facts.window_s,
        hop_s=0.0 if whole else facts.hop_s or window_s,
        min_samples=facts.min_samples,
        chunk_s=longest_s,
        parameters=facts.parameters,
        macs_per_s=facts.macs_per_s,
        resampler=facts.resampler,
        front_end=facts.front_end,
        policy=facts.policy
        or f"Clips shorter than a window are zero-padded at the end. {pieces} Silence: not known.",
        citation=facts.citation,
        storage_dtype=facts.storage_dtype,
    )
