import json
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tests import tiny

from understudy import audio, checkpoint, predict, students
from understudy.errors import CacheError, DataError
from understudy.predict.cli import command
from understudy.students.base import StudentOutput


class _Probe(torch.nn.Module):
    """Student of 10 samples whose logits are the window's first sample and its mean."""

    input_samples = 10

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches = []

    def forward(self, windows):
        assert not self.training
        self.batches.append(windows.numpy().copy())
        return StudentOutput(torch.stack([windows[:, 0], windows.mean(1)], 1), windows[:, None])


Probe: Any = _Probe


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_windows_cover_the_clip_and_probabilities_are_averaged():
    probe = Probe()
    clip = np.arange(24, dtype=np.float32) / 10
    scores = predict.predict_clips(probe, [clip], "multi-label")
    firsts = np.array([0.0, 0.7, 1.4])  # 3 windows of 10 over 24 samples start at 0, 7, 14
    np.testing.assert_allclose(scores[0, 0], sigmoid(firsts).mean(), rtol=1e-6)
    np.testing.assert_allclose(scores[0, 1], sigmoid(firsts + 0.45).mean(), rtol=1e-6)


def test_short_clip_is_padded_at_its_end():
    probe = Probe()
    predict.predict_clips(probe, [np.ones(4, np.float32)], "multi-label")
    assert probe.batches[0].tolist() == [[1.0] * 4 + [0.0] * 6]


def test_single_label_probabilities_sum_to_one():
    scores = predict.predict_clips(Probe(), [np.ones(25, np.float32)] * 2, "single-label")
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-6)


def test_result_does_not_depend_on_the_batch_and_mode_is_restored():
    rng = np.random.default_rng(0)
    clips = [rng.standard_normal(n).astype(np.float32) for n in (3, 10, 11, 57, 20)]
    probe = Probe().train()
    one = predict.predict_clips(probe, clips, "multi-label", batch_windows=1)
    four = predict.predict_clips(probe, iter(clips), "multi-label", batch_windows=4)
    np.testing.assert_allclose(one, four, rtol=1e-6)
    assert one.shape == (5, 2)
    assert probe.training
    assert max(map(len, probe.batches)) == 4


def test_clip_without_samples_is_refused():
    with pytest.raises(DataError, match="clip 1 has no samples"):
        predict.predict_clips(Probe(), [np.ones(4, np.float32), np.ones(0)], "multi-label")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Index whose files exist, and a cache of it in which clip 2 is undecodable."""
    folder = tmp_path_factory.mktemp("tiny")
    index = tiny.index(6)
    object.__setattr__(index, "root", folder)
    for row in range(len(index)):
        samples = tiny.samples_of(index, row).astype(np.float32) / 32768
        audio.write(index.absolute(row), samples, 16_000)
    return index, tiny.make_cache(folder / "cache", index, {"audio": {2: 2}})


def test_cached_and_decoded_audio_agree(clips):
    index, cache_dir = clips
    cached, decoded = predict.audio_source(index, cache_dir), predict.audio_source(index, None)
    assert cached.n_samples[2] == 0
    assert np.delete(cached.n_samples, 2).tolist() == np.delete(decoded.n_samples, 2).tolist()
    np.testing.assert_array_equal(cached.clip(4), decoded.clip(4))
    rows, starts = np.array([5, 0, 3]), np.array([0, 20_000, 30_000])
    a, b = np.ones((2, 3, 50_000), np.int16)
    cached.crops(rows, starts, a)
    decoded.crops(rows, starts, b)
    np.testing.assert_array_equal(a, b)
    for row, start, crop in zip(rows, starts, a, strict=True):
        wanted = tiny.samples_of(index, row)[start : start + 50_000]
        np.testing.assert_array_equal(crop[: len(wanted)], wanted)
        assert not crop[len(wanted) :].any()


def test_unusable_clip_is_named(clips):
    index, cache_dir = clips
    with pytest.raises(CacheError, match=r"clip002.*undecodable"):
        predict.audio_source(index, cache_dir).clip(2)


def test_audio_that_is_nowhere_is_missed_before_any_is_read(clips, tmp_path):
    index, cache_dir = clips
    object.__setattr__(index, "root", tmp_path)
    predict.audio_source(index, cache_dir)  # needs no files
    message = rf"none of its 6 files in {tmp_path} .*clip000.*--root.*--audio"
    with pytest.raises(DataError, match=f"^no cache of tiny, and {message}"):
        predict.audio_source(index, None)
    with pytest.raises(DataError, match=f"elsewhere: no audio track of tiny, and {message}"):
        predict.audio_source(index, tmp_path / "elsewhere")


def test_track_of_other_clips_is_refused(clips):
    index, cache_dir = clips
    with pytest.raises(CacheError, match=r"2 clips are not those of index tiny.*clip001"):
        predict.audio_source(index.subset([1, 0, 2]), cache_dir)


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    student = students.build("sc-cnn", 3, width=4)
    config = {
        "digest": "d",
        "student": "sc-cnn",
        "task": "single-label",
        "label_names": ["low", "middle", "high"],
        "settings": {"student": {"name": "sc-cnn", **student.settings}},
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    checkpoint.save(
        tmp_path / "run" / "best.safetensors", student.state_dict(), {"digest": config["digest"]}
    )
    return tmp_path / "run"


def test_files_are_labelled_and_bad_ones_reported(run, tmp_path):
    rng = np.random.default_rng(0)
    audio.write(tmp_path / "good.wav", 0.1 * rng.standard_normal(30_000, np.float32), 22_050)
    (tmp_path / "bad.wav").write_bytes(b"")
    paths = [str(tmp_path / "bad.wav"), str(tmp_path / "good.wav")]
    result = CliRunner().invoke(command, [str(run), *paths, "--top", "2"])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {paths[0]}: empty file (0 bytes)\n")
    assert result.stdout.splitlines()[0] == paths[1]
    assert len(result.stdout.splitlines()) == 3
    result = CliRunner().invoke(command, [str(run), *paths, "--format", "json"])
    bad, good = json.loads(result.stdout)
    assert bad == {"path": paths[0], "error": "empty file (0 bytes)"}
    assert sorted(good["labels"]) == ["high", "low", "middle"]
    assert sum(good["labels"].values()) == pytest.approx(1, abs=1e-5)
    assert CliRunner().invoke(command, [str(run), paths[1]]).exit_code == 0
