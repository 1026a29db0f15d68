"""A dask cluster to run on. Imported only when a run starts.

One worker means a scheduler and a worker inside this process; more mean processes (spawned);
an address means whatever cluster listens there, with the same paths for data and cache. Each task
computes on one CPU thread, here by `one_thread`, elsewhere by dask's own default: threads of one
operation wait for each other while decoding takes their cores, and would change the last bits.
"""

import asyncio
import importlib.metadata
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

import torch

from understudy.errors import STOPS, CacheError, ConfigError

if TYPE_CHECKING:
    from distributed import Client

LOCAL_PORT = "127.0.0.1:0"  # any free one, for this machine alone
# Dask's own also makes malloc give memory back at once, so that every large tensor is page-faulted
# in anew: 17.9 s of system time for mn04 and spectral over ESC-10, 4.4 s without.
CHILD_ENVIRONMENT = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
)
VISIBLE = "CUDA_VISIBLE_DEVICES"
CONNECT_S = 10.0  # patience with a scheduler that does not answer
IDLE_S = 0.2  # between two looks at the scheduler while no task ends
DEATHS = 3  # of a task's workers before it is given up
RETURN = "1 hour"  # patience with a worker process that is started again
LOGGERS = ("distributed.client", "distributed.core", "tornado.application", "asyncio")
LOST = "the dask scheduler went away; the same command continues"


class SchedulerLost(CacheError):
    """The scheduler does not answer any more."""


@contextmanager
def connect(
    scheduler: str | None, workers: int, slots: int, *, processes: bool = False, device: str = "cpu"
) -> "Iterator[Client]":
    """A dask client; clusters made here end with it.

    Args:
        scheduler: Address of a cluster that is there already.
        workers: Workers; 1 is this very process, more are processes of their own.
        slots: Tasks at a time inside this process.
        processes: Make a single worker a process of its own, too.
        device: "cuda" gives each process a GPU of its own, as far as they go round.

    Raises:
        ConfigError: Nothing answers at `scheduler`.
        CacheError: Worker processes do not start.
    """
    import dask.config
    from distributed import Client

    with ExitStack() as stack:
        stack.enter_context(_told_once())
        if scheduler is not None:
            client = stack.enter_context(_reached(scheduler))
            with _answering(client):
                yield client
            return
        apart = processes or workers > 1
        settings: dict[str, Any] = {
            "distributed.nanny.pre-spawn-environ": CHILD_ENVIRONMENT,
            # By default a process that is not back after 15 s is given up: a busy machine is slower
            "distributed.deploy.lost-worker-timeout": RETURN,
        }
        if not apart:
            # Standing still (a laptop asleep) would cost the only worker, which nobody replaces.
            settings["distributed.scheduler.worker-ttl"] = None
        stack.enter_context(dask.config.set(settings))
        # The cluster is entered before Ctrl-C is heard again, so that it is closed in any case.
        with deaf():
            try:
                cluster = stack.enter_context(_local(workers, slots, apart, device))
            except RuntimeError as error:  # dask's, after it has closed what it made
                raise CacheError(
                    f"worker processes do not start ({error}); --workers 1 needs none"
                ) from None
        stack.enter_context(one_thread())
        yield stack.enter_context(Client(cluster))


def _reached(scheduler: str) -> "Client":
    from distributed import Client

    client = Client.__new__(Client)
    try:
        Client.__init__(client, scheduler, timeout=CONNECT_S)
        return client
    except (OSError, ValueError) as error:
        # Else the garbage collector closes it, at a moment at which a thread may hold the lock that
        # closing wants, and waits for itself for ever.
        client.close()
        raise ConfigError(f"no dask scheduler answers at '{scheduler}' ({error})") from None


@contextmanager
def _answering(client: "Client") -> Iterator[None]:
    """Turns the errors of a connection that broke into SchedulerLost."""
    from distributed.comm.core import CommClosedError

    try:
        yield
    except (OSError, CancelledError) as error:
        broke = isinstance(error, CommClosedError | CancelledError)
        if broke or client.status != "running":
            raise SchedulerLost(f"{LOST} ({error})") from None
        raise


@contextmanager
def _told_once() -> Iterator[None]:
    """Keeps what dask logs of a connection that broke or timed out, of its own closing most of all,
    out of the log: what matters of it is raised here. A client that is closed while it reconnects
    logs a traceback, or that it failed after seconds that did not pass.
    """

    def wanted(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        broke = isinstance(error, OSError | CancelledError | asyncio.CancelledError)
        return not broke and not str(record.msg).startswith("Failed to reconnect to scheduler")

    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addFilter(wanted)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(wanted)


def _local(workers: int, slots: int, apart: bool, device: str) -> Any:
    from distributed import LocalCluster, Nanny

    gpus = visible_gpus() if apart and device == "cuda" else []

    class Pinned(Nanny):
        """Keeper of a process that sees one GPU."""

        def __init__(self, *args: Any, name: int, **kwargs: Any) -> None:
            env = {VISIBLE: gpus[name % len(gpus)]}
            super().__init__(*args, name=name, env=env, **kwargs)

    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1 if apart else slots,
        processes=apart,
        worker_class=Pinned if gpus else None,
        # None would make the scheduler insist on port 8787, which another run may hold.
        dashboard_address=LOCAL_PORT,
        worker_dashboard_address=LOCAL_PORT,
        scheduler_kwargs={
            "dashboard": _has_bokeh(),
            "allowed_failures": DEATHS - 1,
        },
        memory_limit=0,
        silence_logs=logging.CRITICAL,
    )


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES lists, else the numbers of the GPUs that are there."""
    listed = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return listed or [str(number) for number in range(torch.cuda.device_count())]


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
def deaf() -> Iterator[None]:
    """Threads and processes started meanwhile never get Ctrl-C, which a terminal sends to all.

    They inherit the blocked signal, and so do their own children, such as a worker that is started
    again. Here it is only delayed, and so are STOPS: each is handled at the end.
    """
    resource_tracker.ensure_running()  # its start would let the signal through again
    with _later(signal.SIGINT, *STOPS):  # other threads, which do not block it, pass it on
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _later(*numbers: signal.Signals) -> Iterator[None]:
    """Signals that come meanwhile are handled at the end."""
    came: list[int] = []
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in numbers}
    for number in before:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def threads(client: "Client") -> int:
    """Threads of all workers."""
    found: Any = client.nthreads()
    return sum(found.values())


def wait_for_workers(client: "Client", say: Callable[[str], None]) -> None:
    """Where there is no worker yet, says so and waits for the first."""
    if not threads(client):
        say("no worker has joined the scheduler yet: waiting for one")
        while not threads(client):
            time.sleep(IDLE_S)


def dashboard(client: "Client", *, local: bool) -> str | None:
    """Address of the dashboard: dask has one where bokeh is installed."""
    port = client.scheduler_info().get("services", {}).get("dashboard")
    if not port or not _has_bokeh(None if local else client):
        return None
    return f"http://127.0.0.1:{port}/status" if local else client.dashboard_link


def _has_bokeh(client: "Client | None" = None) -> bool:
    """Whether bokeh is installed here, or at the scheduler of a client."""
    try:
        if client is None:
            importlib.metadata.version("bokeh")
        else:
            client.run_on_scheduler(importlib.metadata.version, "bokeh")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
