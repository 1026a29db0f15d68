"""MULE's Keras file: read on stand-ins of its layout, refused where anything is not as it was."""

import hashlib
import io
import json
import sys
import zipfile

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests import mule_file
from tests.mule_file import ROOT, keras_file

from understudy import teachers
from understudy.errors import ConfigError, WeightsError
from understudy.teachers.mule import Mule, SlowFastNFNet


@pytest.fixture
def network(monkeypatch) -> SlowFastNFNet:
    mule_file.narrow(monkeypatch)
    return mule_file.random_network()


def build(content: bytes, folder, suffix: str = ".keras") -> Mule:
    path = folder / f"model{suffix}"
    path.write_bytes(content)
    teacher = teachers.build("mule", path)
    assert isinstance(teacher, Mule)
    assert teacher.weights_sha256 == hashlib.sha256(content).hexdigest()
    return teacher


def assert_is(teacher: Mule, network: SlowFastNFNet) -> None:
    """`teacher` computes with the weights of `network`."""
    log_mel = torch.randn(2, 96, 50, generator=torch.Generator().manual_seed(1))
    assert teacher.network is not None
    torch.testing.assert_close(teacher.network(log_mel), network(log_mel), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("first_number", [0, 7])
def test_weights_come_from_where_the_graph_says(network, first_number, tmp_path):
    assert len({float(p) for name, p in network.named_parameters() if p.dim() == 0}) == 10
    assert_is(build(keras_file(network, first_number=first_number), tmp_path), network)


def test_the_whole_network_from_a_file_of_its_size(tmp_path):
    network = mule_file.random_network()
    content = keras_file(network)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        weights = io.BytesIO(archive.read("model.weights.h5"))
    sizes: list[int] = []
    with h5py.File(weights) as file:
        file.visititems(lambda _, item: sizes.append(getattr(item, "size", 0)))
    assert sum(sizes) == teachers.card("mule").parameters == 62_345_742
    assert_is(build(content, tmp_path), network)


def test_converted_weights_may_be_safetensors(network, tmp_path):
    save_file(network.state_dict(), tmp_path / "mule.safetensors")
    content = (tmp_path / "mule.safetensors").read_bytes()
    assert_is(build(content, tmp_path, ".safetensors"), network)
    with pytest.raises(WeightsError, match=r"model\.safetensors: "):
        build(content[:-1], tmp_path, ".safetensors")
    save_file({"fuse.0.mix.gain": torch.ones(9)}, tmp_path / "mule.safetensors")
    with pytest.raises(WeightsError, match=r"model\.safetensors: weights of another network: .*"):
        build((tmp_path / "mule.safetensors").read_bytes(), tmp_path, ".safetensors")


def replaced(place: str, value) -> dict:
    def edit(file: h5py.File) -> None:
        del file[f"{ROOT}/{place}"]
        file[f"{ROOT}/{place}"] = value

    return {"edit_weights": edit}


def entry(layers: list[dict], name: str) -> dict:
    return next(layer for layer in layers if layer["name"] == name)


def swapped(layers: list[dict]) -> None:
    """Dense layers of two blocks under each other's names."""
    one, other = entry(layers, "dense_1"), entry(layers, "dense_3")
    one["inbound_nodes"], other["inbound_nodes"] = other["inbound_nodes"], one["inbound_nodes"]


DAMAGES = {
    "lacks _layer_checkpoint_dependencies/dense_4/vars/1, wanted for dense": {
        "edit_weights": lambda file: file.__delitem__(f"{ROOT}/dense_4/vars/1")
    },
    "lacks _layer_checkpoint_dependencies/weight_standardization_6/vars/0, wanted for": {
        "edit_weights": lambda file: file.__delitem__(f"{ROOT}/weight_standardization_6")
    },
    "holds what is of no layer: projector/vars/0; wanted 4": {
        "edit_weights": lambda file: file.create_dataset(
            "projector/vars/0", data=np.ones(1, np.float32)
        )
    },
    r"dense/vars/1 has shape \(7,\), wanted \(\d+,\)": replaced("dense/vars/1", np.zeros(7, "f4")),
    r"dense/vars/0 has shape \(\), wanted \(\d+, \d+\)": replaced("dense/vars/0", np.float32(7)),
    "dense/vars/1 is float64, wanted float32": replaced("dense/vars/1", np.zeros(7)),
    "dense/vars/1 is float32 of another file": {
        "edit_weights": lambda file: (
            file.__delitem__(f"{ROOT}/dense/vars/1"),
            file.create_dataset(f"{ROOT}/dense/vars/1", (2,), "f4", external=[("elsewhere", 0, 8)]),
        )
    },
    "has 63 WeightStandardization layers with weights, wanted 64 of": {
        "edit_layers": lambda layers: layers.remove(entry(layers, "weight_standardization_9"))
    },
    "dense_9x', wanted a number": {
        "edit_layers": lambda layers: entry(layers, "dense_9").update(name="dense_9x")
    },
    r"leads to dense_\d, wanted dense_\d \(slow": {"edit_layers": swapped},
    r"dense_5 \(slow\.1\.1\.excite\) leads to nothing, wanted one ScalarMultiply": {
        "edit_layers": lambda layers: (
            entry(layers, "dense_5").update(name="dense_5", x=1)
            or [
                layer.update(inbound_nodes=[]) for layer in layers if "dense_5" in json.dumps(layer)
            ]
        )
    },
    r"config\.json describes no graph of layers \(KeyError": {
        "edit_layers": lambda layers: layers[0].pop("class_name")
    },
}


@pytest.mark.parametrize("found", DAMAGES)
def test_another_network_is_refused(found, network, tmp_path):
    with pytest.raises(WeightsError, match=found) as error:
        build(keras_file(network, **DAMAGES[found]), tmp_path)
    assert str(tmp_path / "model.keras") in str(error.value)


@pytest.mark.parametrize("keep", [0, 0.3, 0.999])
def test_a_truncated_file_is_refused(keep, network, tmp_path):
    content = keras_file(network)
    with pytest.raises(WeightsError, match=r"wanted a Keras file, a zip .* found \d+ bytes that"):
        build(content[: int(keep * len(content))], tmp_path)


def test_a_flipped_bit_is_refused(network, tmp_path):
    content = bytearray(keras_file(network))
    content[len(content) // 2] ^= 1
    with pytest.raises(WeightsError, match=r"damaged or something else.*CRC"):
        build(bytes(content), tmp_path)


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ({"config.json": b"{}"}, r"found \d+ bytes .*model\.weights\.h5"),
        ({"config.json": b"{", "model.weights.h5": b""}, r"config\.json is not JSON"),
        ({"config.json": b"[]", "model.weights.h5": b""}, r"model\.weights\.h5 is not an HDF5"),
    ],
)
def test_another_zip_is_refused(members, found, network, tmp_path):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    with pytest.raises(WeightsError, match=found):
        build(archive.getvalue(), tmp_path)


def test_without_h5py_it_says_what_to_install(network, tmp_path, monkeypatch):
    content = keras_file(network)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigError, match=r"pip install 'understudy\[mule\]'"):
        build(content, tmp_path)
