"""A network that onnxruntime computes, in the place of a torch module."""

import importlib
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from understudy.errors import ConfigError, WeightsError

FLOAT = "tensor(float)"


def require(module: str, extra: str) -> ModuleType:
    """Imports an optional module; without it a ConfigError that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        wanted = f"{module} is wanted: pip install 'understudy[{extra}]'"
        raise ConfigError(f"{wanted} ({error})") from None


class OnnxNetwork(nn.Module):
    """(batch, ...) -> (batch, dim), float32, on the device of what it is given.

    Tensors are bound, not copied. Sessions are made at their first use, one for each device and
    number of threads, so that a network may serve several.

    Args:
        model: Serialised model, complete in itself.
        where: Whose model it is, for messages.
        output: The output to compute; by default the only one.
        fixed_batch: What the model insists on; other batches are filled up with zeros.
        extra: Extra of understudy that brings onnxruntime.

    Attributes:
        input, shape: Name and shape of the one input; dimensions left open are None.
        output: Name of the output.

    Raises:
        ConfigError: onnxruntime is not installed.
        WeightsError: No model, one that lies in several files, or not of one float32 input.
    """

    def __init__(
        self,
        model: bytes,
        where: object,
        output: str | None = None,
        fixed_batch: int | None = None,
        extra: str = "onnx",
    ) -> None:
        super().__init__()
        self._runtime = require("onnxruntime", extra)
        self._model, self._where = model, where
        self._sessions: dict[tuple[torch.device, int], Any] = {}
        session = self._session(torch.device("cpu"))
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or inputs[0].type != FLOAT:
            found = ", ".join(f"{item.name} {item.type}" for item in inputs)
            raise WeightsError(f"{where}: wanted one float32 input, found {found or 'none'}")
        by_name = {item.name: item for item in outputs}
        if output is None and len(outputs) == 1:
            output = outputs[0].name
        if output not in by_name:
            what = "a choice of output" if output is None else f"output '{output}'"
            raise WeightsError(f"{where}: wanted {what}, found {', '.join(by_name)}")
        if by_name[output].type != FLOAT:
            found = by_name[output].type
            raise WeightsError(f"{where}: wanted float32 embeddings, '{output}' is {found}")
        self.input, self.output, self.fixed_batch = inputs[0].name, output, fixed_batch
        self.shape = [n if isinstance(n, int) and n > 0 else None for n in inputs[0].shape]

    def probe(self, n_batch: int, *shape: int) -> tuple[int, ...]:
        """Shape of what comes out for (n_batch, *shape) zeros; WeightsError if it fails."""
        zeros = {self.input: np.zeros((n_batch, *shape), np.float32)}
        try:
            (result,) = self._session(torch.device("cpu")).run([self.output], zeros)
        except Exception as error:  # onnxruntime's errors have no base class of their own
            wanted = f"wanted a model that takes {(n_batch, *shape)}"
            raise WeightsError(f"{self._where}: {wanted}, found: {_first_line(error)}") from None
        return result.shape

    def settle(self, dim: int) -> None:
        """Takes note of the embedding's size, after a successful `probe`."""
        self._dim = dim

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        features = features.contiguous()
        fixed = self.fixed_batch
        if fixed is None:
            return self._run(features)
        parts = []
        for part in features.split(fixed):
            filled = part.new_zeros(fixed, *part.shape[1:])
            filled[: len(part)] = part
            parts.append(self._run(filled)[: len(part)])
        return torch.cat(parts)

    def _run(self, features: torch.Tensor) -> torch.Tensor:
        device = features.device
        result = features.new_empty(len(features), self._dim)
        binding = self._session(device).io_binding()
        for bind, name, tensor in (
            (binding.bind_input, self.input, features),
            (binding.bind_output, self.output, result),
        ):
            bind(
                name=name,
                device_type=device.type,
                device_id=device.index or 0,
                element_type=np.float32,
                shape=tuple(tensor.shape),
                buffer_ptr=tensor.data_ptr(),
            )
        if device.type == "cuda":  # onnxruntime works on a stream of its own
            torch.cuda.current_stream(device).synchronize()
        self._session(device).run_with_iobinding(binding)
        binding.synchronize_outputs()
        return result

    def _session(self, device: torch.device) -> Any:
        threads = torch.get_num_threads()
        if (device, threads) not in self._sessions:
            self._sessions[device, threads] = self._make_session(device, threads)
        return self._sessions[device, threads]

    def _make_session(self, device: torch.device, threads: int) -> Any:
        runtime = self._runtime
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.use_deterministic_compute = True
        provider: Any = "CPUExecutionProvider"
        if device.type != "cpu":
            known = runtime.get_available_providers()
            if device.type != "cuda" or "CUDAExecutionProvider" not in known:
                raise ConfigError(
                    f"{self._where}: onnxruntime cannot compute on {device}, only through "
                    f"{', '.join(known)}; a GPU wants the package onnxruntime-gpu"
                )
            choice = {"device_id": device.index or 0, "use_tf32": 0}
            provider = ("CUDAExecutionProvider", choice)
        try:
            return runtime.InferenceSession(self._model, options, providers=[provider])
        except Exception as error:  # onnxruntime's errors have no base class of their own
            raise WeightsError(
                f"{self._where}: wanted an ONNX model in one file, found {len(self._model)} bytes "
                f"that onnxruntime refuses ({_first_line(error)})"
            ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]
