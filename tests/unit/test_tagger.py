"""Labels of files: streamed by windows, from folders and lists, in three formats."""

import csv
import io
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tests import exported, tiny

from understudy import audio, predict
from understudy.errors import AudioError, ConfigError, WeightsError
from understudy.export import export
from understudy.predict.cli import command
from understudy.predict.tagger import Tagger
from understudy.students.base import StudentOutput

LENGTH = 16_000


class Loudness(torch.nn.Module):
    """Student of 1 s windows whose logits are the window's mean and its first sample."""

    input_samples = LENGTH

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, windows):
        return StudentOutput(torch.stack([windows.mean(1), windows[:, 0]], 1), windows[:, None])


@pytest.fixture
def tagger() -> Tagger:
    network: Any = Loudness()
    return Tagger(network, LENGTH, ("mean", "first"), "multi-label")


def write_noise(path: Path, n_samples: int, rate_hz: int) -> Path:
    rng = np.random.default_rng(n_samples)
    audio.write(path, 0.1 * rng.standard_normal(n_samples, np.float32), rate_hz)
    return path


def test_files_are_scored_as_clips_are(tagger: Tagger, tmp_path: Path):
    """Whatever the rate, the format, the length and the batch."""
    cases = [
        (3, 16_000),
        (16_000, 16_000),
        (99_999, 44_100),
        (120_001, 22_050),
        (2_200_000, 48_000),
    ]
    paths = [write_noise(tmp_path / f"{n}.flac", n, rate_hz) for n, rate_hz in cases]
    decoded = [audio.decode(path) for path in paths]
    clips = [audio.resample(one.samples, one.rate_hz, 16_000) for one in decoded]
    network: Any = tagger.network
    wanted = predict.predict_clips(network, clips, "multi-label")
    for batch in (1, 7, 500):
        results = list(tagger.tag_files(paths, batch_windows=batch))
        assert [result.path for result in results] == list(map(str, paths))
        assert [result.n_samples for result in results] == list(map(len, clips))
        np.testing.assert_allclose([r.scores for r in results], wanted, rtol=1e-6)


@given(st.integers(1, 5 * LENGTH), st.integers(1, 3 * LENGTH))
def test_windows_at_a_hop_cover_the_file(n_samples: int, hop: int):
    network: Any = Loudness()
    start = Tagger(network, LENGTH, ("mean", "first"), "multi-label")._starts(n_samples, hop)
    assert start[0] == 0
    assert start[-1] == max(0, n_samples - LENGTH)
    assert (np.diff(start) > 0).all()
    assert (np.diff(start) <= hop).all()
    assert (np.diff(start)[:-1] == hop).all()


def test_timeline(tagger: Tagger, tmp_path: Path):
    samples = np.zeros(56_000, np.float32)
    samples[40_000:] = 0.5
    audio.write(tmp_path / "a.wav", samples, 16_000)
    (result,) = tagger.tag_files([tmp_path / "a.wav"], hop_s=1)
    spans = [(start_s, end_s) for start_s, end_s, _ in result.timeline()]
    assert spans == [(0, 1), (1, 2), (2, 3), (2.5, 3.5)]
    means = [float(scores[0]) for _, _, scores in result.timeline()]
    np.testing.assert_allclose(means, 1 / (1 + np.exp(-np.array([0, 0, 0.25, 0.5]))), rtol=1e-3)


def test_a_header_that_promises_more_than_there_is(tagger: Tagger, tmp_path: Path):
    """As a truncated MP3's does: windows are placed anew, by what was found."""
    whole = write_noise(tmp_path / "whole.mp3", 16_000 * 9, 16_000)
    cut = tmp_path / "cut.mp3"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    decoded = audio.decode(cut)
    assert len(decoded.samples) < audio.info(cut).n_samples
    (result,) = tagger.tag_files([cut])
    network: Any = tagger.network
    wanted = predict.predict_clips(network, [decoded.samples], "multi-label")[0]
    assert result.n_samples == len(decoded.samples)
    np.testing.assert_allclose(result.scores, wanted, rtol=1e-6)


def test_bad_files_are_told_and_do_not_disturb_others(tagger: Tagger, tmp_path: Path):
    good = write_noise(tmp_path / "good.wav", 40_000, 16_000)
    late = tmp_path / "late.wav"  # fails after windows of it were scored
    samples = np.zeros(3_000_000, np.float32)
    samples[-1] = np.nan
    soundfile.write(late, samples, 16_000, subtype="FLOAT")
    paths = [good, tmp_path / "absent.wav", late, good, tmp_path]
    results = list(tagger.tag_files(paths, batch_windows=2))
    assert [r.error for r in results] == [
        None, "missing file", "non-finite samples", None, "cannot be read: not a regular file"
    ]  # fmt: skip
    assert results[0].scores.tolist() == results[3].scores.tolist()
    with pytest.raises(AudioError, match="non-finite"):
        tagger.tag(late)


def peak_of_tagging(tagger: Tagger, path: Path, minutes: int) -> float:
    """Largest memory that Python and numpy hold, MB, while silence and tones are labelled."""
    with soundfile.SoundFile(path, "w", 16_000, 1, "PCM_16") as file:
        for minute in range(minutes):
            file.write(np.full(60 * 16_000, minute / 2**12, np.float32))
    tracemalloc.start()
    try:
        (result,) = tagger.tag_files([path])
        peak_mb = tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()
    assert len(result.window_scores) == 60 * minutes
    assert result.window_scores[-1][0] > result.window_scores[0][0] == 0.5
    return peak_mb


def test_memory_does_not_grow_with_the_file(tagger: Tagger, tmp_path: Path):
    assert peak_of_tagging(tagger, tmp_path / "a.wav", 10) < 20  # the samples alone: 38 MB


@pytest.mark.soak
def test_memory_of_three_hours(tagger: Tagger, tmp_path: Path):
    assert peak_of_tagging(tagger, tmp_path / "a.wav", 180) < 30  # the samples alone: 691 MB


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, its export, and a folder of recordings."""
    folder = tmp_path_factory.mktemp("predict")
    export(exported.make_run(folder), folder / "student")
    (folder / "audio" / "deeper").mkdir(parents=True)
    for row, name in enumerate(["b.wav", "a.flac", "deeper/c.WAV"]):
        samples = tiny.samples_of(tiny.index(), row).astype(np.float32) / 32768
        audio.write(folder / "audio" / name, samples, 16_000)
    (folder / "audio" / "notes.txt").write_text("no audio")
    return folder


def run_cli(*arguments: object, stdin: str | None = None):
    return CliRunner().invoke(command, list(map(str, arguments)), input=stdin)


def test_a_run_and_its_export_say_the_same(place: Path):
    one, two = (
        run_cli(place / name, place / "audio", "--format", "json") for name in ("run", "student")
    )
    assert one.exit_code == 0, one.output
    results = json.loads(one.stdout)
    assert results == json.loads(two.stdout)
    assert [Path(r["path"]).name for r in results] == ["a.flac", "b.wav", "c.WAV"]
    assert all(sum(r["labels"].values()) == pytest.approx(1, abs=1e-5) for r in results)
    assert re.search(r"3 files, [\d.]+ s of audio in \d+\.\d\d s: ", one.stderr)
    assert "audio-hours per hour" in one.stderr


def test_lists_on_standard_input(place: Path):
    paths = [place / "audio" / "b.wav", place / "absent.wav", place / "audio" / "a.flac"]
    listed = "\n".join(map(str, paths)) + "\n\n"
    result = run_cli(place / "run", "-", "--format", "json", stdin=listed)
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert [entry["path"] for entry in found] == list(map(str, paths))
    assert found[1] == {"path": str(paths[1]), "error": "missing file"}
    assert f"error: {paths[1]}: missing file" in result.stderr
    assert "\n2 of 3 files, " in result.stderr


def test_nothing_labelled_has_no_speed(place: Path):
    result = run_cli(place / "run", place / "audio" / "notes.txt")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "0 of 1 file labelled"
    assert "per hour" not in result.stderr
    one = run_cli(place / "run", place / "audio" / "b.wav")
    assert one.stderr.startswith("1 file, ")


def test_csv_of_a_timeline(place: Path):
    path = place / "audio" / "b.wav"
    arguments = ("--format", "csv", "--timeline", "--hop", 1, "--top", 2)
    result = run_cli(place / "run", path, place / "absent,\n.wav", *arguments)
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert rows[-1]["error"] == "missing file"
    assert rows[-1]["path"] == str(place / "absent,\n.wav")
    spans = [(float(row["start_s"]), float(row["end_s"])) for row in rows[:-1]]
    assert spans[::2] == spans[1::2]
    assert spans[0] == (0, 3.691)
    assert {row["label"] for row in rows[:-1]} <= set(tiny.LABELS)
    (tagged,) = Tagger.load(place / "run").tag_files([path], hop_s=1)
    likeliest = [float(row["probability"]) for row in rows[:-1:2]]
    assert likeliest == pytest.approx([scores.max() for scores in tagged.window_scores], abs=1e-6)


def test_table(place: Path):
    path = place / "audio" / "b.wav"
    result = run_cli(place / "student", path, "--top", 2)
    assert result.stdout.splitlines()[0] == str(path)
    assert len(result.stdout.splitlines()) == 3
    lines = run_cli(place / "student", path, "--timeline").stdout.splitlines()
    assert lines[1].startswith("  0:00:00.0 - 0:00:03.7  ")
    assert run_cli(place / "student", path, "--threshold", 1).stdout.splitlines() == [str(path)]


def test_nothing_to_predict_with_or_for(place: Path, tmp_path: Path):
    cases: list[tuple[Path, Any, type[Exception], str]] = [
        (tmp_path, "torch", WeightsError, "not an exported student: it has no config.json"),
        (tmp_path / "no", "torch", WeightsError, "not an exported student: no such folder"),
        (place / "run", "onnx", ConfigError, "understudy export .*run FOLDER --to onnx$"),
        (place / "run", "int8", ConfigError, "FOLDER --to onnx --int8$"),
        (place / "student", "onnx", WeightsError, r"wanted model\.onnx, found model\.safetensors"),
        (place / "student", "tensorrt", ConfigError, "unknown engine"),
    ]
    for folder, engine, kind, message in cases:
        with pytest.raises(kind, match=message):
            Tagger.load(folder, engine)
    result = run_cli(place / "run", tmp_path)
    assert "no audio file below it" in str(result.exception)
    assert json.loads(run_cli(place / "run", "-", "--format", "json", stdin="").stdout) == []
