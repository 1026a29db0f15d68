"""An extraction as a run: what it refuses and forecasts, and how it leaves this process."""

import errno
import os
import shutil
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from distributed import Client
from tests.studio import echo, load, plan_of, record, recordings

from understudy import cache
from understudy.errors import CacheError, ConfigError, UnderstudyError
from understudy.extract import cluster, extract, probe, run, worker
from understudy.extract.cli import command
from understudy.extract.pending import pending
from understudy.extract.progress import Progress


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return recordings(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teacher", "spektral"], "did you mean 'spectral'"),
        (["--teacher", "spectral", "--weights", "mn04=x.pt"], "not asked for: mn04"),
        (["--teacher", "mn04", "--weights", "mn04={root}/0.wav"], "0.wav"),
        (["--teacher", "spectral", "--set", "spectral.window=1"], "window_s"),
        (["--teacher", "spectral", "--teacher", "spectral"], "named twice"),
        (["--teacher", "spectral", "--root", "{root}/none"], "no such folder"),
        (["--teacher", "spectral", "--device", "abacus"], "abacus"),
        ([], "nothing to extract"),
        (["--teacher", "spectral", "--set", "window_s=1"], "TEACHER.KEY=VALUE"),
        (["--teacher", "spectral", "--weights", "spectral"], "NAME=PATH"),
        (["--teacher", "spectral", "--option", "csv"], "--option wants KEY=VALUE"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    root: Path, tmp_path: Path, arguments: list[str], message: str
):
    given = [argument.format(root=root) for argument in arguments]
    result = CliRunner().invoke(
        command, ["folder", "--root", str(root), "--cache", str(tmp_path / "cache"), *given]
    )
    assert isinstance(result.exception, UnderstudyError), result.output
    assert message in str(result.exception)
    assert not (tmp_path / "cache").exists()


def test_dry_run_writes_nothing_and_a_full_disk_is_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cache_dir = tmp_path / "cache"
    given = ["folder", "--root", str(root), "--cache", str(cache_dir), "--teacher", "spectral"]
    result = CliRunner().invoke(command, [*given, "--audio", "--dry-run"])
    assert "10 clips, 0.00 h of audio, 10 shards of 1 clips" in result.output
    assert "10 of 10 shards to do" in result.output
    assert not cache_dir.exists()
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(free=100))
    refused = CliRunner().invoke(command, [*given, "--dry-run"]).output
    assert "lacks the space" in refused
    assert "writing was not measured" in refused
    with pytest.raises(CacheError, match="100 B are free"):
        extract(load(root), ["spectral"], cache_dir)
    assert not [path for path in cache_dir.rglob("*") if path.suffix in (".zarr", ".parquet")]


@pytest.mark.parametrize(("layout", "longest_s"), [("dense", 2.1), ("concat", 30.0)])
def test_a_slow_disk_is_part_of_the_forecast(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, longest_s: float
):
    record(root / "9.wav", longest_s)
    planned = plan_of(load(root), tmp_path / "cache", audio=True, clips_per_shard=2)
    assert {item.track.layout for item in planned.job.tracks} == {layout}
    sync = os.fsync

    def slow(handle: int) -> None:
        time.sleep(0.02)
        sync(handle)

    monkeypatch.setattr(os, "fsync", slow)
    monkeypatch.setattr(probe, "WRITE_S", 0.1)
    found = probe.probe(planned, pending(planned), limit_s=0.0)
    assert found is not None
    assert found.write_s is not None
    # Each of 2 tracks has 5 shards; a shard's files, its commit record and folders wait in turn.
    assert 10 * 0.06 < found.write_s <= found.left_s
    assert "writing takes about" in str(found)
    assert [*tmp_path.iterdir()] == [root]


def test_a_forecast_for_a_disk_that_cannot_be_written_leaves_writing_out(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(_: int) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    planned = plan_of(load(root), tmp_path / "cache")
    monkeypatch.setattr(os, "fsync", refuse)
    found = probe.probe(planned, pending(planned), limit_s=0.0)
    assert found is not None
    assert found.write_s is None
    assert "writing was not measured" in str(found)
    assert [*tmp_path.iterdir()] == [root]


def test_one_run_at_a_time(root: Path, tmp_path: Path):
    with cache.lock(tmp_path / "cache" / "studio"), pytest.raises(CacheError, match="in use by"):
        extract(load(root), ["spectral"], tmp_path / "cache")


def test_threads_of_torch_are_as_before(root: Path, tmp_path: Path):
    before = torch.get_num_threads()
    extract(load(root), ["spectral"], tmp_path / "cache")
    assert torch.get_num_threads() == before


def test_a_scheduler_that_does_not_answer(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cluster, "CONNECT_S", 0.3)
    clients: list[Client] = []
    start = Client.start

    def noted(self: Client, **options: Any) -> object:
        clients.append(self)
        return start(self, **options)

    monkeypatch.setattr(Client, "start", noted)
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        with pytest.raises(ConfigError, match="no dask scheduler answers"):
            extract(load(root), ["spectral"], tmp_path / "cache", scheduler=address)
    assert [client.status for client in clients] == ["closed", "closed"]
    assert [path.name for path in tmp_path.glob("cache/*/*")] == [".lock"]


def test_a_lent_teacher_is_taken_back(root: Path, tmp_path: Path):
    before = dict(worker._TEACHERS)
    extract(load(root), [echo()], tmp_path / "cache")
    assert before == worker._TEACHERS


def test_the_bar_sees_every_clip(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[Progress] = []
    monkeypatch.setattr(run.Live, "update", lambda self, step, n_tasks: seen.append(step))
    report = run.run(plan_of(load(root), tmp_path / "cache"))
    assert sum(step.clips for step in seen) == report.done.clips == 10
    assert sum(step.audio_s for step in seen) == pytest.approx(12.0, abs=0.01)
