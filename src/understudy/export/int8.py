"""Eight-bit ONNX models: weights as bytes, activations quantised as they come."""

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.teachers.onnx_network import require

if TYPE_CHECKING:
    import onnx


def quantised(network: "onnx.ModelProto") -> "onnx.ModelProto":
    """`network` with convolutions and linear layers in 8 bits, by onnxruntime's dynamic rule.

    Weights are unsigned: convolutions of signed ones are several times slower on CPUs. A front end
    must stay out of it, 8 bits do not hold a spectrum.

    Raises:
        ConfigError: onnx or onnxruntime is not installed.
    """
    onnx = require("onnx", "onnx")
    quantization = require("onnxruntime.quantization", "onnx")
    log = logging.getLogger()
    level = log.level
    with tempfile.TemporaryDirectory(prefix="understudy-") as folder:
        path = Path(folder) / "int8.onnx"
        try:
            log.setLevel(logging.ERROR)  # it advises, on the root logger, what does not help here
            quantization.quantize_dynamic(network, path, weight_type=quantization.QuantType.QUInt8)
        finally:
            log.setLevel(level)
        result = onnx.load(path)
    del result.graph.value_info[:]
    return result
