"""Extracting again: what is kept, what is done anew, and what is told of it."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tests.studio import arrays, echo, ledger, load, plan_of, record, recordings

from understudy import cache, datasets
from understudy.cache import CacheReader, StoreWriter
from understudy.errors import AudioError, CacheError, ConfigError
from understudy.extract import cluster, drive, extract, forecast, prepare, run
from understudy.extract import load as load_module
from understudy.extract.cli import command
from understudy.extract.pending import again, pending
from understudy.index import ClipIndex


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return recordings(tmp_path)


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


def test_failed_clips_are_tried_again_when_asked(root: Path, tmp_path: Path):
    arguments = ["folder", "--root", str(root), "--teacher", "spectral", "--clips-per-shard", "3"]
    arguments += ["--cache", str(tmp_path / "whole")]
    assert CliRunner().invoke(command, arguments).exit_code == 0
    arguments[-1] = str(tmp_path / "cache")
    decode, lost = load_module.audio.decode, {"4.wav"}

    def decode_or_fail(path, *more, **options):
        if Path(path).name in lost:
            raise AudioError(path, "the disk had a bad day")
        return decode(path, *more, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load_module.audio, "decode", decode_or_fail)
        first = CliRunner().invoke(command, arguments)
    assert "10 clips: 9 ok, 1 failed" in first.output
    assert "--retry-failed tries them again" in first.output
    assert "nothing to do" in CliRunner().invoke(command, arguments).output
    last = CliRunner().invoke(command, [*arguments, "--retry-failed"])
    assert "shard 1 is extracted again: of its clips, 1 failed" in last.output
    assert "10 clips: 10 ok, 0 failed" in last.output
    assert arrays(tmp_path / "cache" / "studio") == arrays(tmp_path / "whole" / "studio")
    assert "nothing to do" in CliRunner().invoke(command, [*arguments, "--retry-failed"]).output


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


def test_many_shards_that_are_done_again_are_few_lines():
    reasons = {number: f"{number}.wav has other content now" for number in range(9)}
    said = again({"spectral": {**reasons, 9: "not written yet"}, "audio": reasons})
    assert said[0] == "shard 0 is extracted again: 0.wav has other content now"
    assert said[-1] == "... and 4 more for reasons like these"
    assert len(said) == 6


def test_clips_that_went_are_neither_counted_nor_listed(root: Path, tmp_path: Path):
    (root / "9.wav").write_bytes(b"")
    arguments = ["folder", "--root", str(root), "--teacher", "spectral"]
    arguments += ["--cache", str(tmp_path / "cache")]
    assert "10 clips: 9 ok, 1 failed" in CliRunner().invoke(command, arguments).output
    (root / "9.wav").unlink()
    result = CliRunner().invoke(command, arguments)
    assert "9 clips: 9 ok, 0 failed" in result.output
    assert ledger(tmp_path / "cache" / "studio") == []


def labelled(root: Path, n: int = 10) -> ClipIndex:
    """Of a table that lists the first `n` recordings, whether or not they are there."""
    lines = ["path,label", *(f"{i}.wav,tone" for i in range(n))]
    (root.parent / "labels.csv").write_text("\n".join(lines))
    return datasets.load("folder", root, csv=root.parent / "labels.csv")


def test_what_was_extracted_of_files_that_are_missing_now_stays(root: Path, tmp_path: Path):
    extract(labelled(root), ["spectral"], tmp_path / "cache", clips_per_shard=4)
    before = arrays(tmp_path / "cache")
    for name in ("3.wav", "7.wav"):
        (root / name).rename(tmp_path / name)
    planned = plan_of(labelled(root), tmp_path / "cache")
    assert planned.changes == [
        "2 clips without a file now (3.wav, 7.wav): what was extracted of them stays"
    ]
    report = run.run(planned)
    assert (report.done.shards, report.n_failed) == (0, 0)
    assert arrays(tmp_path / "cache") == before
    (tmp_path / "3.wav").rename(root / "3.wav")
    record(root / "7.wav", 1.4, seed=77)
    planned = plan_of(labelled(root), tmp_path / "cache")
    assert planned.changes == ["the dataset changed: 1 clip changed (7.wav)"]
    assert [*pending(planned)["spectral"]] == [1]


def test_many_clips_that_went_are_not_dropped_unasked(root: Path, tmp_path: Path):
    store = extract(labelled(root), ["spectral"], tmp_path / "cache")["spectral"]
    with pytest.raises(CacheError, match=r"10 clips, and 3 of them \('7.wav', .*--drop-removed"):
        extract(labelled(root, 7), ["spectral"], tmp_path / "cache")
    assert CacheReader(store).n_clips == 10
    arguments = ["folder", "--root", str(root), "--teacher", "spectral", "--drop-removed"]
    arguments += ["--option", f"csv={root.parent / 'labels.csv'}"]
    result = CliRunner().invoke(command, [*arguments, "--cache", str(tmp_path / "cache")])
    assert "3 clips removed (7.wav, 8.wav, 9.wav)" in result.output
    assert CacheReader(store).n_clips == 7


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
