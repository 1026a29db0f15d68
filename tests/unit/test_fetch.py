import hashlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests import loopback

from understudy import fetch
from understudy.errors import DataError

BODY = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server(loopback.LoopbackServer):
    """Serves `body`; `script` says what goes wrong with each request in turn."""

    def __init__(self) -> None:
        super().__init__(Handler)
        self.body = BODY
        self.ranges = True
        self.etag = '"one"'
        self.script: list = []  # bytes to send before hanging up, or a status code as "404"
        self.seen: list[str | None] = []

    @property
    def url(self) -> str:
        return f"{super().url}/file.bin"


class Handler(loopback.QuietHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers["Range"]
        server.seen.append(asked)
        step = server.script.pop(0) if server.script else None
        if isinstance(step, str):
            self.send_error(int(step))
            return
        valid = self.headers["If-Range"] in (None, server.etag)
        start = int(asked[6:-1]) if asked and server.ranges and valid else 0
        if start and start >= len(server.body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            last = len(server.body) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(server.body)}")
        self.send_header("Content-Length", str(len(server.body) - start))
        self.send_header("ETag", server.etag)
        self.end_headers()
        self.wfile.write(server.body[start : None if step is None else start + step])


@pytest.fixture
def server() -> Iterator[Server]:
    with loopback.running(Server()) as server:
        yield server


@pytest.fixture
def get(server, tmp_path):
    def call(**options):
        options = {"backoff_s": 0.001, "retries": 2, "timeout_s": 10.0} | options
        return fetch.download(server.url, tmp_path / "new" / "file.bin", **options)

    return call


def left(tmp_path):
    return sorted(path.name for path in (tmp_path / "new").iterdir())


def test_download_verifies_and_leaves_one_file(get, server, tmp_path):
    digests = {"md5": hashlib.md5(BODY).hexdigest(), "sha1": hashlib.sha1(BODY).hexdigest()}
    path = get(sha256=SHA256.upper(), size=len(BODY), **digests)
    assert path.read_bytes() == BODY
    assert left(tmp_path) == ["file.bin"]
    assert get(sha256=SHA256) == path
    assert server.seen == [None]  # the second call asked nobody


def test_dropped_connections_are_resumed(get, server):
    server.script = [100_000, 50_000, "503", 200_000]
    assert get(sha256=SHA256).read_bytes() == BODY
    starts = [None, "bytes=100000-", "bytes=150000-", "bytes=150000-", "bytes=350000-"]
    assert server.seen == starts


def test_server_without_ranges_is_asked_again_from_the_start(get, server):
    server.ranges = False
    server.script = [100_000]
    assert get(sha256=SHA256).read_bytes() == BODY
    assert len(server.seen) == 2


def test_a_later_call_goes_on_where_a_checksum_can_tell(get, server, tmp_path):
    server.script = [300_000, "503", "503", "503"]
    with pytest.raises(DataError, match=r"503 .*gave up after 2 repetitions"):
        get(sha256=SHA256)
    assert left(tmp_path) == ["file.bin.part"]
    server.seen.clear()
    assert get(sha256=SHA256).read_bytes() == BODY
    assert server.seen == ["bytes=300000-"]
    assert left(tmp_path) == ["file.bin"]


def test_without_a_checksum_a_later_call_begins_again(get, server, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "file.bin.part").write_bytes(b"something else")
    assert get().read_bytes() == BODY
    assert server.seen == [None]


def test_a_part_of_another_version_is_replaced(get, server, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "file.bin.part").write_bytes(b"x" * 1000)
    assert get(sha256=SHA256).read_bytes() == BODY
    assert server.seen == ["bytes=1000-", None]


@pytest.mark.parametrize("length", [len(BODY), len(BODY) + 5])
def test_a_part_that_is_whole_or_too_long(get, tmp_path, length):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "file.bin.part").write_bytes((BODY + b"excess")[:length])
    assert get(sha256=SHA256).read_bytes() == BODY


def test_a_file_that_changes_between_connections_is_fetched_whole(get, server):
    server.script = [100_000]
    wanted = BODY[::-1]

    def change(*_):
        server.body, server.etag = wanted, '"two"'

    original = fetch.time.sleep
    fetch.time.sleep = change
    try:
        assert get().read_bytes() == wanted
    finally:
        fetch.time.sleep = original


@pytest.mark.parametrize("name", ["sha256", "sha1", "md5"])
def test_wrong_checksum_is_refused_and_named(get, tmp_path, server, name):
    found = hashlib.new(name, BODY).hexdigest()
    with pytest.raises(DataError, match=f"{name} is {found}, wanted 00ff; not kept") as caught:
        get(**{name: "00ff"})
    assert server.url in str(caught.value)
    assert left(tmp_path) == []


def test_wrong_size_is_refused(get, tmp_path):
    with pytest.raises(DataError, match=f"{len(BODY)} bytes, wanted 7"):
        get(size=7)
    assert left(tmp_path) == []


def test_a_local_file_wins_and_is_never_replaced(get, server, tmp_path):
    path = tmp_path / "new" / "file.bin"
    path.parent.mkdir()
    path.write_bytes(b"mine")
    assert get().read_bytes() == b"mine"
    with pytest.raises(DataError, match="delete it to fetch it again"):
        get(sha256=SHA256)
    assert path.read_bytes() == b"mine"
    assert server.seen == []


def test_a_client_error_is_not_repeated(get, server, tmp_path):
    server.script = ["404"]
    with pytest.raises(DataError, match="the server says 404") as caught:
        get()
    assert server.url in str(caught.value)
    assert len(server.seen) == 1
    assert left(tmp_path) == []


def test_no_server_and_no_address(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/file.bin"
    with pytest.raises(DataError, match="cannot be reached"):
        fetch.download(url, tmp_path / "x", retries=1, backoff_s=0.001)
    with pytest.raises(DataError, match="wanted an http or https address"):
        fetch.download("ftp://host/x", tmp_path / "x")
    (tmp_path / "plain").touch()
    with pytest.raises(DataError, match="cannot be written"):
        fetch.download(url, tmp_path / "plain" / "x")


def test_many_callers_fetch_once(get, server):
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: get(sha256=SHA256), range(8)))
    assert len(set(paths)) == 1
    assert paths[0].read_bytes() == BODY
    assert len(server.seen) == 1


def test_home_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path))
    assert fetch.home() == tmp_path
    monkeypatch.delenv("UNDERSTUDY_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch.home() == tmp_path / ".cache" / "understudy"
