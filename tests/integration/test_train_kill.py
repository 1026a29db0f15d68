"""kill -9 at any moment, then the same command: the run ends as if nothing had happened."""

import json
import os
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
from understudy.train import cli

STEPS = 18


def command(cache_dir: Path, run_dir: Path) -> list[str]:
    settings = {
        "student.n_channels": 4,
        "optim.batch": 4,
        "optim.lr": 3e-3,
        "optim.max_steps": STEPS,
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


def lines_of(run_dir: Path) -> int:
    path = run_dir / "log.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_after(arguments: list[str], run_dir: Path, lines: int, delay_s: float) -> bool:
    """Kills the command once its log has `lines` lines; False if it ended before."""
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 240
        while process.poll() is None and lines_of(run_dir) < lines:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(delay_s)
        process.kill()
        process.wait()
        assert process.returncode in (-signal.SIGKILL, 0), process.stderr
        return process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("n_kills", [3, pytest.param(30, marks=pytest.mark.soak)])
def test_killed_runs_end_like_undisturbed_ones(tmp_path, n_kills):
    cache_dir = tiny.make_cache(tmp_path / "cache", tiny.index())
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = CliRunner().invoke(cli.command, command(cache_dir, whole)[4:])
    assert done.exit_code == 0, done.output
    n_lines = lines_of(whole)
    rng = random.Random(int(os.environ.get("UNDERSTUDY_SEED", "0")))
    hits = 0
    for number in range(n_kills):
        # Spread over the run; the log's flush at a checkpoint is what the kill waits for.
        at = 1 + number * (n_lines - 4) // n_kills
        hits += kill_after(command(cache_dir, killed), killed, at, rng.uniform(0, 0.15))
    assert hits >= min(n_kills, 3) - 1, "the kills came too late to mean anything"
    assert "best validation mAP" in run_to_end(command(cache_dir, killed))
    for name in ("best.safetensors", "best.json", "config.json"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    (a, state_a), (b, state_b) = (
        checkpoint.load(path / "last.safetensors") for path in (whole, killed)
    )
    assert state_a | {"log_bytes": 0} == state_b | {"log_bytes": 0}
    assert a.keys() == b.keys()
    assert all(a[name].equal(b[name]) for name in a)
    logs = [
        [
            json.loads(line) | {"timing": None}
            for line in (path / "log.jsonl").read_text().splitlines()
        ]
        for path in (whole, killed)
    ]
    assert logs[0] == logs[1]
    assert len(logs[0]) == n_lines
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}
