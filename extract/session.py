"""Where and how patiently plans run, and the cluster that they share."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from understudy.errors import ConfigError
from understudy.extract.prepare import Extraction

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where and how patiently a plan runs; see `extract`."""

    scheduler: str | None = None
    workers: int = 1
    progress: bool = True
    max_failures: int | str | None = None

    def allowed(self, n_clips: int) -> int | None:
        """Clips that may fail of a dataset of `n_clips`; None is any number."""
        given = self.max_failures
        if given is None:
            return None
        number, percent, rest = str(given).partition("%")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if rest or value < 0 or not (percent or value.is_integer()) or (percent and value > 100):
            raise ConfigError(f"max_failures: wanted a number or a share such as 1%, found {given}")
        return int(value * n_clips / 100) if percent else int(value)


class Session:
    """The cluster that plans share; made when the first of them has something to do."""

    def __init__(self, runtime: Runtime, say: Callable[[str], None]) -> None:
        self.runtime, self._say = runtime, say
        self._stack = ExitStack()
        self._client: Client | None = None

    def client(self, planned: Extraction) -> "Client":
        """A client of the cluster, for a plan that is like all others in device and slots."""
        from understudy.extract import cluster, worker

        if self._client is None:
            here, job = self.runtime, planned.job
            if here.scheduler is None and here.workers == 1:
                for teacher in planned.teachers.values():
                    self._stack.callback(worker.lend(teacher, job.device))
            self._client = self._stack.enter_context(
                cluster.connect(here.scheduler, here.workers, job.slots, device=job.device)
            )
            if link := cluster.dashboard(self._client, local=here.scheduler is None):
                self._say(f"dashboard: {link}")
            if here.scheduler is not None:
                cluster.wait_for_workers(self._client, self._say)
        return self._client

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)
