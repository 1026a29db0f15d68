"""A student as graphs that run without its code: torch.export programs and ONNX models.

Two entries: "audio", waveforms (batch, samples) to logits, and "log_mel", decibel images (batch,
image, band, frame) to logits, for places that have a front end of their own. Batch and length are
open. The waveform's spectrum is a convolution with windowed sines and cosines: real numbers only,
of operators that every runtime has.
"""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental import _config as symbolic_shapes

from understudy.students.base import Student
from understudy.students.frontend import HOP_SAMPLES, N_BINS, N_FFT
from understudy.teachers.onnx_network import require

if TYPE_CHECKING:
    import onnx
    from torch.export import ExportedProgram

Entry = Literal["audio", "log_mel"]
ENTRIES: tuple[Entry, ...] = ("audio", "log_mel")
AXES = {"audio": {0: "batch", 1: "samples"}, "log_mel": {0: "batch", 3: "frames"}}
_EXAMPLE_SAMPLES = 80_000


class RealFrontEnd(nn.Module):
    """A student's front end, zero-padding included, without complex numbers."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.min_samples = student.min_samples
        self.front_end: Any = student.get_submodule(student.front_end_name)
        phase = 2 * np.pi / N_FFT * np.outer(np.arange(N_BINS), np.arange(N_FFT))
        window = self.front_end.window.double().numpy()
        waves = np.concatenate((np.cos(phase), np.sin(phase))) * window
        self.register_buffer("waves", torch.from_numpy(waves[:, None]).float())

    def forward(self, audio: Tensor) -> Tensor:
        short = torch.sym_max(self.min_samples - audio.shape[1], 0)
        padded = F.pad(audio, (0, cast(int, short))).unsqueeze(1)
        centred = F.pad(padded, (N_FFT // 2, N_FFT // 2), mode="reflect")
        parts = F.conv1d(centred, self.get_buffer("waves"), stride=HOP_SAMPLES)
        power = parts.square().unflatten(1, (2, N_BINS)).sum(1)
        return self.front_end.decibels(power)


class _FromImage(nn.Module):
    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, log_mel: Tensor) -> Tensor:
        return self.student.from_image(log_mel).logits


class _FromAudio(nn.Module):
    def __init__(self, student: Student) -> None:
        super().__init__()
        self.front_end, self.network = RealFrontEnd(student), _FromImage(student)

    def forward(self, audio: Tensor) -> Tensor:
        return self.network(self.front_end(audio))


class _Pool(nn.Module):
    """Maxima of tiles, as nn.MaxPool2d takes them; torch.export fixes the parity of that one."""

    def __init__(self, tile: tuple[int, int]) -> None:
        super().__init__()
        self.tile = tile

    def forward(self, x: Tensor) -> Tensor:
        bands, frames = self.tile
        n_bands, n_frames = x.shape[2] // bands, x.shape[3] // frames
        x = x[:, :, : n_bands * bands, : n_frames * frames]
        return x.unflatten(3, (n_frames, frames)).unflatten(2, (n_bands, bands)).amax((3, 5))


def program(student: Student, entry: Entry) -> "ExportedProgram":
    """torch.export's program of one entry, on the CPU."""
    student = copy.deepcopy(student)
    for module in list(student.modules()):
        for name, part in module.named_children():
            if isinstance(part, nn.MaxPool2d):
                module.add_module(name, _Pool(cast(tuple[int, int], part.kernel_size)))
    return _program(_entry(student, entry), student, entry)


def onnx_parts(student: Student) -> "tuple[onnx.ModelProto, onnx.ModelProto]":
    """ONNX models of the front end, "audio" to "log_mel", and of the network behind it, "log_mel"
    to "logits"; `joined` makes the waveform entry of them.

    Raises:
        ConfigError: onnx or onnxscript is not installed.
    """
    require("onnx", "onnx")
    require("onnxscript", "onnx")
    front = _onnx(_program(RealFrontEnd(student), student, "audio"), "audio", "log_mel")
    network = _program(_entry(student, "log_mel"), student, "log_mel")
    return front, _onnx(network, "log_mel", "logits")


def joined(front: "onnx.ModelProto", network: "onnx.ModelProto") -> "onnx.ModelProto":
    """The waveform entry of a front end ("audio" to "log_mel") and a network behind it."""
    from onnx import compose

    apart = [
        compose.add_prefix(model, prefix, rename_inputs=False, rename_outputs=False)
        for model, prefix in ((front, "front_end/"), (network, "network/"))
    ]
    for model in apart:
        del model.graph.value_info[:]
    result = compose.merge_models(*apart, io_map=[("log_mel", "log_mel")])
    result.producer_name = network.producer_name
    return result


def _entry(student: Student, entry: Entry) -> nn.Module:
    return _FromAudio(student) if entry == "audio" else _FromImage(student)


def _program(module: nn.Module, student: Student, entry: Entry) -> "ExportedProgram":
    dynamic = dict.fromkeys(AXES[entry], torch.export.Dim.DYNAMIC)
    n_samples = max(_EXAMPLE_SAMPLES, student.min_samples)
    example = torch.randn(2, n_samples, generator=torch.Generator().manual_seed(0))
    if entry == "log_mel":
        example = student.front_end(example).detach()
    # Oblivious: nothing is concluded from a size that happens to be, or not to be, 0 or 1.
    with torch.no_grad(), cast(Any, symbolic_shapes).patch(backed_size_oblivious=True):
        result = torch.export.export(module.eval(), (example,), dynamic_shapes=(dynamic,))
    for node in result.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names paths of the machine
    return result


@contextmanager
def _silent_about_torchvision() -> Iterator[None]:
    """No student has torchvision's operators, and yet torch warns of each that it lacks."""

    def wanted(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("torchvision is not installed")

    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    log.addFilter(wanted)
    try:
        yield
    finally:
        log.removeFilter(wanted)


def _onnx(program: "ExportedProgram", entry: Entry, output: str) -> "onnx.ModelProto":
    with warnings.catch_warnings(), _silent_about_torchvision():
        warnings.simplefilter("ignore")  # of torch about its own internals
        exported = torch.onnx.export(
            program, input_names=[entry], output_names=[output], dynamo=True, verbose=False
        )
    model = cast("onnx.ModelProto", cast(Any, exported).model_proto)
    del model.graph.value_info[:]  # what follows infers shapes anew, under names of its own
    for axis, name in AXES[entry].items():
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    shape = model.graph.output[0].type.tensor_type.shape
    shape.dim[0].dim_param = "batch"
    if output == "log_mel":
        shape.dim[3].dim_param = "frames"
    for holder in (model, model.graph, *model.graph.input, *model.graph.output, *model.graph.node):
        del holder.metadata_props[:]  # they name paths of the machine
    return model
