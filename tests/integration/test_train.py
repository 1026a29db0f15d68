"""Training on a tiny cached dataset, in this process."""

import json

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from tests import tiny

from understudy import audio, checkpoint, predict
from understudy.config import merged
from understudy.errors import CacheError, ConfigError, DataError, UnderstudyError
from understudy.train import runlog, train
from understudy.train.cli import command
from understudy.train.config import resolve
from understudy.train.feed import RunPlan, open_feed
from understudy.train.learner import Learner
from understudy.train.settings import SYSTEMS
from understudy.train.setup import prepare
from understudy.train.validation import Validation

UNDECODABLE, OVERFLOW, MISSING = 2, 4, 0


@pytest.fixture(scope="module")
def index():
    return tiny.index()


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory, index):
    return tiny.make_cache(tmp_path_factory.mktemp("cache"), index)


def run(index, cache_dir, run_dir, system: str | None = "dc_linear", **changes):
    settings = merged(tiny.QUICK, changes)
    return train(
        index, system=system, teacher="framewise", cache=cache_dir, run_dir=run_dir,
        settings=settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory, index, cache_dir):
    """The run that others are compared with."""
    return run(index, cache_dir, tmp_path_factory.mktemp("finished"))


def log_of(run_dir):
    """The log without what may differ between equal runs."""
    lines = runlog.read(run_dir / "log.jsonl")
    return [{key: value for key, value in line.items() if key != "timing"} for line in lines]


def assert_same_run(one, other):
    for name in ("best.safetensors", "best.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    config, wanted = (checkpoint.read_config(run_dir) for run_dir in (one, other))
    assert config | {"paths": None} == wanted | {"paths": None}
    (a, state_a), (b, state_b) = (checkpoint.load(r / "last.safetensors") for r in (one, other))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert state_a | {"log_bytes": 0} == state_b | {"log_bytes": 0}
    assert log_of(one) == log_of(other)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("teacher", tiny.TEACHERS)
def test_every_system_trains(tmp_path, index, cache_dir, system, teacher):
    settings = merged(tiny.QUICK, {"optim": {"max_epochs": 1}, "run": {"log_steps": 1}})
    train(
        index, system=system, teacher=teacher, cache=cache_dir, run_dir=tmp_path, settings=settings
    )
    step = runlog.read(tmp_path / "log.jsonl")[0]
    preset = SYSTEMS[system]
    assert (step["distance"] > 0) == (preset.distance != "none")
    assert (step["teacher"] > 0) == (preset.compression != "none")
    assert (tmp_path / "best.safetensors").exists()


def test_hcnn_trains_on_its_own_crops(tmp_path, index, cache_dir):
    student = {"name": "hcnn", "width": 4}
    run(index, cache_dir, tmp_path, student=student, optim={"max_steps": 2})
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["settings"]["data"]["crop_samples"] == 80_000
    assert checkpoint.load_student(tmp_path)[0].name == "hcnn"


def test_a_finished_run_is_described_and_left_alone(finished, index, cache_dir):
    config = json.loads((finished / "config.json").read_text())
    assert config["system"] == "dc_linear"
    assert config["stores"].keys() == {"audio", "framewise"}
    assert config["clips"] == {"train": 12, "valid": 3, "test": 3}
    assert config["settings"]["threads"] == 1
    assert config["settings"]["student"]["width"] == 4
    lines = runlog.read(finished / "log.jsonl")
    assert [line["kind"] for line in lines] == ["epoch"] * 3 + ["end"]
    assert json.loads((finished / "best.json").read_text())["value"] == lines[-1]["best"]["value"]
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir() if path.name != ".lock"}
    run(index, cache_dir, finished)
    assert before == {p: p.stat().st_mtime_ns for p in finished.iterdir() if p.name != ".lock"}


def test_the_same_run_twice_is_the_same_to_the_last_bit(tmp_path, finished, index, cache_dir):
    torch.manual_seed(99)  # the caller's generator does not matter, and is given back
    before = torch.get_rng_state()
    run(index, cache_dir, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_run(tmp_path, finished)


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_an_interrupted_run_ends_like_an_undisturbed_one(
    tmp_path, finished, index, cache_dir, monkeypatch, stop
):
    step = Learner.step

    def interrupted(self, batch, image):
        if self.state.step == stop:
            raise KeyboardInterrupt
        return step(self, batch, image)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(index, cache_dir, tmp_path, run={"checkpoint_steps": 1})
    assert checkpoint.load(tmp_path / "last.safetensors")[1]["state"]["step"] == stop
    run(index, cache_dir, tmp_path)
    assert_same_run(tmp_path, finished)


def test_best_student_predicts_what_training_validated(finished, index, cache_dir):
    student, config = checkpoint.load_student(finished)
    source = predict.audio_source(index, cache_dir)
    rows = index.split().valid
    scores = predict.predict_clips(student, map(source.clip, rows), config["task"])
    best = json.loads((finished / "best.json").read_text())
    from understudy.metrics import average_precision

    assert average_precision(scores, index.labels[rows])[1] == pytest.approx(best["value"])


def setup(index, cache_dir, system, **changes):
    settings = resolve(merged(tiny.QUICK, changes), system=system)
    plan = RunPlan(run_dir=cache_dir / "absent", settings=settings, teachers=("framewise",))
    return prepare(open_feed(index, [plan], cache=cache_dir, stores=[], fold=1), plan)


def test_systems_share_the_initial_student_and_the_batches(index, cache_dir):
    setups = [setup(index, cache_dir, system) for system in SYSTEMS]
    first = setups[0]
    for other in setups[1:]:
        weights = other.student.state_dict()
        for name, value in first.student.state_dict().items():
            assert torch.equal(value, weights[name])
        for one, two in zip(first.feed.stream.crops(3), other.feed.stream.crops(3), strict=True):
            assert np.array_equal(one, two)
    seeded = setup(index, cache_dir, "dc", optim={"seed": 7})
    assert not torch.equal(seeded.student.dense1.weight, first.student.dense1.weight)


def test_identity_ignores_how_it_is_run_and_nothing_else(index, cache_dir):
    def digest(system="dc", **changes):
        return setup(index, cache_dir, system, **changes).record["digest"]

    assert digest() == digest(run={"log_steps": 3, "device": "cpu"})
    others = [
        digest("fitnet"),
        digest(optim={"seed": 7}),
        digest(student={"tap": "pre"}),
        digest(distill={"distance_weight": 0.9}),
        digest(threads=2),
        digest(optim={"batch": 3}),
    ]
    assert len({digest(), *others}) == 7


def test_a_directory_of_another_run_is_refused_with_the_difference(finished, index, cache_dir):
    with pytest.raises(ConfigError, match=r"settings\.optim\.lr: 0\.003 -> 0\.01"):
        run(index, cache_dir, finished, optim={"lr": 0.01})
    with pytest.raises(ConfigError, match=r"index_digest"):
        run(tiny.index(seed=0, task="single-label"), cache_dir, finished)


def test_single_label_trains_towards_accuracy(tmp_path, cache_dir):
    run(tiny.index(task="single-label"), cache_dir, tmp_path, optim={"max_steps": 2})
    end = runlog.read(tmp_path / "log.jsonl")[-1]
    assert end["best"]["metric"] == "accuracy"
    assert (end["reason"], end["step"]) == ("optim.max_steps 2", 2)


def test_training_stops_early_and_lowers_its_rate(tmp_path, index, cache_dir, monkeypatch):
    losses = iter([1.0, 0.9, *[0.95] * 9])
    monkeypatch.setattr(Validation, "result", lambda self: ({"student": next(losses)}, 0.5))
    optim = {"max_epochs": None, "stop_patience": 5, "plateau_patience": 1, "batch": 12}
    run(index, cache_dir, tmp_path, optim=optim)
    lines = runlog.read(tmp_path / "log.jsonl")
    assert lines[-1]["reason"] == "no lower validation loss for 5 epochs"
    assert lines[-1]["best"]["epoch"] == 1
    rates = [line["lr"] for line in lines[:-1]]
    np.testing.assert_allclose(rates, [3e-3] * 4 + [6e-4] * 2 + [1.2e-4])


def test_clips_that_are_not_ok_are_left_out_and_counted(tmp_path, index):
    status = {"audio": {0: UNDECODABLE}, "framewise": {0: UNDECODABLE, 4: OVERFLOW, 12: OVERFLOW}}
    folder = tiny.make_cache(tmp_path / "cache", index, status)
    run(index, folder, tmp_path / "run", optim={"max_epochs": 1})
    assert runlog.read(tmp_path / "run" / "log.jsonl")[-1]["n_left_out"] == 3
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["left_out"] == ["clip000", "clip004", "clip012"]


def test_an_unfinished_extraction_is_refused(tmp_path, index):
    folder = tiny.make_cache(tmp_path / "cache", index, {"framewise": {1: MISSING, 17: MISSING}})
    with pytest.raises(CacheError, match=r"framewise.*lacks 1 of 15.*run the same command again"):
        run(index, folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_baseline_needs_no_cache(tmp_path, index):
    for row in range(len(index)):
        samples = tiny.samples_of(index, row).astype(np.float32) / 32768
        audio.write(tmp_path / index.clips["path"][row], samples, 16_000)
    object.__setattr__(here := tiny.index(), "root", tmp_path)
    settings = merged(tiny.QUICK, {"optim": {"max_epochs": 1}})
    train(here, system="baseline", run_dir=tmp_path / "run", settings=settings)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["stores"] == {}
    (tmp_path / "clip000.wav").write_bytes(b"RIFF")
    with pytest.raises(UnderstudyError, match=r"clip000\.wav"):
        train(here, system="baseline", run_dir=tmp_path / "other", settings=settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": {"learning_rate": 1}}, "unknown key 'learning_rate'"),
        ({"optim": {"bach": 4}}, "unknown key 'bach'; did you mean 'batch'"),
        ({"student": {"widht": 4}}, "did you mean 'width'"),
        ({"student": {"name": "sccnn"}}, "unknown student 'sccnn'; did you mean 'sc-cnn'"),
        ({"distil": {}}, "unknown key 'distil'; did you mean 'distill'"),
        (
            {"distill": {"system": "dclinear"}},
            "'dclinear'; did you mean 'dc_linear'",
        ),
        ({"distill": {"distance": "dcc"}}, "did you mean 'dc'"),
        ({"distill": 3}, "wanted a mapping, found 3"),
        ({"optim": {"batch": "many"}}, "wanted int, found 'many'"),
        ({"optim": {"batch": 1}}, r"optim\.batch: wanted at least 2, found 1"),
        ({"optim": {"lr": 0}}, r"optim\.lr: wanted more than 0, found 0"),
        ({"optim": {"seed": -1}}, r"optim\.seed: wanted at least 0"),
        ({"run": {"device": "abacus"}}, r"run\.device: 'abacus'"),
        ({"threads": 0}, "threads: wanted at least 1"),
        ({"data": {"crop_samples": 10}}, "wanted at least 257 for sc-cnn, found 10"),
    ],
)
def test_settings_that_cannot_be_used_are_explained(tmp_path, index, cache_dir, changes, message):
    with pytest.raises(ConfigError, match=message):
        run(index, cache_dir, tmp_path / "run", system=None, **changes)
    assert not (tmp_path / "run").exists()


def test_what_is_missing_is_named_and_no_folder_is_made(tmp_path, index, cache_dir):
    run_dir = tmp_path / "run"
    with pytest.raises(ConfigError, match="system dc learns from a teacher"):
        train(index, system="dc", cache=cache_dir, run_dir=run_dir)
    with pytest.raises(CacheError, match=r"no store of 'passt'.*understudy extract tiny"):
        train(index, system="dc", teacher="passt", cache=cache_dir, run_dir=run_dir)
    other = next((cache_dir / "tiny").glob("clipwise-*"))
    with pytest.raises(ConfigError, match="a store of 'clipwise'; wanted at most one each of"):
        train(index, teacher="framewise", cache=cache_dir, store=other, run_dir=run_dir)
    with pytest.raises(DataError, match="wanted fold 9"):
        train(index, teacher="framewise", cache=cache_dir, fold=9, run_dir=run_dir)
    assert not run_dir.exists()


def test_divergence_is_an_error_not_a_result(tmp_path, index, cache_dir):
    with pytest.raises(ConfigError, match=r"not finite.*lower optim\.lr"):
        run(index, cache_dir, tmp_path, optim={"lr": 1e30}, run={"log_steps": 1})


def test_command_trains_from_the_cache_alone(tmp_path, cache_dir, finished):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("optim: {batch: 4, lr: 5.0, max_epochs: 3}\nthreads: 1\n")
    arguments = ["tiny", "--student", "sc-cnn", "--system", "dc_linear", "--teacher", "framewise",
                 "--cache", str(cache_dir), "--run-dir", str(tmp_path / "run"),
                 "--recipe", str(recipe), "--set", "optim.lr=3e-3",
                 "--set", "student.width=4"]  # fmt: skip
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert_same_run(tmp_path / "run", finished)
    start, epoch = result.stderr.splitlines()  # further epochs follow too soon
    assert start == (
        "tiny: 12 train, 3 valid, 3 test clips; sc-cnn dc_linear of framewise; "
        "9 steps at most; on cpu"
    )
    first = runlog.read(finished / "log.jsonl")[0]
    assert epoch.startswith(
        f"epoch 1, step 3 of 9: train {first['train']['total']:.3f}, "
        f"valid {first['valid']['student']:.3f}, mAP {first['value']:.3f}; "
    )
    assert epoch.endswith(" s/epoch")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("best validation mAP 0.")
    assert lines[1].startswith("ended by optim.max_epochs 3; ")
    assert lines[2] == f"run: {tmp_path / 'run'}"


def test_command_without_index_says_what_it_wants(tmp_path):
    for extra in ([], ["--cache", str(tmp_path)], ["--option", "a=b"]):
        result = CliRunner().invoke(command, ["tiny", "--run-dir", str(tmp_path / "run"), *extra])
        assert isinstance(result.exception, ConfigError)
        assert "--root" in str(result.exception)


def test_ctrl_c_says_how_to_go_on(tmp_path, cache_dir, monkeypatch):
    def interrupted(self, batch, image):
        raise KeyboardInterrupt

    monkeypatch.setattr(Learner, "step", interrupted)
    result = CliRunner().invoke(
        command,
        ["tiny", "--teacher", "framewise", "--cache", str(cache_dir),
         "--run-dir", str(tmp_path / "run"), "--set", "student.width=4"],
    )  # fmt: skip
    assert result.exit_code == 130
    last = result.stderr.splitlines()[-1]
    assert last == "stopped; the same command goes on from the last checkpoint"


def test_shown_settings_are_a_recipe_of_the_same_run(tmp_path):
    chosen = ["--system", "dc", "--student", "hcnn", "--set", "optim.lr=1e-5", "--show-settings"]
    result = CliRunner().invoke(command, chosen)
    assert result.exit_code == 0, result.output
    shown = yaml.safe_load(result.stdout)
    assert shown["student"] == {"name": "hcnn", "width": 128, "tap": "post", "dropout": 0.5}
    assert (shown["optim"]["lr"], shown["optim"]["batch"]) == (1e-5, 16)
    assert shown["data"]["crop_samples"] == 80_000
    lines = result.stdout.splitlines()
    for line in ("width: 128", "lr: 1.0e-05", "distance: dc", "precision: float32", "gain_db: 0.0"):
        assert lines[lines.index(f"  {line}") - 1].startswith("  # "), line
    assert max(map(len, lines)) <= 100
    (tmp_path / "recipe.yaml").write_text(result.stdout)
    again = CliRunner().invoke(
        command, ["--recipe", str(tmp_path / "recipe.yaml"), "--show-settings"]
    )
    assert again.stdout == result.stdout


@pytest.mark.parametrize(
    ("given", "meant"), [("epochs", "optim.max_epochs"), ("width", "student.width")]
)
def test_a_setting_without_its_section_is_found(given, meant):
    with pytest.raises(ConfigError, match=rf"unknown key '{given}'; did you mean '{meant}'"):
        resolve({given: 3})


def test_command_without_run_dir_says_so():
    result = CliRunner().invoke(command, ["tiny"])
    assert (result.exit_code, "Missing option '--run-dir'" in result.stderr) == (2, True)
