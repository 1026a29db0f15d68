"""The documentation does what it says: its commands and its Python are run, page by page.

Runs are made short and networks narrow, and weights that would be fetched are drawn at random
(see `_small`); all else is run as it is written, in a folder that holds recordings.
"""

import contextlib
import csv
import io
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from tests import docs, s3

from understudy import audio, datasets, teachers
from understudy import train as training
from understudy.cli import cli
from understudy.config import merged
from understudy.datasets.esc50 import CLASSES, COLUMNS, ESC10_TARGETS
from understudy.errors import UnderstudyError
from understudy.extract import extract
from understudy.train import train

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
SHORT = {"optim": {"max_steps": 4}, "student": {"width": 4}}
BUCKET = "my-bucket"
SHELL = {"cd", "ls", "cat", "find", "export"}
"""Commands that pages may use beside understudy, make and what they do not run."""


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings, a cache of them, an ESC-50 and the studies."""
    path = tmp_path_factory.mktemp("stand")
    lines = ["path,label,split"]
    for label, hz in (("kick", 60), ("snare", 900)):
        for letter, split in zip(
            "abcdefghijkl", ["train"] * 8 + ["valid", "test"] * 2, strict=True
        ):
            _sound(path / "recordings" / label / f"{letter}.wav", hz, seconds=2.0)
            lines.append(f"{label}/{letter}.wav,{label},{split}")
    (path / "recordings" / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    _sound(path / "my-recording.wav", 300, seconds=3.0)
    _esc50(path / "ESC-50")
    shutil.copytree(ROOT / "studies", path / "studies")
    index = datasets.load("folder", path / "recordings", csv=Path("labels.csv"))
    extract(index, ["spectral"], path / "cache", audio=True, progress=False)
    return path


@pytest.fixture
def folder(stand: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of the page's own, with all of `stand`."""
    shutil.copytree(stand, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(training, "train", _short_training)
    monkeypatch.setattr(teachers, "build", partial(teachers.build, weights="random"))
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_as_written(page: Path, folder: Path, request: pytest.FixtureRequest) -> None:
    if f"s3://{BUCKET}" in page.read_text(encoding="utf-8"):
        request.getfixturevalue("bucket")  # the environment leads to a server
        s3.make_bucket(os.environ["AWS_ENDPOINT_URL"], BUCKET)
    names: dict[str, object] = {}
    for block in docs.blocks(page):
        where = f"{page.name}, line {block.line}"
        if block.language == "sh":
            for words in docs.commands(block.text):
                _command(words, where, block.not_run)
        elif block.language == "python" and not block.note:
            code = compile(block.text, where, "exec")
            with contextlib.redirect_stdout(io.StringIO()):
                exec(code, names)
        elif block.note and block.not_run is None:
            _inside(folder, block.note).write_text(block.text, encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    headings = {_anchor(line) for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        assert not path or (page.parent / path).exists(), target
        assert path or anchor in headings, target


def _command(words: Sequence[str], where: str, not_run: str | None) -> None:
    assert not_run != "", f"{where}: a block that is not run says why"
    words = [word for raw in words for word in _expanded(raw)]
    text, given = " ".join(words), None
    if "|" in words:
        cut = words.index("|")
        given = subprocess.run(words[:cut], capture_output=True, text=True, check=True).stdout
        words = words[cut + 1 :]
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets), f"{where}: {text}"
    elif words[0] == "understudy":
        _parse(words[1:], where, text)
        if not_run is None:
            result = CliRunner().invoke(cli, _small(words[1:]), input=given)
            error = result.exception
            if isinstance(error, UnderstudyError) or not isinstance(error, SystemExit | None):
                raise AssertionError(f"{where}: {text}") from error
            assert result.exit_code == 0, f"{where}: {text}\n{result.output}"
    elif not_run is None:
        assert words[0] in SHELL, f"{where}: {text}: not run, and nothing says why"
        assert subprocess.run(words, capture_output=True).returncode == 0, f"{where}: {text}"


def _parse(words: Sequence[str], where: str, text: str) -> None:
    """Fails for a command or an option that does not exist, and for one that is wanted."""
    command: click.Command | None = cli
    words = list(words)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        with click.Context(command) as context:
            command = command.get_command(context, words.pop(0))
        assert command is not None, f"{where}: no such command: {text}"
    try:
        shown = contextlib.redirect_stdout(io.StringIO())
        with contextlib.suppress(click.exceptions.Exit), shown:  # --help
            command.make_context(None, words)
    except click.UsageError as error:
        raise AssertionError(f"{where}: {error.format_message()}: {text}") from None


def _small(words: Sequence[str]) -> list[str]:
    words = list(words)
    if words[0] == "extract" and "mn04" in words and "--weights" not in words:
        words += ["--weights", "mn04=random"]
    if words[0] == "train" and "--help" not in words:
        words += ["--set", "optim.max_steps=4", "--set", "student.width=4"]
    if words[0] == "study" and "--help" not in words:
        file = Path(words[1])
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        content["students"] = [{"name": "sc-cnn", "width": 4}]
        content["settings"] = merged(content.get("settings", {}), {"optim": SHORT["optim"]})
        content["seeds"] = content.get("seeds", [1223])[:1]
        content["datasets"] = [{**entry, "folds": [1]} for entry in content["datasets"]]
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return words


def _short_training(*args: Any, settings: Mapping[str, Any] | None = None, **rest: Any) -> Path:
    return train(*args, settings=merged(settings or {}, SHORT), **rest)


def _expanded(word: str) -> list[str]:
    """A pattern's files, as a shell gives them; any other word as it is."""
    if "*" not in word:
        return [os.path.expandvars(word)]
    return sorted(str(path) for path in Path().glob(word)) or [word]


def _inside(folder: Path, name: str) -> Path:
    """Where a block's file goes: beside the recordings, where a CSV file of labels belongs."""
    return folder / ("recordings" if name.endswith(".csv") else ".") / name


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def _sound(path: Path, hz: float, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time_s = np.arange(round(seconds * 16000)) / 16000
    audio.write(path, 0.3 * np.sin(2 * np.pi * hz * time_s).astype(np.float32), 16000)


def _esc50(root: Path) -> None:
    """An ESC-50 of one short clip for each fold and each class of ESC-10."""
    rows = []
    for fold in range(1, 6):
        for target in ESC10_TARGETS:
            name = f"{fold}-{target}-A-{target}.wav"
            _sound(root / "audio" / name, 100 + 40 * target, seconds=1.0)
            rows.append((name, fold, target, CLASSES[target], "True", f"{fold}{target}", "A"))
    (root / "meta").mkdir()
    with (root / "meta" / "esc50.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
