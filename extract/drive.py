"""What becomes of a run's tasks: done, tried again, or searched for the clip to blame."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from understudy.errors import CacheError, DataError, UnderstudyError
from understudy.extract.cluster import threads
from understudy.extract.plan import Job, Shard
from understudy.extract.pool import Pool, WorkersDied
from understudy.extract.progress import Progress
from understudy.extract.spare import verdict
from understudy.extract.task import GpuLost, Hung, Outcome, run_apart, run_task, this_process

if TYPE_CHECKING:
    from distributed import Client

RETRIES = 2  # of a task that fails on an error, not a clip
RETRY_S = 1.0  # before the first; four times as long before each further one
LOOK_S = 5.0  # between two looks whether there are workers, while nothing ends
DEADLY = (WorkersDied, Hung, GpuLost, MemoryError)


class TooManyFailures(UnderstudyError):
    """More clips failed than the user allows."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """A task as it stands."""

    shards: tuple[Shard, ...]
    attempt: int = 0
    apart: bool = False  # its clips are being run one by one
    searched: bool = False  # they have been


class Drive:
    """Runs all tasks of a plan; leaves the others room when one fails.

    Args:
        client: The cluster.
        job: The run's constants.
        on_progress: Is told every step and the number of tasks that have not ended.
        say: Is told what is tried again, and why.
        most_failures: Clips that may fail; None is any number.
        failed: Clips that failed in earlier runs.
        held: Raises CacheError once another run may write to the dataset.
    """

    def __init__(
        self,
        client: "Client",
        job: Job,
        on_progress: Callable[[Progress, int], None],
        say: Callable[[str], None],
        most_failures: int | None = None,
        failed: int = 0,
        held: Callable[[], None] = lambda: None,
    ) -> None:
        self.job, self.say, self.most_failures = job, say, most_failures
        self.done = Progress()  # of tasks that ended
        self._seen = Progress(failed=failed)  # of all
        self._on_progress, self._held = on_progress, held
        self._client = client
        self._looked, self._deserted = time.monotonic(), False
        self._pool = Pool(client, f"understudy-{job.run_id}", say)

    def run(self, tasks: Sequence[tuple[Shard, ...]]) -> Progress:
        """Runs the tasks; on an error or Ctrl-C asks the others to stop and waits for that.

        Raises:
            CacheError: A store cannot be written, or a shard not be extracted.
            TooManyFailures: As it says.
        """
        topic = self._pool.name
        with self._pool:
            self._client.subscribe_topic(topic, self._on_event)
            try:
                for task in tasks:
                    self._submit(Work(shards=task))
                for work, result in self._pool.results(self._idle):
                    self._settle(work, result)
                    self._check()
            finally:
                if self._client.status == "running":
                    with suppress(OSError):
                        self._client.unsubscribe_topic(topic)
        return self.done

    def _submit(self, work: Work, delay_s: float = 0.0) -> None:
        topic = self._pool.name
        if work.apart:
            self._pool.submit(work, run_apart, self.job, work.shards[0], topic)
        else:
            arguments = (self.job, work.shards, topic, this_process(), delay_s)
            self._pool.submit(work, run_task, *arguments)

    def _on_event(self, event: tuple[float, dict[str, Any]]) -> None:
        step = Progress(**event[1]["done"])
        self._seen += step
        self._on_progress(step, len(self._pool))

    def _idle(self) -> None:
        """Checks, and says so where nobody is left to work."""
        self._check()
        if time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        deserted = not threads(self._client)
        if deserted and not self._deserted:
            self.say("no worker is left: waiting for one to join the scheduler")
        self._deserted = deserted

    def _check(self) -> None:
        self._held()
        if self.most_failures is not None and self._seen.failed > self.most_failures:
            raise TooManyFailures(
                f"{self._seen.failed} clips failed, wanted at most {self.most_failures} "
                "(max_failures); the ledger lists them"
            )

    def _settle(self, work: Work, result: Outcome | Shard | Exception) -> None:
        error = result
        if isinstance(result, Shard):
            self.say(verdict(self.job, result))
            self._submit(Work(shards=(result,), searched=True))
            return
        if isinstance(result, Outcome):
            self.done += result.done
            error = result.error
            if result.stopped:  # by its worker's end alone: what it left is not committed
                self._submit(work)
        if isinstance(error, DEADLY):
            self._search(work, error)
        elif isinstance(error, Exception):
            if work.attempt == RETRIES or (
                isinstance(error, UnderstudyError)
                and not (
                    isinstance(error, CacheError | DataError)  # a disk or a network may come back
                )
            ):
                raise error
            delay_s = RETRY_S * 4**work.attempt
            self.say(f"{_name(work)}: {_text(error)}; tried again in {delay_s:g} s")
            self._submit(Work(shards=work.shards, attempt=work.attempt + 1), delay_s)

    def _search(self, work: Work, error: Exception) -> None:
        """Narrows a task that kills or stalls its worker down to a shard, then to its clips."""
        if work.apart or work.searched:
            raise CacheError(
                f"{_name(work)}: {_text(error)}, though each of its clips runs alone; try fewer "
                "--workers, a longer --time-limit or a smaller --clips-per-shard"
            ) from error
        if len(work.shards) > 1:
            self.say(f"{_name(work)}: {_text(error)}; its shards are tried one by one")
            for shard in work.shards:
                self._submit(Work(shards=(shard,)))
            return
        self.say(f"{_name(work)}: {_text(error)}; its clips are run one by one in a spare process")
        self._submit(Work(shards=work.shards, apart=True))


def _name(work: Work) -> str:
    numbers = [shard.number for shard in work.shards]
    return f"shard {numbers[0]}" if len(numbers) == 1 else f"shards {numbers[0]} to {numbers[-1]}"


def _text(error: Exception) -> str:
    if isinstance(error, UnderstudyError | Hung):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
