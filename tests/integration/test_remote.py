"""Caches in an object store: the whole way by URL, faults of the network, locks, clear errors."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from tests import gs, s3, stores, tiny

from understudy import cache, datasets
from understudy.cache import connections, lease, objects, places
from understudy.cli import cli
from understudy.errors import CacheError
from understudy.extract import prepare, run
from understudy.extract.pending import pending
from understudy.extract.session import Runtime


@pytest.fixture
def proxy(s3_server, bucket, monkeypatch):
    """A proxy that the bucket is reached through."""
    with s3.Proxy(s3_server) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        yield running


def test_extraction_writes_what_it_writes_on_a_disk(tmp_path, bucket):
    """Stores, index and ledger; a second run does nothing; a further clip extends the store."""
    root = tmp_path / "recordings"
    root.mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        samples = rng.normal(0, 0.1, 16000 * 2)
        soundfile.write(root / f"{number}.wav", samples, 16000)
    (root / "bad.wav").write_bytes(b"no sound")

    def command(where, *more):
        words = ["extract", "folder", "--root", root, "--teacher", "spectral", "--audio"]
        words += ["--cache", where, "--clips-per-shard", 2, *more]
        result = CliRunner().invoke(cli, [str(word) for word in words])
        assert result.exit_code == 0, (result.output, result.exception)
        return result.output

    assert " free" not in command(f"{bucket}/a", "--dry-run")
    for where in (f"{bucket}/a", tmp_path / "local"):
        command(where)
    command(f"{bucket}/a")
    soundfile.write(root / "new.wav", rng.normal(0, 0.1, 16000), 16000)
    for where in (f"{bucket}/a", tmp_path / "local"):
        command(where)

    def snapshot(folder):
        found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        kept = re.compile(r".*/c/.*|ledger.csv")
        return {name: p.read_bytes() for name, p in found.items() if kept.fullmatch(name)}

    name = cache.stores(tmp_path / "local/recordings")[0].parent.name
    wanted = snapshot(tmp_path / "local" / name)
    assert len(wanted) > 20
    assert snapshot(cache.place(bucket) / "a" / name) == wanted
    assert b"bad.wav" in wanted["ledger.csv"]
    for path in cache.stores(f"{bucket}/a/{name}"):
        assert cache.verify(path) == []
    assert not (cache.place(bucket) / "a" / name / ".lock").is_file()


def test_a_plan_is_a_listing_and_the_records(tmp_path, proxy, bucket):
    """No request for what a listing says; the index comes once, not once per task."""
    rng = np.random.default_rng(0)
    for number in range(6):
        soundfile.write(tmp_path / f"{number}.wav", rng.normal(0, 0.1, 16000), 16000)
    index = datasets.load("folder", tmp_path, name="set")
    teachers = prepare.build(["spectral"])

    def plan():
        return prepare.prepare(index, teachers, f"{bucket}/c", audio=True, clips_per_shard=1)

    run.run(plan(), Runtime(progress=False))
    asked = [method for method, path, _ in proxy.requests if path.endswith("/index.parquet")]
    assert asked[asked.index("PUT") :].count("GET") == 1
    planned = plan()
    proxy.requests.clear()
    assert pending(planned) == {"spectral": {}, "audio": {}}
    assert len(proxy.requests) == 2 * (1 + 6)
    status = planned.stores["audio"] / "status/c/4"
    status.write_bytes(bytes(status.stat().st_size))
    (planned.stores["spectral"] / "status/c/2").unlink()
    assert {name: list(found) for name, found in pending(planned).items()} == {
        "spectral": [2], "audio": [4],
    }  # fmt: skip


def test_training_reads_a_bucket(tmp_path, bucket):
    clips = tiny.index()
    here = tiny.make_cache(tmp_path / "here", clips)
    result = CliRunner().invoke(cli, ["cache", "mirror", str(here), f"{bucket}/c"])
    assert result.exit_code == 0, result.output
    runs = {}
    for name, where in {"here": str(here), "there": f"{bucket}/c"}.items():
        words = ["train", "tiny", "--system", "dc_linear", "--teacher", "framewise"]
        words += ["--cache", where, "--run-dir", str(tmp_path / name), "--fold", "1"]
        words += ["--set", "student.width=4", "--set", "optim.max_epochs=1", "--set", "threads=1"]
        result = CliRunner().invoke(cli, words)
        assert result.exit_code == 0, (result.output, result.exception)
        runs[name] = (tmp_path / name / "best.safetensors").read_bytes()
        words = ["evaluate", "score", str(tmp_path / name)]  # finds the cache by the run's config
        result = CliRunner().invoke(cli, words)
        assert result.exit_code == 0, (result.output, result.exception)
    assert runs["here"] == runs["there"]


@pytest.fixture
def impatient(monkeypatch):
    """Requests are repeated as often as ever, at once."""
    no_time = timedelta(milliseconds=1)
    monkeypatch.setitem(
        connections.RETRIES, "backoff", {"init_backoff": no_time, "max_backoff": no_time}
    )
    monkeypatch.setattr(objects, "FIRST_WAIT_S", 0.001)
    connections.connect.cache_clear()
    yield
    connections.connect.cache_clear()


@pytest.mark.parametrize("fault", ["error", "truncate", "drop"])
def test_what_fails_is_repeated(proxy, bucket, impatient, fault):
    """Every third request fails, of those that write and those that read."""
    asked = []

    def every_third(method, path):
        asked.append(method)
        return fault if len(asked) % 3 == 0 and (fault != "truncate" or method == "GET") else ""

    proxy.fault = every_third
    path, held = stores.make(cache.place(bucket), stores.track(), 10)
    rows = [7, 0, 9, 3]
    np.testing.assert_array_equal(cache.CacheReader(path).gather(rows)[0], held.data[rows])
    assert cache.verify(path) == []


def test_a_store_that_never_answers_is_told(proxy, bucket, impatient, monkeypatch):
    path, _ = stores.make(cache.place(bucket), stores.track())
    proxy.fault = lambda method, path: "error"
    with pytest.raises(CacheError, match=r"the request failed.*500"):
        cache.CacheReader(path)
    proxy.fault = lambda method, path: "truncate" if method == "GET" else ""
    with pytest.raises(CacheError, match="the request failed"):
        cache.CacheReader(path)
    proxy.fault = lambda method, path: "deny"
    for words in (("list", path.parent), ("verify", path), ("mirror", path, "here")):
        result = CliRunner().invoke(cli, ["cache", *map(str, words)])
        assert isinstance(result.exception, CacheError), result
        assert "access denied. Credentials come from the environment" in str(result.exception)
        assert "\n" not in str(result.exception)
    with socket.socket() as nobody:
        nobody.bind((s3.HOST, 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3.HOST}:{nobody.getsockname()[1]}")
        connections.connect.cache_clear()
        with pytest.raises(CacheError, match="the request failed, and so did repeating it") as told:
            cache.CacheReader(path)
    assert "\n" not in str(told.value)


def test_a_batch_is_one_round_of_ranges(proxy, bucket):
    """Indexes are read once; what is read to be checked is not read again; neighbours are one."""
    path, held = stores.make(cache.place(bucket), stores.track(dim=60_000), 10)
    reader = cache.CacheReader(path)
    reader.gather([0, 4, 8])

    def requests(rows, **frames):
        before = len(proxy.requests)
        data, _ = reader.gather(rows, **frames)
        return data, [line for line in proxy.requests[before:] if "embedding/c" in line[1]]

    data, first = requests([5, 1, 7, 5])
    np.testing.assert_array_equal(data, held.data[[5, 1, 7, 5]])
    assert len(first) == 3  # 5 and 7 lie a clip of 600 kB apart
    data, again = requests([5, 1])
    assert len(again) == 2
    data, neighbours = requests([4, 5])
    assert len(neighbours) == 1
    data, part = requests([4, 5], frames=(1, 2))
    np.testing.assert_array_equal(data, held.data[[4, 5], 1:3])
    sizes = [
        int(stop) - int(start) + 1 for *_, text in part for start, stop in [text[6:].split("-")]
    ]
    assert sizes == [2 * 2 * 60_000] * 2


def test_a_lease_is_renewed_lost_and_taken_over(bucket, monkeypatch):
    place = objects.ObjectPath.parse(bucket)
    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    with cache.lock(place):
        held = (place / ".lock").tagged()
        for _ in range(200):
            if (place / ".lock").tagged() != held:
                break
        assert (place / ".lock").tagged() != held
        with pytest.raises(CacheError, match=r"in use by process \d+ on"):
            cache.lock(place).__enter__()
    monkeypatch.setattr(lease, "LEASE_S", -1.0)  # one whose holder died
    assert (place / ".lock").write_if(lease._content("dead"), None)
    with cache.lock(place):
        pass
    assert not (place / ".lock").is_file()

    def stand_still():
        with cache.lock(place):
            (place / ".lock").write_bytes(b"somebody else's")
            time.sleep(0.5)

    with pytest.raises(CacheError, match="the lease was lost"):
        stand_still()


def test_a_lease_in_googles_store(monkeypatch):
    """Which goes by generations, not by tags."""
    store = pytest.importorskip("obstore.store")
    from_url = store.from_url

    def over_http(root, client_options, retry_config):
        options = {**client_options, "allow_http": True}
        return from_url(root, client_options=options, retry_config=retry_config)

    monkeypatch.setattr(store, "from_url", over_http)
    monkeypatch.setattr(lease, "RENEW_S", 0.01)
    keys = ("client_email", "private_key", "private_key_id")
    with gs.server() as url:
        account = {"gcs_base_url": url, "disable_oauth": True, **dict.fromkeys(keys, "")}
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(account))
        place = objects.ObjectPath.parse("gs://a-bucket/set")
        held = place / ".lock"
        with cache.lock(place) as check:
            _, first = held.tagged()
            deadline = time.monotonic() + 60
            while held.tagged()[1] == first and time.monotonic() < deadline:
                check()
            assert held.tagged()[1] != first
            with pytest.raises(CacheError, match="in use by process"):
                cache.lock(place).__enter__()
        assert not held.is_file()

        def rob():
            with cache.lock(place) as check:
                held.write_bytes(b"somebody else's")
                while time.monotonic() < deadline:
                    check()

        with pytest.raises(CacheError, match="the lease was lost"):
            rob()
        connections.connect.cache_clear()


def test_an_answer_that_gets_lost_costs_no_lease(proxy, bucket, impatient, monkeypatch):
    """The put is repeated, and refused because it had succeeded."""
    lost = []

    def every_other(method, path):
        lost.append(method == "PUT" and path.endswith(".lock") and not (lost and lost[-1]))
        return "lose" if lost[-1] else ""

    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    proxy.fault = every_other
    with cache.lock(cache.place(bucket)) as check:
        deadline = time.monotonic() + 60
        while sum(lost) < 4 and time.monotonic() < deadline:
            check()
            time.sleep(0.01)
    assert sum(lost) >= 4


def test_an_upload_whose_last_answer_gets_lost(proxy, bucket, impatient):
    """The parts are gone when the request is repeated: the object is put again."""
    ends = []

    def at_the_end(method, path):
        if method != "POST" or "uploadId" not in path:
            return ""
        ends.append(path)
        return {1: "lose", 2: "no upload"}.get(len(ends), "")

    proxy.fault = at_the_end
    data = os.urandom(6 << 20)
    path = cache.place(bucket) / "large"
    path.write_bytes(data)
    assert path.read_bytes() == data
    assert len(ends) == 3
    proxy.fault = lambda method, path: "no upload" if "uploadId" in path else ""
    with pytest.raises(CacheError, match="loses the parts"):
        path.write_bytes(data)


def test_a_slow_line_is_not_a_dead_one(proxy, bucket, impatient, monkeypatch):
    monkeypatch.setattr(connections, "STALL", timedelta(seconds=0.2))
    path = cache.place(bucket) / "small"
    proxy.fault = lambda method, path: time.sleep(0.6) or ""
    path.write_bytes(b"slow")
    with pytest.raises(CacheError, match="the request failed"):
        path.read_bytes()


def test_a_lease_lost_ends_an_extraction(tmp_path, bucket, monkeypatch):
    """Soon, not once all is written."""
    monkeypatch.setattr(lease, "RENEW_S", 0.01)
    rng = np.random.default_rng(0)
    for number in range(100):
        soundfile.write(tmp_path / f"{number:03}.wav", rng.normal(0, 0.1, 16000), 16000)
    index = datasets.load("folder", tmp_path, name="set")
    planned = prepare.prepare(
        index, prepare.build(["spectral"]), f"{bucket}/c", audio=True, clips_per_shard=1
    )
    records = planned.stores["audio"] / "clip_key/commit"

    def rob():
        while not any(records.glob("*.json")):
            time.sleep(0.01)
        (planned.dataset_dir / ".lock").write_bytes(b"somebody else's")

    robber = threading.Thread(target=rob)
    robber.start()
    with pytest.raises(CacheError, match="the lease was lost"):
        run.run(planned, Runtime(progress=False))
    robber.join()
    assert 0 < len(list(records.glob("*.json"))) < 100
    assert not (planned.dataset_dir / "ledger.csv").is_file()
    assert (planned.dataset_dir / ".lock").read_bytes() == b"somebody else's"


@contextlib.contextmanager
def machine(role):
    """Address of what a machine in the cloud answers about itself; None never answers."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

        def answer(self):
            if role is None:
                time.sleep(60)
                return
            paths = {"/latest/api/token": b"a token"}
            if role:
                names = "/latest/meta-data/iam/security-credentials/"
                known = {"AccessKeyId": "test", "SecretAccessKey": "test", "Token": "test"}
                known |= {"Expiration": "2099-01-01T00:00:00Z", "Code": "Success"}
                paths |= {names: role.encode(), names + role: json.dumps(known).encode()}
            body = paths.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        do_GET = do_PUT = answer

    with ThreadingHTTPServer((s3.HOST, 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{s3.HOST}:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.parametrize("silent", [False, True])
def test_no_credentials(tmp_path, monkeypatch, scheme, silent):
    """Off the cloud nobody is asked for long; the error names what was looked for."""
    connections._may_have_credentials.cache_clear()
    for name in [*os.environ]:
        if name.startswith(("AWS_", "GOOGLE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(connections, "PROBE_S", 0.1)
    variable = {"s3": "AWS_ACCESS_KEY_ID", "gs": "GOOGLE_APPLICATION_CREDENTIALS"}[scheme]
    with machine(None if silent else "") as address:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", address)
        monkeypatch.setenv("GCE_METADATA_HOST", address.removeprefix("http://"))
        with pytest.raises(CacheError, match=f"no credentials: looked for {variable}") as told:
            cache.stores(f"{scheme}://bucket-of-nobody-{silent}/c")
        assert "_SKIP_SIGNATURE=true" in str(told.value)
        assert "export-credentials" not in str(told.value)
        (tmp_path / ".aws").mkdir()
        with pytest.raises(CacheError, match="no credentials") as told:
            cache.stores(f"{scheme}://bucket-of-nobody-{silent}/c")
        assert ("export-credentials" in str(told.value)) == (scheme == "s3")
    connections._may_have_credentials.cache_clear()


def test_a_machine_with_a_role(bucket, monkeypatch):
    connections.connect.cache_clear()
    connections._may_have_credentials.cache_clear()
    for name in s3.CREDENTIALS:
        monkeypatch.delenv(name)
    with machine("a-role") as address:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", address)
        path, held = stores.make(cache.place(bucket), stores.track(), 10)
        np.testing.assert_array_equal(cache.CacheReader(path).gather([3])[0], held.data[[3]])
    connections.connect.cache_clear()
    connections._may_have_credentials.cache_clear()


def test_clear_errors(bucket, tmp_path, monkeypatch):
    def refusal(*words):
        result = subprocess.run(
            [sys.executable, "-m", "understudy", *map(str, words)],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ},
        )
        assert result.returncode == 2, result
        assert "Traceback" not in result.stderr
        return result.stderr

    assert "there is no bucket 'absent-bucket'" in refusal("cache", "list", "s3://absent-bucket/c")
    assert "no store of 'mn04'" in str(_find(f"{bucket}/c"))
    assert "there is no bucket" in str(_find("s3://absent-bucket"))
    assert "wanted a folder" in refusal("cache", "list", "ftp://somewhere/c")
    with pytest.raises(CacheError, match="no store"):
        cache.CacheReader(f"{bucket}/none.zarr")
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(CacheError, match=re.escape("pip install 'understudy[remote]'")):
        cache.CacheReader("s3://another-bucket/none.zarr")


def _find(where):
    with pytest.raises(CacheError) as caught:
        cache.find(where, "set", "mn04")
    return caught.value


# In a process of its own: the threads of this one may hold anything while it forks.
FORKS = """
import os, sys
from understudy import cache
cache.CacheReader(sys.argv[1]).gather([0])
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
cache.CacheReader(sys.argv[1])
"""


def test_a_fork_is_refused_and_does_not_hang(bucket):
    path, _ = stores.make(cache.place(bucket), stores.track())
    words = [sys.executable, "-c", FORKS, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert re.search("CacheError: .*spawn", done.stderr), done.stderr


def test_file_systems_of_other_machines(tmp_path, monkeypatch):
    mounts = tmp_path / "mounts"
    monkeypatch.setattr(places, "MOUNTS", mounts)
    lines = ["/dev/vda / ext4 rw 0 0"]
    for kind in ("nfs4", "cifs", "fuse.sshfs", "lustre", "xfs", "fuseblk", "tmpfs"):
        point = tmp_path / f"a mount of {kind}"
        point.mkdir()
        lines.append(f"server:/x {str(point).replace(' ', chr(92) + '040')} {kind} rw 0 0")
    mounts.write_text("\n".join(lines) + "\n")
    mapped = {p.name.split()[-1]: places.mappable(p / "x") for p in tmp_path.glob("a mount*")}
    assert mapped == {
        "nfs4": False, "cifs": False, "fuse.sshfs": False, "lustre": False,
        "xfs": True, "fuseblk": True, "tmpfs": True,
    }  # fmt: skip
    assert places.mappable(tmp_path)
    mounts.unlink()
    assert places.mappable(tmp_path)


def test_paths_and_urls():
    assert places.place("file:///a/b%20c") == places.Path("/a/b c")
    for text in ("s3://bucket/a/b", "s3:/bucket/a/b", "s3://bucket/a//b/"):
        assert str(places.place(text)) == "s3://bucket/a/b"
    assert places.place(places.Path("gs://bucket/a")) == objects.ObjectPath("gs://bucket", "a")
    assert str(places.place("s3://bucket")) == "s3://bucket"
    assert places.place("a:b/c") == places.Path("a:b/c")
    for text in ("s3://", "gs:///a"):
        with pytest.raises(CacheError, match="wanted a folder"):
            objects.ObjectPath.parse(text)
