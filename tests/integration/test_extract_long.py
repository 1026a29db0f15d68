"""Recordings too long for memory, and how windows become batches."""

import io
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from understudy import audio, datasets
from understudy.cache import CacheReader
from understudy.errors import CacheError
from understudy.extract import extract, prepare, run, shard, spool, windows
from understudy.extract import load as loading
from understudy.teachers.base import Teacher
from understudy.teachers.cards import SPECTRAL
from understudy.timing import WindowPlan


class Mean(Teacher):
    """Window in, (mean, rms) out; keeps the shapes it was given, and refuses `most` and more."""

    def __init__(self, most: int = 10**9, **changes) -> None:
        card = replace(SPECTRAL, name="mean", dim=2, min_samples=1, **changes)
        super().__init__(card, None, "cpu", {})
        self.most = most
        self.shapes: list[tuple[int, ...]] = []

    def _make_front_end(self) -> nn.Module:
        return nn.BatchNorm1d(1)

    def _make_network(self) -> None:
        return None

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(windows.shape))
        if len(windows) >= self.most:
            raise torch.OutOfMemoryError("no memory left")
        return super().forward(windows)

    def _pass(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.stack([windows.mean(1), windows.square().mean(1).sqrt()], 1)


def noise(path: Path, duration_s: float, rate_hz: int, seed: int = 0) -> None:
    path.parent.mkdir(exist_ok=True)
    samples = 0.1 * np.random.default_rng(seed).standard_normal(round(duration_s * rate_hz))
    audio.write(path, samples.astype(np.float32), rate_hz)


@pytest.mark.parametrize("resampler", ["soxr_hq", "kaiser_best"])
@pytest.mark.parametrize("rate_hz", [16000, 44100])
@pytest.mark.parametrize("window_s", ["clip", 0.5])
def test_a_long_clip_gives_what_a_short_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resampler: str, rate_hz: int, window_s
):
    noise(tmp_path / "studio" / "a.wav", 7.3, rate_hz)
    index = datasets.load("folder", tmp_path / "studio")
    hop_s = 0.0 if window_s == "clip" else 0.25

    def found(cache: str) -> tuple[np.ndarray, ...]:
        teacher = Mean(resampler=resampler, chunk_s=2.0, window_s=window_s, hop_s=hop_s)
        stores = extract(index, [teacher], tmp_path / cache, audio=True, dtype="float32")
        readers = [CacheReader(stores[name]) for name in ("mean", "audio")]
        return (*(r.gather([0])[0] for r in readers), readers[0].level_db([0]))

    wanted = found("short")
    monkeypatch.setattr(loading, "LONG_S", 1.0)
    for module in (shard, spool, windows):
        monkeypatch.setattr(module, "BLOCK_SAMPLES", 30_000)
    embedding, samples, level_db = found("long")
    np.testing.assert_allclose(embedding, wanted[0], rtol=0, atol=1e-6)
    assert np.abs(samples.astype(int) - wanted[1]).max() <= 1
    np.testing.assert_allclose(level_db, wanted[2], rtol=0, atol=0.02)


@pytest.mark.parametrize("window_s", ["clip", 0.96])
def test_memory_is_flat_for_three_hours(tmp_path: Path, window_s):
    rate_hz, duration_s = 16000, 3 * 3600
    (tmp_path / "studio").mkdir()
    with (tmp_path / "studio" / "day.wav").open("wb") as file:  # silence, and a hole on the disk
        n_bytes = 2 * rate_hz * duration_s
        head = (b"RIFF", 36 + n_bytes, b"WAVEfmt ", 16, 1, 1, rate_hz, 2 * rate_hz, 2, 16, b"data")
        file.write(struct.pack("<4sI8sIHHIIHH4sI", *head, n_bytes))
        file.truncate(44 + n_bytes)
    index = datasets.load("folder", tmp_path / "studio")
    teacher = Mean(window_s=window_s, hop_s=0.0 if window_s == "clip" else 0.96)
    planned = prepare.prepare(index, {"mean": teacher}, tmp_path / "cache", audio=False)
    tracemalloc.start()
    try:
        run.run(planned, run.Runtime(progress=False))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    reader = CacheReader(planned.stores["mean"])
    assert reader.n_frames.tolist() == [1 if window_s == "clip" else duration_s // 0.96]
    assert peak < 100e6  # the samples alone take 691 MB
    assert not list((tmp_path / "cache" / "studio").glob("tmp*"))


def test_a_full_disk_is_not_the_clips_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

    noise(tmp_path / "studio" / "a.wav", 2.0, 16000)
    monkeypatch.setattr(loading, "LONG_S", 1.0)
    monkeypatch.setattr(spool.tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(CacheError, match="No space left"):
        extract(datasets.load("folder", tmp_path / "studio"), [Mean()], tmp_path / "cache")


def test_windows_of_many_clips_share_a_batch(tmp_path: Path):
    for k in range(6):
        noise(tmp_path / "studio" / f"{k}.wav", 2.0 + k % 2, 16000, k)
    teacher = Mean(window_s="clip", hop_s=0.0)
    index = datasets.load("folder", tmp_path / "studio")
    extract(index, [teacher], tmp_path / "cache", clips_per_shard=6)
    assert sorted(teacher.shapes) == [(3, 32000), (3, 48000)]


def test_waiting_windows_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for k in range(8):
        noise(tmp_path / "studio" / f"{k}.wav", 1.0 + 0.1 * k, 16000, k)
    monkeypatch.setattr(shard, "WAITING_S", 2.5)
    job = shard.ShardTrack
    most = 0

    class Watched(job):
        def add(self, row, loaded) -> None:
            nonlocal most
            super().add(row, loaded)
            held = sum(len(p.samples) for pieces in self._waiting.values() for p in pieces)
            assert held == self._waiting_samples
            most = max(most, held)

    monkeypatch.setattr("understudy.extract.worker.ShardTrack", Watched)
    index = datasets.load("folder", tmp_path / "studio")
    teacher = Mean(window_s="clip", hop_s=0.0)
    store = extract(index, [teacher], tmp_path / "cache", clips_per_shard=8)["mean"]
    assert 16000 < most <= 2.5 * 16000
    assert (CacheReader(store).n_frames == 1).all()


def test_memory_that_ran_out_is_remembered(tmp_path: Path):
    noise(tmp_path / "studio" / "a.wav", 17.0, 16000)
    index = datasets.load("folder", tmp_path / "studio")
    teacher = Mean(most=5, window_s=0.5, hop_s=0.5)
    planned = prepare.prepare(index, {"mean": teacher}, tmp_path / "a", audio=False)
    assert run.run(planned, run.Runtime(progress=False)).memory_back_offs == 7
    sizes = [shape[0] for shape in teacher.shapes]
    assert sizes == [32, 16, 8, *[4] * 8, 2]
    teacher.shapes.clear()
    extract(index, [teacher], tmp_path / "b")
    assert [shape[0] for shape in teacher.shapes] == [*[4] * 8, 2]


@pytest.mark.parametrize(("mirrored", "silent"), [(0, 0), (3, 0), (0, 5)])
def test_cut(mirrored: int, silent: int):
    samples = np.arange(1, 21, dtype=np.float32)
    plan = WindowPlan(
        start=np.array([0, 7, 16]),
        length=10,
        centre_s=np.zeros(3),
        mirrored=mirrored,
        silent=silent,
    )
    whole = np.pad(np.pad(samples, mirrored, "reflect"), (silent, 0))
    for start in plan.start.tolist():
        part = windows.cut(samples, plan, start, plan.length)
        np.testing.assert_array_equal(part, whole[start : start + plan.length])
