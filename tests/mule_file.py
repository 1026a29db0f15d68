"""A narrow MULE, and Keras files of its weights in the layout of the published one."""

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import torch

from understudy.teachers import mule
from understudy.teachers.mule import Block, Fusion, SlowFastNFNet, StandardisedConv, Stem
from understudy.teachers.weights import random_

ROOT = "_layer_checkpoint_dependencies"
SNAKE = {
    "WeightStandardization": "weight_standardization",
    "Dense": "dense",
    "ScalarMultiply": "scalar_multiply",
    "StochDepth": "stoch_depth",
    "Activation": "activation",
    "TFOpLambda": "tf.math.multiply",
    "InputLayer": "input",
}
NARROW = {
    "DEPTHS": (1, 2, 1, 1),
    "SLOW_IN": (136, 24, 24, 24),
    "SLOW_OUT": (16, 16, 16, 1536),
    "SLOW_GROUP": 8,
    "FUSED": (8, 8, 8, 8),
}


def narrow(patch: Any) -> None:
    """Makes networks of few channels, but for the last stage, from here on."""
    for name, value in NARROW.items():
        patch.setattr(mule, name, value)


def random_network(seed: int = 0) -> SlowFastNFNet:
    """A network all of whose weights are random, unlike each other."""
    network = SlowFastNFNet().eval().requires_grad_(False)
    random_(network, seed)
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if not name.endswith("weight"):
            value.add_(0.2 * torch.rand(value.shape, generator=generator))
    return network


class Graph:
    """The layers of a network as Keras lists them, and their arrays."""

    def __init__(self, network: SlowFastNFNet, first_number: int) -> None:
        self.network = network
        self.state = {key: value.numpy() for key, value in network.state_dict().items()}
        self.entries: list[dict[str, Any]] = []
        self.arrays: dict[str, dict[str, np.ndarray]] = {}
        self.n_made = dict.fromkeys(SNAKE, first_number)
        self.names: dict[str, str] = {}
        for name, module in network.named_modules():  # layers are numbered as they are made
            if isinstance(module, StandardisedConv):
                self.names[name] = self.number("WeightStandardization")
            elif isinstance(module, torch.nn.Linear):
                self.names[name] = self.number("Dense")

    def number(self, kind: str) -> str:
        k = self.n_made[kind]
        self.n_made[kind] += 1
        return f"{SNAKE[kind]}_{k}" if k else SNAKE[kind]

    def add(self, kind: str, sources: list[str], name: str = "", **config: Any) -> str:
        name = name or self.number(kind)
        if kind == "TFOpLambda":
            factor = [sources[1], 0, 0] if len(sources) > 1 else 2.0
            nodes: list[Any] = [[sources[0], 0, 0, {"y": factor, "name": None}]]
        else:
            nodes = [[[source, 0, 0, {}] for source in sources]] if sources else []
        entry = {"class_name": kind, "name": name, "config": config, "inbound_nodes": nodes}
        self.entries.append(entry)
        return name

    def conv(self, module: str, source: str) -> str:
        self.arrays[self.names[module]] = {
            "vars/0": self.state[f"{module}.weight"].transpose(2, 3, 1, 0),
            "vars/1": self.state[f"{module}.gain"],
            "layer/vars/0": self.state[f"{module}.bias"],
        }
        return self.add("WeightStandardization", [source], self.names[module])

    def dense(self, module: str, source: str) -> str:
        self.arrays[self.names[module]] = {
            "vars/0": self.state[f"{module}.weight"].T,
            "vars/1": self.state[f"{module}.bias"],
        }
        return self.add("Dense", [source], self.names[module])

    def block(self, name: str, block: Block, source: str) -> str:
        active = self.add("Activation", [source])
        active = self.add("ScalarMultiply", [active], learnable=False)
        skip = source if block.skip is None else self.conv(f"{name}.skip", active)
        residual = self.conv(f"{name}.conv1", active)
        for k in (2, 3, 4):
            residual = self.conv(f"{name}.conv{k}", self.add("Activation", [residual]))
        gate = self.dense(f"{name}.squeeze", self.add("Activation", [residual]))
        gate = self.add("TFOpLambda", [self.dense(f"{name}.excite", gate)])
        gated = self.add("TFOpLambda", [gate, residual])
        scaled = self.add("ScalarMultiply", [gated], learnable=True)
        self.arrays[scaled] = {"vars/0": self.state[f"{name}.gain"]}
        share = self.add("ScalarMultiply", [scaled], learnable=False)
        return self.add("StochDepth", [skip, share])

    def chain(self, name: str, source: str) -> str:
        for k, (part, _) in enumerate(self.network.get_submodule(name).named_children()):
            active = self.add("Activation", [source]) if k and "stem" in name else source
            source = self.conv(f"{name}.{part}", active)
        return source

    def build(self) -> None:
        image = self.add("InputLayer", [])
        assert isinstance(self.network.slow_stem, Stem)
        slow, fast = self.chain("slow_stem", image), self.chain("fast_stem", image)
        for k, fuse in enumerate(self.network.fuse):
            assert isinstance(fuse, Fusion)
            slow = self.add("StochDepth", [slow, self.chain(f"fuse.{k}", fast)])
            for path in ("slow", "fast"):
                stage = self.network.get_submodule(f"{path}.{k}")
                for j, block in stage.named_children():
                    assert isinstance(block, Block)
                    source = slow if path == "slow" else fast
                    out = self.block(f"{path}.{k}.{j}", block, source)
                    slow, fast = (out, fast) if path == "slow" else (slow, out)

    def scramble(self, generator: np.random.Generator) -> None:
        """Deals the names of all ScalarMultiply layers out anew, and shuffles the layers."""
        scalars = [e["name"] for e in self.entries if e["class_name"] == "ScalarMultiply"]
        dealt = dict(zip(scalars, generator.permutation(scalars).tolist(), strict=True))
        text = json.dumps(self.entries)
        self.entries = json.loads(text, object_hook=lambda entry: _renamed(entry, dealt))
        self.arrays = {dealt.get(name, name): value for name, value in self.arrays.items()}
        generator.shuffle(self.entries)


def _renamed(item: Any, names: dict[str, str]) -> Any:
    if isinstance(item, str):
        return names.get(item, item)
    if isinstance(item, list):
        return [_renamed(part, names) for part in item]
    if isinstance(item, dict):
        return {key: _renamed(part, names) for key, part in item.items()}
    return item


def keras_file(
    network: SlowFastNFNet,
    *,
    first_number: int = 0,
    edit_layers: Callable[[list[dict[str, Any]]], object] = lambda layers: None,
    edit_weights: Callable[[h5py.File], object] = lambda file: None,
) -> bytes:
    """Bytes of a Keras file of `network`; ScalarMultiply layers named, and all listed, at random.

    Args:
        network: With weights.
        first_number: Of the layers' names, as where other models were made before.
        edit_layers: Changes the graph's layers in place.
        edit_weights: Changes the weights in place.
    """
    graph = Graph(network, first_number)
    graph.build()
    graph.scramble(np.random.default_rng(1))
    weights, counts = io.BytesIO(), dict.fromkeys(SNAKE, 0)
    with h5py.File(weights, "w") as file:
        for entry in graph.entries:
            kind, arrays = entry["class_name"], graph.arrays.get(entry["name"], {})
            group = f"{SNAKE[kind]}_{counts[kind]}" if counts[kind] else SNAKE[kind]
            file.create_group(f"{ROOT}/{group}/vars")
            for place, value in arrays.items():
                file[f"{ROOT}/{group}/{place}"] = value
            counts[kind] += 2 if arrays else 1
        edit_weights(file)
    edit_layers(graph.entries)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("metadata.json", json.dumps({"keras_version": "2.13.1"}))
        members.writestr("config.json", json.dumps({"config": {"layers": graph.entries}}))
        members.writestr("model.weights.h5", weights.getvalue())
    return archive.getvalue()
