"""kill -9 at any moment of a study, then the same command: the same table."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests import studies

from understudy.study.cli import command

STOPPED = "stopped; the same command goes on from the last checkpoints\n"


def arguments(file: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "understudy", "study", str(file), "--out", str(out)]


def newest(out: Path) -> float:
    """When anything below `out` was last written."""
    return max((path.stat().st_mtime for path in out.rglob("*")), default=0.0)


def kill_after_change(call: list[str], out: Path, delay_s: float) -> bool:
    """Kills the study `delay_s` after it wrote anything; False if it ended before."""
    before, deadline = newest(out), time.monotonic() + 240
    with subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        while run.poll() is None and newest(out) == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(delay_s)
        run.kill()
    return run.returncode != 0


@pytest.mark.parametrize("n_kills", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_a_killed_study_ends_with_the_same_table(tmp_path, n_kills):
    file = studies.write(tmp_path, n_epochs=2 * n_kills)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = CliRunner().invoke(command, [str(file), "--out", str(whole)])
    assert done.exit_code == 0, done.output
    rng = random.Random(n_kills)
    n_killed = sum(
        kill_after_change(arguments(file, killed), killed, rng.uniform(0, 2))
        for _ in range(n_kills)
    )
    assert n_killed == n_kills
    end = subprocess.run(arguments(file, killed), capture_output=True, text=True, check=False)
    assert end.returncode == 0, end.stderr
    for name in ("summary.json", "summary.csv"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.soak)])
def test_ctrl_c_ends_a_study_that_the_same_command_continues(tmp_path, workers):
    file = studies.write(tmp_path, n_epochs=3, text=studies.FILE.replace("[1, 2]", "[1]"))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    done = CliRunner().invoke(command, [str(file), "--out", str(whole)])
    assert done.exit_code == 0, done.output
    call = [*arguments(file, stopped), "--workers", workers]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:  # a shell's background jobs ignore Ctrl-C, and so would what they start
        run = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 240
    while run.poll() is None and not newest(stopped):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=240)
    assert (run.returncode, errors) == (130, STOPPED)
    assert not (stopped / "summary.json").exists()
    end = subprocess.run(call, capture_output=True, text=True, check=False)
    assert end.returncode == 0, end.stderr
    for name in ("summary.json", "summary.csv"):
        assert (whole / name).read_bytes() == (stopped / name).read_bytes(), name
