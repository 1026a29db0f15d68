"""A stand-in for the Discogs-EffNet file: its documented shape, with seeded random weights.

No open network has its weights, and how the published graph pads is known from that file alone. So
this is not that network: an EfficientNet-B0 of one input channel (arXiv:1905.11946; 4,006,972
parameters) as an ONNX model of the same names and sizes, fixed batch of 64 and projection included.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from understudy.teachers.discogs_frontend import BANDS, PATCH_FRAMES

INPUT, OUTPUT = "melspectrogram", "embeddings"
BATCH, DIM, PROJECTED = 64, 1280, 512
OPSET, IR_VERSION = 17, 8


class Stage(NamedTuple):
    """Inverted-residual blocks of one resolution."""

    expansion: int
    out: int
    depth: int
    stride: int
    kernel: int


GAIN = 200.0
"""Of the last layer: untrained ones before it shrink what passes through."""

STEM = 32
STAGES = (
    Stage(1, 16, 1, 1, 3),
    Stage(6, 24, 2, 2, 3),
    Stage(6, 40, 2, 2, 5),
    Stage(6, 80, 3, 2, 3),
    Stage(6, 112, 3, 1, 5),
    Stage(6, 192, 4, 2, 5),
    Stage(6, 320, 1, 1, 3),
)


def model(seed: int, batch: int = BATCH) -> ModelProto:
    """(batch, 128 frames, 96 bands) -> "embeddings" (batch, 512), a product of 1280 values."""
    graph = _Graph(seed)
    image = graph.add("Unsqueeze", INPUT, graph.constant(np.array([1])))
    image = graph.silu(graph.conv(image, 1, STEM, 3, 2))
    n_in = STEM
    for stage in STAGES:
        for place in range(stage.depth):
            image = graph.block(image, n_in, stage, stage.stride if place == 0 else 1)
            n_in = stage.out
    image = graph.silu(graph.conv(image, n_in, DIM, 1, gain=GAIN))
    embedding = graph.add("Flatten", graph.add("GlobalAveragePool", image))
    weight, bias = graph.normal((PROJECTED, DIM), DIM), np.zeros(PROJECTED, np.float32)
    operands = (embedding, graph.constant(weight), graph.constant(bias))
    graph.nodes.append(helper.make_node("Gemm", operands, [OUTPUT], transB=1))
    made = helper.make_graph(
        graph.nodes,
        "stand_in",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, (batch, PATCH_FRAMES, BANDS))],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, (batch, PROJECTED))],
        graph.constants,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(
        made, opset_imports=opsets, ir_version=IR_VERSION, doc_string="stand-in, random weights"
    )


class _Graph:
    """Nodes and constants; each method appends to them and returns the name of its result."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._generator = np.random.default_rng(seed)

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        result = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [result], **attributes))
        return result

    def constant(self, value: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def normal(self, shape: Sequence[int], fan_in: int) -> np.ndarray:
        """float32 of variance 2 / fan_in."""
        draw = self._generator.standard_normal(shape, dtype=np.float32)
        return draw * np.float32(math.sqrt(2 / fan_in))

    def conv(
        self,
        image: str,
        n_in: int,
        n_out: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        gain: float = 1.0,
    ) -> str:
        """Convolution without bias, and batch normalisation that multiplies by `gain`."""
        shape = (n_out, n_in // groups, kernel, kernel)
        weight = self.constant(self.normal(shape, math.prod(shape[1:])))
        image = self.add(
            "Conv", image, weight, strides=[stride] * 2, pads=[kernel // 2] * 4, group=groups
        )
        zeros, ones = np.zeros(n_out, np.float32), np.ones(n_out, np.float32)
        statistics = (np.float32(gain) * ones, zeros, zeros, ones)
        return self.add("BatchNormalization", image, *map(self.constant, statistics))

    def silu(self, image: str) -> str:
        return self.add("Mul", image, self.add("Sigmoid", image))

    def block(self, image: str, n_in: int, stage: Stage, stride: int) -> str:
        """Expand, filter each channel, gate, project; plus the input where shapes allow."""
        start, expanded = image, n_in * stage.expansion
        if expanded != n_in:
            image = self.silu(self.conv(image, n_in, expanded, 1))
        image = self.silu(self.conv(image, expanded, expanded, stage.kernel, stride, expanded))
        narrow = n_in // 4
        gate = self.add("GlobalAveragePool", image)
        gate = self.silu(self._pointwise(gate, expanded, narrow))
        gate = self.add("Sigmoid", self._pointwise(gate, narrow, expanded))
        image = self.conv(self.add("Mul", image, gate), expanded, stage.out, 1)
        return self.add("Add", image, start) if stride == 1 and n_in == stage.out else image

    def _pointwise(self, image: str, n_in: int, n_out: int) -> str:
        weight = self.normal((n_out, n_in, 1, 1), n_in)
        bias = np.zeros(n_out, np.float32)
        return self.add("Conv", image, self.constant(weight), self.constant(bias))
