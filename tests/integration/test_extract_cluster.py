"""Extraction on a cluster of processes with command lines of their own, any of which is killed."""

import importlib.util
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dask.config
import pytest
from click.testing import CliRunner
from distributed import Status, Worker
from tests import faulty

from understudy import cache, datasets
from understudy.cache.store import Store
from understudy.errors import CacheError
from understudy.extract import cluster as dask_cluster
from understudy.extract import extract, load, plan, task, worker
from understudy.extract.cli import command
from understudy.extract.pool import Pool

N_CLIPS, CLIPS_PER_SHARD = 66, 1
N_KILLS = 50
DEADLINE_S = 300.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of a second, one of them unreadable."""
    root = tmp_path_factory.mktemp("field")
    for number in range(N_CLIPS - 1):
        faulty.record(root / f"{number:03}.wav", seed=number)
    (root / "999.wav").write_bytes(b"no sound here")
    return root


def extract_here(root: Path, place: Path) -> None:
    """The extraction that `arguments` asks a cluster for, in this process."""
    extract(
        datasets.load("folder", root, name="field"),
        ["hear:tests.faulty"],
        place,
        audio=True,
        clips_per_shard=CLIPS_PER_SHARD,
        progress=False,
    )


@pytest.fixture(scope="module")
def undisturbed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    place = tmp_path_factory.mktemp("undisturbed")
    extract_here(root, place)
    return arrays(place / "field")


def arrays(dataset_dir: Path) -> dict[str, bytes]:
    """Array files and the ledger by path; nothing else may be left of a run that was killed."""
    left = [path.name for path in dataset_dir.rglob("*") if path.suffix in (".partial", ".part")]
    assert left == []
    found = [*dataset_dir.glob("*.zarr/*/c/**/*"), dataset_dir / "ledger.csv"]
    return {
        str(path.relative_to(dataset_dir)): path.read_bytes() for path in found if path.is_file()
    }


def n_committed(place: Path) -> int:
    return len(list(place.glob("field/*.zarr/clip_key/commit/*.json")))


def arguments(root: Path, place: Path, scheduler: str) -> list[str]:
    given = ["folder", "--root", str(root), "--option", "name=field", "--audio"]
    given += ["--teacher", "hear:tests.faulty", "--cache", str(place)]
    return [*given, "--clips-per-shard", str(CLIPS_PER_SHARD), "--scheduler", scheduler]


class Cluster:
    """`dask scheduler` and two `dask worker`, each a process; whoever died is started again."""

    def __init__(self, sleep_s: float) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        self.environment = faulty.environment(FAULTY_SLEEP_S=str(sleep_s))
        dask = [sys.executable, "-m", "dask"]
        here = ["--host", "127.0.0.1", "--no-dashboard"]
        worker = [*dask, "worker", self.address, *here, "--nthreads", "1", "--no-nanny"]
        port = self.address.rpartition(":")[2]
        self.calls = {
            "scheduler": [*dask, "scheduler", *here, "--port", port],
            "worker 0": worker,
            "worker 1": worker,
        }
        self.running: dict[str, subprocess.Popen[str]] = {}

    def start(self) -> None:
        """Starts what does not run."""
        for name, call in self.calls.items():
            if name not in self.running or self.running[name].poll() is not None:
                self.running[name] = self.process(call, subprocess.DEVNULL)
        host, _, port = self.address.removeprefix("tcp://").partition(":")
        while self.running["scheduler"].poll() is None:
            with suppress(OSError), socket.create_connection((host, int(port))):
                return
            time.sleep(0.05)

    def process(self, call: list[str], out: int) -> subprocess.Popen[str]:
        """A process that finds the teacher."""
        return subprocess.Popen(
            call, stdout=out, stderr=subprocess.STDOUT, text=True, env=self.environment
        )

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running[name].communicate()

    def finish(self) -> None:
        """Ends all processes."""
        for name in self.running:
            self.kill(name)


@contextmanager
def killing(cluster: Cluster, name: str, place: Path) -> Iterator[None]:
    """Kills a process once there are ten commit records in `place`; they were not all."""
    over, at = threading.Event(), []

    def kill() -> None:
        while not over.wait(0.01):
            if (n := n_committed(place)) >= 10:
                cluster.kill(name)
                return at.append(n)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert at
    assert at[0] < 2 * N_CLIPS, "killed too late to mean anything"


def test_a_cluster_that_loses_a_worker_and_one_that_loses_its_scheduler(
    root: Path,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    logger = logging.getLogger("distributed")  # does not propagate
    logger.addHandler(caplog.handler)
    request.addfinalizer(lambda: logger.removeHandler(caplog.handler))
    cluster = Cluster(sleep_s=0.02)
    request.addfinalizer(cluster.finish)
    cluster.start()
    monkeypatch.chdir(root.parent)  # what is relative here is not so for the workers
    place = tmp_path / "worker"
    with killing(cluster, "worker 0", place):
        result = CliRunner().invoke(command, arguments(Path(root.name), place, cluster.address))
    assert result.exit_code == 0, result.output
    assert f"{N_CLIPS} clips: {N_CLIPS - 1} ok, 1 failed" in result.output
    assert ("dashboard:" in result.output) == (importlib.util.find_spec("bokeh") is not None)
    assert arrays(place / "field") == undisturbed

    place = tmp_path / "scheduler"
    with (
        killing(cluster, "scheduler", place),
        pytest.raises(CacheError, match=r"the dask scheduler went away; the same command cont"),
    ):
        command.main(arguments(root, place, cluster.address), standalone_mode=False)
    assert [record for record in caplog.records if record.exc_info] == []
    extract_here(root, place)
    assert arrays(place / "field") == undisturbed


def test_a_cluster_of_this_process_is_not_given_up_while_it_stands_still():
    impatient = dask.config.set({"distributed.scheduler.worker-ttl": "1s"})
    with impatient, dask_cluster.connect(None, 1, 1) as client:
        made: Any = client.cluster
        assert made.scheduler.worker_ttl is None


def test_a_cluster_that_is_being_made_is_not_interrupted():
    over, made = threading.Event(), []

    def make() -> None:
        with dask_cluster.deaf():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
            made.append(True)

    other = threading.Thread(target=over.wait)  # any thread may take a signal that others block
    other.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            make()
    finally:
        over.set()
        other.join()
    assert made


def test_nobody_waits_for_workers_that_are_not_started_again():
    with dask_cluster.connect(None, 1, 1) as client, Pool(client, "run") as pool:
        pool.submit("work", time.sleep, 1)
        made: Any = client.cluster
        client.sync(made.workers[0].close)
        with pytest.raises(CacheError, match="all workers have ended"):
            list(pool.results())


@pytest.mark.parametrize("status", ["paused", "closing_gracefully"])
def test_what_a_worker_leaves_is_not_taken_for_done(
    status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A cluster's workers pause while they lack memory, and are retired by those who scale it."""
    seen: list[str] = []

    def disturbed(clip: plan.Clip, *more: Any) -> load.Loaded:
        if "3.wav" in clip.path and not seen:
            seen.append(clip.path)
            for each in list(Worker._instances):
                each.loop.add_callback(setattr, each, "status", Status[status])
                later = each.loop.call_later, 1.0, setattr, each, "status", Status.running
                each.loop.add_callback(*later)
            time.sleep(2 * task.BEAT_S)
        return load.load(clip, *more)

    monkeypatch.setattr(worker, "load", disturbed)
    index = datasets.load("folder", faulty.folder(tmp_path / "in"))
    extract(index, [], tmp_path / "cache", audio=True, clips_per_shard=1, progress=False)
    (store,) = cache.stores(tmp_path / "cache" / "in")
    assert seen
    assert Store.open(store).attributes["complete"]


def next_commit(cluster: Cluster, client: subprocess.Popen[str], place: Path) -> bool:
    """Waits for a shard more; False where the client ended first."""
    before, give_up = n_committed(place), time.monotonic() + DEADLINE_S
    while client.poll() is None:
        if n_committed(place) > before:
            return True
        assert time.monotonic() < give_up, "the extraction does not get on"
        cluster.start()
        time.sleep(0.01)
    return False


@pytest.mark.soak
def test_killed_at_random(
    root: Path, undisturbed: dict[str, bytes], tmp_path: Path, request: pytest.FixtureRequest
):
    """50 kills of scheduler, workers and client, at random moments of as many runs as it takes."""
    seed = time.time_ns()
    rng = random.Random(seed)
    kills: Counter[str] = Counter()
    exits: Counter[int] = Counter()
    cluster = Cluster(sleep_s=0.2)
    request.addfinalizer(cluster.finish)
    n_runs = 0
    while kills.total() < N_KILLS:
        n_runs += 1
        place = tmp_path / str(n_runs)
        call = [sys.executable, "-m", "understudy", "extract"]
        call += arguments(root, place, cluster.address)
        code = None
        while code != 0:
            cluster.start()
            client = cluster.process(call, subprocess.PIPE)
            request.addfinalizer(client.kill)
            while next_commit(cluster, client, place):
                if kills.total() == N_KILLS:
                    continue
                time.sleep(rng.uniform(0, 1))
                victim = rng.choice(["client", *cluster.calls])
                if client.poll() is None:
                    kills[victim] += 1
                    client.kill() if victim == "client" else cluster.kill(victim)
                    cluster.start()
            output, _ = client.communicate()
            code = client.returncode
            exits[code] += 1
            assert code in (0, 2, -signal.SIGKILL), output
            assert "Traceback" not in output, output
            assert code != 2 or "\nerror: " in f"\n{output}", output
        assert arrays(place / "field") == undisturbed, kills
        for store in cache.stores(place / "field"):
            assert cache.verify(store) == []
    sys.stdout.write(f"seed {seed}: killed {dict(kills)} in {n_runs} runs; exits {dict(exits)}\n")
