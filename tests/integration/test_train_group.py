"""Several students over one stream end as each of them would alone."""

import pytest
import torch
from tests import tiny

from understudy import checkpoint
from understudy.config import merged
from understudy.errors import ConfigError
from understudy.train import runlog, train, train_group
from understudy.train.config import resolve
from understudy.train.feed import RunPlan
from understudy.train.learner import Learner

STEPS = 50


@pytest.fixture(scope="module")
def index():
    return tiny.index()


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory, index):
    return tiny.make_cache(tmp_path_factory.mktemp("cache"), index)


def plan(run_dir, system, teacher="framewise", **changes):
    settings = resolve(merged(tiny.QUICK, changes), system=system)
    return RunPlan(run_dir=run_dir, settings=settings, teachers=(teacher,))


def weights(run_dir):
    return checkpoint.load(run_dir / "last.safetensors")[0]


def steps(run_dir):
    return runlog.read(run_dir / "log.jsonl")[-1]["step"]


def test_grouped_students_end_with_the_weights_of_lone_runs(tmp_path, index, cache_dir):
    optim = {"max_epochs": None, "max_steps": STEPS, "stop_patience": STEPS}
    chosen = [("baseline", "framewise"), ("fitnet", "clipwise"), ("dc_linear", "framewise")]
    plans = [
        plan(tmp_path / f"{system}-{teacher}", system, teacher, optim=optim)
        for system, teacher in chosen
    ]
    assert train_group(index, plans, cache=cache_dir) == {}
    for each in plans:
        lone = each.run_dir.with_name(f"lone-{each.run_dir.name}")
        system = each.settings.distill.system
        settings = merged(tiny.QUICK, {"optim": optim})
        train(
            index, system=system, teacher=each.teachers, cache=cache_dir, run_dir=lone,
            settings=settings,
        )  # fmt: skip
        grouped, alone = weights(each.run_dir), weights(lone)
        assert grouped.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(grouped[name], value)
        assert (
            checkpoint.read_config(lone)["digest"] == checkpoint.read_config(each.run_dir)["digest"]
        )


def test_each_stops_on_its_own(tmp_path, index, cache_dir):
    plans = [
        plan(tmp_path / "two", "baseline", optim={"max_epochs": 2}),
        plan(tmp_path / "five", "dc", optim={"max_epochs": None, "max_steps": 5}),
        plan(tmp_path / "four", "dc_linear", optim={"max_epochs": 4}),
    ]
    train_group(index, plans, cache=cache_dir)
    assert [steps(each.run_dir) for each in plans] == [6, 5, 12]


@pytest.mark.parametrize("stop", [1, 4, 7])
def test_a_group_that_was_torn_apart_ends_like_an_undisturbed_one(
    tmp_path, index, cache_dir, monkeypatch, stop
):
    """The second student is behind the first when the group is taken up again."""

    def plans(name):
        return [plan(tmp_path / name / s, s, run={"checkpoint_steps": 1}) for s in ("dc", "fitnet")]

    step = Learner.step

    def interrupted(self, batch, image):
        if self.state.step == stop and self.run_dir.name == "fitnet":
            raise KeyboardInterrupt
        return step(self, batch, image)

    train_group(index, plans("whole"), cache=cache_dir)
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_group(index, plans("torn"), cache=cache_dir)
    ahead, behind = (
        checkpoint.load(each.run_dir / "last.safetensors")[1]["state"] for each in plans("torn")
    )
    assert (ahead["step"], behind["step"]) == (stop + 1, stop)
    train_group(index, plans("torn"), cache=cache_dir)
    for one, other in zip(plans("whole"), plans("torn"), strict=True):
        a, b = weights(one.run_dir), weights(other.run_dir)
        assert all(torch.equal(a[name], b[name]) for name in a)
        logs = [runlog.read(each.run_dir / "log.jsonl") for each in (one, other)]
        assert [line | {"timing": 0} for line in logs[0]] == [
            line | {"timing": 0} for line in logs[1]
        ]


def test_one_that_diverges_does_not_end_the_others(tmp_path, index, cache_dir):
    bad = plan(tmp_path / "bad", "dc", optim={"lr": 1e30}, run={"log_steps": 1})
    good = plan(tmp_path / "good", "dc")
    failures = train_group(index, [bad, good], cache=cache_dir)
    assert list(failures) == [bad.run_dir]
    assert "not finite" in str(failures[bad.run_dir])
    assert steps(good.run_dir) == 9


def test_a_clip_that_one_cannot_use_is_left_out_of_all(tmp_path, index):
    folder = tiny.make_cache(tmp_path / "cache", index, {"framewise": {4: 4}})
    plans = [plan(tmp_path / system, system) for system in ("baseline", "dc")]
    train_group(index, plans, cache=folder)
    for each in plans:
        assert checkpoint.read_config(each.run_dir)["left_out"] == ["clip004"]


def test_runs_that_cannot_share_a_stream_are_refused(tmp_path, index, cache_dir):
    plans = [plan(tmp_path / "a", "dc"), plan(tmp_path / "b", "dc", optim={"batch": 3})]
    with pytest.raises(ConfigError, match=r"differ in optim\.batch: 4 -> 3"):
        train_group(index, plans, cache=cache_dir)
