"""What goes wrong in an extraction: a clear message, a ledger line, a store that verifies."""

import csv
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tests import faulty

from understudy import audio, cache, datasets
from understudy.cache import CacheReader, files
from understudy.cache.identity import clip_keys
from understudy.errors import CacheError, ConfigError, UnderstudyError
from understudy.extract import drive, extract, forward, inhand, plan, prepare, run, spare
from understudy.extract import load as loading
from understudy.extract.cli import command
from understudy.extract.pending import pending

TEACHER = "hear:tests.faulty"
WINDOWS = {TEACHER: {"window_s": 0.5}}  # batches of several clips
N_GOOD = 6


def folder(root: Path, *levels: float) -> Path:
    """Recordings 0.wav to 5.wav of noise, and one of each level."""
    for number in range(N_GOOD):
        faulty.record(root / f"{number}.wav", seed=number)
    for level in levels:
        faulty.record(root / f"level{level}.wav", level)
    return root


def ledger(dataset_dir: Path) -> dict[str, tuple[str, str]]:
    """Status and reason by path."""
    with (dataset_dir / "ledger.csv").open(encoding="utf-8", newline="") as file:
        return {line["path"]: (line["status"], line["reason"]) for line in csv.DictReader(file)}


def until(true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60.0
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def running(process_id: int) -> bool:
    """Whether there is such a process; one that nobody has waited for has ended."""
    try:
        return Path(f"/proc/{process_id}/cmdline").read_bytes() != b""
    except FileNotFoundError:
        return False


def sound(dataset_dir: Path) -> bool:
    """Whether all stores of a dataset verify."""
    stores = cache.stores(dataset_dir)
    return bool(stores) and not any(problem for path in stores for problem in cache.verify(path))


@pytest.mark.parametrize("settings", [{}, WINDOWS], ids=["timeline", "windows"])
def test_a_teacher_that_raises_or_returns_nan(tmp_path: Path, settings: dict):
    root = folder(tmp_path / "in", faulty.RAISE, faulty.NAN)
    store = extract(
        datasets.load("folder", root),
        [TEACHER],
        tmp_path / "cache",
        settings=settings,
        clips_per_shard=4,
        progress=False,
    )[TEACHER]
    found = ledger(tmp_path / "cache" / "in")
    assert {path: status for path, (status, _) in found.items()} == {
        "level0.5.wav": "teacher_failed",
        "level0.6.wav": "embedding_not_finite",
    }
    assert "this sound is too square" in found["level0.5.wav"][1]
    reader = CacheReader(store)
    assert reader.attributes["complete"]
    assert sound(tmp_path / "cache" / "in")
    good = folder(tmp_path / "good")
    wanted = extract(
        datasets.load("folder", good),
        [TEACHER],
        tmp_path / "cache",
        settings=settings,
        progress=False,
    )[TEACHER]
    np.testing.assert_array_equal(
        reader.gather(range(N_GOOD))[0], CacheReader(wanted).gather(range(N_GOOD))[0]
    )


def test_a_teacher_that_embeds_nothing_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for number in range(5):
        faulty.record(tmp_path / "in" / f"{number}.wav", faulty.RAISE)
    monkeypatch.setattr(forward, "HOPELESS", 3)
    with pytest.raises(UnderstudyError, match=r"too square.*each of its first 3 clips"):
        extract(datasets.load("folder", tmp_path / "in"), [TEACHER], tmp_path / "cache")


def test_a_teacher_that_hangs(tmp_path: Path):
    root = folder(tmp_path / "in", faulty.HANG)
    said: list[str] = []
    planned = prepare.prepare(
        datasets.load("folder", root),
        prepare.build([TEACHER]),
        tmp_path / "cache",
        audio=False,
        clips_per_shard=7,
        limit_s=4.0,
    )
    report = run.run(planned, run.Runtime(progress=False), said.append)
    assert (report.n_clips, report.n_failed) == (7, 1)
    assert ledger(tmp_path / "cache" / "in") == {
        "level0.7.wav": ("worker_lost", "no sign of life for 4 s")
    }
    assert any("one by one in a spare process" in line for line in said)
    assert "shard 0 is extracted without level0.7.wav" in said
    assert sound(tmp_path / "cache" / "in")


def test_a_clip_that_ends_before_its_header_says_is_told_of(tmp_path: Path):
    root = folder(tmp_path / "in")
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


def test_a_spare_process_names_the_clips_that_kill_it(tmp_path: Path):
    root = folder(tmp_path / "in", faulty.KILL, faulty.RAISE)
    (root / "z.wav").write_bytes(b"no sound here")
    planned = prepare.prepare(
        datasets.load("folder", root),
        prepare.build([TEACHER]),
        tmp_path / "cache",
        audio=True,
        clips_per_shard=9,
    )
    (shard,) = plan.shards(9, 9, pending(planned))
    planned.index.save(tmp_path / "cache" / planned.index.name / "index.parquet")
    (found,) = spare.culprits(planned.job, [shard])
    ((row, failure),) = found.refused
    assert planned.index.clips["path"].tolist()[row] == "level0.8.wav"
    assert failure.status == "worker_lost"
    assert "SIGKILL; memory may have run out" in failure.reason


def test_a_spare_process_ends_with_the_one_that_started_it(tmp_path: Path):
    folder(tmp_path / "in", faulty.HANG)
    starts = """
import sys
from understudy import datasets
from understudy.extract import plan, prepare, spare
from understudy.extract.pending import pending
index = datasets.load("folder", sys.argv[1])
teachers = prepare.build(["hear:tests.faulty"])
planned = prepare.prepare(index, teachers, sys.argv[2], audio=False, clips_per_shard=7)
index.save(planned.dataset_dir / "index.parquet")
spare.culprits(planned.job, plan.shards(7, 7, pending(planned)))
"""
    call = [sys.executable, "-c", starts, str(tmp_path / "in"), str(tmp_path / "cache")]
    hanging = tmp_path / "hanging"
    process = subprocess.Popen(call, env=faulty.environment(FAULTY_HANGING=str(hanging)))
    until(lambda: hanging.exists() and hanging.read_text() != "")
    spare_id = int(hanging.read_text())
    assert spare_id != process.pid
    process.kill()
    process.wait()
    try:
        until(lambda: not running(spare_id))
    finally:
        if running(spare_id):
            os.kill(spare_id, signal.SIGKILL)


def test_a_clip_that_kills_the_only_process_is_found_by_the_next_run(tmp_path: Path):
    root = folder(tmp_path / "in", faulty.KILL)
    command = [
        sys.executable,
        "-m",
        "understudy",
        "extract",
        "folder",
        "--root",
        str(root),
        "--teacher",
        TEACHER,
    ]
    command += ["--cache", str(tmp_path / "cache"), "--clips-per-shard", "4"]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, env=faulty.environment())
        for _ in range(2)
    )
    assert first.returncode == -signal.SIGKILL
    assert (second.returncode, "Traceback" in second.stderr) == (0, False), second.stderr
    assert "tried one by one in a spare process" in second.stdout
    ((name, (status, reason)),) = ledger(tmp_path / "cache" / "in").items()
    assert (name, status) == ("level0.8.wav", "worker_lost")
    assert "was ended by SIGKILL" in reason
    assert sound(tmp_path / "cache" / "in")
    assert not inhand.left(tmp_path / "cache" / "in")


def test_what_the_decoder_held_when_the_process_died_is_known(tmp_path: Path):
    folder(tmp_path / "in")
    dies = """
import os, sys
from understudy import datasets
from understudy.extract import extract, load
decode = load.audio.decode
def deadly(path, *more, **options):
    if path.name == "3.wav":
        os.kill(os.getpid(), 9)
    return decode(path, *more, **options)
load.audio.decode = deadly
extract(datasets.load("folder", sys.argv[1]), [], sys.argv[2], audio=True, progress=False)
"""
    call = [sys.executable, "-c", dies, str(tmp_path / "in"), str(tmp_path / "cache")]
    assert subprocess.run(call, check=False).returncode == -signal.SIGKILL
    index = datasets.load("folder", tmp_path / "in")
    held = inhand.left(tmp_path / "cache" / "in")
    columns = (index.clips[name] for name in ("clip_id", "start_s", "duration_s"))
    keys = dict(zip(index.clips["path"], clip_keys(*columns).tolist(), strict=True))
    assert keys["3.wav"] in held
    assert len(held) <= plan.cores() * plan.MOST_DECODERS
    said: list[str] = []
    planned = prepare.prepare(index, {}, tmp_path / "cache", audio=True)
    run.run(planned, run.Runtime(progress=False), said.append)
    assert any("each of them runs alone" in line for line in said)
    assert not ledger(tmp_path / "cache" / "in")
    assert not inhand.left(tmp_path / "cache" / "in")


@pytest.mark.soak
def test_a_clip_that_kills_workers_and_one_that_stalls_them(tmp_path: Path):
    root = folder(tmp_path / "in", faulty.KILL, faulty.HANG, faulty.RAISE)
    job = tmp_path / "job.yaml"
    job.write_text(
        f"cache: {tmp_path / 'cache'}\nteachers: ['{TEACHER}']\nworkers: 2\ntime_limit_s: 20\n"
        f"datasets: [{{name: folder, root: {root}}}]\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "understudy", "extract", str(job)],
        capture_output=True,
        text=True,
        env=faulty.environment(),
        check=False,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert f"{N_GOOD + 3} clips: {N_GOOD} ok, 3 failed" in done.stdout
    assert {path: status for path, (status, _) in ledger(tmp_path / "cache" / "in").items()} == {
        "level0.5.wav": "teacher_failed",
        "level0.7.wav": "worker_lost",
        "level0.8.wav": "worker_lost",
    }
    assert sound(tmp_path / "cache" / "in")


def test_too_many_failures_end_the_run(tmp_path: Path):
    root = folder(tmp_path / "in")
    for number in range(4):
        (root / f"bad{number}.wav").write_bytes(b"no sound here")
    given = ["folder", "--root", str(root), "--teacher", "spectral"]
    given += ["--cache", str(tmp_path / "cache")]
    result = CliRunner().invoke(command, [*given, "--max-failures", "3"])
    assert isinstance(result.exception, drive.TooManyFailures), result.output
    assert "4 clips failed, wanted at most 3" in str(result.exception)
    assert sound(tmp_path / "cache" / "in")
    assert len(ledger(tmp_path / "cache" / "in")) == 4
    # What failed before counts, too, as soon as there is something to do.
    (root / "bad4.wav").write_bytes(b"no sound here")
    result = CliRunner().invoke(command, [*given, "--max-failures", "40%"])
    assert isinstance(result.exception, drive.TooManyFailures), result.output
    result = CliRunner().invoke(command, [*given, "--max-failures", "50%"])
    assert result.exit_code == 0, result.output
    assert len(ledger(tmp_path / "cache" / "in")) == 5


def test_a_shard_that_is_written_again_fails_no_more_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(drive, "RETRY_S", 0.01)
    root = folder(tmp_path / "in")
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
    assert len(ledger(tmp_path / "cache" / "in")) == 2


@pytest.mark.parametrize("limit", ["-1", "x", "1.5", "101%", "5%x"])
def test_a_limit_of_failures_that_is_none(limit: str):
    with pytest.raises(ConfigError, match="max_failures: wanted a number or a share"):
        run.Runtime(max_failures=limit).allowed(10)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No file may grow beyond a limit that shards of embeddings keep and those of audio do not."""
    monkeypatch.setattr(drive, "RETRY_S", 0.01)
    root = folder(tmp_path / "in")
    index = datasets.load("folder", root)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(CacheError, match=r"cannot write .*/pcm/.*: File too large"):
            extract(index, [TEACHER], tmp_path / "cache", audio=True, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sound(tmp_path / "cache" / "in")
    assert not files.partials(tmp_path)
    extract(index, [TEACHER], tmp_path / "cache", audio=True, progress=False)
    assert sound(tmp_path / "cache" / "in")
    assert all(
        CacheReader(path).attributes["complete"] for path in cache.stores(tmp_path / "cache" / "in")
    )


@pytest.mark.parametrize("n_refusals", [2, 10**9], ids=["for a moment", "for good"])
def test_permission_denied_half_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_refusals: int
):
    monkeypatch.setattr(drive, "RETRY_S", 0.01)
    index = datasets.load("folder", folder(tmp_path / "in"))
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
            assert 2 <= len(list((tmp_path / "cache").rglob("commit/*.json"))) < N_GOOD
    assert left < n_refusals
    assert sound(tmp_path / "cache" / "in")
    run.run(prepare.prepare(index, prepare.build(["spectral"]), tmp_path / "cache", audio=False))
    assert CacheReader(planned.stores["spectral"]).attributes["complete"]


@pytest.mark.parametrize(("n_changes", "wanted"), [(1, None), (9, loading.CHANGED)])
def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_changes: int, wanted: str | None
):
    root = folder(tmp_path / "in")
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
        store = extract(index, [TEACHER], tmp_path / "cache", progress=False)[TEACHER]
    found = ledger(tmp_path / "cache" / "in")
    assert found == ({"3.wav": ("undecodable", wanted)} if wanted else {})
    assert sound(tmp_path / "cache" / "in")
    if wanted is None:  # what it holds is the file as it is now
        fresh = extract(index, [TEACHER], tmp_path / "fresh", progress=False)[TEACHER]
        np.testing.assert_array_equal(
            CacheReader(store).gather([3])[0], CacheReader(fresh).gather([3])[0]
        )
    else:  # the next run reads it again
        extract(index, [TEACHER], tmp_path / "cache", progress=False)
        assert ledger(tmp_path / "cache" / "in") == {}


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
        index = datasets.load("folder", folder(tmp_path / "in"))
        with pytest.raises(CacheError, match=f"in use by process {holder.pid}"):
            extract(index, ["spectral"], tmp_path / "cache")
        assert cache.stores(place) == []
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    extract(index, ["spectral"], tmp_path / "cache", progress=False)
    assert sound(place)
