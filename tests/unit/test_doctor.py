import pytest
import soundfile
from click.testing import CliRunner

from understudy import audio, cli, doctor, fetch, teachers
from understudy.doctor import Finding


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def call(monkeypatch, **checks):
    if checks:
        monkeypatch.setattr(doctor, "CHECKS", checks)
    return CliRunner().invoke(cli.cli, ["doctor"])


def test_a_sound_machine(monkeypatch):
    result = call(monkeypatch)
    assert result.exit_code == 0, result.output
    for word in ("torch", "libsndfile", "mp3", "usable", "UNDERSTUDY_HOME", "not here", "mn04"):
        assert word in result.output
    assert "BROKEN" not in result.output


def test_one_broken_thing_makes_exit_code_1(monkeypatch):
    def crash():
        yield Finding("one", "fine")
        raise ZeroDivisionError("deep inside")

    result = call(monkeypatch, first=crash, second=doctor.processor)
    assert result.exit_code == 1
    assert "BROKEN ZeroDivisionError: deep inside" in result.output
    assert "CPU" in result.output
    assert "1 thing broken" in result.output


def broken(check):
    return {finding.name for finding in check() if finding.broken}


def test_a_codec_that_fails_or_decodes_something_else(monkeypatch):
    write, decode = audio.write, audio.decode

    def no_mp3(path, samples, rate_hz):
        if path.suffix == ".mp3":
            raise soundfile.LibsndfileError(1)
        if path.suffix == ".flac":
            samples = samples[::2]  # an octave higher
        write(path, samples, rate_hz)

    monkeypatch.setattr(audio, "write", no_mp3)
    assert broken(doctor.decoders) == {"mp3", "flac"}
    monkeypatch.setattr(audio, "decode", lambda path: decode(path, duration_s=0.001))
    assert "wav" in broken(doctor.decoders)


def test_a_package_that_is_missing(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "no_such_package"))
    assert broken(doctor.versions) == {"no_such_package"}


def test_a_home_that_is_no_folder(home):
    home.write_text("a file")
    assert broken(doctor.disks) == {"UNDERSTUDY_HOME"}


def test_weights_cut_short(home):
    card = teachers.card("mn04")
    assert card.weights_bytes
    (fetch.home() / "weights").mkdir(parents=True)
    file = fetch.home() / "weights" / str(card.weights_file)
    file.write_bytes(b"short")
    assert broken(doctor.weights) == {"mn04"}
    with file.open("r+b") as handle:
        handle.truncate(card.weights_bytes)
    assert broken(doctor.weights) == set()
