"""Reads the weights of MULE from the published Keras file, without Keras.

The file is a zip of a `config.json`, the graph of the model's layers, and a `model.weights.h5`.
The h5 file names a layer by its class and a count over the layers of that class in the graph's
order, in which a layer with weights counts twice. Within the file,

    weight_standardization_K/vars/0, vars/1     kernel (frequency, time, in, out), gain (out)
    weight_standardization_K/layer/vars/0       bias (out)
    dense_K/vars/0, vars/1                      kernel (in, out), bias (out)
    scalar_multiply_K/vars/0                    learned gain of a block

The layers themselves are numbered in the order they were made in: those of the slow stem, the fast
stem, the slow blocks, the fast blocks, the fusions. That is the order of the modules in
`mule.SlowFastNFNet`, too, so the k-th WeightStandardization is its k-th StandardisedConv, and the
Dense layers are its blocks' `squeeze` and `excite` in turn. The numbers of ScalarMultiply layers
cannot be relied on; a block's is the one that the graph has behind its `excite`.
"""

import io
import json
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch

from understudy.errors import ConfigError, WeightsError

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
GROUPS = {
    "WeightStandardization": "weight_standardization",
    "Dense": "dense",
    "ScalarMultiply": "scalar_multiply",
}
"""Classes whose layers may hold weights, and the h5 file's names of them."""
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
)
"""What zipfile makes of bytes that are damaged, encrypted or no zip at all."""
ROOT = "_layer_checkpoint_dependencies"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer with weights: its class, its name in the graph, its group in the h5 file."""

    kind: str
    name: str
    group: str


def read(
    content: bytes,
    convs: Sequence[str],
    blocks: Sequence[str],
    chains: Sequence[Sequence[str]],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, torch.Tensor]:
    """State_dict of `mule.SlowFastNFNet` from the bytes of a Keras file.

    Args:
        content: The file.
        convs: Names of the network's convolutions, in order.
        blocks: Names of its blocks, in order.
        chains: Modules with weights that follow one another without others in between; the graph
            is held against them.
        shapes: Of the network's state_dict. The file must hold these values, and no others.

    Raises:
        WeightsError: It is no such file, or one of another network.
        ConfigError: h5py is not installed.
    """
    config, file = _opened(content)
    try:
        entries = config["config"]["layers"]
        layers = _layers(entries)
        following = _following(entries, {layer.name for layer in layers})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{CONFIG} describes no graph of layers ({type(error).__name__}: {error})"
        ) from None
    denses = [f"{block}.{part}" for block in blocks for part in ("squeeze", "excite")]
    modules = dict(zip(convs, _numbered(layers, "WeightStandardization", len(convs)), strict=True))
    modules |= zip(denses, _numbered(layers, "Dense", len(denses)), strict=True)
    scalars = {layer.name: layer for layer in _of_kind(layers, "ScalarMultiply", len(blocks))}
    for block in blocks:
        behind = following[modules[f"{block}.excite"].name]
        if len(behind) != 1 or not behind <= scalars.keys():
            raise WeightsError(
                f"{modules[f'{block}.excite'].name} ({block}.excite) leads to "
                f"{_listed(behind)}, wanted one ScalarMultiply of its own"
            )
        modules[block] = scalars.pop(next(iter(behind)))
    for before, after in chain.from_iterable(map(pairwise, chains)):
        if modules[after].name not in following[modules[before].name]:
            raise WeightsError(
                f"{modules[before].name} ({before}) leads to "
                f"{_listed(following[modules[before].name])}, "
                f"wanted {modules[after].name} ({after})"
            )
    try:
        with file:
            return _state(modules, file, shapes)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{WEIGHTS} is damaged ({error})") from None


def _opened(content: bytes) -> tuple[Any, Any]:
    """The graph and the open h5 file."""
    try:
        import h5py
    except ImportError:
        raise ConfigError(
            "h5py reads MULE's Keras file and is not installed: pip install 'understudy[mule]'"
        ) from None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            config, weights = archive.read(CONFIG), archive.read(WEIGHTS)
    except ZIP_ERRORS as error:
        raise WeightsError(
            f"wanted a Keras file, a zip that holds {CONFIG} and {WEIGHTS}; found {len(content)} "
            f"bytes that are damaged or something else ({str(error).strip(chr(39))})"
        ) from None
    try:
        return json.loads(config), h5py.File(io.BytesIO(weights), "r")
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{CONFIG} is not JSON ({error})") from None
    except OSError as error:
        raise WeightsError(f"{WEIGHTS} is not an HDF5 file ({error})") from None


def _layers(entries: Sequence[Mapping[str, Any]]) -> list[Layer]:
    """The layers with weights, in the graph's order."""
    layers, counts = [], dict.fromkeys(GROUPS, 0)
    for entry in entries:
        kind = entry["class_name"]
        if kind not in GROUPS:
            continue
        weighted = kind != "ScalarMultiply" or entry["config"]["learnable"]
        if weighted:
            group = f"{GROUPS[kind]}_{counts[kind]}" if counts[kind] else GROUPS[kind]
            layers.append(Layer(kind=kind, name=entry["name"], group=group))
        counts[kind] += 2 if weighted else 1
    return layers


def _following(
    entries: Sequence[Mapping[str, Any]], weighted: set[str]
) -> dict[str, frozenset[str]]:
    """For each layer, the layers with weights that come next, others in between left out."""
    names = {entry["name"] for entry in entries}
    consumers = defaultdict(set)
    for entry in entries:
        for source in _sources(entry["inbound_nodes"]):
            if source in names:
                consumers[source].add(entry["name"])
    following = {}
    for start in weighted:
        found, seen, waiting = set(), set(), [start]
        while waiting:
            for name in consumers[waiting.pop()] - seen:
                seen.add(name)
                (found.add if name in weighted else waiting.append)(name)
        following[start] = frozenset(found)
    return following


def _sources(node: Any) -> Iterator[str]:
    """Names of the layers in an inbound node: every [name, node index, tensor index, ...]."""
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list):
        if len(node) >= 3 and isinstance(node[0], str) and all(type(k) is int for k in node[1:3]):
            yield node[0]
        for part in node:
            yield from _sources(part)


def _of_kind(layers: Sequence[Layer], kind: str, n: int) -> list[Layer]:
    found = [layer for layer in layers if layer.kind == kind]
    if len(found) != n or len({layer.name for layer in found}) != n:
        raise WeightsError(
            f"{CONFIG} has {len(found)} {kind} layers with weights, wanted {n} of unlike names"
        )
    return found


def _numbered(layers: Sequence[Layer], kind: str, n: int) -> list[Layer]:
    """Layers of a class in the order of the numbers that their names end with."""

    def number(layer: Layer) -> int:
        match = re.fullmatch(r"\D+?(?:_(\d{1,9}))?", layer.name)
        if match is None:
            raise WeightsError(f"{CONFIG} has a {kind} named {layer.name!r}, wanted a number in it")
        return int(match[1] or 0)

    return sorted(_of_kind(layers, kind, n), key=number)


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


PLACES = {
    "WeightStandardization": (
        ("weight", "vars/0", (3, 2, 0, 1)),
        ("gain", "vars/1", (0,)),
        ("bias", "layer/vars/0", (0,)),
    ),
    "Dense": (("weight", "vars/0", (1, 0)), ("bias", "vars/1", (0,))),
    "ScalarMultiply": (("gain", "vars/0", ()),),
}
"""Of each class: parameter here, its path below the layer's group, its axes in the file's."""


def _state(
    modules: Mapping[str, Layer], file: Any, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, torch.Tensor]:
    """State_dict of the network, from an h5 file in which nothing may be missing or left over."""
    datasets = _datasets(file)
    state = {}
    for module, layer in modules.items():
        for parameter, place, axes in PLACES[layer.kind]:
            path, key = f"{ROOT}/{layer.group}/{place}", f"{module}.{parameter}"
            if path not in datasets:
                raise WeightsError(f"{WEIGHTS} lacks {path}, wanted for {layer.name} ({key})")
            dataset = datasets.pop(path)
            wanted = tuple(shapes[key][axes.index(axis)] for axis in range(len(axes)))
            if dataset.shape != wanted:
                raise WeightsError(
                    f"{WEIGHTS}: {path} has shape {dataset.shape}, wanted {wanted} ({key})"
                )
            state[key] = torch.from_numpy(np.array(dataset[()].transpose(axes), order="C"))
    if datasets:
        raise WeightsError(
            f"{WEIGHTS} holds what is of no layer: {_listed(frozenset(datasets))}; "
            f"wanted {sum(value.numel() for value in state.values()):,} values"
        )
    return state


def _datasets(file: Any) -> dict[str, Any]:
    """Arrays of the h5 file by path, none of them read yet."""
    import h5py

    items: dict[str, Any] = {}
    file.visititems(lambda path, item: items.update({path: item}))
    datasets = {path: item for path, item in items.items() if isinstance(item, h5py.Dataset)}
    for path, dataset in datasets.items():
        if dataset.dtype != np.float32 or dataset.external or dataset.is_virtual:
            elsewhere = " of another file" if dataset.external or dataset.is_virtual else ""
            raise WeightsError(f"{WEIGHTS}: {path} is {dataset.dtype}{elsewhere}, wanted float32")
    return datasets
