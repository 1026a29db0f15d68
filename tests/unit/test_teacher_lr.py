"""teacher_lr: clip means, the choice of C, and probabilities equal to scikit-learn's."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from tests import tiny

from understudy import schema
from understudy.cache import CacheReader, find
from understudy.errors import CacheError, ConfigError, UnderstudyError, WeightsError
from understudy.evaluate import logistic, teacher_lr
from understudy.evaluate.predictions import Place
from understudy.evaluate.runs import Run
from understudy.evaluate.score import score, score_on
from understudy.index import ClipIndex

TASKS = ("multi-label", "single-label")


def fitted(tmp_path: Path, task: str = "multi-label", fold: int | None = None) -> Path:
    clips = tiny.index(30, task)
    cache = tiny.make_cache(tmp_path / "cache", clips)
    run = tmp_path / "run"
    return teacher_lr.train(clips, teacher="framewise", cache=cache, run_dir=run, fold=fold)


@pytest.mark.parametrize("task", TASKS)
def test_probabilities_equal_scikit_learn(tmp_path: Path, task: str) -> None:
    clips = tiny.index(30, task)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 4))
    labels = clips.labels.copy()
    if task == "multi-label":
        labels[rng.random(labels.shape) < 0.3] = 0
    regression = teacher_lr.Regression(x, labels, clips, silence_db=-70)
    model = regression.fit(0.3)
    scaled = StandardScaler().fit_transform(x)
    if task == "multi-label":
        known = [column != 0 for column in labels.T]
        wanted = np.stack(
            [
                LogisticRegression(C=0.3, max_iter=2000, tol=1e-9)
                .fit(scaled[k], column[k] == 1)
                .predict_proba(scaled)[:, 1]
                for k, column in zip(known, labels.T, strict=True)
            ],
            axis=1,
        )
    else:
        wanted = (
            LogisticRegression(C=0.3, max_iter=2000, tol=1e-9)
            .fit(scaled, labels)
            .predict_proba(scaled)
        )
    assert model.predict(x) == pytest.approx(wanted, abs=2e-4)
    assert (regression.constant_labels, regression.n_unconverged) == ([], 0)


def test_two_and_one_classes_present() -> None:
    clips = tiny.index(30, "single-label")
    x = np.random.default_rng(0).normal(size=(20, 4))
    labels = np.arange(20) % 2 * 2  # the middle class is absent
    regression = teacher_lr.Regression(x, labels, clips, silence_db=-70)
    model = regression.fit(1.0)
    scaled = StandardScaler().fit_transform(x)
    wanted = (
        LogisticRegression(C=1.0, max_iter=2000, tol=1e-9).fit(scaled, labels).predict_proba(scaled)
    )
    found = model.predict(x)
    assert found[:, [0, 2]] == pytest.approx(wanted, abs=2e-4)
    assert (found[:, 1] == 0).all()
    assert regression.constant_labels == ["middle"]
    model = teacher_lr.Regression(x, np.full(20, 1), clips, silence_db=-70).fit(1.0)
    assert model.predict(x) == pytest.approx(np.tile([0, 1, 0], (20, 1)))


@pytest.mark.parametrize("shape", [(150, 12), (40, 90)])  # more clips than channels, and fewer
@pytest.mark.parametrize("task", TASKS)
def test_the_optimum_is_scikit_learns_for_every_c(shape: tuple[int, int], task: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=shape) @ rng.normal(size=(shape[1], shape[1]))
    x = StandardScaler().fit_transform(x)
    labels = (x[:, :3] + rng.normal(size=(len(x), 3))).argmax(axis=1)
    if task == "multi-label":
        labels = np.where(labels[:, None] == np.arange(3), 1, -1)
        labels[rng.random(labels.shape) < 0.2] = 0
    problem = logistic.Problem(x, labels)
    for c in teacher_lr.GRID:
        found = problem.fit(c)
        assert found.converged.all()
        for k in range(3) if labels.ndim == 2 else (slice(None),):
            y = labels[:, k] if labels.ndim == 2 else labels
            known = y != 0 if labels.ndim == 2 else np.full(len(y), True)
            exact = LogisticRegression(C=c, max_iter=20_000, tol=1e-9).fit(x[known], y[known])
            mine = np.atleast_2d(found.weight[k]), np.atleast_1d(found.bias[k])
            wanted = objective(x[known], y[known], exact.coef_, exact.intercept_, c)
            assert objective(x[known], y[known], *mine, c) == pytest.approx(wanted, rel=1e-5)
            guess = (x @ mine[0].T + mine[1]).squeeze()
            clear = np.abs(decision := exact.decision_function(x)) > 1e-2
            if labels.ndim == 2:
                assert np.array_equal(guess[clear] > 0, decision[clear] > 0)
            else:
                assert (guess.argmax(axis=1) == exact.predict(x)).mean() > 0.99


def objective(x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: np.ndarray, c: float):
    logits = x @ weight.T + bias
    if len(weight) == 1:
        loss = np.logaddexp(0, -y * logits[:, 0])
    else:
        loss = logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]
    return loss.sum() + (weight**2).sum() / (2 * c)


def test_labels_of_one_kind_become_constants() -> None:
    clips = tiny.index(30)
    x = np.random.default_rng(0).normal(size=(6, 4))
    labels = np.array([[1, -1, 0]] * 6)
    regression = teacher_lr.Regression(x, labels, clips, silence_db=-70)
    model = regression.fit(1.0)
    assert regression.constant_labels == ["low", "middle", "high"]
    assert model.predict(x) == pytest.approx(np.tile([7 / 8, 1 / 8, 1 / 2], (6, 1)))


def test_constant_channels_do_no_harm() -> None:
    clips = tiny.index(30)
    x = np.random.default_rng(0).normal(size=(30, 3))
    x[:, 1] = 5.0
    model = teacher_lr.Regression(x, clips.labels, clips, silence_db=-70).fit(1.0)
    assert np.isfinite(model.predict(x)).all()


def test_clip_means_leave_out_padding_and_silence(tmp_path: Path) -> None:
    clips = tiny.index(8)
    ok, bad = schema.load().code("ok"), schema.load().code("undecodable")
    cache = tiny.make_cache(tmp_path, clips, {"framewise": {2: bad}})
    reader = CacheReader(find(cache, "tiny", "framewise"))
    level_db = np.full((8, reader.max_frames), -20.0, np.float32)
    level_db[3, 0] = level_db[4, :] = -90  # one silent frame; nothing but silence
    reader.level_db = lambda rows: level_db[rows]  # type: ignore[method-assign]
    rows = np.array([4, 2, 3, 0])
    found, usable = teacher_lr.clip_means(reader, clips, rows)
    assert usable.tolist() == [True, False, True, True]
    assert reader.status[2] != ok
    frames = {row: reader.gather([row])[0][0, : reader.n_frames[row]] for row in (0, 3, 4)}
    assert found[0] == pytest.approx(frames[4].astype(float).mean(0))
    assert found[2] == pytest.approx(frames[3][1:].astype(float).mean(0))
    assert found[3] == pytest.approx(frames[0].astype(float).mean(0))


@pytest.mark.parametrize("task", TASKS)
def test_a_run_directory_like_any_other(tmp_path: Path, task: str) -> None:
    run = Run.read(fitted(tmp_path, task, fold=2))
    assert (run.system, run.student, run.teacher) == ("teacher_lr", None, "framewise")
    assert (run.fold, run.seed, run.ended) == (2, None, True)
    best = json.loads((run.path / "best.json").read_text())
    values = {entry["c"]: entry["value"] for entry in best["grid"]}
    assert best["value"] == max(values.values())
    assert best["c"] == min(c for c, value in values.items() if value == best["value"])
    split = tiny.index(30, task).split(2)
    assert best["n_clips"] == len(split.train) + len(split.valid)
    content = json.loads(score(run.path).read_text())  # the cache is where training found it
    assert content["n_clips"] == len(split.test)
    assert content["value"] > 0.8  # the tiny embeddings know the labels
    assert content["teacher"]["name"] == "framewise"
    assert score(run.path).read_bytes() == score(run.path).read_bytes()


def test_another_runs_directory_is_refused(tmp_path: Path) -> None:
    run = fitted(tmp_path)
    clips = tiny.index(30)
    again = {"teacher": "framewise", "cache": tmp_path / "cache", "run_dir": run}
    before = (run / "best.safetensors").read_bytes()
    teacher_lr.train(clips, **again)
    assert (run / "best.safetensors").read_bytes() == before
    with pytest.raises(ConfigError, match=r"holds another run \(settings differ"):
        teacher_lr.train(clips, **again, silence_db=-60)


def test_damage_and_strangers_are_refused(tmp_path: Path) -> None:
    path = fitted(tmp_path)
    weights = path / "best.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4])
    with pytest.raises(WeightsError, match=r"best\.safetensors"):
        teacher_lr.Model.load(path)
    weights.write_bytes(whole)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"digest": "0" * 64}))
    with pytest.raises(WeightsError, match="another run"):
        teacher_lr.Model.load(path)


def test_missing_or_unfinished_embeddings(tmp_path: Path) -> None:
    clips = tiny.index(30)
    cache = tiny.make_cache(tmp_path, clips, {"framewise": {0: 0}})
    with pytest.raises(CacheError, match="extraction has not finished"):
        teacher_lr.train(clips, teacher="framewise", cache=cache, run_dir=tmp_path / "run")
    with pytest.raises(CacheError, match="understudy extract"):
        teacher_lr.train(clips, teacher="mn04", cache=cache, run_dir=tmp_path / "run")
    with pytest.raises(UnderstudyError, match="audio"):
        teacher_lr.train(clips, teacher="audio", cache=cache, run_dir=tmp_path / "run")


def test_another_index_than_the_one_trained_on_is_refused(tmp_path: Path) -> None:
    run = Run.read(fitted(tmp_path))
    with pytest.raises(UnderstudyError, match="training clips could be among the tested"):
        score_on(run, tiny.index(24), Place(tmp_path / "cache"))


def test_large_c_is_not_tried_once_validation_falls_and_the_refit_is_exact() -> None:
    rng = np.random.default_rng(0)
    n_clips, n_valid = 240, 80
    x = rng.normal(size=(n_clips, 60))
    labels = np.where(x[:, :2] + 1.5 * rng.normal(size=(n_clips, 2)) > 0, 1, -1).astype(np.int8)
    rows = [str(row) for row in range(n_clips)]
    clips = pd.DataFrame({"clip_id": rows, "path": rows})
    index = ClipIndex("noisy", clips, labels, ("a", "b"), Path())
    train, valid = (x[n_valid:], labels[n_valid:]), (x[:n_valid], labels[:n_valid])
    model, about = teacher_lr.fit_chosen(train, valid, index)
    values = [entry["value"] for entry in about["grid"]]
    assert len(values) < len(teacher_lr.GRID)
    assert values[-1] <= max(values) - teacher_lr.FALL
    # Nothing that was left out would have been chosen.
    regression = teacher_lr.Regression(*train, index, silence_db=-70)
    for c in teacher_lr.GRID[len(values) :]:
        found = teacher_lr.value(regression.fit(c).predict(valid[0]), valid[1])
        assert found < about["value"]
    scaled = (x - model.mean) / model.std
    for k, y in enumerate(labels.T):
        exact = LogisticRegression(C=about["c"], max_iter=20_000, tol=1e-9).fit(scaled, y)
        ours, best = (
            np.logaddexp(0, -y * (scaled @ weight + bias)).sum() + weight @ weight / 2 / about["c"]
            for weight, bias in (
                (model.weight[k], model.bias[k]),
                (exact.coef_[0], exact.intercept_[0]),
            )
        )
        assert ours == pytest.approx(best, rel=1e-4)
