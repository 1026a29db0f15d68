"""What an installation brings along: the core nothing heavy, each extra what it is for."""

import os
import re
import tomllib
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import torch
from tests import mule_file

from understudy import teachers

HEAVY = {"timm", "librosa", "onnxruntime", "onnx", "tensorflow", "keras", "torchvision", "h5py"}
WANTED = {
    "discogs": {"onnx", "onnxruntime"},
    "hear": {"hear21passt", "torchvision"},
    "mule": {"h5py"},
    "hub": {"huggingface-hub"},
    "onnx": {"onnx", "onnxruntime", "onnxscript"},
    "remote": {"obstore"},
    "oracles": {"hear21passt", "panns-inference", "torchvision"},
}


PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def names(requirements: Iterable[str]) -> set[str]:
    """Distributions that requirements name, those of extras left out."""
    found = (re.match(r"[\w.-]+", line) for line in requirements if "extra ==" not in line)
    return {re.sub(r"[-_.]+", "-", match[0].lower()) for match in found if match}


def test_the_core_brings_nothing_heavy():
    """Neither asked for, nor behind what is asked for."""
    reached = set()
    waiting = names(PROJECT["dependencies"]) | {"distributed"}  # dask[distributed]
    while waiting:
        name = waiting.pop()
        reached.add(name)
        with suppress(PackageNotFoundError):  # those for another platform
            waiting |= names(requires(name) or ()) - reached
    assert {"torch", "zarr", "soundfile", "tornado"} <= reached
    assert not reached & HEAVY


@pytest.mark.parametrize("extra", WANTED)
def test_an_extra_brings_what_it_is_for(extra: str):
    assert names(PROJECT["optional-dependencies"][extra]) == WANTED[extra]


def test_discogs():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    teacher = teachers.build("discogs", "random")
    assert teacher.forward(torch.zeros(1, 33024)).shape == (1, 1280)


def test_mule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("h5py")
    mule_file.narrow(monkeypatch)
    path = tmp_path / "model.keras"
    path.write_bytes(mule_file.keras_file(mule_file.random_network()))
    teacher = teachers.build("mule", path)
    assert teacher.forward(torch.zeros(1, 48240)).shape == (1, 1728)


def test_onnx(tmp_path: Path):
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")  # makes the model; to run one takes onnxruntime alone
    shapes = [("audio", ("batch", 16000)), ("embedding", ("batch", 1))]
    ends = [onnx.helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes]
    node = onnx.helper.make_node("ReduceMax", ["audio"], ["embedding"], axes=[1])
    graph = onnx.helper.make_graph([node], "loudest", ends[:1], ends[1:])
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "a.onnx"
    )
    (tmp_path / "a.onnx.yaml").write_text(
        "{name: loudest, sample_rate: 16000, dim: 1, window_s: 1.0, hop_s: 1.0, "
        "licence_code: MIT, licence_weights: MIT, training_data: []}"
    )
    teacher = teachers.build(f"onnx:{tmp_path / 'a.onnx'}")
    assert teacher.forward(torch.linspace(0, 1, 16000)[None]).item() == 1


@pytest.mark.filterwarnings("ignore")
def test_hear():
    base = pytest.importorskip("hear21passt.base")
    for function in ("load_model", "get_scene_embeddings", "get_timestamp_embeddings"):
        assert callable(getattr(base, function))


def test_oracles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """panns-inference: its import wants a file of labels in the home folder, or downloads it."""
    labels = tmp_path / "panns_data" / "class_labels_indices.csv"
    labels.parent.mkdir()
    labels.write_text("index,mid,display_name\n0,/m/0,speech\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "system", lambda command: pytest.fail(f"ran {command}"))
    pytest.importorskip("hear21passt")
    models = pytest.importorskip("panns_inference.models")
    assert models.Cnn14(32000, 1024, 320, 64, 50, 14000, 527).fc1.out_features == 2048
