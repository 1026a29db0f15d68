import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from tests import releases

from understudy import audio, datasets
from understudy.datasets.cli import group
from understudy.datasets.verify import Problem, verify


@pytest.fixture
def tree(tmp_path):
    for name in ("good.wav", "good.flac", "good.mp3", "good.ogg", "cut.mp3"):
        releases.sound(tmp_path / name, 2.0)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 10 * releases.RATE_HZ)
    audio.write(tmp_path / "cut.ogg", noise, releases.RATE_HZ)
    releases.sound(tmp_path / "short.wav", 0.5)
    releases.empty(tmp_path / "empty.mp3")
    (tmp_path / "text.wav").write_text("no audio")
    for name, part in (("cut.ogg", 0.8), ("cut.mp3", 0.5)):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: int(part * len(data))])
    soundfile.write(tmp_path / "nan.wav", np.full(16_000, np.nan), 8_000, "FLOAT")
    return tmp_path


def found(problems: list[Problem]):
    return {each.clip_id: (each.kind, each.known) for each in problems}


def test_missing_corrupt_and_short_files(tree):
    index = datasets.load("folder", tree)
    (tree / "good.wav").unlink()
    known = {"empty.mp3": "corrupt: 0 bytes", "good.wav": "corrupt", "good.mp3": "corrupt"}
    problems = verify(index, 1.0, known)
    assert found(problems) == {
        "cut.mp3": ("corrupt", False),
        "cut.ogg": ("corrupt", False),
        "empty.mp3": ("corrupt", True),
        "good.wav": ("missing", False),
        "nan.wav": ("corrupt", False),
        "short.wav": ("short", False),
        "text.wav": ("corrupt", False),
    }
    reasons = {each.clip_id: each.reason for each in problems}
    assert reasons["cut.mp3"].endswith("s can be decoded, the header promises 2.00 s")
    assert reasons["short.wav"] == "0.50 s, wanted 1 s or more"
    assert "end-of-stream" in reasons["cut.ogg"]


def test_quick_reads_headers_only(tree):
    names = set(found(verify(datasets.load("folder", tree), 1.0, quick=True)))
    assert names == {"empty.mp3", "short.wav", "text.wav"}


def test_damage_that_the_decoder_leaps_over(tree):
    for path in list(tree.iterdir()):
        if path.name not in ("good.mp3", "good.flac"):
            path.unlink()
    content = bytearray((tree / "good.mp3").read_bytes())
    content[len(content) // 2] ^= 0xFF
    content[len(content) // 2 : len(content) // 2 + 60] = bytes(60)
    (tree / "hurt.mp3").write_bytes(content)
    result = run("folder", "--root", tree)
    assert result.exit_code == 0, result.output
    (line,) = (line for line in result.output.splitlines() if line.startswith("damaged"))
    assert line.startswith("damaged  hurt.mp3  hurt.mp3: 1 x '")
    assert result.output.endswith("0 known to be bad as released, 1 damaged\n")


def run(*args):
    return CliRunner().invoke(group, ["verify", *(str(arg) for arg in args)])


def test_command_fails_on_what_is_not_known(tree):
    result = run("folder", "--root", tree)
    assert result.exit_code == 1
    assert "corrupt  empty.mp3  empty.mp3: empty file (0 bytes)" in result.output.splitlines()
    for name in ("empty.mp3", "text.wav", "nan.wav", "cut.ogg", "cut.mp3"):
        (tree / name).unlink()
    result = run("folder", "--root", tree)
    assert result.exit_code == 0, result.output
    assert "5 clips: 0 not as they should be" in result.output


def test_known_defects_of_a_release_are_marked(shared, tmp_path):
    root = releases.mtat(tmp_path / "mtat", shared, only=("2", *releases.MTAT_EMPTY))
    result = run("mtat", "--root", root, "--set", "split=clean")
    lines = result.output.splitlines()
    assert sum(line.endswith("empty file (0 bytes) (known, as released)") for line in lines) == 3
    assert lines[-1] == (
        "4 clips, wanted 25863: 0 not as they should be, 3 known to be bad as released"
    )
    assert result.exit_code == 1
