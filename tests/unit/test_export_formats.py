"""ONNX models and torch.export programs of narrow students: the same logits as torch's."""

import importlib.util
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tests import exported, tiny

from understudy import audio, checkpoint, students
from understudy.errors import UnderstudyError, WeightsError
from understudy.export import build, cli, export, parity
from understudy.predict.cli import command
from understudy.predict.tagger import Tagger
from understudy.students import folder as layout
from understudy.students.base import Student

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module", params=["sc-cnn", "hcnn"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("formats")
    run = exported.make_run(place, request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "DURATIONS_S", (0.5, 5.0))
        patch.setattr(parity, "BATCHES", (1, 2))
        patch.setattr(importlib.util, "find_spec", lambda name, *rest: (
            None if name == "torchvision" else find_spec(name, *rest)
        ))  # fmt: skip
        told = Told()
        logging.getLogger("torch.onnx").addHandler(told)
        try:
            made = export(run, place / "student", ["onnx"], with_int8=True)
        finally:
            logging.getLogger("torch.onnx").removeHandler(told)
    assert told.warnings == []
    return made


find_spec = importlib.util.find_spec


class Told(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.warnings.append(record.getMessage())


def test_a_later_export_keeps_other_formats_of_the_same_weights(folder: Path, tmp_path: Path):
    run = Path(shutil.copytree(folder.parent / "run", tmp_path / "run"))
    out = Path(shutil.copytree(folder, tmp_path / "student"))
    first = layout.read(out).files
    result = CliRunner().invoke(cli.command, [str(run), str(out), "--licence", "cc-by-4.0"])
    assert result.exit_code == 0, result.output
    assert "kept: model-int8.onnx" in result.stderr
    assert "removed" not in result.stderr
    assert layout.read(out).files == first
    text = (out / "README.md").read_text()
    assert text.startswith("---\nlicense: cc-by-4.0\n")
    assert "8 bits cost: test accuracy" in text
    assert " ms |" in next(line for line in text.splitlines() if "| model-int8.onnx" in line)

    tensors, state = checkpoint.load(run / "best.safetensors")
    next(iter(tensors.values())).add_(1)
    checkpoint.save(run / "best.safetensors", tensors, state)
    result = CliRunner().invoke(cli.command, [str(run), str(out)])
    assert result.exit_code == 0, result.output
    told = [line for line in result.stderr.splitlines() if line.startswith("removed: ")]
    assert [line.split()[1].strip(",") for line in told] == sorted(first.keys() - {layout.WEIGHTS})
    assert sorted(p.name for p in out.iterdir()) == ["README.md", "config.json", layout.WEIGHTS]


@pytest.mark.parametrize(("batch", "seconds"), [(1, 0.01), (3, 3.7), (1, 6.31)])
def test_onnx_equals_torch(folder: Path, batch: int, seconds: float):
    student = students.load(folder)
    sound = parity.probe_sound(batch, round(16_000 * seconds))
    with torch.no_grad():
        image = student.front_end(sound)
        wanted = student(sound).logits.numpy()
    for name, fed in (("model", {"audio": sound}), ("model-logmel", {"log_mel": image})):
        session = onnxruntime.InferenceSession(folder / f"{name}.onnx")
        (found,) = session.run(None, {key: value.numpy() for key, value in fed.items()})
        assert np.abs(found - wanted).max() <= 1e-4 * np.sqrt((wanted**2).mean())


def test_its_operators_are_real_and_common(folder: Path):
    import onnx

    model = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} <= {""}
    assert not {node.op_type for node in model.graph.node} & {"STFT", "DFT"}
    shapes = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [["batch", "samples"], ["batch", 3]]
    assert str(Path.cwd()).encode() not in model.SerializeToString()


def test_int8_leaves_the_front_end_alone_and_its_cost_is_told(folder: Path):
    import onnx

    model = onnx.load(folder / "model-int8.onnx")
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Conv") == 1
    assert operators.count("ConvInteger") > 10
    facts = layout.read(folder).files["model-int8.onnx"].facts
    assert facts["test"]["n_clips"] == 3
    assert facts["test"]["metric"] == "accuracy"
    assert 0 <= facts["test"]["int8"] <= 1
    card = (folder / "README.md").read_text()
    assert f"8 bits cost: test accuracy {facts['test']['int8']:.4f} against" in card
    assert 1e-4 < facts["error_over_rms"] < 0.5


def test_engines_agree(folder: Path, tmp_path: Path):
    samples = tiny.samples_of(tiny.index(), 0).astype(np.float32) / 32768
    audio.write(tmp_path / "a.wav", samples, 16_000)
    torch_says, onnx_says, int8_says = (
        Tagger.load(folder, engine).tag(tmp_path / "a.wav") for engine in ("torch", "onnx", "int8")
    )
    assert onnx_says == pytest.approx(torch_says, abs=1e-5)
    assert int8_says == pytest.approx(torch_says, abs=0.1)
    result = CliRunner().invoke(command, [str(folder), str(tmp_path), "--engine", "onnx"])
    assert result.exit_code == 0, result.output


def test_an_altered_model_is_refused(folder: Path):
    whole = (folder / "model.onnx").read_bytes()
    try:
        (folder / "model.onnx").write_bytes(whole[:-1])
        with pytest.raises(WeightsError, match=r"model\.onnx: altered"):
            Tagger.load(folder, "onnx")
    finally:
        (folder / "model.onnx").write_bytes(whole)


@pytest.mark.soak
@pytest.mark.parametrize("name", ["sc-cnn", "hcnn"])
def test_torch_program(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """HCNN's pooling and padding torch.export would otherwise fix to the example's length."""
    monkeypatch.setattr(parity, "DURATIONS_S", (0.5, 5.0, 6.31))
    monkeypatch.setattr(parity, "BATCHES", (1, 3))
    run = exported.make_run(tmp_path, name)
    files = layout.read(export(run, tmp_path / "student", ["torch-export"])).files
    assert sorted(files) == ["model-logmel.pt2", "model.pt2", "model.safetensors"]
    assert files["model.pt2"].facts["error_over_rms"] < parity.TOLERANCE


def test_what_differs_from_torch_gets_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = exported.make_run(tmp_path)
    shifted = exported.narrow("sc-cnn")
    with torch.no_grad():
        shifted.dense2.bias.add_(0.01)
    program = torch.export.export(shifted.bn, (torch.zeros(2, shifted.channels),))
    monkeypatch.setattr(build.graphs, "program", lambda student, entry: program)
    monkeypatch.setattr(torch.export, "load", lambda path: Shifted(shifted))
    with pytest.raises(UnderstudyError, match=r"model\.pt2: its logits differ.*nothing was"):
        export(run, tmp_path / "student", ["torch-export"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "run"]


class Shifted:
    """Stands for a loaded program: another student's logits."""

    def __init__(self, student: Student) -> None:
        self.student = student

    def module(self):
        return lambda fed: (
            (self.student(fed) if fed.ndim == 2 else self.student.from_image(fed)).logits
        )
