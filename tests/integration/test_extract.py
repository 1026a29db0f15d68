"""Extraction from recordings to stores, inside this process unless said otherwise."""

import csv
import errno
import hashlib
import os
import shutil
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from torch import nn

from understudy import audio, cache, datasets, schema, teachers
from understudy.cache import CacheReader, StoreWriter
from understudy.errors import CacheError, ConfigError, UnderstudyError
from understudy.extract import cluster, drive, extract, forecast, prepare, probe, run, worker
from understudy.extract.cli import command
from understudy.extract.pending import again, pending
from understudy.extract.progress import Progress
from understudy.index import ClipIndex
from understudy.teachers.base import Teacher
from understudy.teachers.cards import SPECTRAL

RATES_HZ = (16000, 22050, 44100)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten recordings, 0.3 to 2.1 s, of three sample rates."""
    root = tmp_path / "studio"
    root.mkdir()
    for i in range(10):
        record(root / f"{i}.wav", 0.3 + 0.2 * i, RATES_HZ[i % 3], seed=i)
    return root


def record(path: Path, duration_s: float, rate_hz: int = 16000, seed: int = 0) -> None:
    """A tone of -20 dBFS, of its own pitch for each seed."""
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    tone = 0.1 * np.sqrt(2) * np.sin(2 * np.pi * (200 + 37 * seed) * time_s)
    audio.write(path, tone.astype(np.float32), rate_hz)


def load(root: Path) -> ClipIndex:
    return datasets.load("folder", root)


def code(name: str) -> int:
    return schema.load().code(name)


def arrays(folder: Path) -> dict[str, bytes]:
    """Contents of all array files below a folder, by path."""
    files = folder.glob("**/c/**/*")
    return {str(f.relative_to(folder)): f.read_bytes() for f in files if f.is_file()}


def ledger(dataset_dir: Path) -> list[dict[str, str]]:
    with (dataset_dir / "ledger.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class Echo(Teacher):
    """Window in, (mean of squares * gain, -1) out; refuses batches beyond `most`."""

    gain, most = 1.0, 10**9

    def _make_front_end(self) -> nn.Module:
        return nn.BatchNorm1d(1)

    def _make_network(self) -> None:
        return None

    def _pass(self, windows: torch.Tensor) -> torch.Tensor:
        if len(windows) > self.most:
            raise torch.OutOfMemoryError("no memory left")
        power = windows.square().mean(dim=1) * self.gain
        return torch.stack([power, -torch.ones_like(power)], dim=1)


def echo(gain: float = 1.0, most: int = 10**9) -> Echo:
    card = replace(SPECTRAL, name="echo", dim=2, window_s=0.5, hop_s=0.25, min_samples=1)
    teacher = Echo(card, None, "cpu", {})
    teacher.gain, teacher.most = gain, most
    return teacher


def test_stores_hold_what_the_teachers_say(root: Path, tmp_path: Path):
    index = load(root)
    stores = extract(index, ["spectral", echo()], tmp_path / "cache", audio=True)
    assert list(stores) == ["spectral", "echo", "audio"]
    readers = {name: CacheReader(path) for name, path in stores.items()}
    for name, teacher in (("spectral", teachers.build("spectral")), ("echo", echo())):
        reader = readers[name]
        assert reader.attributes["complete"]
        data, n_frames = reader.gather(range(10))
        levels = reader.level_db(range(10))
        for row in range(10):
            decoded = audio.decode(index.absolute(row))
            samples = audio.resample(decoded.samples, decoded.rate_hz, 16000)
            wanted = teacher.embed(torch.from_numpy(samples)).embedding[0].numpy()
            assert n_frames[row] == len(wanted)
            np.testing.assert_allclose(data[row, : len(wanted)], wanted, rtol=2e-3, atol=2e-3)
            assert np.isnan(data[row, len(wanted) :]).all()
            np.testing.assert_allclose(levels[row, : len(wanted)], -20, atol=0.5)
            assert np.isnan(levels[row, len(wanted) :]).all()
    pcm, n_samples = readers["audio"].gather([9])
    decoded = audio.decode(index.absolute(9))
    wanted, _ = audio.to_int16(audio.resample(decoded.samples, decoded.rate_hz, 16000))
    np.testing.assert_array_equal(pcm[0, : n_samples[0]], wanted)


def test_level_counts_only_the_samples_of_a_short_clip(tmp_path: Path):
    root = tmp_path / "short"
    root.mkdir()
    audio.write(root / "a.wav", np.full(1600, 0.5, np.float32), 16000)
    audio.write(root / "b.wav", np.zeros(1600, np.float32), 16000)
    store = extract(load(root), ["spectral"], tmp_path / "cache")["spectral"]
    np.testing.assert_allclose(CacheReader(store).level_db([0, 1])[:, 0], [-6.02, -120], atol=0.01)


def test_bad_clips_are_told_and_the_others_unharmed(root: Path, tmp_path: Path):
    extract(load(root), ["spectral"], tmp_path / "good", clips_per_shard=20)
    good = CacheReader(cache.find(tmp_path / "good", "studio", "spectral")).gather(range(10))[0]
    (root / "a_empty.wav").write_bytes(b"")
    (root / "b_text.wav").write_text("no sound here")
    nans = np.full(8000, np.nan, np.float32)
    soundfile.write(root / "c_nan.wav", nans, 16000, subtype="FLOAT")
    record(root / "d_cut.ogg", 2.0)
    whole = (root / "d_cut.ogg").read_bytes()
    (root / "d_cut.ogg").write_bytes(whole[: len(whole) * 2 // 3])

    planned = plan_of(load(root), tmp_path / "bad", clips_per_shard=20)
    report = run.run(planned)
    reader = CacheReader(planned.stores["spectral"])
    undecodable = code("undecodable")
    status = [undecodable, undecodable, code("audio_not_finite"), undecodable]
    assert reader.status.tolist() == [1] * 10 + status
    np.testing.assert_array_equal(reader.gather(range(10))[0], good)
    lines = ledger(tmp_path / "bad" / "studio")
    assert [line["path"] for line in lines] == sorted(path.name for path in root.glob("[a-d]*"))
    assert {line["track"] for line in lines} == {"spectral"}
    assert lines[0]["reason"] == audio.EMPTY
    assert (report.n_failed, sum(report.reasons.values())) == (4, 4)
    with pytest.raises(CacheError, match="a_empty"):
        reader.gather([10])


def plan_of(index: ClipIndex, cache_dir: Path, **options: object) -> prepare.Extraction:
    built = prepare.build(["spectral"])
    return prepare.prepare(index, built, cache_dir, **{"audio": False, **options})  # type: ignore


def test_numbers_that_do_not_fit_have_a_status_of_their_own(root: Path, tmp_path: Path):
    index = load(root)
    store = extract(index, [echo(gain=1e8)], tmp_path / "half")["echo"]
    assert (CacheReader(store).status == code("overflow")).all()
    assert "--dtype float32" in ledger(tmp_path / "half" / "studio")[0]["reason"]
    store = extract(index, [echo(gain=1e8)], tmp_path / "full", dtype="float32")["echo"]
    assert (CacheReader(store).status == code("ok")).all()
    store = extract(index, [echo(gain=float("nan"))], tmp_path / "nan", dtype="float32")["echo"]
    assert (CacheReader(store).status == code("embedding_not_finite")).all()


def test_out_of_memory_halves_the_batch_and_says_so(root: Path, tmp_path: Path):
    index = load(root)
    wanted = extract(index, [echo()], tmp_path / "a")["echo"]
    planned = prepare.prepare(index, {"echo": echo(most=3)}, tmp_path / "b", audio=False)
    report = run.run(planned)
    assert report.memory_back_offs > 0
    found = CacheReader(planned.stores["echo"]).gather(range(10))[0]
    np.testing.assert_array_equal(found, CacheReader(wanted).gather(range(10))[0])
    store = extract(index, [echo(most=0)], tmp_path / "c")["echo"]
    assert (CacheReader(store).status == code("teacher_failed")).all()
    assert "OutOfMemoryError" in ledger(tmp_path / "c" / "studio")[0]["reason"]


def test_a_second_run_does_nothing(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    arguments = ["folder", "--root", str(root), "--teacher", "spectral", "--cache"]
    first = CliRunner().invoke(command, [*arguments, str(tmp_path / "cache")])
    assert "10 clips: 10 ok, 0 failed" in first.output
    assert "clips/s" in first.output
    before = arrays(tmp_path / "cache" / "studio")
    monkeypatch.setattr(
        cluster, "connect", lambda *_, **__: pytest.fail("started dask for nothing")
    )
    second = CliRunner().invoke(command, [*arguments, str(tmp_path / "cache")])
    assert second.exit_code == 0
    assert "nothing to do" in second.output
    assert arrays(tmp_path / "cache" / "studio") == before


def test_added_clips_extend_and_changed_ones_are_done_again(root: Path, tmp_path: Path):
    extract(load(root), ["spectral"], tmp_path / "cache", clips_per_shard=3)
    dataset_dir = tmp_path / "cache" / "studio"
    store = cache.find(tmp_path / "cache", "studio", "spectral")
    before = arrays(dataset_dir)
    record(root / "z.wav", 1.0)
    record(root / "4.wav", 0.7, seed=99)

    said: list[str] = []
    planned = plan_of(load(root), tmp_path / "cache")
    assert {k: sorted(v) for k, v in pending(planned).items()} == {"spectral": [1, 3]}
    report = run.run(planned, say=said.append)
    assert report.done.shards == 2
    assert said == [
        "the dataset changed: 1 clip added (z.wav)",
        "the dataset changed: 1 clip changed (4.wav)",
    ]
    after = arrays(dataset_dir)
    same = {path for path in before if after[path] == before[path]}
    changed = f"{store.name}/embedding/c/1/0/0"
    assert changed not in same
    assert f"{store.name}/embedding/c/0/0/0" in same
    fresh = extract(load(root), ["spectral"], tmp_path / "fresh", clips_per_shard=3)["spectral"]
    assert arrays(tmp_path / "fresh" / fresh.parent.name) == after

    (root / "z.wav").unlink()
    report = run.run(plan_of(load(root), tmp_path / "cache"), say=said.append)
    assert said[-1] == "the dataset changed: 1 clip removed (z.wav)"
    assert CacheReader(store).n_clips == 10
    assert CacheReader(store).attributes["complete"]


def test_a_file_of_another_size_is_done_again(root: Path, tmp_path: Path):
    extract(load(root), ["spectral"], tmp_path / "cache", clips_per_shard=3)
    with (root / "8.wav").open("ab") as file:
        file.write(b"LIST\0\0\0\0")
    ((number, reason),) = pending(plan_of(load(root), tmp_path / "cache"))["spectral"].items()
    assert number == 2
    assert "8.wav" in reason


def test_other_audio_of_the_same_size_is_done_again(root: Path, tmp_path: Path):
    store = extract(load(root), ["spectral"], tmp_path / "cache")["spectral"]
    before = CacheReader(store).gather(range(10))[0]
    size = (root / "3.wav").stat().st_size
    record(root / "3.wav", 0.9, seed=77)
    assert (root / "3.wav").stat().st_size == size
    (root / "4.wav").touch()
    planned = prepare.prepare(
        load(root), prepare.build(["spectral"]), tmp_path / "cache", audio=False
    )
    assert pending(planned) == {"spectral": {3: "3.wav has other content now"}}
    wanted = "shard 3 is extracted again: 3.wav has other content now"
    assert wanted in list(forecast.lines(planned))
    said: list[str] = []
    run.run(planned, say=said.append)
    assert said == [wanted]
    after = CacheReader(store).gather(range(10))[0]
    changed = [
        not np.array_equal(*pair, equal_nan=True) for pair in zip(before, after, strict=True)
    ]
    assert np.flatnonzero(changed).tolist() == [3]


def test_many_shards_that_are_done_again_are_few_lines():
    reasons = {number: f"{number}.wav has other content now" for number in range(9)}
    said = again({"spectral": {**reasons, 9: "not written yet"}, "audio": reasons})
    assert said[0] == "shard 0 is extracted again: 0.wav has other content now"
    assert said[-1] == "... and 4 more for reasons like these"
    assert len(said) == 6


def test_touched_files_are_read_once_more_and_not_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    extract(load(root), ["spectral"], tmp_path / "cache", clips_per_shard=4, audio=True)
    before = arrays(tmp_path / "cache" / "studio")
    for path in root.iterdir():  # what copying a dataset does
        os.utime(path, ns=(1, 1))
    reads: list[object] = []
    digest = hashlib.file_digest
    monkeypatch.setattr("hashlib.file_digest", lambda *a: (reads.append(a), digest(*a))[1])
    planned = plan_of(load(root), tmp_path / "cache", audio=True)
    assert not any(pending(planned).values())
    assert len(reads) == 10  # once for both stores; nothing was written
    assert run.run(planned).done.shards == 0
    assert len(reads) == 20
    assert run.run(plan_of(load(root), tmp_path / "cache", audio=True)).done.shards == 0
    assert len(reads) == 20
    assert arrays(tmp_path / "cache" / "studio") == before
    record(root / "3.wav", 0.9, seed=77)
    assert run.run(plan_of(load(root), tmp_path / "cache", audio=True)).done.shards == 1


def test_a_link_out_of_the_root_is_told(root: Path, tmp_path: Path):
    record(tmp_path / "secret.wav", 1.0)
    (root / "link.wav").symlink_to(tmp_path / "secret.wav")
    arguments = ["folder", "--root", str(root), "--teacher", "spectral", "--audio"]
    arguments += ["--cache", str(tmp_path / "cache")]
    result = CliRunner().invoke(command, arguments)
    assert "11 clips: 10 ok, 1 failed" in result.output
    lines = ledger(tmp_path / "cache" / "studio")
    assert {(line["clip_id"], line["status"]) for line in lines} == {("link.wav", "undecodable")}
    assert "out of the root" in lines[0]["reason"]
    assert "nothing to do" in CliRunner().invoke(command, arguments).output


def test_a_missing_file_is_told_from_a_damaged_one_and_taken_when_it_comes(
    root: Path, tmp_path: Path
):
    lost = tmp_path / "7.wav"
    (root / "7.wav").rename(lost)
    (root / "8.wav").write_bytes(b"no sound here")
    table = "".join(f"{number}.wav,tone\n" for number in range(10))
    (tmp_path / "labels.csv").write_text(f"path,label\n{table}")
    arguments = ["folder", "--root", str(root), "--teacher", "spectral", "--audio"]
    arguments += ["--option", f"csv={tmp_path / 'labels.csv'}", "--cache", str(tmp_path / "cache")]
    result = CliRunner().invoke(command, arguments)
    assert "10 clips: 8 ok, 2 failed, 1 of them without a file\n" in result.output
    told = {line["clip_id"]: line["reason"] for line in ledger(tmp_path / "cache" / "studio")}
    assert told.keys() == {"7.wav", "8.wav"}
    assert told["7.wav"].startswith("missing file: ")
    assert told["8.wav"] == audio.NOT_AUDIO
    for reason in told.values():
        assert f"  1 x {reason}\n" in result.output
    lost.rename(root / "7.wav")
    result = CliRunner().invoke(command, arguments)
    assert "10 clips: 9 ok, 1 failed\n" in result.output
    assert [line["clip_id"] for line in ledger(tmp_path / "cache" / "studio")] == ["8.wav"] * 2


def test_clips_that_went_are_neither_counted_nor_listed(root: Path, tmp_path: Path):
    (root / "9.wav").write_bytes(b"")
    arguments = ["folder", "--root", str(root), "--teacher", "spectral"]
    arguments += ["--cache", str(tmp_path / "cache")]
    assert "10 clips: 9 ok, 1 failed" in CliRunner().invoke(command, arguments).output
    (root / "9.wav").unlink()
    result = CliRunner().invoke(command, arguments)
    assert "9 clips: 9 ok, 0 failed" in result.output
    assert ledger(tmp_path / "cache" / "studio") == []


def test_another_collection_of_the_same_name_leaves_the_cache_alone(root: Path, tmp_path: Path):
    extract(load(root), ["spectral"], tmp_path / "cache")
    before = arrays(tmp_path / "cache")
    other = tmp_path / "elsewhere" / "studio"
    other.mkdir(parents=True)
    record(other / "song.wav", 1.0)
    with pytest.raises(CacheError, match=r"none of the 1 here \('song.wav'.*--option name="):
        extract(load(other), ["spectral"], tmp_path / "cache")
    assert arrays(tmp_path / "cache") == before
    named = datasets.load("folder", other, name="other")
    assert extract(named, ["spectral"], tmp_path / "cache")["spectral"].parent.name == "other"


def test_a_longer_clip_than_the_store_holds_is_refused(root: Path, tmp_path: Path):
    extract(load(root), ["spectral"], tmp_path / "cache")
    record(root / "z.wav", 9.0)
    with pytest.raises(CacheError, match="at most 2 frames a clip"):
        plan_of(load(root), tmp_path / "cache")
    (root / "9.wav").unlink()
    (root / "z.wav").unlink()
    assert run.run(plan_of(load(root), tmp_path / "cache")).n_clips == 9


def test_a_teacher_added_later_shares_the_shards(root: Path, tmp_path: Path):
    extract(load(root), ["spectral"], tmp_path / "cache", clips_per_shard=4)
    store = extract(load(root), [echo()], tmp_path / "cache", audio=True)["echo"]
    assert CacheReader(store).store.sizes["clips_per_shard"] == 4
    with pytest.raises(ConfigError, match="4 clips per shard, found 5"):
        extract(load(root), [echo()], tmp_path / "cache", clips_per_shard=5)


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


def test_a_failing_disk_ends_the_run_and_the_next_one_continues(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_shard = StoreWriter.write_shard

    def refuse(self: StoreWriter, shard: int, *rest: object) -> None:
        if shard == 2:
            raise CacheError("cannot write: No space left on device")
        write_shard(self, shard, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(drive, "RETRY_S", 0.01)
        patch.setattr(StoreWriter, "write_shard", refuse)
        with pytest.raises(CacheError, match="No space left"):
            extract(load(root), ["spectral"], tmp_path / "cache", clips_per_shard=2)
    assert ledger(tmp_path / "cache" / "studio") == []
    report = run.run(plan_of(load(root), tmp_path / "cache"))
    assert 0 < report.done.shards < 5


def test_one_run_at_a_time(root: Path, tmp_path: Path):
    with cache.lock(tmp_path / "cache" / "studio"), pytest.raises(CacheError, match="in use by"):
        extract(load(root), ["spectral"], tmp_path / "cache")


def test_processes_and_a_running_cluster_give_the_same_bytes(root: Path, tmp_path: Path):
    extract(load(root), ["spectral"], tmp_path / "one", audio=True)
    extract(load(root), ["spectral"], tmp_path / "two", audio=True, workers=2)
    with cluster.connect(None, 1, 2) as client:
        address = client.scheduler_info()["address"]
        extract(load(root), ["spectral"], tmp_path / "there", audio=True, scheduler=address)
    wanted = arrays(tmp_path / "one" / "studio")
    assert arrays(tmp_path / "two" / "studio") == wanted
    assert arrays(tmp_path / "there" / "studio") == wanted


def test_threads_of_torch_are_as_before(root: Path, tmp_path: Path):
    before = torch.get_num_threads()
    extract(load(root), ["spectral"], tmp_path / "cache")
    assert torch.get_num_threads() == before


def test_a_scheduler_that_does_not_answer(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cluster, "CONNECT_S", 0.3)
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        with pytest.raises(ConfigError, match="no dask scheduler answers"):
            extract(load(root), ["spectral"], tmp_path / "cache", scheduler=address)


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
