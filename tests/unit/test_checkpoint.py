import contextlib
import json

import pytest
import safetensors.torch
import torch

from understudy import checkpoint, students
from understudy.errors import UnderstudyError, WeightsError

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": torch.tensor(3),
    "c": torch.arange(5, dtype=torch.uint8),
}
STATE = {"epoch": 3, "loss": 0.1 + 0.2, "best": None}


@pytest.fixture
def run(tmp_path):
    """A run directory with a tiny student's best and last weights; seeds 1 and 2."""
    config = {
        "digest": "d" * 64,
        "system": "baseline",
        "student": "sc-cnn",
        "label_names": ["x", "y"],
        "settings": {"student": {"name": "sc-cnn", "width": 4}},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    for seed, (name, prefix) in enumerate({"best": "", "last": "student."}.items(), 1):
        torch.manual_seed(seed)
        weights = students.build("sc-cnn", 2, width=4).state_dict()
        tensors = {prefix + key: value for key, value in weights.items()}
        checkpoint.save(tmp_path / f"{name}.safetensors", tensors, {"digest": config["digest"]})
    return tmp_path


def edit(run, **changes):
    config = json.loads((run / "config.json").read_text()) | changes
    (run / "config.json").write_text(json.dumps(config))


def test_what_was_saved_is_loaded(tmp_path):
    checkpoint.save(tmp_path / "x.safetensors", TENSORS, STATE)
    tensors, state = checkpoint.load(tmp_path / "x.safetensors")
    assert state == STATE
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


def test_equal_content_gives_equal_bytes(tmp_path):
    checkpoint.save(tmp_path / "x", TENSORS, STATE)
    checkpoint.save(tmp_path / "y", dict(reversed(TENSORS.items())), dict(reversed(STATE.items())))
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_any_altered_byte_or_cut_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, TENSORS, STATE)
    whole = path.read_bytes()
    for position in range(0, len(whole), 3):
        altered = bytearray(whole)
        altered[position] ^= 1
        path.write_bytes(altered)
        with contextlib.suppress(WeightsError):
            tensors, state = checkpoint.load(path)
            # The header's padding is the one place where a byte means nothing.
            assert state == STATE
            assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    for length in (0, 7, 8, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"x\.safetensors"):
            checkpoint.load(path)


def test_foreign_and_missing_files_are_refused(tmp_path):
    safetensors.torch.save_file(TENSORS, tmp_path / "foreign.safetensors")
    with pytest.raises(WeightsError, match="not one of understudy's"):
        checkpoint.load(tmp_path / "foreign.safetensors")
    with pytest.raises(WeightsError, match="no such file"):
        checkpoint.load(tmp_path / "absent.safetensors")


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, TENSORS, STATE)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(UnderstudyError, match=r"x\.safetensors.*No space left"):
        checkpoint.save(path, TENSORS, {"epoch": 4})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("which", "seed"), [("best", 1), ("last", 2)])
def test_student_comes_back_in_eval_mode(run, which, seed):
    student, config = checkpoint.load_student(run, which)
    torch.manual_seed(seed)
    wanted = students.build("sc-cnn", 2, width=4).state_dict()
    assert not student.training
    assert config["label_names"] == ["x", "y"]
    assert all(torch.equal(value, wanted[key]) for key, value in student.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"label_names": ["x", "y", "z"]},
            r"does not fit.*dense2.weight is \(2, 16\)",
        ),
        ({"settings": {"student": {"name": "hcnn", "width": 4}}}, "no tensor hstft.bw_Q"),
        ({"digest": "e" * 64}, "weights of run dddddddddddd, but config.json is of run eeee"),
        ({"student": None, "system": "teacher_lr"}, "'teacher_lr' trains no student"),
        ({"digest": None}, "not a run's config"),
    ],
)
def test_weights_of_something_else_are_refused(run, changes, message):
    edit(run, **changes)
    with pytest.raises(WeightsError, match=message):
        checkpoint.load_student(run)


def test_incomplete_runs_are_explained(run):
    (run / "best.safetensors").unlink()
    with pytest.raises(WeightsError, match="train it first"):
        checkpoint.load_student(run)
    (run / "config.json").unlink()
    with pytest.raises(WeightsError, match="not a run directory"):
        checkpoint.load_student(run)
    (run / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="not a run's config"):
        checkpoint.load_student(run)
