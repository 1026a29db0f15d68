"""kill -9 at any moment, then the same command: the run ends as if nothing had happened."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests import tiny

from understudy import checkpoint
from understudy.train import cli, runlog


def command(cache_dir: Path, run_dir: Path, n_steps: int) -> list[str]:
    settings = {
        "student.width": 4,
        "optim.batch": 4,
        "optim.lr": 3e-3,
        "optim.max_steps": n_steps,
        "threads": 1,
        "run.checkpoint_steps": 2,
        "run.log_steps": 1,
    }
    assignments = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "understudy", "train", "tiny", "--system", "dc_linear",
            "--teacher", "framewise", "--cache", str(cache_dir), "--run-dir", str(run_dir),
            *assignments]  # fmt: skip


def run_to_end(arguments: list[str]) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def kill_after_change(arguments: list[str], watched: Path, delay_s: float) -> bool:
    """Kills the command `delay_s` after it wrote `watched`; False if it ended before."""

    def stamp() -> int | None:
        return watched.stat().st_mtime_ns if watched.exists() else None

    before, deadline = stamp(), time.monotonic() + 240
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        while run.poll() is None and stamp() == before:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(delay_s)
        run.kill()
    assert run.returncode in (-signal.SIGKILL, 0)
    return run.returncode == -signal.SIGKILL


@pytest.mark.parametrize("n_kills", [3, pytest.param(30, marks=pytest.mark.soak)])
def test_killed_runs_end_like_undisturbed_ones(tmp_path, n_kills):
    cache_dir = tiny.make_cache(tmp_path / "cache", tiny.index())
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    n_steps = 8 * n_kills
    done = CliRunner().invoke(cli.command, command(cache_dir, whole, n_steps)[4:])
    assert done.exit_code == 0, done.output
    arguments = command(cache_dir, killed, n_steps)
    rng = random.Random(0)
    for number in range(n_kills):
        watched = "last.safetensors" if number else "config.json"
        assert kill_after_change(arguments, killed / watched, rng.uniform(0, 0.3))
    assert "best validation mAP" in run_to_end(arguments)
    for name in ("best.safetensors", "best.json", "config.json"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    (a, state_a), (b, state_b) = (
        checkpoint.load(path / "last.safetensors") for path in (whole, killed)
    )
    assert state_a | {"log_bytes": 0} == state_b | {"log_bytes": 0}
    assert a.keys() == b.keys()
    assert all(a[name].equal(b[name]) for name in a)
    logs = [
        [line | {"timing": None} for line in runlog.read(path / "log.jsonl")]
        for path in (whole, killed)
    ]
    assert logs[0] == logs[1]
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}
