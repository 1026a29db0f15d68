"""Killed and interrupted extractions: the same command continues, to the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tests import faulty

from understudy import audio, cache, datasets
from understudy.extract import extract
from understudy.extract.cli import command

N_CLIPS = 64
DEADLINE_S = 60.0
STOPPED = "stopped; the same command continues from the committed shards\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of 6 to 8 s, one of them unreadable."""
    root = tmp_path_factory.mktemp("field")
    rng = np.random.default_rng(0)
    for i in range(N_CLIPS - 1):
        n_samples = 16000 * 6 + 400 * i
        audio.write(root / f"{i:03}.wav", rng.normal(0, 0.1, n_samples).astype(np.float32), 16000)
    (root / "999.wav").write_bytes(b"no sound here")
    return root


@pytest.fixture(scope="module")
def undisturbed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache_dir = tmp_path_factory.mktemp("undisturbed")
    extract(datasets.load("folder", root), ["spectral"], cache_dir, audio=True)
    return dataset_dir(cache_dir, root)


def dataset_dir(cache_dir: Path, root: Path) -> Path:
    return cache_dir / datasets.load("folder", root).name


def arguments(root: Path, cache_dir: Path) -> list[str]:
    given = ["folder", "--root", str(root), "--teacher", "spectral", "--audio"]
    return [*given, "--cache", str(cache_dir)]


def start(root: Path, cache_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "understudy", "extract", *arguments(root, cache_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(process: subprocess.Popen[str], true: Callable[[], bool]) -> bool:
    """Waits until `true()`; False where the process ended first."""
    give_up = time.monotonic() + DEADLINE_S
    while process.poll() is None:
        if true():
            return True
        assert time.monotonic() < give_up, "the extraction does not get on"
        time.sleep(0.002)
    return False


def n_files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.glob("*.zarr/*/c/**/*"))


def contents(folder: Path) -> dict[str, bytes]:
    """Array files and the ledger, by path."""
    files = [*folder.glob("*.zarr/*/c/**/*"), folder / "ledger.csv"]
    return {str(f.relative_to(folder)): f.read_bytes() for f in files if f.is_file()}


def records(folder: Path) -> dict[str, int]:
    """Modification time of every commit record, by path."""
    return {str(p): p.stat().st_mtime_ns for p in folder.glob("*.zarr/clip_key/commit/*.json")}


def test_killed_three_times(root: Path, undisturbed: Path, tmp_path: Path):
    folder = dataset_dir(tmp_path, root)
    whole = n_files(undisturbed)
    rng = random.Random(time.time_ns())
    kept: dict[str, int] = {}
    for attempt in range(3):
        goal = rng.randrange(whole * attempt // 4 + 1, whole * (attempt + 1) // 4)
        process = start(root, tmp_path)
        reached = until(process, lambda goal=goal: n_files(folder) >= goal)
        time.sleep(rng.uniform(0, 0.02))
        process.kill()
        output = process.communicate()
        assert reached, output
        now = records(folder)
        assert kept.items() <= now.items(), "a committed shard was written again"
        kept = now
    result = CliRunner().invoke(command, arguments(root, tmp_path))
    assert result.exit_code == 0, result.output
    assert f"{N_CLIPS} clips: {N_CLIPS - 1} ok, 1 failed" in result.output
    assert kept.items() <= records(folder).items()
    assert contents(folder) == contents(undisturbed)
    left = [path for path in tmp_path.rglob("*") if path.suffix in (".partial", ".part")]
    assert left == []
    for store in cache.stores(folder):
        assert cache.verify(store) == []


def interrupted(
    arguments: list[str], folder: Path, stop: signal.Signals = signal.SIGINT, **variables: str
) -> tuple[int, str]:
    """Exit code and messages of a command that gets `stop` once it has written below `folder`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:  # a shell's background jobs ignore Ctrl-C, and so would what they start
        process = subprocess.Popen(
            [sys.executable, "-m", "understudy", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=faulty.environment(**variables),
            process_group=0,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert until(process, lambda: bool(records(folder))), process.communicate()
    os.killpg(process.pid, stop)  # a terminal sends it to workers, too
    _, errors = process.communicate(timeout=DEADLINE_S)
    return process.returncode, errors


@pytest.mark.parametrize(
    ("workers", "stop", "wanted"),
    [("1", signal.SIGINT, 130), ("2", signal.SIGINT, 130), ("1", signal.SIGTERM, 143)],
)
def test_what_stops_a_command_stops_it_cleanly(
    tmp_path: Path, workers: str, stop: signal.Signals, wanted: int
):
    for number in range(40):
        faulty.record(tmp_path / "field" / "ab"[number % 2] / f"{number:02}.wav", seed=number)
    given = ["folder", "--root", str(tmp_path / "field"), "--teacher", "hear:tests.faulty"]
    given += ["--cache", str(tmp_path / "cache"), "--workers", workers]
    given += ["--option", "classes_from=folders"]
    slow = {"FAULTY_SLEEP_S": "1"}
    code, errors = interrupted(["extract", *given], tmp_path / "cache" / "field", stop, **slow)
    assert (code, errors) == (wanted, STOPPED), errors
    done = records(tmp_path / "cache" / "field")
    assert 1 <= len(done) < 40
    left = [path for path in tmp_path.rglob("*") if path.suffix in (".partial", ".part")]
    assert left == []
    (store,) = cache.stores(tmp_path / "cache" / "field")
    assert cache.verify(store) == []
