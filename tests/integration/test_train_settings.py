"""Settings that change what training computes: precision, schedule, augmentation, teachers."""

import json
import math
import shutil
import sys
from typing import Any

import pytest
import torch
from tests import tiny

from understudy import checkpoint, config
from understudy.config import merged
from understudy.errors import ConfigError
from understudy.train import runlog, setup, train, train_group
from understudy.train.config import TrainSettings, resolve
from understudy.train.feed import RunPlan
from understudy.train.learner import Learner
from understudy.train.settings import SYSTEMS

AUGMENT = {"gain_db": 6.0, "mixup": 0.4, "time_masks": 2, "band_masks": 2}


@pytest.fixture(scope="module")
def index():
    return tiny.index()


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory, index):
    return tiny.make_cache(tmp_path_factory.mktemp("cache"), index)


def run(index, cache_dir, run_dir, system="dc_linear", teacher: Any = "framewise", **changes):
    settings = merged(tiny.QUICK, {"run": {"log_steps": 1}}, changes)
    return train(
        index, system=system, teacher=teacher, cache=cache_dir, run_dir=run_dir, settings=settings
    )


def steps(run_dir):
    return [line for line in runlog.read(run_dir / "log.jsonl") if line["kind"] == "step"]


@pytest.mark.parametrize(
    ("student", "system"),
    [
        pytest.param(student, system, marks=[pytest.mark.soak] * (student == "sc-cnn" and dear))
        for student in ("sc-cnn", "hcnn")
        for system in SYSTEMS
        for dear in [system not in ("baseline", "dc_linear")]
    ],
)
def test_bf16_stays_finite_and_near(tmp_path, index, cache_dir, system, student):
    chosen: Any = {"student": {"name": student}, "optim": {"max_steps": 3}}
    run(index, cache_dir, tmp_path / "full", system, **chosen)
    half = {"compute": {"precision": "bf16"}}
    run(index, cache_dir, tmp_path / "half", system, **chosen, **half)
    whole, other = steps(tmp_path / "full"), steps(tmp_path / "half")
    assert all(math.isfinite(step["total"]) for step in other)
    assert other[0]["total"] == pytest.approx(whole[0]["total"], rel=0.1)
    tensors, _ = checkpoint.load(tmp_path / "half" / "last.safetensors")
    assert all(value.isfinite().all() for value in tensors.values())
    assert tensors["student.dense1.weight"].dtype == torch.float32


def test_cosine_goes_from_the_initial_rate_to_zero(tmp_path, index, cache_dir):
    run(index, cache_dir, tmp_path, optim={"schedule": "cosine", "lr": 0.01})
    rates = [line["lr"] for line in steps(tmp_path)]
    wanted = [0.005 * (1 + math.cos(math.pi * k / 9)) for k in range(9)]
    assert rates == pytest.approx(wanted)


def test_augmented_groups_and_torn_runs_end_like_lone_and_whole_ones(
    tmp_path, index, cache_dir, monkeypatch
):
    changes = {"augment": AUGMENT, "run": {"checkpoint_steps": 1}}
    chosen = merged(tiny.QUICK, changes)
    plans = [
        RunPlan(
            run_dir=tmp_path / system,
            settings=resolve(chosen, system=system),
            teachers=("framewise",),
        )
        for system in ("baseline", "dc_linear")
    ]
    train_group(index, plans, cache=cache_dir)
    step = Learner.step

    def interrupted(self, batch, image):
        if self.state.step == 4:
            raise KeyboardInterrupt
        return step(self, batch, image)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(index, cache_dir, tmp_path / "torn", **changes)
    run(index, cache_dir, tmp_path / "torn", **changes)
    one, other = (
        checkpoint.load(tmp_path / name / "last.safetensors")[0] for name in ("dc_linear", "torn")
    )
    for name, value in one.items():
        torch.testing.assert_close(other[name], value)


def test_several_teachers_teach_one_student(tmp_path, index, cache_dir):
    both = ("framewise", "clipwise")
    teachers = {"clipwise": {"weight": 0.5, "compression": "pca"}}
    run(index, cache_dir, tmp_path, teacher=both, distill={"teachers": teachers})
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["teacher"] == "framewise+clipwise"
    assert config["stores"].keys() == {"audio", *both}
    tensors, _ = checkpoint.load(tmp_path / "last.safetensors")
    components = tensors["objective.teachings.1.compression.components"].double()
    assert components.any()
    with pytest.raises(ConfigError, match=r"distill\.teachers: unknown teacher 'passt'"):
        run(index, cache_dir, tmp_path / "bad", distill={"teachers": {"passt": {}}})


def test_settings_younger_than_a_run_do_not_make_it_another():
    identity = TrainSettings().identity()
    assert not {"augment", "compute", "run"} & identity.keys()
    assert "schedule" not in identity["optim"]
    changed = resolve({"augment": {"mixup": 0.2}, "optim": {"schedule": "cosine"}}).identity()
    assert changed["augment"]["mixup"] == 0.2
    assert changed["optim"]["schedule"] == "cosine"


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_students_learn_the_same_but_for_dropout(tmp_path, index, cache_dir):
    student = {"dropout": 0.0}
    run(index, cache_dir, tmp_path / "eager", student=student)
    run(index, cache_dir, tmp_path / "compiled", student=student, compute={"compile": True})
    for one, other in zip(steps(tmp_path / "eager"), steps(tmp_path / "compiled"), strict=True):
        assert other["total"] == pytest.approx(one["total"], rel=1e-2)


def test_channels_last_is_for_gpus(tmp_path, index, cache_dir):
    changes = {"run": {"device": "cpu"}, "compute": {"channels_last": True}}
    with pytest.raises(ConfigError, match=r"channels_last: wanted a GPU"):
        run(index, cache_dir, tmp_path, **changes)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_the_numbers_of_the_log(tmp_path, index, cache_dir):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(index, cache_dir, tmp_path, run={"tensorboard": True})
    board = events.EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0})
    board.Reload()
    written = {event.step: event.value for event in board.Scalars("step/total")}
    logged = {line["step"]: line["total"] for line in steps(tmp_path)}
    assert written == pytest.approx(logged)
    assert len(logged) > 1


def test_without_tensorboard_its_setting_says_what_to_install(
    tmp_path, index, cache_dir, monkeypatch
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(ConfigError, match=r"pip install 'understudy\[tensorboard\]'"):
        run(index, cache_dir, tmp_path, run={"tensorboard": True})


def test_a_run_of_a_dataset_that_changed_says_so(tmp_path):
    def record(**changes):
        found = dict.fromkeys(setup.IDENTITY, "a") | changes
        return {"digest": config.digest(found), **found}

    setup.claim(tmp_path, record())
    setup.claim(tmp_path, record())
    changed = r"index_digest: 'a' -> 'b'\n  \(clips, labels or splits of a have changed since\)$"
    with pytest.raises(ConfigError, match=changed):
        setup.claim(tmp_path, record(index_digest="b"))
    with pytest.raises(ConfigError) as other:
        setup.claim(tmp_path, record(index_digest="b", dataset="c"))
    assert "changed since" not in str(other.value)
