"""Published weights: fetching, mirrors, digests on first use, licences, checks and bundles."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from tests import loopback

from understudy import teachers
from understudy.errors import ConfigError, WeightsError
from understudy.teachers import bundle, library, sanity
from understudy.teachers.card import TeacherCard
from understudy.teachers.cards import CARDS
from understudy.teachers.cli import group
from understudy.teachers.efficientat import MobileNet
from understudy.teachers.weights import random_

BODIES = {"free": b"free weights " * 1000, "bound": b"bound weights " * 2000}


class Server(loopback.LoopbackServer):
    """Serves BODIES under /NAME.bin, or those of `moved`; `asked` lists the paths."""

    def __init__(self) -> None:
        super().__init__(Handler)
        self.asked: list[str] = []
        self.bodies = {f"/{name}.bin": body for name, body in BODIES.items()}


class Handler(loopback.QuietHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        body = self.server.bodies.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    with loopback.running(Server()) as server:
        yield server


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("UNDERSTUDY_MIRROR", raising=False)
    return tmp_path / "home" / "weights"


@pytest.fixture
def cards(server, monkeypatch) -> dict[str, TeacherCard]:
    """Two teachers whose files the server has: `free`, and `bound` to a licence."""
    made = {
        name: replace(
            CARDS["mn04"],
            name=name,
            weights_file=f"{name}.bin",
            url=f"{server.url}/{name}.bin",
            weights_sha256=None,
            weights_bytes=None,
            licence_weights=licence,
        )
        for name, licence in (("free", "MIT"), ("bound", "CC BY-NC-SA 4.0 (somebody)"))
    }
    for name, card in made.items():
        monkeypatch.setitem(CARDS, name, card)
    return made


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(group, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


class TestFetch:
    def test_fetched_once_and_recorded(self, cards, server, home):
        assert "free.bin (13,000 bytes, MIT)" in run("fetch", "free").output
        assert (home / "free.bin").read_bytes() == BODIES["free"]
        known = json.loads((home / "known.json").read_text())
        assert known["free.bin"]["sha256"] == hashlib.sha256(BODIES["free"]).hexdigest()
        assert known["free.bin"]["url"] == cards["free"].url
        run("fetch", "free")
        assert server.asked == ["/free.bin"]
        assert known["free.bin"]["sha256"] in run("show", "free").output

    def test_another_file_than_the_first_is_refused(self, cards, server, home):
        run("fetch", "free")
        (home / "free.bin").unlink()
        server.bodies["/free.bin"] = b"other weights"
        with pytest.raises(WeightsError, match=r"sha256 is .*, wanted .*; not kept"):
            run("fetch", "free")
        assert not (home / "free.bin").exists()

    def test_an_altered_file_is_refused(self, cards, home):
        run("fetch", "free")
        with (home / "free.bin").open("ab") as file:
            file.write(b"!")
        with pytest.raises(WeightsError, match=r"free\.bin: sha256 is .*delete it to fetch"):
            library.locate(cards["free"])

    def test_a_size_is_held_to_even_without_a_digest(self, cards, home):
        with pytest.raises(WeightsError, match="13000 bytes, wanted 5"):
            library.obtain(replace(cards["free"], weights_bytes=5))
        assert not list(home.glob("*.bin"))

    def test_a_mirror_comes_first(self, cards, server, home, monkeypatch):
        server.bodies = {"/mirror/free.bin": BODIES["free"], "/mirror2/free.bin": BODIES["free"]}
        run("fetch", "free", "--mirror", f"{server.url}/mirror/")
        (home / "free.bin").unlink()
        monkeypatch.setenv("UNDERSTUDY_MIRROR", f"{server.url}/mirror2")
        run("fetch", "free")
        assert server.asked == ["/mirror/free.bin", "/mirror2/free.bin"]

    def test_where_the_mirror_lacks_it_the_authors_are_asked(self, cards, server):
        run("fetch", "free", "--mirror", f"{server.url}/nothing")
        assert server.asked == ["/nothing/free.bin", "/free.bin"]

    def test_where_nobody_has_it_all_are_named(self, cards, server):
        server.bodies = {}
        with pytest.raises(WeightsError, match=r"/m/free\.bin.*404.*/free\.bin.*--weights free="):
            run("fetch", "free", "--mirror", f"{server.url}/m")

    def test_a_given_path_comes_before_everything(self, cards, server, tmp_path):
        assert library.locate(cards["bound"], tmp_path / "mine.bin") == tmp_path / "mine.bin"
        assert server.asked == []

    def test_teachers_without_weights_are_refused(self):
        with pytest.raises(WeightsError, match="spectral has no published weights"):
            run("fetch", "spectral")


class TestLicence:
    def test_non_commercial_weights_want_consent_once(self, cards, server, home):
        with pytest.raises(ConfigError, match=r"CC BY-NC-SA 4\.0 \(somebody\).*--accept-licence"):
            run("fetch", "bound")
        assert server.asked == []
        assert "not agreed to yet" in run("show", "bound").output
        run("fetch", "bound", "--accept-licence")
        (home / "bound.bin").unlink()
        run("fetch", "bound")
        assert "not agreed to yet" not in run("show", "bound").output

    def test_a_changed_licence_wants_consent_again(self, cards):
        library.consent(cards["bound"])
        changed = replace(cards["bound"], licence_weights="CC BY-NC-ND 4.0")
        assert library.consented(cards["bound"])
        assert not library.consented(changed)

    def test_a_file_that_is_here_without_consent_is_not_used(self, cards, home):
        home.mkdir(parents=True)
        (home / "bound.bin").write_bytes(BODIES["bound"])
        with pytest.raises(ConfigError, match="--accept-licence"):
            library.locate(cards["bound"])

    @pytest.mark.parametrize("name", ["discogs", "mule"])
    def test_published_non_commercial_weights(self, name):
        assert teachers.card(name).non_commercial
        with pytest.raises(ConfigError, match=rf"fetch {name} --accept-licence"):
            teachers.build(name)

    @pytest.mark.parametrize("name", ["mn04", "passt", "panns", "spectral"])
    def test_others(self, name):
        assert not teachers.card(name).non_commercial


class TestBundle:
    @pytest.fixture
    def packed(self, cards, tmp_path) -> Path:
        run("fetch", "free", "bound", "--accept-licence")
        assert "bound.bin" in run("pack", "free", "bound", "--out", tmp_path / "b.tar").output
        return tmp_path / "b.tar"

    @pytest.fixture
    def elsewhere(self, tmp_path, monkeypatch, server) -> Path:
        """The home of another machine, without a network."""
        monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path / "node"))
        server.bodies = {}
        return tmp_path / "node" / "weights"

    def test_it_travels(self, packed, elsewhere):
        with pytest.raises(ConfigError, match="--accept-licence"):
            run("unpack", packed)
        output = run("unpack", packed, "--accept-licence").output
        assert "bound.bin (28,000 bytes, CC BY-NC-SA 4.0 (somebody))" in output
        for name, body in BODIES.items():
            assert (elsewhere / f"{name}.bin").read_bytes() == body
            library.locate(teachers.card(name))
        assert not list(elsewhere.glob("*.unpacked"))
        assert run("unpack", packed).exit_code == 0

    def test_it_is_the_same_each_time(self, packed, tmp_path):
        run("pack", "free", "bound", "--out", tmp_path / "again.tar")
        assert packed.read_bytes() == (tmp_path / "again.tar").read_bytes()
        with pytest.raises(WeightsError, match="exists already"):
            run("pack", "free", "--out", packed)

    def test_a_file_that_differs_is_kept(self, packed, elsewhere):
        elsewhere.mkdir(parents=True)
        (elsewhere / "free.bin").write_bytes(b"my own")
        with pytest.raises(WeightsError, match=r"free\.bin: not the file of"):
            run("unpack", packed, "--accept-licence")
        assert (elsewhere / "free.bin").read_bytes() == b"my own"
        assert not (elsewhere / "bound.bin").exists()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda members: members[1:], r"wanted manifest\.json as its first"),
            (lambda members: members[:2], r"lacks bound\.bin"),
            (lambda members: [*members, members[1]], r"'free\.bin' does not belong"),
            (lambda members: [*members, ("../evil", b"")], r"'\.\./evil' does not belong"),
            (lambda members: [*members, ("/etc/evil", b"")], "evil' does not belong"),
            (lambda members: [members[0], ("free.bin", None), members[2]], "does not belong"),
            (lambda members: [members[0], ("free.bin", b"short"), members[2]], "has 5 bytes"),
            (lambda members: [members[0], ("free.bin", b"x" * 13000), members[2]], "is damaged"),
        ],
    )
    def test_what_does_not_belong_is_refused(self, packed, elsewhere, change, message):
        rewrite(packed, change)
        with pytest.raises(WeightsError, match=message):
            run("unpack", packed, "--accept-licence")
        assert not list(elsewhere.glob("*.bin*"))

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            ({"file": "../free.bin"}, "no teacher's file"),
            ({"file": "/tmp/free.bin"}, "no teacher's file"),
            ({"teacher": "nobody"}, "no teacher's file"),
            ({"bytes": 2**60}, "cannot have"),
            ({"bytes": "many"}, "cannot be used"),
            ({"colour": "red"}, "unknown key 'colour'"),
        ],
    )
    def test_a_manifest_that_lies_is_refused(self, packed, elsewhere, entry, message):
        def change(members: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
            manifest = json.loads(members[0][1])
            manifest["files"][0] |= entry
            return [("manifest.json", json.dumps(manifest).encode()), *members[1:]]

        rewrite(packed, change)
        with pytest.raises(WeightsError, match=message):
            run("unpack", packed, "--accept-licence")

    @given(content=st.binary(max_size=2000), keep=st.integers(0, 3000))
    def test_damage_never_gets_through(self, content, keep, tmp_path_factory):
        text = json.dumps({"format": 1, "files": []}).encode()
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            tar.addfile(bundle._member("manifest.json", len(text)), io.BytesIO(text))
        path = tmp_path_factory.mktemp("bundle") / "b.tar"
        path.write_bytes(stream.getvalue()[:keep] + content)
        with suppress(WeightsError):
            assert bundle.unpack(path) == []

    def test_a_missing_bundle_is_named(self, tmp_path):
        with pytest.raises(WeightsError, match=r"none\.tar: No such file"):
            run("unpack", tmp_path / "none.tar")


class TestCheck:
    def test_the_published_file(self, shared):
        result = run("check", "mn04", "--weights", shared / "weights" / "mn04_as_mAP_432.pt")
        assert result.exit_code == 0
        assert "as recorded" in result.output

    def test_a_network_of_the_same_shape(self, tmp_path):
        weights(tmp_path / "mn04.pt", 0.4)
        result = run("check", "mn04", "--weights", tmp_path / "mn04.pt")
        assert result.exit_code == 1
        assert "cosine_0 is" in result.output
        assert "sha256 is" in result.output

    def test_without_recorded_values_it_says_so(self, tmp_path):
        weights(tmp_path / "mn01.pt", 0.1)
        result = run("check", "mn01", "--weights", tmp_path / "mn01.pt")
        assert result.exit_code == 0
        assert "no sanity values are recorded" in result.output

    def test_weights_of_another_network(self, tmp_path):
        weights(tmp_path / "mn01.pt", 0.1)
        result = run("check", "mn02", "--weights", tmp_path / "mn01.pt")
        assert result.exit_code == 1
        assert "weights of another network" in result.output

    def test_the_signal_is_the_same_everywhere(self):
        audio = sanity.signal(16000)
        assert audio.shape == (1, 64000)
        wanted = [0.01778, 0.1108231, -0.1572998, -0.1066691]
        assert audio[0, [0, 1, 1000, 63999]].tolist() == pytest.approx(wanted, abs=1e-6)


def weights(path: Path, width: float) -> None:
    network = MobileNet(width)
    random_(network, 1)
    torch.save(network.state_dict(), path)


def rewrite(path: Path, change: Callable[[list[tuple[str, Any]]], list[tuple[str, Any]]]) -> None:
    """Changes the (name, content) members of a tar; content None makes a link out of it."""
    with tarfile.open(path) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]  # type: ignore[union-attr]
    with tarfile.open(path, "w") as tar:
        for name, content in change(members):
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content or b""))
