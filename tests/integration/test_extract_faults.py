"""What goes wrong in an extraction: a clear message, a ledger line, a store that verifies."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tests import faulty

from understudy import audio, cache, datasets
from understudy.cache import CacheReader, files
from understudy.errors import CacheError, ConfigError, UnderstudyError
from understudy.extract import drive, extract, forward, prepare, run
from understudy.extract import load as loading
from understudy.extract.cli import command


@pytest.mark.parametrize("settings", [{}, faulty.WINDOWS], ids=["timeline", "windows"])
def test_a_teacher_that_raises_or_returns_nan(tmp_path: Path, settings: dict):
    root = faulty.folder(tmp_path / "in", faulty.RAISE, faulty.NAN)
    store = extract(
        datasets.load("folder", root),
        [faulty.TEACHER],
        tmp_path / "cache",
        settings=settings,
        clips_per_shard=4,
        progress=False,
    )[faulty.TEACHER]
    found = faulty.ledger(tmp_path / "cache" / "in")
    assert {path: status for path, (status, _) in found.items()} == {
        "level0.5.wav": "teacher_failed",
        "level0.6.wav": "embedding_not_finite",
    }
    assert "this sound is too square" in found["level0.5.wav"][1]
    reader = CacheReader(store)
    assert reader.attributes["complete"]
    assert faulty.sound(tmp_path / "cache" / "in")
    good = faulty.folder(tmp_path / "good")
    wanted = extract(
        datasets.load("folder", good),
        [faulty.TEACHER],
        tmp_path / "cache",
        settings=settings,
        progress=False,
    )[faulty.TEACHER]
    np.testing.assert_array_equal(
        reader.gather(range(faulty.N_GOOD))[0], CacheReader(wanted).gather(range(faulty.N_GOOD))[0]
    )


def test_a_teacher_that_embeds_nothing_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for number in range(5):
        faulty.record(tmp_path / "in" / f"{number}.wav", faulty.RAISE)
    monkeypatch.setattr(forward, "HOPELESS", 3)
    with pytest.raises(UnderstudyError, match=r"too square.*each of its first 3 clips"):
        extract(datasets.load("folder", tmp_path / "in"), [faulty.TEACHER], tmp_path / "cache")


def test_a_clip_that_ends_before_its_header_says_is_told_of(tmp_path: Path):
    root = faulty.folder(tmp_path / "in")
    noise = np.random.default_rng(0).normal(0, 0.1, 10 * faulty.RATE_HZ).astype(np.float32)
    audio.write(root / "cut.mp3", noise, faulty.RATE_HZ)
    content = (root / "cut.mp3").read_bytes()
    (root / "cut.mp3").write_bytes(content[: len(content) // 2])
    index = datasets.load("folder", root)
    for again in (False, True):
        planned = prepare.prepare(
            index, prepare.build(["spectral"]), tmp_path / "cache", audio=True, clips_per_shard=2
        )
        report = run.run(planned, run.Runtime(progress=False))
        assert (report.n_failed, list(report.short)) == (0, ["cut.mp3"])
        (told,) = (line for line in report.lines() if "header" in line)
        assert told.endswith("cut.mp3 (4.9 of 10 s)"), (again, told)


def test_too_many_failures_end_the_run(tmp_path: Path):
    root = faulty.folder(tmp_path / "in")
    for number in range(4):
        (root / f"bad{number}.wav").write_bytes(b"no sound here")
    given = ["folder", "--root", str(root), "--teacher", "spectral"]
    given += ["--cache", str(tmp_path / "cache")]
    result = CliRunner().invoke(command, [*given, "--max-failures", "3"])
    assert isinstance(result.exception, drive.TooManyFailures), result.output
    assert "4 clips failed, wanted at most 3" in str(result.exception)
    assert faulty.sound(tmp_path / "cache" / "in")
    assert len(faulty.ledger(tmp_path / "cache" / "in")) == 4
    # What failed before counts, too, as soon as there is something to do.
    (root / "bad4.wav").write_bytes(b"no sound here")
    result = CliRunner().invoke(command, [*given, "--max-failures", "40%"])
    assert isinstance(result.exception, drive.TooManyFailures), result.output
    result = CliRunner().invoke(command, [*given, "--max-failures", "50%"])
    assert result.exit_code == 0, result.output
    assert len(faulty.ledger(tmp_path / "cache" / "in")) == 5


def test_a_shard_that_is_written_again_fails_no_more_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(drive, "RETRY_S", 0.01)
    root = faulty.folder(tmp_path / "in")
    for number in range(2):
        (root / f"bad{number}.wav").write_bytes(b"no sound here")
    write, left = cache.StoreWriter.write_shard, 2

    def refuse(*arguments: Any) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise CacheError("cannot write this time")
        write(*arguments)

    monkeypatch.setattr(cache.StoreWriter, "write_shard", refuse)
    extract(
        datasets.load("folder", root),
        ["spectral"],
        tmp_path / "cache",
        clips_per_shard=8,
        max_failures=2,
        progress=False,
    )
    assert left < 0
    assert len(faulty.ledger(tmp_path / "cache" / "in")) == 2


@pytest.mark.parametrize("limit", ["-1", "x", "1.5", "101%", "5%x"])
def test_a_limit_of_failures_that_is_none(limit: str):
    with pytest.raises(ConfigError, match="max_failures: wanted a number or a share"):
        run.Runtime(max_failures=limit).allowed(10)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No file may grow beyond a limit that shards of embeddings keep and those of audio do not."""
    monkeypatch.setattr(drive, "RETRY_S", 0.01)
    root = faulty.folder(tmp_path / "in")
    index = datasets.load("folder", root)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(CacheError, match=r"cannot write .*/pcm/.*: File too large"):
            extract(index, [faulty.TEACHER], tmp_path / "cache", audio=True, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert faulty.sound(tmp_path / "cache" / "in")
    assert not files.partials(tmp_path)
    extract(index, [faulty.TEACHER], tmp_path / "cache", audio=True, progress=False)
    assert faulty.sound(tmp_path / "cache" / "in")
    assert all(
        CacheReader(path).attributes["complete"] for path in cache.stores(tmp_path / "cache" / "in")
    )


@pytest.mark.parametrize("n_refusals", [2, 10**9], ids=["for a moment", "for good"])
def test_permission_denied_half_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_refusals: int
):
    monkeypatch.setattr(drive, "RETRY_S", 0.01)
    index = datasets.load("folder", faulty.folder(tmp_path / "in"))
    write, left = files._write_whole, n_refusals

    def refuse(handle: int, pieces: Sequence[bytes | memoryview]) -> None:
        nonlocal left
        array = "/c/" in str(Path(f"/proc/self/fd/{handle}").readlink())
        if left and array and len(list((tmp_path / "cache").rglob("commit/*.json"))) >= 2:
            left -= 1
            raise PermissionError(13, "Permission denied")
        write(handle, pieces)

    said: list[str] = []
    planned = prepare.prepare(index, prepare.build(["spectral"]), tmp_path / "cache", audio=False)
    with monkeypatch.context() as patch:
        patch.setattr(files, "_write_whole", refuse)
        if n_refusals == 2:
            run.run(planned, say=said.append)
            assert any("Permission denied; tried again in" in line for line in said), said
        else:
            with pytest.raises(CacheError, match=r"cannot write .*: Permission denied"):
                run.run(planned)
            assert 2 <= len(list((tmp_path / "cache").rglob("commit/*.json"))) < faulty.N_GOOD
    assert left < n_refusals
    assert faulty.sound(tmp_path / "cache" / "in")
    run.run(prepare.prepare(index, prepare.build(["spectral"]), tmp_path / "cache", audio=False))
    assert CacheReader(planned.stores["spectral"]).attributes["complete"]


@pytest.mark.parametrize(("n_changes", "wanted"), [(1, None), (9, loading.CHANGED)])
def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_changes: int, wanted: str | None
):
    root = faulty.folder(tmp_path / "in")
    index = datasets.load("folder", root)
    decode, left = audio.decode, n_changes

    def changing(path: Path, *args: object, **kwargs: object) -> audio.Decoded:
        nonlocal left
        decoded = decode(path, *args, **kwargs)  # type: ignore[arg-type]
        if path.name == "3.wav" and left:
            left -= 1
            faulty.record(root / "3.wav", seed=100 + left)
            os.utime(root / "3.wav", ns=(left, left))
        return decoded

    with monkeypatch.context() as patch:
        patch.setattr(audio, "decode", changing)
        store = extract(index, [faulty.TEACHER], tmp_path / "cache", progress=False)[faulty.TEACHER]
    found = faulty.ledger(tmp_path / "cache" / "in")
    assert found == ({"3.wav": ("undecodable", wanted)} if wanted else {})
    assert faulty.sound(tmp_path / "cache" / "in")
    if wanted is None:  # what it holds is the file as it is now
        fresh = extract(index, [faulty.TEACHER], tmp_path / "fresh", progress=False)[faulty.TEACHER]
        np.testing.assert_array_equal(
            CacheReader(store).gather([3])[0], CacheReader(fresh).gather([3])[0]
        )
    else:  # the next run reads it again
        extract(index, [faulty.TEACHER], tmp_path / "cache", progress=False)
        assert faulty.ledger(tmp_path / "cache" / "in") == {}


def test_a_lock_ends_with_the_process_that_holds_it(tmp_path: Path):
    hold = (
        "import sys, time\nfrom understudy import cache\n"
        "with cache.lock(sys.argv[1]): print('held', flush=True); time.sleep(600)"
    )
    place = tmp_path / "cache" / "in"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(place)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        index = datasets.load("folder", faulty.folder(tmp_path / "in"))
        with pytest.raises(CacheError, match=f"in use by process {holder.pid}"):
            extract(index, ["spectral"], tmp_path / "cache")
        assert cache.stores(place) == []
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    extract(index, ["spectral"], tmp_path / "cache", progress=False)
    assert faulty.sound(place)
