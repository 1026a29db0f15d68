"""`understudy teachers`: what is printed, without torch."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from understudy import teachers
from understudy.errors import ConfigError
from understudy.teachers.cli import group


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path))
    return tmp_path


def output(*arguments: str) -> str:
    result = CliRunner().invoke(group, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_list_has_a_line_for_every_teacher(home):
    header, *lines = output("list").splitlines()
    assert header.startswith("name")
    assert [line.split()[0] for line in lines] == teachers.names()
    row = next(line for line in lines if line.startswith("mn04"))
    for fact in ("384", "32 kHz", "1.92/0.96 s", "983,599", "to be fetched", "MIT", "AudioSet"):
        assert fact in row


def test_list_knows_which_weights_are_here(home):
    (home / "weights").mkdir()
    (home / "weights" / "mn04_as_mAP_432.pt").touch()
    lines = {line.split()[0]: line for line in output("list").splitlines()}
    assert "present" in lines["mn04"]
    assert "to be fetched" in lines["mn10"]
    assert "not needed" in lines["spectral"]


@pytest.mark.parametrize("name", teachers.names())
def test_show_prints_the_card_with_units(name):
    card, text = teachers.card(name), output("show", name)
    for fact in (f"{card.sample_rate} Hz", f"{card.dim} values", f"{card.parameters:,}", " s\n"):
        assert fact in text
    joined = " ".join(text.split())
    for fact in (card.title, card.front_end, card.licence_weights, card.url or ""):
        assert fact in joined
    assert max(map(len, text.replace(card.url or "", "").splitlines())) <= 100


def test_show_of_an_unknown_name_tells_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'spectral'"):
        CliRunner().invoke(group, ["show", "spectrl"], catch_exceptions=False)


def test_listing_does_not_import_torch():
    code = (
        "import sys\n"
        "from understudy.teachers.cli import group\n"
        "group(['list'], standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
