"""Dask: where the tasks run. The only file that imports it, and only when a run starts.

One worker means a scheduler and a worker inside this process; more mean processes (spawned);
an address means whatever cluster listens there, with the same paths for data and cache. Each task
computes on one CPU thread, here by `one_thread`, elsewhere by dask's own default: threads of one
operation wait for each other while decoding takes their cores, and would change the last bits.
"""

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch

from understudy.errors import CacheError, ConfigError
from understudy.extract.plan import Job, Shard
from understudy.extract.progress import Progress
from understudy.extract.worker import Stopped, process

if TYPE_CHECKING:
    from distributed import Client

LOCAL_PORT = "127.0.0.1:0"  # any free one, for this machine alone
# Dask's own also makes malloc give memory back at once, so that every large tensor is page-faulted
# in anew: 17.9 s of system time for mn04 and spectral over ESC-10, 4.4 s without.
CHILD_ENVIRONMENT = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
)
CONNECT_S = 10.0  # patience with a scheduler that does not answer
BEAT_S = 0.2  # between two signs of life of a task
STOP_S = 30.0  # patience with tasks that were asked to stop


@contextmanager
def connect(scheduler: str | None, workers: int, slots: int) -> "Iterator[Client]":
    """A dask client; clusters made here end with it.

    Args:
        scheduler: Address of a cluster that is there already.
        workers: Processes; 1 is this very process.
        slots: Tasks at a time inside this process.

    Raises:
        ConfigError: Nothing answers at `scheduler`.
    """
    import dask.config
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=CONNECT_S)
        except (OSError, ValueError) as error:
            raise ConfigError(f"no dask scheduler answers at '{scheduler}' ({error})") from None
        with client:
            yield client
        return
    environment = {"distributed.nanny.pre-spawn-environ": CHILD_ENVIRONMENT}
    with deaf_children(), dask.config.set(environment):
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1 if workers > 1 else slots,
            processes=workers > 1,
            # None would make the scheduler insist on port 8787, which another run may hold.
            dashboard_address=LOCAL_PORT,
            worker_dashboard_address=LOCAL_PORT,
            scheduler_kwargs={"dashboard": False},
            memory_limit=0,
            silence_logs=logging.CRITICAL,
        )
    with one_thread(), cluster, Client(cluster) as client:
        yield client


@contextmanager
def one_thread() -> Iterator[None]:
    """Threads started meanwhile compute without help from others; PyTorch's count is restored."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes started meanwhile ignore Ctrl-C, which a terminal sends to all: they are told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def drive(
    client: "Client",
    job: Job,
    tasks: Sequence[tuple[Shard, ...]],
    on_progress: Callable[[Progress], None],
) -> Progress:
    """Runs all tasks; on an error or Ctrl-C asks the others to stop and waits for that.

    Raises:
        CacheError: A store cannot be written, or workers die over and over on one task.
    """
    from distributed import Event, KilledWorker, as_completed, wait
    from distributed.comm.core import CommClosedError

    topic = f"understudy-{job.run_id}"
    stop = Event(topic, client=client)
    client.subscribe_topic(topic, lambda event: on_progress(Progress(**event[1]["done"])))
    total = Progress()
    futures = [
        client.submit(_task, job, task, topic, key=f"{topic}-{task[0].number}", pure=False)
        for task in tasks
    ]
    try:
        for future in as_completed(futures):
            total += future.result()
    except KilledWorker as error:
        raise CacheError(
            f"workers died again and again at {error.task}: probably out of memory; "
            "try fewer --workers or a smaller --clips-per-shard"
        ) from None
    except CommClosedError as error:
        raise CacheError(f"the dask scheduler went away ({error})") from None
    finally:
        running = [future for future in futures if not future.done()]
        if running:
            stop.set()
            with suppress(TimeoutError):
                wait(running, timeout=STOP_S)
        client.unsubscribe_topic(topic)
    return total


def _task(job: Job, shards: tuple[Shard, ...], topic: str) -> Progress:
    from distributed import Event, get_worker

    worker, stop = get_worker(), Event(topic)
    unsent, sent_at = Progress(), -math.inf

    def send() -> None:
        nonlocal unsent, sent_at
        worker.log_event(topic, {"done": asdict(unsent)})
        unsent, sent_at = Progress(), time.monotonic()

    def beat(step: Progress) -> bool:
        nonlocal unsent
        unsent += step
        if time.monotonic() - sent_at < BEAT_S:
            return False
        send()
        return bool(stop.is_set())

    try:
        return process(job, shards, beat)
    except Stopped:
        return Progress()
    finally:
        send()
