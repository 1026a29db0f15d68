"""The protocol of all teachers: windows in, embeddings out, on a timeline."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from understudy import config
from understudy.errors import ConfigError, DataError
from understudy.teachers import library
from understudy.teachers import weights as weights_files
from understudy.teachers.card import TeacherCard, TeacherSettings, TeacherSpec
from understudy.timing import (
    Window,
    WindowPlan,
    covering_starts,
    duration_samples,
    plan_windows,
)

BATCH_S = 120
"""Audio that `embed` gives to one call of `forward`, seconds. Bounds memory on long clips."""

CPU_PASS_SAMPLES = 1_000_000
"""Samples in one pass on a CPU: 16 windows of mn04. Larger passes outgrow its caches."""


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Embeddings of clips of equal length."""

    embedding: torch.Tensor
    """float32 (batch, time, dim), on the teacher's device."""
    centre_s: np.ndarray
    """Instants the embeddings stand for, seconds from the clip's start, float64 (time,)."""


class Teacher(ABC):
    """A fixed function from windows of audio to embeddings.

    Attributes:
        card: Its facts.
        front_end: Module from (batch, samples) to what the network takes.
        network: The network with its weights, or None.
        window_s, hop_s: Timing in force.
        precision, compiled: How the network computes.
        weights_sha256: sha256 of the weights file, "random:SEED", or "none" without weights.
        spec: What it takes to build this teacher elsewhere.
    """

    front_end: nn.Module
    network: nn.Module | None
    window_s: Window
    hop_s: float
    Settings: type[TeacherSettings] = TeacherSettings
    """What `teachers.build` takes; kept in `options`."""
    keeps_times: bool = False
    """Whether stores hold the instant of every frame, beside what the timing says of them."""
    own_times: bool = False
    """Whether frames lie where the teacher puts them: it embeds whole clips, not windows."""
    hear_padding: Literal["constant", "reflect"] = "constant"
    """What `centred` takes to lie beyond a clip's ends: zeros, or the clip mirrored."""

    def __init__(
        self, card: TeacherCard, weights: Any, device: str, settings: Mapping[str, Any]
    ) -> None:
        options = config.from_mapping(self.Settings, settings, f"teacher {card.name}")
        self.options = options
        self.card = card
        self.window_s, self.hop_s = self._timing(
            options.window_s, options.hop_s, card.window_s, card.hop_s
        )
        target = _device(device)
        self.front_end = self._make_front_end().to(target).eval()
        with torch.device("meta"):  # no draw on the global generator, no weights made in vain
            network = self._make_network()
        if network is not None:
            network = network.to_empty(device="cpu").eval().requires_grad_(False)
        self.weights_sha256 = self._fill_(network, weights, options.seed)
        self.network = None if network is None else self._prepared(network).to(target)
        self.precision, self.compiled = options.precision, options.compile
        if self.network is None and (self.compiled or self.precision != "float32"):
            raise ConfigError(f"teacher {card.name}: precision and compile want a torch network")
        if self.network is not None and self.precision == "bfloat16":
            for module in self.network.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):  # cast once, not in every pass
                    module.to(torch.bfloat16)
        self._run = torch.compile(self._embed) if self.compiled else self._embed
        given = None if network is None or weights is None else str(weights)
        if given not in (None, weights_files.RANDOM):
            given = str(Path(given).absolute())
        self.spec = TeacherSpec(
            name=card.name,
            weights=given,
            settings=dict(settings),
            weights_sha256=self.weights_sha256,
        )

    @abstractmethod
    def _make_front_end(self) -> nn.Module:
        """Front end, its constants in buffers."""

    @abstractmethod
    def _make_network(self) -> nn.Module | None:
        """Network without meaningful weights (it is made on the meta device), or None."""

    def _state(self, content: Mapping[Any, Any]) -> Any:
        """The network's state_dict, in what its file of weights holds."""
        return content

    def _prepared(self, network: nn.Module) -> nn.Module:
        """The form of `network`, weights in it, that is computed with."""
        return network

    def _embed(self, features: torch.Tensor) -> torch.Tensor:
        """Embeddings (batch, dim) of what the front end gives; without a network just that."""
        return features

    def _pass(self, windows: torch.Tensor) -> torch.Tensor:
        """Embeddings (batch, dim) of windows (batch, samples) that the card lets pass whole."""
        return self._compute(self._run, windows)

    def _compute(
        self, network: Callable[[torch.Tensor], torch.Tensor], windows: torch.Tensor
    ) -> torch.Tensor:
        """`network` at the teacher's precision, on the front end's features of windows."""
        features = self.front_end(windows)
        half = self.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            return network(features).float()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.front_end.buffers()).device

    def plan(self, n_samples: int) -> WindowPlan:
        """Windows of a clip of `n_samples` at the card's rate: a function of the timing alone."""
        return self._plan(n_samples, self.window_s, self.hop_s)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Embeds windows, possibly of many clips, in one call.

        Args:
            windows: Float (batch, samples) within [-1, 1], at the card's sample rate.

        Returns:
            float32 (batch, dim) on the teacher's device, without gradient.
        """
        n_samples = windows.shape[-1]
        if n_samples < self.card.min_samples:
            raise DataError(
                f"teacher {self.card.name}: wanted windows of at least {self.card.min_samples} "
                f"samples, found {n_samples}"
            )
        device = self.device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            windows = windows.to(device, torch.float32)
            on_cpu = device.type == "cpu"
            step = max(1, CPU_PASS_SAMPLES // n_samples) if on_cpu else len(windows)
            return torch.cat([self._average(part) for part in windows.split(step)])

    def _average(self, windows: torch.Tensor) -> torch.Tensor:
        """Embeddings (batch, dim): of windows too long to pass whole, the mean over chunks."""
        starts, length = self.passes(windows.shape[-1])
        if len(starts) == 1:
            return self._pass(windows)
        passes = [self._pass(windows[:, start : start + length]) for start in starts.tolist()]
        return torch.stack(passes).mean(0)

    def passes(self, n_samples: int) -> tuple[np.ndarray, int]:
        """Starts, int64, and length of the passes whose mean embeds a window of `n_samples`."""
        if n_samples <= duration_samples(self.card.whole_s, self.card.sample_rate):
            return np.zeros(1, np.int64), n_samples
        length = duration_samples(self.card.chunk_s, self.card.sample_rate)
        return covering_starts(n_samples, length), length

    def embed(
        self, audio: torch.Tensor, window_s: Window | None = None, hop_s: float | None = None
    ) -> Timeline:
        """Embeds clips of equal length.

        Args:
            audio: Float (batch, samples) or (samples,) within [-1, 1], at the card's rate.
            window_s: Window in seconds; "clip" for one embedding of the whole clip; None for the
                teacher's own timing.
            hop_s: Hop in seconds; by default the teacher's, or back to back with window_s given.

        Raises:
            DataError: Audio of another type or shape, or without samples.
            ConfigError: A timing that cannot be.
        """
        audio = self._clips(audio)
        window_s, hop_s = self._timing(window_s, hop_s, self.window_s, self.hop_s)
        plan = self._plan(audio.shape[-1], window_s, hop_s)
        return Timeline(embedding=self.embed_windows(audio, plan), centre_s=plan.centre_s)

    def _clips(self, audio: torch.Tensor) -> torch.Tensor:
        """`audio` with its batch axis; DataError for audio of another type or shape."""
        audio = torch.as_tensor(audio)
        if not audio.is_floating_point() or audio.dim() not in (1, 2):
            raise DataError(
                f"wanted float audio (batch, samples), found {audio.dtype} {tuple(audio.shape)}"
            )
        return torch.atleast_2d(audio)

    def embed_windows(self, audio: torch.Tensor, plan: WindowPlan) -> torch.Tensor:
        """Embeddings (batch, time, dim) of the planned windows of audio (batch, samples)."""
        if plan.mirrored:
            audio = nn.functional.pad(audio, (plan.mirrored, plan.mirrored), "reflect")
        n_missing = int(plan.start[-1]) + plan.length - audio.shape[-1] - plan.silent
        audio = nn.functional.pad(audio, (plan.silent, max(0, n_missing)))
        places = [(clip, int(start)) for clip in range(len(audio)) for start in plan.start]
        step = max(1, BATCH_S * self.card.sample_rate // plan.length)
        embedding = torch.empty(len(places), self.card.dim, device=self.device)
        for first in range(0, len(places), step):
            windows = [audio[c, s : s + plan.length] for c, s in places[first : first + step]]
            embedding[first : first + step] = self.forward(torch.stack(windows))
        return embedding.view(len(audio), plan.n, self.card.dim)

    def scene(self, audio: torch.Tensor) -> torch.Tensor:
        """One embedding of each whole clip, (batch, dim), by the rules of HEAR's scenes."""
        return self.embed(audio, window_s="clip").embedding[:, 0]

    def centred(self, audio: torch.Tensor, window_s: float, hop_s: float) -> Timeline:
        """Embeddings about the instants i * hop_s up to the clips' ends, as HEAR's timestamps.

        Each is of the window_s around its instant, in clips (batch, samples) continued at both
        ends by `hear_padding`; a clip of at most half a window cannot be mirrored, and zeros
        surround it.
        """
        rate_hz = self.card.sample_rate
        length = duration_samples(window_s, rate_hz, "window")
        mode = self.hear_padding if audio.shape[-1] > length // 2 else "constant"
        padded = nn.functional.pad(audio, (length // 2, length - length // 2), mode)
        plan = plan_windows(padded.shape[-1], rate_hz, window_s, hop_s)
        return Timeline(
            embedding=self.embed_windows(padded, plan), centre_s=np.arange(plan.n) * hop_s
        )

    def identity(self) -> dict[str, Any]:
        """What its embeddings depend on; enters the identity of a cache."""
        facts = {
            "name": self.card.name,
            "version": self.card.version,
            "weights_sha256": self.weights_sha256,
            "sample_rate": self.card.sample_rate,
            "resampler": self.card.resampler,
            "front_end": self.card.front_end,
            "window_s": self.window_s,
            "hop_s": self.hop_s,
            "dim": self.card.dim,
            "precision": self.precision,
        }
        facts |= {"grid": "stored"} if self.keeps_times else {}
        return facts | ({"settings": {"compile": True}} if self.compiled else {})

    def _plan(self, n_samples: int, window_s: Window, hop_s: float) -> WindowPlan:
        plan = plan_windows(n_samples, self.card.sample_rate, window_s, hop_s)
        return replace(plan, length=max(plan.length, self.card.min_samples))

    def _timing(
        self, window_s: Window | None, hop_s: float | None, own_window_s: Window, own_hop_s: float
    ) -> tuple[Window, float]:
        if window_s is None:
            window_s, hop_s = own_window_s, own_hop_s if hop_s is None else hop_s
        if window_s == "clip":
            if hop_s:
                raise ConfigError(
                    f"wanted one embedding per clip, or a window to a hop of {hop_s:g} s"
                )
            return "clip", 0.0
        if isinstance(window_s, str):
            raise ConfigError(f"wanted a window in seconds or 'clip', found '{window_s}'")
        hop_s = window_s if hop_s is None else hop_s
        rate_hz, named = self.card.sample_rate, f"for teacher {self.card.name}"
        length = duration_samples(window_s, rate_hz, f"window {named}")
        duration_samples(hop_s, rate_hz, f"hop {named}")
        if length < self.card.min_samples:
            raise ConfigError(
                f"teacher {self.card.name}: wanted a window of at least {self.card.min_samples} "
                f"samples at {rate_hz} Hz, found {window_s:g} s"
            )
        return window_s, hop_s

    def _fill_(self, network: nn.Module | None, weights: Any, seed: int) -> str:
        if network is None:
            if weights not in (None, weights_files.RANDOM):
                raise ConfigError(f"teacher {self.card.name} has no weights, found '{weights}'")
            return "none"
        if weights == weights_files.RANDOM:
            return weights_files.random_(network, seed)
        return weights_files.load_(network, library.locate(self.card, weights), self._state)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"device '{name}' cannot be used here: {reason}") from None
    return device
