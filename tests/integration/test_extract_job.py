"""Job files: several teachers over several datasets, as one plan and one summary."""

import fcntl
import json
import os
import re
import struct
import sys
import termios
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests import faulty

from understudy import cache
from understudy.errors import ConfigError, UnderstudyError
from understudy.extract import live, run
from understudy.extract.cli import command
from understudy.extract.progress import Progress

JOB = """
cache: {here}/cache
audio: true
teachers:
  - spectral
  - {{name: "hear:tests.faulty", settings: {{window_s: 0.5}}}}
datasets:
  - {{name: folder, root: {here}/one}}
  - {{name: folder, root: {here}/two, options: {{name: second}}}}
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Two small folders and a job file."""
    for number in range(5):
        faulty.record(tmp_path / "one" / f"{number}.wav", seed=number)
    for number in range(3):
        faulty.record(tmp_path / "two" / f"{number}.wav", seed=10 + number)
    (tmp_path / "two" / "bad.wav").write_bytes(b"no sound here")
    (tmp_path / "job.yaml").write_text(JOB.format(here=tmp_path))
    return tmp_path


def test_a_job_runs_everything_once(here: Path, monkeypatch: pytest.MonkeyPatch):
    job = str(here / "job.yaml")
    plan = CliRunner().invoke(command, [job, "--dry-run"])
    assert plan.exit_code == 0, plan.output
    assert "one: 5 clips" in plan.output
    assert "second: 4 clips" in plan.output
    assert plan.output.count("; writing takes about ") == 2
    assert not (here / "cache").exists()

    first = CliRunner().invoke(command, [job])
    assert first.exit_code == 0, first.output
    assert "5 clips: 5 ok, 0 failed" in first.output
    assert "4 clips: 3 ok, 1 failed" in first.output
    for name in ("one", "second"):
        stores = cache.stores(here / "cache" / name)
        assert [path.name.rpartition("-")[0] for path in stores] == [
            "audio",
            "hear_tests.faulty",
            "spectral",
        ]
        assert not any(cache.verify(path) for path in stores)
        (profile,) = json.loads((here / "cache" / name / "profile.json").read_text())["runs"]
        assert profile["run_clips"] == {"one": 5, "second": 4}[name]
        assert sum(profile["split"].values()) == pytest.approx(1, abs=1e-3)

    monkeypatch.setattr("understudy.extract.cluster.connect", None)
    again = CliRunner().invoke(command, [job])
    assert again.exit_code == 0, again.output
    assert again.output.count("nothing to do") == 2


ONE = "cache: x\ndatasets: [{name: folder, root: one}]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cach: x", "job.yaml: unknown key 'cach'; did you mean 'cache'"),
        ("cache: x", "job.yaml: missing datasets"),
        ("cache: x\ndatasets: []", "name a dataset"),
        (ONE.replace("root", "rot"), "datasets: unknown key 'rot'; did you mean 'root'"),
        (ONE.replace("folder", "foldr") + "audio: true", "did you mean 'folder'"),
        (ONE.replace("one", "none") + "audio: true", "no such folder"),
        (ONE + "teachers: [spektral]", "did you mean 'spectral'"),
        (ONE + "teachers: [{name: spectral, setings: {}}]", "did you mean 'settings'"),
        (ONE + "teachers: [{name: spectral, settings: {hop: 1}}]", "hop_s"),
        (ONE.replace("}]", "}, {name: folder, root: one}]") + "audio: true", "2 datasets are"),
        (ONE + "audio: 3", "job.yaml: audio: wanted bool"),
        (ONE + "audio: true\nmax_failures: many", "max_failures"),
        (ONE + "audio: true\ndtype: int8", "dtype: wanted float16"),
        ("- a", "wanted a mapping with cache"),
        ("a: [", "no YAML"),
    ],
)
def test_mistakes_in_a_job(here: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str):
    monkeypatch.chdir(here)
    (here / "job.yaml").write_text(text)
    result = CliRunner().invoke(command, ["job.yaml"])
    assert isinstance(result.exception, UnderstudyError), result.output
    assert message in str(result.exception)
    assert not (here / "x").exists()


def test_a_job_and_options_that_it_should_say_itself(here: Path):
    with pytest.raises(ConfigError, match="--teacher and a job file"):
        CliRunner().invoke(
            command,
            [str(here / "job.yaml"), "--teacher", "spectral"],
            catch_exceptions=False,
        )


def test_plain_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(live, "PLAIN_S", 0.0)
    with live.Live("field", 8, show=True) as shown:
        shown.update(
            Progress(clips=2, failed=1, infer_s=3, read_s=1, gpu_busy_s=1, gpu_seen_s=2), 3
        )
    errors = capsys.readouterr().err
    assert errors.startswith("field: 2 of 8 clips, ")
    assert "1 failed; 3 tasks left; " in errors
    assert "read 25 %, infer 75 %, write 0 %; GPU 50 %" in errors
    with live.Live("field", 8, show=False) as shown:
        shown.update(Progress(clips=2), 3)
    assert capsys.readouterr().err == ""
    assert run.Runtime().progress


@pytest.mark.parametrize("columns", [60, 0])
def test_lines_of_a_terminal(columns: int, monkeypatch: pytest.MonkeyPatch):
    """The second line goes when the run ends; a terminal without a width gets plain lines."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    monkeypatch.setattr(live, "PLAIN_S", 0.0)
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        with live.Live("field", 8, show=True) as shown:
            time.sleep(0.2)  # lines are not drawn more often
            shown.update(Progress(clips=8), 1)
        print("end", end="", file=terminal, flush=True)
        written = ""
        while not written.endswith("end"):  # not all systems tell when the other end is closed
            written += os.read(ours, 1 << 16).decode()
    os.close(ours)
    written = written.removesuffix("end")
    if columns:
        _, shown_once, after = written.rpartition("0 failed; 1 task left")
        assert shown_once
        assert re.search(r"\r {59,}\x1b\[A\r", after)
        assert re.search(r"8/8[^\n]*\r\n$", after)
    else:
        assert written.startswith("field: 8 of 8 clips, ")
        assert written.count("\n") == 1
