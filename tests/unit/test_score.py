"""Scores of trained students on their test clips."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tests import tiny

from understudy import checkpoint, metrics, predict, schema
from understudy.errors import CacheError, ConfigError, UnderstudyError
from understudy.evaluate.cli import group
from understudy.evaluate.runs import Run
from understudy.evaluate.score import score
from understudy.train.loop import train

BAD_ROW = 15  # of the test split


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with one undecodable test clip, and a baseline trained on it."""
    folder = tmp_path_factory.mktemp("score")
    clips = tiny.index()
    bad = schema.load().code("undecodable")
    tiny.make_cache(folder / "cache", clips, {"audio": {BAD_ROW: bad}})
    train(
        clips,
        system="baseline",
        cache=folder / "cache",
        run_dir=folder / "run",
        settings=tiny.QUICK,
        progress=False,
    )
    return folder


def test_the_score_is_that_of_the_clips_predictions(place: Path) -> None:
    path = score(place / "run", cache=place / "cache")
    content = json.loads(path.read_text())
    clips = tiny.index()
    student, _ = checkpoint.load_student(place / "run")
    rows = [row for row in clips.split().test if row != BAD_ROW]
    audio = [tiny.samples_of(clips, row).astype(np.float32) / 32768 for row in rows]
    wanted = predict.predict_clips(student, audio, clips.task)
    assert content["value"] == metrics.average_precision(wanted, clips.labels[rows])[1]
    assert content["left_out_clips"] == [clips.clips["clip_id"][BAD_ROW]]
    assert (content["n_clips"], content["split"], content["teacher"]) == (2, "test", None)
    assert content["index_digest"] == clips.digest
    with np.load(path.with_name("score.npz"), allow_pickle=False) as stored:
        assert stored["score"] == pytest.approx(wanted)
        assert stored["clip_id"].tolist() == [clips.clips["clip_id"][row] for row in rows]
        assert np.array_equal(stored["label"], clips.labels[rows])
        assert stored["score_names"].tolist() == list(tiny.LABELS)


def test_other_splits_leave_the_score_alone(place: Path) -> None:
    score(place / "run", cache=place / "cache")
    before = (place / "run" / "evaluation" / "score.json").read_bytes()
    path = score(place / "run", split="valid", cache=place / "cache")
    assert path.name == "score-valid.json"
    assert (place / "run" / "evaluation" / "score.json").read_bytes() == before


def test_unfinished_training_names_the_log_and_the_command(place: Path) -> None:
    log = place / "run" / "log.jsonl"
    whole = log.read_text()
    log.write_text("".join(line for line in whole.splitlines(True) if '"end"' not in line))
    try:
        with pytest.raises(UnderstudyError, match=r"log\.jsonl: training has not ended; run the s"):
            score(place / "run", cache=place / "cache")
    finally:
        log.write_text(whole)


def test_missing_places_are_explained(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="not a run directory"):
        score(tmp_path)
    with pytest.raises(ConfigError, match=r"no dataset 'tiny'; the cache holds none"):
        score(place / "run", cache=tmp_path)
    with pytest.raises(ConfigError, match="--device nonsense"):
        score(place / "run", cache=place / "cache", device="nonsense")


def test_an_unfinished_extraction_is_no_left_out_clip(place: Path, tmp_path: Path) -> None:
    cache = tiny.make_cache(tmp_path, tiny.index(), {"audio": {16: 0}})
    with pytest.raises(CacheError, match="extraction has not finished"):
        score(place / "run", cache=cache)


def test_a_score_of_a_former_run_is_not_taken_for_this_ones(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "evaluation").mkdir(parents=True)
    config = json.loads((place / "run" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evaluation" / "score.json").write_text(json.dumps({"run_digest": "another"}))
    with pytest.raises(UnderstudyError, match=r"score\.json: belongs to another run"):
        Run.read(folder).score()


def test_command_line(place: Path) -> None:
    arguments = ["score", str(place / "run"), "--cache", str(place / "cache")]
    result = CliRunner().invoke(group, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "mAP" in result.output
    assert "not usable: 1 clips (clip015" in result.output
