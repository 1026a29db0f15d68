import hashlib
import io
import zipfile
from urllib.parse import unquote

import pytest
from click.testing import CliRunner
from tests import loopback

from understudy.datasets import cli, mtat
from understudy.datasets.obtain import forecast, obtain
from understudy.datasets.release import Release, Remote, Source
from understudy.errors import ConfigError, DataError


class Server(loopback.LoopbackServer):
    """Serves `files` by path, in ranges; after `cut` bytes it hangs up and has lost the file."""

    def __init__(self):
        super().__init__(Handler)
        self.files: dict[str, bytes] = {}
        self.cut: dict[str, int] = {}
        self.asked: list[tuple[str, str | None]] = []


class Handler(loopback.QuietHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self):
        path, asked = unquote(self.path), self.headers["Range"]
        self.server.asked.append((path, asked))
        if path not in self.server.files:
            self.send_error(404)
            return
        body = self.server.files[path]
        start = int(asked[6:-1]) if asked else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        cut = self.server.cut.get(path)
        if cut is not None:
            del self.server.files[path]
        self.wfile.write(body[start : None if cut is None else start + cut])


@pytest.fixture
def server():
    with loopback.running(Server()) as server:
        yield server


def archive(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in content.items():
            file.writestr(name, data)
    return buffer.getvalue()


MUSIC = archive({f"{i:x}/clip-{i}.mp3": bytes([i]) * 5000 for i in range(16)})
LABELS = b"clip_id\tmp3_path\n"
PIECES = {f"mp3.zip.00{i + 1}": MUSIC[i * 30_000 : (i + 1) * 30_000] for i in range(3)}


@pytest.fixture
def release(server):
    """As MagnaTagATune is published: a zip in three pieces and a table, with checksums."""

    def remote(name, data):
        server.files[f"/first/{name}"] = data
        urls = (f"{server.url}/first/{name}", f"{server.url}/second/{name}")
        digest = hashlib.md5(data).hexdigest()
        return Remote(name=name, urls=urls, about_bytes=len(data), md5=digest)

    return Release(
        homepage="",
        licence="",
        citation="",
        sources=(
            Source(
                files=tuple(remote(name, data) for name, data in PIECES.items()),
                takes={"": "mp3"},
                unpacked_bytes=100_000,
            ),
            Source(files=(remote("labels.csv", LABELS),)),
        ),
        n_clips={"x": 16},
        shortest_s=29,
    )


def complete(root):
    return (
        sorted(path.name for path in root.iterdir()) == ["labels.csv", "mp3"]
        and len(list((root / "mp3").rglob("*.mp3"))) == 16
        and (root / "labels.csv").read_bytes() == LABELS
    )


def get(release, root, **options):
    obtain(release, root, **{"retries": 0, "progress": False, **options})


def test_everything_is_fetched_joined_and_unpacked(server, release, tmp_path):
    assert forecast(release, tmp_path / "new").download_bytes == len(MUSIC) + len(LABELS)
    get(release, tmp_path / "new")
    assert complete(tmp_path / "new")
    server.asked.clear()
    get(release, tmp_path / "new")
    assert not server.asked
    assert forecast(release, tmp_path / "new").disk_bytes == 0


def test_an_interrupted_run_goes_on(server, release, tmp_path):
    server.cut["/first/mp3.zip.002"] = 12_345
    del server.files["/first/labels.csv"]
    with pytest.raises(DataError, match=r"mp3\.zip\.002"):
        get(release, tmp_path)
    ahead = forecast(release, tmp_path)
    assert ahead.fetched == ("mp3.zip.002", "mp3.zip.003", "labels.csv")
    assert ahead.download_bytes == len(MUSIC) - 30_000 - 12_345 + len(LABELS)
    server.asked.clear()
    server.cut.clear()
    server.files["/first/mp3.zip.002"] = PIECES["mp3.zip.002"]
    with pytest.raises(DataError, match=r"labels\.csv.*404.*404"):
        get(release, tmp_path)
    assert server.asked[0] == ("/first/mp3.zip.002", "bytes=12345-")
    assert "/first/mp3.zip.001" not in dict(server.asked)
    server.files["/second/labels.csv"] = LABELS
    server.asked.clear()
    get(release, tmp_path)
    assert [path for path, _ in server.asked] == ["/first/labels.csv", "/second/labels.csv"]
    assert complete(tmp_path)


def test_a_wrong_checksum_is_refused_and_named(server, release, tmp_path):
    server.files["/first/mp3.zip.003"] = PIECES["mp3.zip.003"][::-1]
    with pytest.raises(DataError, match=r"mp3\.zip\.003: .*first/mp3\.zip\.003: md5 is .*, wanted"):
        get(release, tmp_path)
    assert not (tmp_path / "mp3").exists()


def test_local_copies_come_first_and_stay(server, release, tmp_path):
    local = tmp_path / "local"
    local.mkdir()
    for name, data in (*PIECES.items(), ("labels.csv", LABELS)):
        (local / name).write_bytes(data)
    assert forecast(release, tmp_path / "root", [local]).fetched == ()
    get(release, tmp_path / "root", local=[local])
    assert not server.asked
    assert complete(tmp_path / "root")
    assert len(list(local.iterdir())) == 4


def test_a_wrong_local_copy_is_named_not_replaced(server, release, tmp_path):
    (tmp_path / "mp3.zip.001").write_bytes(b"another")
    with pytest.raises(DataError, match=r"mp3\.zip\.001: md5 is"):
        get(release, tmp_path)
    assert (tmp_path / "mp3.zip.001").read_bytes() == b"another"


def test_mirrors_come_before_the_authors(server, release, tmp_path):
    server.files["/mirror/labels.csv"] = LABELS
    get(release, tmp_path, mirrors=[f"{server.url}/nothing/", f"{server.url}/mirror"])
    paths = [path for path, _ in server.asked if path.endswith("labels.csv")]
    assert paths == ["/nothing/labels.csv", "/mirror/labels.csv"]
    assert complete(tmp_path)


def test_archives_may_be_kept(release, tmp_path):
    get(release, tmp_path, keep=True)
    assert sorted(p.name for p in (tmp_path / ".downloads").iterdir()) == sorted(PIECES)


def test_without_space_nothing_begins(server, release, tmp_path, monkeypatch):
    class Usage:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    with pytest.raises(DataError, match=r"about 0\.0 GB are wanted, 0\.0 GB are free"):
        get(release, tmp_path)
    assert not server.asked


def test_an_archive_beyond_the_forecast_is_refused(server, tmp_path):
    data = archive({"top/a": bytes(5000)})
    server.files["/bomb.zip"] = data
    remote = Remote(name="bomb.zip", urls=(f"{server.url}/bomb.zip",), about_bytes=len(data))
    source = Source(files=(remote,), takes={"top": "audio"}, unpacked_bytes=2000)
    bomb = Release(
        homepage="", licence="", citation="", sources=(source,), n_clips={}, shortest_s=0
    )
    with pytest.raises(DataError, match="size bomb"):
        get(bomb, tmp_path)
    assert not (tmp_path / "audio").exists()


# the command


def run(*args):
    return CliRunner().invoke(cli.group, [str(arg) for arg in args])


def test_fetch_command(server, release, tmp_path, monkeypatch):
    monkeypatch.setattr(mtat, "RELEASE", release)
    planned = run("fetch", "mtat", "--root", tmp_path / "new", "--dry-run")
    assert planned.exit_code == 0, planned.output
    assert "fetch     mp3.zip.001" in planned.output
    assert not (tmp_path / "new").exists()
    result = run("fetch", "mtat", "--root", tmp_path / "new")
    assert result.exit_code == 0, result.output
    assert complete(tmp_path / "new")


def test_fetch_says_what_is_wanted_of_a_real_release(tmp_path):
    result = run("fetch", "fma-small", "--root", tmp_path / "a" / "b", "--dry-run")
    assert "about 8.1 GB to download, 17.6 GB on disk" in result.output
    assert "CC BY 4.0" in result.output
    assert "Defferrard" in result.output


def test_fetch_of_what_is_not_published(tmp_path):
    result = run("fetch", "folder", "--root", tmp_path)
    assert isinstance(result.exception, ConfigError)
    assert "esc50, esc10, mtat, fma-small, openmic" in str(result.exception)
