"""DisCogs: an EfficientNet trained to tell artists apart (Alonso-Jimenez et al., ISMIR 2022).

The published ONNX file runs as it is, but for its surface: it takes batches of 64 only and gives a
projection of 512 values. Here the batch is left open, and the 1280 values that are projected, the
embedding, become an output.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from understudy.errors import WeightsError
from understudy.teachers import library
from understudy.teachers import weights as weights_files
from understudy.teachers.base import Teacher, Timeline
from understudy.teachers.card import TeacherCard
from understudy.teachers.discogs_frontend import (
    BANDS,
    FRAME,
    HOP,
    LEAD,
    PATCH_FRAMES,
    PATCH_S,
    PATCH_SAMPLES,
    RATE_HZ,
    MusicnnLogMel,
    n_frames,
    patches,
)
from understudy.teachers.foreign import Float32Settings
from understudy.teachers.onnx_network import OnnxNetwork, require
from understudy.timing import Window, WindowPlan, frame_centres, plan_windows

EXTRA = "discogs"
MATRIX_PRODUCTS = ("Gemm", "MatMul")
STAND_IN = "stand-in: EfficientNet-B0 with random weights, not the published network"


class Discogs(Teacher):
    """Teacher `discogs`. With weights="random" its network is a stand-in, and its card says so."""

    Settings = Float32Settings

    def __init__(
        self, card: TeacherCard, weights: Any, device: str, settings: Mapping[str, Any]
    ) -> None:
        super().__init__(card, weights, device, settings)
        self.stand_in = weights == weights_files.RANDOM
        if self.stand_in:
            self.card = replace(
                card,
                title=f"{card.title} ({STAND_IN})",
                licence_weights="none (random weights)",
                training_data=(),
                url=None,
                weights_bytes=None,
            )

    def identity(self) -> dict[str, Any]:
        return super().identity() | ({"settings": {"network": STAND_IN}} if self.stand_in else {})

    def centred(self, audio: torch.Tensor, window_s: float, hop_s: float) -> Timeline:
        # A window is as many frames as are centred in it; they reach half a frame beyond it.
        return super().centred(audio, window_s + (FRAME - HOP) / RATE_HZ, hop_s)

    def _make_front_end(self) -> MusicnnLogMel:
        return MusicnnLogMel()

    def _make_network(self) -> nn.Module:
        return nn.Module()  # `_fill_` makes the real one: it comes with its weights

    def _prepared(self, network: nn.Module) -> OnnxNetwork:
        return self._loaded

    def _fill_(self, network: nn.Module | None, weights: Any, seed: int) -> str:
        require("onnx", EXTRA)
        if weights == weights_files.RANDOM:
            from understudy.teachers import discogs_stand_in

            self._loaded = open_batch(discogs_stand_in.model(seed), STAND_IN, self.card.dim)
            return f"{weights_files.RANDOM}:{seed}"
        path = library.locate(self.card, weights)
        content = weights_files.contents(path)
        self._loaded = open_batch(parse(content, path), path, self.card.dim)
        return hashlib.sha256(content).hexdigest()

    def _plan(self, n_samples: int, window_s: Window, hop_s: float) -> WindowPlan:
        """Windows of a patch's length are Essentia's patches; others are cut as of any teacher."""
        if window_s != PATCH_S or n_samples < 1:
            return super()._plan(n_samples, window_s, hop_s)
        centred = n_frames(n_samples)
        if centred < PATCH_FRAMES:
            plan = plan_windows(n_samples, RATE_HZ, "clip", hop_s)
            return replace(plan, length=(centred - 1) * HOP + FRAME, silent=LEAD)
        # The last frame may be centred behind the clip's end, by less than a hop.
        plan = plan_windows(n_samples + 2 * HOP - 1, RATE_HZ, window_s, hop_s)
        centre_s = frame_centres(plan.n, window_s, hop_s, n_samples / RATE_HZ)
        return replace(plan, length=PATCH_SAMPLES, centre_s=centre_s, silent=LEAD)

    def _embed(self, features: torch.Tensor) -> torch.Tensor:
        """Mean over the patches of log-mels (batch, frame, 96)."""
        parts = patches(features)
        batch, n_patches = parts.shape[:2]
        assert self.network is not None
        embedding = self.network(parts.flatten(0, 1))
        return embedding.view(batch, n_patches, -1).mean(1)


def parse(content: bytes, where: object) -> Any:
    """The ONNX model in `content`; WeightsError if there is none."""
    onnx = require("onnx", EXTRA)
    try:
        model = onnx.load_model_from_string(content)
        if not model.graph.node:
            raise ValueError("it holds no network")
    except Exception as error:  # whatever a reader of damaged or foreign bytes may raise
        raise WeightsError(
            f"{where}: wanted an ONNX model, found {len(content)} bytes that are none "
            f"({type(error).__name__})"
        ) from None
    return model


def open_batch(model: Any, where: object, dim: int) -> OnnxNetwork:
    """Network from patches (batch, 128, 96) to embeddings (batch, dim), of any batch.

    A model that cannot do without its fixed batch keeps it; patches are then filled up to it.

    Raises:
        WeightsError: The model takes or gives something else.
    """
    embedding = expose(model, dim, where)
    first = _batch(model)
    fixed = OnnxNetwork(model.SerializeToString(), where, embedding, first or None, EXTRA)
    if fixed.shape[1:] != [PATCH_FRAMES, BANDS]:
        wanted = f"patches (batch, {PATCH_FRAMES}, {BANDS})"
        raise WeightsError(f"{where}: wanted a network of {wanted}, found {fixed.shape}")
    network, n_batch = fixed, first or 1
    if first:
        del model.graph.value_info[:]
        for item in (*model.graph.input, *model.graph.output):
            if dims := item.type.tensor_type.shape.dim:
                dims[0].dim_param = "batch"
        try:
            opened = OnnxNetwork(model.SerializeToString(), where, embedding, None, EXTRA)
            if opened.probe(3, PATCH_FRAMES, BANDS) == (3, dim):
                network, n_batch = opened, 3
        except WeightsError:  # its inner shapes name the batch, too
            pass
    found = network.probe(n_batch, PATCH_FRAMES, BANDS)
    if found != (n_batch, dim):
        raise WeightsError(f"{where}: wanted embeddings {(n_batch, dim)}, found {found}")
    network.settle(dim)
    return network


def expose(model: Any, dim: int, where: object) -> str:
    """Makes the embedding an output of `model`, in place; returns its name.

    It is what the last product with a constant matrix, the projection, takes; in a model without
    one, its output.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    constants = {item.name: tuple(item.dims) for item in graph.initializer}
    for node in reversed(graph.node):
        if node.op_type not in MATRIX_PRODUCTS or node.input[1] not in constants:
            continue
        transposed = any(item.name == "transB" and item.i for item in node.attribute)
        found = constants[node.input[1]][1 if transposed else 0]
        if found != dim:
            raise WeightsError(
                f"{where}: wanted a last layer that projects {dim} values, found {found}"
            )
        batch = _batch(model) or "batch"
        name = node.input[0]
        if name not in {item.name for item in graph.output}:
            graph.output.append(
                helper.make_tensor_value_info(name, TensorProto.FLOAT, (batch, dim))
            )
        return name
    if len(graph.output) != 1:
        raise WeightsError(f"{where}: wanted a network with one output or a projection")
    return graph.output[0].name


def _batch(model: Any) -> int:
    """The batch that the model's input insists on; 0 where it is open."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    return dims[0].dim_value if dims else 0
