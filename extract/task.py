"""One dask task: the work in a thread of its own, watched by the one that dask waits for."""

import importlib.util
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass, field
from functools import lru_cache

import torch

from understudy.errors import ConfigError, UnderstudyError, WeightsError
from understudy.extract.forward import FATAL
from understudy.extract.plan import Job, Shard
from understudy.extract.pool import ENDED, stop_requested
from understudy.extract.progress import Progress
from understudy.extract.spare import culprits
from understudy.extract.worker import Stopped, process
from understudy.leaving import may_hang

BEAT_S = 0.2  # between two signs of life of a task
LEAVE_S = 2.0  # from a task's last word to the end of its process


class Hung(Exception):
    """A task that gave no sign of life."""


class GpuLost(Exception):
    """A GPU that this process cannot use any more."""


@dataclass
class Outcome:
    """What a task did, and what ended it early."""

    done: Progress = field(default_factory=Progress)
    error: Exception | None = None
    stopped: bool = False
    """Its worker is being closed, or the run's end was asked for."""


class Watch:
    """What the working thread and the one that watches it tell each other."""

    def __init__(self) -> None:
        self.stop = False
        self.seen = time.monotonic()
        self.error: BaseException | None = None
        self._unsent = Progress()
        self._lock = threading.Lock()

    def beat(self, step: Progress) -> bool:
        """Called by the working thread; whether it is to stop."""
        with self._lock:
            self._unsent += step
            self.seen = time.monotonic()
        return self.stop

    def take(self) -> Progress:
        """Progress since the last call."""
        with self._lock:
            taken, self._unsent = self._unsent, Progress()
        return taken


def this_process() -> str:
    """Tells one process from all others, on other machines too."""
    return f"{socket.gethostname()} {os.getpid()}"


@lru_cache(maxsize=1)
def _has_nvml() -> bool:
    return torch.cuda.is_available() and importlib.util.find_spec("pynvml") is not None


def gpu_busy() -> float | None:
    """Share of the last moments in which this process's GPU computed; None where NVML is not."""
    if not _has_nvml():
        return None
    try:
        return torch.cuda.utilization() / 100
    except (RuntimeError, ImportError, OSError):
        return None


def run_task(
    job: Job, shards: tuple[Shard, ...], topic: str, client: str, delay_s: float = 0.0
) -> Outcome:
    """Extracts shards on a dask worker.

    Args:
        job: The run's constants.
        shards: To be written by this task alone.
        topic: Where progress is told; name of the pool that may ask for a stop.
        client: `this_process` of the client, which must not be ended, whatever hangs in it.
        delay_s: Wait first: the last attempt failed.
    """
    from distributed import get_worker

    worker, asked = get_worker(), stop_requested(topic)
    outcome, watch, ended = Outcome(), Watch(), threading.Event()

    seen_at = time.monotonic()

    def send() -> None:
        nonlocal seen_at
        step, now = watch.take(), time.monotonic()
        if (busy := gpu_busy()) is not None:
            step += Progress(gpu_busy_s=busy * (now - seen_at), gpu_seen_s=now - seen_at)
        seen_at = now
        if step != Progress():
            outcome.done += step
            worker.log_event(topic, {"done": asdict(step)})  # dask adds keys of its own

    def work() -> None:
        try:
            process(job, shards, watch.beat, alone=this_process() == client)
        except BaseException as error:
            watch.error = error
        finally:
            ended.set()

    ready_at = time.monotonic() + delay_s
    while time.monotonic() < ready_at:
        if asked():
            return Outcome(stopped=True)
        time.sleep(BEAT_S)
    watch.seen = time.monotonic()
    working = threading.Thread(target=work, name=topic, daemon=True)
    may_hang(working)
    working.start()
    while not ended.wait(BEAT_S):
        send()
        watch.stop = watch.stop or asked()
        if worker.status.name in ENDED and this_process() == client:
            watch.stop = outcome.stopped = True  # nobody waits for it, dask's closing aside
            break
        if time.monotonic() - watch.seen > job.limit_s:
            watch.stop = True  # should it ever go on
            outcome.error = Hung(f"no sign of life for {job.limit_s:g} s")
            break
    send()
    if isinstance(watch.error, ConfigError | WeightsError) and this_process() != client:
        outcome.error = type(watch.error)(f"{watch.error}, on worker {worker.address}")
    elif isinstance(watch.error, UnderstudyError | MemoryError):
        outcome.error = watch.error
    elif isinstance(watch.error, FATAL):
        outcome.error = GpuLost(str(watch.error))
    elif isinstance(watch.error, Stopped):
        outcome.stopped = True
    elif watch.error is not None:
        raise watch.error
    if isinstance(outcome.error, Hung | GpuLost) and this_process() != client:
        # What hangs cannot be stopped, and a GPU's context that is lost does not come back: the
        # process ends, and its keeper starts another.
        worker.loop.add_callback(worker.loop.call_later, LEAVE_S, os._exit, 1)
    return outcome


def run_apart(job: Job, shard: Shard, topic: str) -> Shard:
    """The shard, refusing the clips that kill or stall a process which works on them alone."""
    (found,) = culprits(job, [shard], stop_requested(topic))
    return found
