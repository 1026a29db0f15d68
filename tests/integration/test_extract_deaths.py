"""Clips that end the process which works on them, or stall it: found, told of and left out."""

import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests import faulty

from understudy import datasets, leaving
from understudy.cache.identity import clip_keys
from understudy.errors import CacheError
from understudy.extract import cluster, inhand, plan, prepare, run, spare
from understudy.extract.pending import pending


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


def test_a_teacher_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # What hangs goes on after this test, and is no reason for `leave` to end the process of others.
    monkeypatch.setattr(leaving, "_working", weakref.WeakSet())
    root = faulty.folder(tmp_path / "in", faulty.HANG)
    said: list[str] = []
    planned = prepare.prepare(
        datasets.load("folder", root),
        prepare.build([faulty.TEACHER]),
        tmp_path / "cache",
        audio=False,
        clips_per_shard=7,
        limit_s=4.0,
    )
    report = run.run(planned, run.Runtime(progress=False), said.append)
    assert (report.n_clips, report.n_failed) == (7, 1)
    assert faulty.ledger(tmp_path / "cache" / "in") == {
        "level0.7.wav": ("worker_lost", "no sign of life for 4 s")
    }
    assert any("one by one in a spare process" in line for line in said)
    assert "shard 0 is extracted without level0.7.wav" in said
    assert faulty.sound(tmp_path / "cache" / "in")


def test_a_second_ctrl_c_waits_for_nothing(tmp_path: Path):
    root = faulty.folder(tmp_path / "in", faulty.HANG)
    call = [sys.executable, "-m", "understudy", "extract", "folder", "--root", str(root)]
    call += ["--teacher", faulty.TEACHER, "--cache", str(tmp_path / "cache")]
    hanging = tmp_path / "hanging"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:  # a shell's background jobs ignore Ctrl-C, and so would what they start
        process = subprocess.Popen(call, env=faulty.environment(FAULTY_HANGING=str(hanging)))
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        until(hanging.exists)
        for _ in range(2):
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=15) == 130  # the first alone takes 20 s
    finally:
        process.kill()
        process.wait()


def test_workers_that_die_at_their_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    dies = "import os, sys\nif 'spawn_main' in ' '.join(sys.orig_argv):\n    os._exit(7)\n"
    (tmp_path / "sitecustomize.py").write_text(dies)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(CacheError, match="do not start"), cluster.connect(None, 2, 1):
        pass


HANGS = """
import time
from understudy import audio
decode = audio.decode
def hanging(path, *more, **options):
    if path.name == "3.wav":
        time.sleep(1000)
    return decode(path, *more, **options)
audio.decode = hanging
"""


def test_a_decoder_that_hangs_keeps_no_process(tmp_path: Path):
    root = faulty.folder(tmp_path / "in")
    (tmp_path / "sitecustomize.py").write_text(HANGS)
    job = {
        "cache": str(tmp_path / "cache"),
        "datasets": [{"name": "folder", "root": str(root)}],
        "audio": True,
        "clips_per_shard": 7,
        "time_limit_s": 3.0,
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    call = [sys.executable, "-m", "understudy", "extract", str(tmp_path / "job.yaml")]
    environment = faulty.environment()
    environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{environment['PYTHONPATH']}"
    done = subprocess.run(call, capture_output=True, text=True, env=environment, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "6 clips: 5 ok, 1 failed" in done.stdout
    assert faulty.ledger(tmp_path / "cache" / "in") == {
        "3.wav": ("worker_lost", "no sign of life for 3 s")
    }


def test_a_spare_process_names_the_clips_that_kill_it(tmp_path: Path):
    root = faulty.folder(tmp_path / "in", faulty.KILL, faulty.RAISE)
    (root / "z.wav").write_bytes(b"no sound here")
    planned = prepare.prepare(
        datasets.load("folder", root),
        prepare.build([faulty.TEACHER]),
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
    faulty.folder(tmp_path / "in", faulty.HANG)
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
    root = faulty.folder(tmp_path / "in", faulty.KILL)
    command = [
        sys.executable,
        "-m",
        "understudy",
        "extract",
        "folder",
        "--root",
        str(root),
        "--teacher",
        faulty.TEACHER,
    ]
    command += ["--cache", str(tmp_path / "cache"), "--clips-per-shard", "4"]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, env=faulty.environment())
        for _ in range(2)
    )
    assert first.returncode == -signal.SIGKILL
    assert (second.returncode, "Traceback" in second.stderr) == (0, False), second.stderr
    assert "tried one by one in a spare process" in second.stdout
    ((name, (status, reason)),) = faulty.ledger(tmp_path / "cache" / "in").items()
    assert (name, status) == ("level0.8.wav", "worker_lost")
    assert "was ended by SIGKILL" in reason
    assert faulty.sound(tmp_path / "cache" / "in")
    assert not inhand.left(tmp_path / "cache" / "in")


def test_what_the_decoder_held_when_the_process_died_is_known(tmp_path: Path):
    faulty.folder(tmp_path / "in")
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
    assert not faulty.ledger(tmp_path / "cache" / "in")
    assert not inhand.left(tmp_path / "cache" / "in")


@pytest.mark.soak
def test_a_clip_that_kills_workers_and_one_that_stalls_them(tmp_path: Path):
    root = faulty.folder(tmp_path / "in", faulty.KILL, faulty.HANG, faulty.RAISE)
    job = tmp_path / "job.yaml"
    job.write_text(
        f"cache: {tmp_path / 'cache'}\nteachers: ['{faulty.TEACHER}']\nworkers: 2\n"
        f"time_limit_s: 20\n"
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
    assert f"{faulty.N_GOOD + 3} clips: {faulty.N_GOOD} ok, 3 failed" in done.stdout
    assert {
        path: status for path, (status, _) in faulty.ledger(tmp_path / "cache" / "in").items()
    } == {
        "level0.5.wav": "teacher_failed",
        "level0.7.wav": "worker_lost",
        "level0.8.wav": "worker_lost",
    }
    assert faulty.sound(tmp_path / "cache" / "in")
