"""Teachers `hear:MODULE`: any installed module of the HEAR benchmark's API.

Its own timestamps are the timeline, unless `window_s` asks for scene embeddings of windows (or of
the "clip"). What it gives is checked: a teacher that breaks the API is refused when it is built,
before a long run. Other modules' embeddings are known only by running them, so a clip's frames,
too, and the store holds the instant of each.
"""

import contextlib
import hashlib
import importlib
import importlib.metadata
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from understudy.errors import ConfigError, DataError, UnderstudyError, WeightsError
from understudy.teachers import weights as weights_files
from understudy.teachers.base import Teacher, Timeline
from understudy.teachers.card import TeacherCard
from understudy.teachers.foreign import FRONT_END, Float32Settings, Waveform
from understudy.teachers.hear_checks import LATE_MS, checked_scenes, checked_timestamps
from understudy.timing import Window, WindowPlan

FUNCTIONS = ("load_model", "get_scene_embeddings", "get_timestamp_embeddings")
SIZES = ("sample_rate", "scene_embedding_size", "timestamp_embedding_size")
PROBE_S = 2.0
LEAST_S = 1.0
"""Shorter clips are continued with zeros up to here: modules differ in what they can take."""
PIECE_S = 60.0
"""Longer clips are given to the module in pieces, to bound its memory."""


@dataclass(frozen=True, kw_only=True)
class HearSettings(Float32Settings):
    """Settings of `hear:MODULE`: what a module itself does not say."""

    licence_weights: str = "not stated by the module"
    training_data: tuple[str, ...] = ()


class HearModule(Teacher):
    """Teacher `hear:MODULE`.

    Args:
        reference: MODULE, as Python imports it ("hear21passt.base").
        weights: A file for the module's `load_model`; None leaves the choice to it.
        device, settings: As of `teachers.build`.

    Raises:
        ConfigError: No such module, or none of the HEAR API.
        WeightsError: It fails to load its model, or its embeddings break the API.
    """

    Settings = HearSettings
    keeps_times = True

    def __init__(
        self, reference: str, weights: Any, device: str, settings: Mapping[str, Any]
    ) -> None:
        self._name = f"hear:{reference}"
        if weights == weights_files.RANDOM:
            raise ConfigError(f"teacher {self._name} makes its weights itself, found 'random'")
        if settings.get("hop_s") is not None and settings.get("window_s") is None:
            raise ConfigError(f"teacher {self._name}: a hop_s wants a window_s")
        self._module = imported(reference)
        path = None if weights is None else str(Path(weights).absolute())
        self._model = loaded(self._module, reference, path)
        self.own_times = settings.get("window_s") is None
        self._instants: dict[int, np.ndarray] = {}
        super().__init__(_card(reference, self._model, self.own_times), None, device, settings)
        options = self.options
        assert isinstance(options, HearSettings)
        self.network = self._model.to(self.device)
        self.spec = replace(self.spec, name=self._name, weights=path)
        facts = {key: getattr(options, key) for key in ("licence_weights", "training_data")}
        self.card = replace(self.card, **facts)
        with contextlib.redirect_stdout(io.StringIO()):  # some tell their shapes at first
            self._probe()

    @staticmethod
    def describe(reference: str) -> TeacherCard:
        """Card of `hear:reference`, whose model is loaded for it."""
        return HearModule(reference, None, "cpu", {}).card

    def _make_front_end(self) -> Waveform:
        return Waveform()

    def _make_network(self) -> None:
        return None  # the module has made it

    def _fill_(self, network: nn.Module | None, weights: Any, seed: int) -> str:
        return state_digest(self._model)

    def _probe(self) -> None:
        """Runs it on noise once, and takes the usual distance of its frames as the hop."""
        rate_hz = self.card.sample_rate
        generator = torch.Generator().manual_seed(0)
        audio = torch.rand(2, round(PROBE_S * rate_hz), generator=generator) - 0.5
        if not self.own_times:
            self.forward(audio)
            return
        centre_s = self._timeline(audio).centre_s
        spacing_s = float(np.diff(centre_s).mean()) if len(centre_s) > 1 else PROBE_S
        self.hop_s = self.window_s = round(spacing_s, 6)
        self.card = replace(self.card, window_s=self.window_s, hop_s=self.hop_s)

    def _embed(self, features: torch.Tensor) -> torch.Tensor:
        found = self._call("get_scene_embeddings", features)
        return checked_scenes(found, len(features), self.card.dim, self._name)

    def _call(self, function: str, audio: torch.Tensor) -> Any:
        try:
            with torch.no_grad():
                return getattr(self._module, function)(audio, self._model)
        except (UnderstudyError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except Exception as error:  # whatever somebody else's code may raise
            raise DataError(
                f"teacher {self._name}: {function} fails for {tuple(audio.shape)} samples "
                f"({type(error).__name__}: {error})"
            ) from error

    def embed(
        self, audio: torch.Tensor, window_s: Window | None = None, hop_s: float | None = None
    ) -> Timeline:
        if not self.own_times:
            return super().embed(audio, window_s, hop_s)
        if (window_s, hop_s) != (None, None):
            raise ConfigError(f"teacher {self._name}: build it with a window_s to have windows")
        audio = self._clips(audio)
        if not audio.shape[1]:
            raise DataError("wanted a clip of at least one sample, found 0")
        with torch.autocast(self.device.type, enabled=False):
            return self._timeline(audio.to(self.device, torch.float32))

    def _timeline(self, audio: torch.Tensor) -> Timeline:
        """The module's timestamps of clips (batch, samples), piece by piece."""
        parts, instants = [], []
        for start, stop in self._pieces(audio.shape[1]):
            embedding, centre_s = self._piece(audio[:, start:stop])
            kept = self._kept(centre_s, stop - start, stop == audio.shape[1])
            parts.append(embedding[:, : len(kept)])
            instants.append(start / self.card.sample_rate + kept)
        return Timeline(embedding=torch.cat(parts, 1), centre_s=np.concatenate(instants))

    def _piece(self, audio: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
        short = max(0, round(LEAST_S * self.card.sample_rate) - audio.shape[1])
        audio = nn.functional.pad(audio, (0, short))
        found = self._call("get_timestamp_embeddings", audio)
        duration_ms = 1000 * audio.shape[1] / self.card.sample_rate
        return checked_timestamps(found, len(audio), self.card.dim, duration_ms, self._name)

    def _pieces(self, n_samples: int) -> list[tuple[int, int]]:
        """(start, stop) of pieces of PIECE_S; the last has LEAST_S more at most, or is shorter."""
        piece, least = (round(s * self.card.sample_rate) for s in (PIECE_S, LEAST_S))
        starts = range(0, max(1, n_samples - least), piece)
        return [(start, min(start + piece, n_samples)) for start in starts[:-1]] + [
            (starts[-1], n_samples)
        ]

    def _kept(self, centre_s: np.ndarray, n_samples: int, last: bool) -> np.ndarray:
        """Of a piece's instants those that the next piece, or the padding, does not have."""
        end_s = n_samples / self.card.sample_rate
        side = "right" if last else "left"
        count = np.searchsorted(centre_s, end_s + LATE_MS / 1000 * last, side)
        return centre_s[: max(1, int(count))]

    def _plan(self, n_samples: int, window_s: Window, hop_s: float) -> WindowPlan:
        if not self.own_times:
            least = 1 if window_s != "clip" else round(LEAST_S * self.card.sample_rate)
            plan = super()._plan(n_samples, window_s, hop_s)
            return replace(plan, length=max(plan.length, least))
        instants = []
        for start, stop in self._pieces(n_samples):
            if stop - start not in self._instants:  # silence will do to see where its frames lie
                silence = torch.zeros(1, stop - start, device=self.device)
                self._instants[stop - start] = self._piece(silence)[1]
            kept = self._kept(self._instants[stop - start], stop - start, stop == n_samples)
            instants.append(start / self.card.sample_rate + kept)
        centre_s = np.concatenate(instants)
        length = max(1, round(self.hop_s * self.card.sample_rate))
        first = np.rint(centre_s * self.card.sample_rate).astype(np.int64) - length // 2
        return WindowPlan(start=first, length=length, centre_s=centre_s)


def imported(name: str) -> ModuleType:
    """The module `name`; ConfigError unless it has the functions of the API."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            module = importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"teacher hear:{name}: cannot be imported ({error})") from None
    missing = [function for function in FUNCTIONS if not callable(getattr(module, function, None))]
    if missing:
        raise ConfigError(f"teacher hear:{name}: wanted {', '.join(FUNCTIONS)}; it lacks "
                          f"{', '.join(missing)}")  # fmt: skip
    return module


def loaded(module: ModuleType, name: str, path: str | None) -> nn.Module:
    """The model of `module` in evaluation mode, its sizes checked."""
    load: Callable[..., Any] = module.load_model
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            model = load() if path is None else load(path)
    except Exception as error:  # whatever somebody else's code may raise
        raise WeightsError(
            f"teacher hear:{name}: load_model fails ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(model, nn.Module):
        raise WeightsError(
            f"teacher hear:{name}: wanted a torch module as model, found {type(model).__name__}"
        )
    for key in SIZES:
        value = getattr(model, key, None)
        if type(value) is not int or value < 1:
            raise WeightsError(f"teacher hear:{name}: wanted an int as {key}, found {value!r}")
    return model.eval().requires_grad_(False)


def state_digest(model: nn.Module) -> str:
    """sha256 over names, types, shapes and bytes of the model's tensors, behind "state:"."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return f"state:{digest.hexdigest()}"


def _card(reference: str, model: nn.Module, own_times: bool) -> TeacherCard:
    package = reference.partition(".")[0]
    version, licence = _distribution(package)
    sizes: dict[str, int] = {key: getattr(model, key) for key in SIZES}
    return TeacherCard(
        name=f"hear:{reference}",
        title=f"{reference}, a module of the HEAR API ({package} {version})",
        version=version,
        licence_code=licence,
        licence_weights=HearSettings.licence_weights,
        training_data=(),
        sample_rate=sizes["sample_rate"],
        dim=sizes["timestamp_embedding_size" if own_times else "scene_embedding_size"],
        window_s=LEAST_S,
        hop_s=LEAST_S,
        min_samples=1,
        chunk_s=PIECE_S,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs_per_s=0.0,
        front_end=FRONT_END + ("; its own timestamps" if own_times else "; scene embeddings"),
        policy=(
            "Clips shorter than 1 s are zero-padded to it, frames beyond their end left out. Clips "
            "beyond 60 s are given to the module in pieces of 60 s, each without a view of the "
            "others; scene embeddings of whole clips are averaged over such pieces. Silence: mask "
            "it. Operations are not counted."
        ),
        citation=f"{package}: see its own documentation",
    )


def _distribution(package: str) -> tuple[str, str]:
    """Version and licence of the package that a module was installed with, as far as known."""
    try:
        facts = importlib.metadata.metadata(package)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version", "not stated"
    stated = [facts[key] for key in ("License-Expression", "License") if key in facts]
    return facts["Version"], (stated or ["not stated"])[0].strip().split("\n")[0][:80]
