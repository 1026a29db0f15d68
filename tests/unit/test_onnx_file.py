"""`onnx:FILE`: models of others with a card beside them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
import torch
import yaml
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from understudy import cache, teachers
from understudy.errors import ConfigError, WeightsError
from understudy.extract.cli import command as extract
from understudy.teachers.cli import group
from understudy.teachers.onnx_file import OnnxFile

DIM = 5
FACTS = {
    "name": "birds",
    "sample_rate": 16000,
    "dim": DIM,
    "window_s": 0.5,
    "hop_s": 0.25,
    "licence_code": "MIT",
    "licence_weights": "CC BY-NC 4.0",
    "training_data": ["Xeno-canto"],
}


def write(folder: Path, shape: tuple[Any, ...] = ("batch", "samples"), **facts: Any) -> Path:
    """A model of the mean and extremes of each window, and its card."""
    weight = np.random.default_rng(0).standard_normal((1, DIM), dtype=np.float32)
    kind = facts.pop("kind", TensorProto.FLOAT)
    squares = helper.make_node("Mul", ["wave", "wave"], ["squares"])
    nodes = [
        helper.make_node("Cast", ["audio"], ["wave"], to=TensorProto.FLOAT),
        squares,
        helper.make_node("ReduceMean", ["squares"], ["level"], axes=[1], keepdims=1),
        helper.make_node("MatMul", ["level", "weight"], ["embedding"]),
        helper.make_node("Identity", ["level"], ["other"]),
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in facts.pop("outputs", ["embedding", "other"])
    ]
    graph = helper.make_graph(
        nodes,
        "birds",
        [helper.make_tensor_value_info("audio", kind, shape)],
        outputs,
        [numpy_helper.from_array(weight, "weight")],
    )
    opsets = [helper.make_opsetid("", 17)]
    path = folder / "birds.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    card = {"output": "embedding"} | FACTS | facts
    card = {key: value for key, value in card.items() if value is not None}
    (folder / "birds.onnx.yaml").write_text(yaml.safe_dump(card))
    return path


def audio(n_samples: int = 16000) -> torch.Tensor:
    return 0.1 * torch.randn(2, n_samples, generator=torch.Generator().manual_seed(1))


def test_timeline(tmp_path):
    teacher = teachers.build(f"onnx:{write(tmp_path)}")
    timeline = teacher.embed(audio())
    assert timeline.embedding.shape == (2, 3, DIM)
    assert timeline.centre_s.tolist() == [0.25, 0.5, 0.75]
    weight = np.random.default_rng(0).standard_normal((1, DIM), dtype=np.float32)
    wanted = audio().unfold(1, 8000, 4000).square().mean(-1, keepdim=True) * torch.from_numpy(
        weight
    )
    torch.testing.assert_close(timeline.embedding, wanted)


def test_card_and_identity(tmp_path):
    path = write(tmp_path)
    card = teachers.card(f"onnx:{path}")
    assert card.name == "onnx:birds"
    assert card.training_data == ("Xeno-canto",)
    assert card.non_commercial
    identity = teachers.build(f"onnx:{path}").identity()
    assert identity["grid"] == "stored"
    assert len(identity["weights_sha256"]) == 64


def test_spec_finds_the_file_again(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    teacher = teachers.build("onnx:birds.onnx", window_s=1.0)
    monkeypatch.chdir("/")
    again = teachers.from_spec(teacher.spec)
    assert again.identity() == teacher.identity()
    assert torch.equal(again.embed(audio()).embedding, teacher.embed(audio()).embedding)


def test_a_fixed_batch_is_filled_up(tmp_path):
    found = teachers.build(f"onnx:{write(tmp_path, shape=(4, 8000))}").embed(audio()).embedding
    wanted = teachers.build(f"onnx:{write(tmp_path)}").embed(audio()).embedding
    torch.testing.assert_close(found, wanted)


def test_whole_clips(tmp_path):
    teacher = teachers.build(f"onnx:{write(tmp_path, window_s='clip', hop_s=None)}")
    assert teacher.embed(audio(7000)).embedding.shape == (2, 1, DIM)


def test_one_output_needs_no_name(tmp_path):
    path = write(tmp_path, outputs=["embedding"], output=None)
    assert teachers.build(f"onnx:{path}").embed(audio()).embedding.shape == (2, 3, DIM)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"dim": "many"}, "dim: wanted int, found 'many'"),
        ({"dim": None}, "missing dim"),
        ({"training_data": None}, "missing training_data"),
        ({"name": "a/b"}, "found 'a/b'"),
        ({"sample_rate": 0}, "sample_rate: wanted 1 or more, found 0"),
        ({"window_s": "song"}, "found 'song'"),
        ({"storage_dtype": "int8"}, "found 'int8'"),
    ],
)
def test_cards_that_cannot_be_used(tmp_path, facts, message):
    with pytest.raises(ConfigError, match=rf"birds\.onnx\.yaml.*{message}"):
        teachers.build(f"onnx:{write(tmp_path, **facts)}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 7}, r"wanted embeddings .*\(1, 7\), found \(1, 5\)"),
        ({"output": "logits"}, "wanted output 'logits', found embedding, other"),
        ({"output": None}, "wanted a choice of output, found embedding, other"),
        ({"input": "waveform"}, "wanted input 'waveform', found 'audio'"),
        ({"shape": ("batch", 1, "samples")}, r"wanted input \(batch, samples\), found"),
        ({"kind": TensorProto.INT16}, r"one float32 input, found audio tensor\(int16\)"),
    ],
)
def test_models_of_another_kind(tmp_path, changes, message):
    with pytest.raises(WeightsError, match=rf"birds\.onnx: .*{message}"):
        teachers.build(f"onnx:{write(tmp_path, **changes)}")


def test_a_window_that_the_model_does_not_take(tmp_path):
    path = write(tmp_path, shape=("batch", 4000))
    with pytest.raises(
        ConfigError, match=r"windows of 4000 samples \(0.25 s\), found window_s 0.5"
    ):
        teachers.build(f"onnx:{path}")


def test_files_that_are_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.onnx\.yaml: wanted a card of the model: name"):
        teachers.build(f"onnx:{tmp_path / 'none.onnx'}")
    path = write(tmp_path)
    path.unlink()
    with pytest.raises(WeightsError, match=r"birds\.onnx: cannot read"):
        teachers.build(f"onnx:{path}")
    path.write_bytes(b"no model")
    with pytest.raises(WeightsError, match=r"birds\.onnx: wanted an ONNX model in one file"):
        teachers.build(f"onnx:{path}")


def test_weights_beside_the_file_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="its own weights, found 'random'"):
        teachers.build(f"onnx:{write(tmp_path)}", "random")


def test_the_example_in_the_docstring_is_a_card(tmp_path):
    import understudy.teachers.onnx_file as module

    assert module.__doc__ is not None
    example = [line for line in module.__doc__.splitlines() if line.startswith("    ")]
    (tmp_path / "x.onnx.yaml").write_text("\n".join(example))
    assert OnnxFile.describe(str(tmp_path / "x.onnx")).dim == 1024


def test_the_command_line_takes_it_with_settings(tmp_path):
    for number in range(2):
        (tmp_path / "clips").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "clips" / f"{number}.wav", audio(20000)[number].numpy(), 16000)
    (tmp_path / "clips" / "labels.csv").write_text("path,label\n0.wav,a\n1.wav,b\n")
    name = f"onnx:{write(tmp_path)}"
    arguments = ["folder", "--root", tmp_path / "clips", "--option", "csv=labels.csv"]
    arguments += ["--teacher", name, "--set", f"{name}.hop_s=0.1", "--cache", tmp_path / "cache"]
    result = CliRunner().invoke(extract, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    reader = cache.CacheReader(cache.find(tmp_path / "cache", "clips", "onnx:birds"))
    assert reader.path.name.startswith("onnx_birds-")
    np.testing.assert_allclose(reader.centre_s([1])[0], 0.25 + 0.1 * np.arange(8))
    assert cache.verify(reader.path) == []


def test_show_prints_its_card(tmp_path):
    result = CliRunner().invoke(group, ["show", f"onnx:{write(tmp_path)}"], catch_exceptions=False)
    for fact in ("onnx:birds", "5 values", "0.5/0.25 s", "CC BY-NC 4.0", "Xeno-canto"):
        assert fact in result.output
