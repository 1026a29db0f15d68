"""The command line as a user meets it: help, mistyped names, exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests import faulty

from understudy import datasets
from understudy.cli import COMMANDS, cli


def understudy(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "understudy", *args], capture_output=True, text=True, timeout=120
    )


def test_help_imports_neither_torch_nor_dask() -> None:
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from understudy.cli import cli\n"
        "result = CliRunner().invoke(cli, ['--help'])\n"
        "assert result.exit_code == 0, result.output\n"
        "heavy = {'torch', 'dask', 'distributed', 'zarr', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_without_torch_and_dask(command: str) -> None:
    code = (
        "import sys\n"
        "from understudy.cli import cli\n"
        "cli(prog_name='understudy', standalone_mode=False)\n"
        "heavy = {'torch', 'dask', 'distributed', 'zarr', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, command, "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert f"Usage: understudy {command}" in done.stdout


def test_a_mistyped_command_names_the_nearest() -> None:
    done = understudy("extrac")
    assert done.returncode == 2
    assert "did you mean 'extract'" in done.stderr
    assert "Traceback" not in done.stderr


def test_version() -> None:
    done = understudy("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("understudy, version ")


def test_any_command_stopped_by_ctrl_c_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets, "load", stop)
    done = CliRunner().invoke(cli, ["data", "show", "folder", "--root", "."])
    assert (done.exit_code, done.output) == (130, "stopped\n")


def test_a_closed_stderr_ends_no_command(tmp_path: Path) -> None:
    faulty.record(tmp_path / "in" / "0.wav")
    given = f"data show folder --root '{tmp_path / 'in'}'"
    call = f"'{sys.executable}' -m understudy {given} 2>&-"
    done = subprocess.run(["sh", "-c", call], stdout=subprocess.PIPE, timeout=60)
    assert done.returncode == 0
    assert done.stdout
