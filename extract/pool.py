"""Tasks of one run on a dask cluster, and how they learn that they are to stop."""

import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from understudy.errors import CacheError
from understudy.extract.cluster import IDLE_S, LOST, SchedulerLost

if TYPE_CHECKING:
    from distributed import Client, Future

STOP_S = 20.0  # patience with tasks that were asked to stop
QUIET_S = 2.0  # of it, before the user is told
ENDED = {"closing", "closed", "failed"}  # states of a worker, or its keeper, that stay
LEAVING = ENDED | {"closing_gracefully"}


class WorkersDied(CacheError):
    """Worker after worker died at one task."""


class Pool:
    """Tasks of one run; leaving it asks those that still run to stop, and waits for that.

    Args:
        client: The cluster.
        name: Of the run; tasks find `stop_requested` by it.
        say: Is told what is waited for when it is left.
    """

    def __init__(
        self, client: "Client", name: str, say: Callable[[str], None] = lambda _: None
    ) -> None:
        from distributed import Event

        self.client, self.name, self._say = client, name, say
        self._stop = Event(name, client=client)
        self._works: dict[Future, Any] = {}
        self._ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self._number = 0

    def __len__(self) -> int:
        """Tasks that have not ended."""
        return len(self._works)

    def submit(self, work: Any, function: Callable[..., Any], *arguments: Any) -> None:
        """Has `function(*arguments)` called on a worker; `work` names it in `results`."""
        self._number += 1
        future = self.client.submit(
            function, *arguments, key=f"{self.name}-{self._number}", pure=False
        )
        self._works[future] = work
        future.add_done_callback(self._ended.put)

    def results(
        self, idle: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[Any, Any | Exception]]:
        """Pairs of `work` and what its task returned or raised, in the order of their ends.

        Args:
            idle: Called now and then while nothing ends.

        Raises:
            SchedulerLost: The cluster went away.
            CacheError: All workers of a cluster made here have ended, and none comes back.
        """
        while self._works:
            try:
                future = self._ended.get(timeout=IDLE_S)
            except queue.Empty:
                if self.client.status != "running":
                    raise SchedulerLost(LOST) from None
                if _deserted(self.client):
                    raise CacheError("all workers have ended; the same command continues") from None
                idle()
                continue
            work = self._works.pop(future)
            yield work, self._outcome(future)

    def _outcome(self, future: "Future") -> Any | Exception:
        from distributed import KilledWorker
        from distributed.comm.core import CommClosedError

        try:
            return future.result()
        except KilledWorker:
            return WorkersDied("workers died again and again at one task: probably out of memory")
        except (CommClosedError, CancelledError):
            raise SchedulerLost(LOST) from None
        except Exception as error:
            return error

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        if not self._works or self.client.status != "running":
            return
        began, told = time.monotonic(), False
        with suppress(OSError, CancelledError):  # whatever happens to the scheduler meanwhile
            self._stop.set()
            while (waited_s := time.monotonic() - began) < STOP_S and not _deserted(self.client):
                if all(future.done() for future in self._works):
                    break
                if waited_s > QUIET_S and not told:
                    told = True
                    with suppress(OSError):  # an output that is closed
                        self._say(
                            f"waiting {STOP_S:.0f} s at most for work in hand; Ctrl-C: at once"
                        )
                time.sleep(IDLE_S)


def stop_requested(name: str) -> Callable[[], bool]:
    """For a task: whether its pool is being left, or nobody waits for the task any more."""
    from distributed import Event, get_worker

    worker, stop = get_worker(), Event(name)
    key = worker.get_current_task()

    def asked() -> bool:
        task = worker.state.tasks.get(key)
        if task is None or task.state == "cancelled" or worker.status.name in LEAVING:
            return True
        return bool(stop.is_set())

    return asked


def _deserted(client: "Client") -> bool:
    """Whether the cluster was made here and none of its workers will do anything more."""
    cluster: Any = client.cluster
    if cluster is None:
        return False
    return all(worker.status.name in ENDED for worker in list(cluster.workers.values()))
