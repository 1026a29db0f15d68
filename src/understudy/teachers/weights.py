"""Weights of a network: what is in a file of them, whether it fits. `library` has the files."""

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.errors import WeightsError

if TYPE_CHECKING:
    import torch
    from torch import nn

RANDOM = "random"


def load_(
    network: "nn.Module",
    path: Path,
    adapted: Callable[[Mapping[Any, Any]], Any] = lambda content: content,
) -> str:
    """Fills `network` from a state_dict file, strictly; returns the file's sha256.

    Args:
        network: What to fill.
        path: A file as torch.save writes it.
        adapted: Gives the network's state_dict, from the mapping that the file holds.

    Raises:
        WeightsError: The file is missing, is no state_dict, or belongs to another network.
    """
    import torch

    content = contents(path)
    wanted = f"{path}: wanted a PyTorch file that holds a plain dict of tensors, found"
    state = _read(content, wanted)
    if isinstance(state, Mapping):
        try:
            state = adapted(state)
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from None
    if not isinstance(state, Mapping):
        raise WeightsError(f"{wanted} a {type(state).__name__}")
    for key, value in state.items():
        if not (isinstance(key, str) and isinstance(value, torch.Tensor)):
            raise WeightsError(f"{wanted} {key!r}: {type(value).__name__}")
    fill_(network, state, path)
    return hashlib.sha256(content).hexdigest()


def contents(path: Path) -> bytes:
    """Bytes of a weights file; WeightsError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot read the weights ({error.strerror})") from None


def fill_(network: "nn.Module", state: "Mapping[str, torch.Tensor]", path: Path) -> None:
    """Fills `network` from a state_dict, read from `path`, strictly; else WeightsError."""
    if problems := differences(network.state_dict(), state):
        raise WeightsError(f"{path}: weights of another network: {'; '.join(problems)}")
    network.load_state_dict(state)


class StandIn:
    """Takes the place of a NumPy object in a file of weights: accepts anything, keeps nothing."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


NUMPY = (
    "numpy.dtype",
    "numpy.ndarray",
    *(
        f"numpy.{core}.multiarray.{name}"
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
)
"""What training scripts leave beside the weights: counters, the state of a sampler."""


def _read(content: bytes, wanted: str) -> Any:
    """What a file of torch.save holds: tensors, plain containers, stand-ins for NumPy objects.

    No other class or function can be named in it, so that reading runs none of its code.
    """
    import torch

    stand_ins = [(type("StandIn", (StandIn,), {}), name) for name in NUMPY]
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            torch.serialization.safe_globals(stand_ins),  # type: ignore[arg-type]
        ):
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a reader of damaged or foreign bytes may raise
        named = re.search(r"GLOBAL (\S+)", str(error))  # torch's own text advises to run the code
        reason = f"it names {named[1]}" if named else str(error).strip().split("\n")[0][:80]
        raise WeightsError(
            f"{wanted} {len(content)} bytes that do not load without running code "
            f"({type(error).__name__}: {reason})"
        ) from None


def differences(
    wanted: "Mapping[str, torch.Tensor]", found: "Mapping[str, torch.Tensor]", most: int = 3
) -> list[str]:
    """What keeps `found` from being loaded in place of `wanted`; empty where nothing does."""
    shapes = [
        f"{key} {tuple(found[key].shape)}, wanted {tuple(wanted[key].shape)}"
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    groups = {
        "missing": [key for key in wanted if key not in found],
        "not wanted": [key for key in found if key not in wanted],
        "found other shapes": shapes,
    }
    return [
        f"{len(items)} {what} ({', '.join(items[:most])}{', ...' if len(items) > most else ''})"
        for what, items in groups.items()
        if items
    ]


def random_(network: "nn.Module", seed: int) -> str:
    """Fills `network` with seeded random weights, leaving torch's own generator alone.

    Convolution and linear weights are normal with variance 2 / fan-in, biases 0, normalisation
    layers start as at training. A module with parameters of its own kind fills them by a method
    `random_(generator)`. Returns the identity of these weights.
    """
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            module.reset_parameters()
        elif hasattr(module, "random_"):
            module.random_(generator)  # type: ignore[operator]
        elif any(True for _ in module.parameters(recurse=False)):
            raise AssertionError(f"no rule for random weights of {type(module).__name__}")
    return f"{RANDOM}:{seed}"
