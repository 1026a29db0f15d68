"""THE path of the extraction: recordings -> plan -> dask tasks -> stores and ledger.

Resuming, extending and starting afresh are one case: what has no valid commit record is computed.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy import cache as stores
from understudy.cache import Place, StoreWriter, places
from understudy.cache.files import partials, remove
from understudy.cache.store import INDEX
from understudy.errors import CacheError
from understudy.extract import inhand, ledger, outcome, plan, profile
from understudy.extract.forecast import forecast
from understudy.extract.live import Live
from understudy.extract.pending import again, pending
from understudy.extract.plan import Shard
from understudy.extract.prepare import BATCH_WINDOWS, Extraction, build, prepare
from understudy.extract.progress import Progress, Report, size
from understudy.extract.session import Runtime, Session
from understudy.index import ClipIndex

if TYPE_CHECKING:
    from distributed import Client

    from understudy.teachers.base import Teacher

log = logging.getLogger(__name__)


def extract(
    index: ClipIndex,
    teachers: "Iterable[str | Teacher]",
    cache: str | Place,
    *,
    audio: bool = False,
    weights: Mapping[str, str | Path] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    clips_per_shard: int | None = None,
    dtype: str | None = None,
    scheduler: str | None = None,
    workers: int = 1,
    device: str | None = None,
    batch_windows: int = BATCH_WINDOWS,
    max_failures: int | str | None = None,
    time_limit_s: float = plan.LIMIT_S,
    retry_failed: bool = False,
    drop_removed: bool = False,
    progress: bool = True,
) -> dict[str, Place]:
    """Runs teachers once over a dataset, into `cache`; what is there already is kept.

    Args:
        index: The dataset.
        teachers: Names, or teachers that are built already. May be empty with `audio`.
        cache: Folder of all caches, or its URL (s3://, gs://); the stores land in CACHE/<dataset>.
        audio: Also store the recordings, 16 kHz mono int16.
        weights: Weights file (or "random") by teacher name.
        settings: Settings by teacher name, e.g. {"mn04": {"window_s": "clip"}}.
        clips_per_shard: Instead of the schema's rule; a dataset's stores share one value.
        dtype: Storage dtype, "float16" or "float32"; by default the teacher's card.
        scheduler: Address of a dask scheduler whose workers see the same paths.
        workers: Local workers; more than one are processes.
        device: "cpu" or "cuda"; by default cuda where there is one.
        batch_windows: Most windows in one call of a teacher.
        max_failures: Clips, or such as "1%" of them, that may fail before the run ends.
        time_limit_s: Longest time without a sign of life: then the worker is replaced, and the
            clip that stalled it found and left out.
        retry_failed: Compute the shards again that hold clips which failed.
        drop_removed: Where a large part of the clips that the cache lists is not in the dataset
            any more, drop what was extracted of them; without it that is an error.
        progress: Show on stderr how it goes.

    Returns:
        Store paths by teacher name, and "audio".

    Raises:
        ConfigError: An unknown teacher or setting, weights nobody asked for.
        DataError, WeightsError: A dataset or weights that cannot be used.
        CacheError: A cache that cannot be written, or lacks the disk space.
    """
    built = build(teachers, weights, settings, device)
    planned = prepare(
        index,
        built,
        cache,
        audio=audio,
        clips_per_shard=clips_per_shard,
        dtype=dtype,
        workers=workers,
        batch_windows=batch_windows,
        limit_s=time_limit_s,
        elsewhere=scheduler is not None,
        device=device,
        retry_failed=retry_failed,
        drop_removed=drop_removed,
    )
    runtime = Runtime(
        scheduler=scheduler, workers=workers, progress=progress, max_failures=max_failures
    )
    run(planned, runtime)
    return planned.stores


def run(
    planned: Extraction, runtime: Runtime | None = None, say: Callable[[str], None] = log.info
) -> Report:
    """Computes what is pending of a planned extraction; see `extract`.

    Args:
        say: Is told what is worth knowing before and during the work.
    """
    (report,) = run_all([planned], runtime, say)
    return report


def run_all(
    plans: Sequence[Extraction],
    runtime: Runtime | None = None,
    say: Callable[[str], None] = log.info,
) -> list[Report]:
    """`run` of one plan after the other, on one cluster, where the disk has space for all."""
    if len(plans) > 1:
        _check_space(plans, [pending(planned) for planned in plans])
    with Session(runtime or Runtime(), say) as session:
        if len(plans) == 1:
            return [_run(plans[0], session, say)]
        return [_run(planned, session, _about(planned, say)) for planned in plans]


def _about(planned: Extraction, say: Callable[[str], None]) -> Callable[[str], None]:
    return lambda line: say(f"{planned.index.name}: {line}")


def _run(planned: Extraction, session: Session, say: Callable[[str], None]) -> Report:
    began = time.monotonic()
    done = Progress()
    with stores.lock(planned.dataset_dir) as held:
        for line in planned.changes:
            say(line)
        missing = pending(planned, remember=True)
        for line in again(missing):
            say(line)
        _check_space([planned], [missing])
        shards = plan.shards(planned.job.n_clips, planned.job.clips_per_shard, missing)
        client = session.client(planned) if shards else None  # before anything is written
        with places.changed_copy(planned.dataset_dir / INDEX) as file:
            planned.index.save(file)
        for item in planned.job.tracks:
            job = planned.job
            StoreWriter.open_or_create(
                planned.dataset_dir, item.track, job.n_clips, job.clips_per_shard
            )
        try:
            if died := inhand.left(planned.dataset_dir):
                from understudy.extract import spare

                shards = spare.tried(planned.job, planned.index, shards, died, say)
            _sweep(planned.dataset_dir)
            if client is not None:
                done = _compute(planned, shards, session.runtime, client, say, held)
                _sweep(planned.dataset_dir)
        except BaseException:
            with suppress(CacheError):  # the disk may be full: what went wrong first is told
                held()
                ledger.save(planned.dataset_dir, outcome.records(planned))
            raise
        records = outcome.records(planned)
        ledger.save(planned.dataset_dir, records)
        wall_s = time.monotonic() - began
        provenance = outcome.provenance(planned, session.runtime, done, wall_s)
        for item in planned.job.tracks:
            writer = item.writer
            if not writer.finalise(provenance, index_sha256=planned.index.digest):
                raise CacheError(f"{writer.path}: shards are missing; the same command adds them")
        if done.shards:
            profile.add(planned.dataset_dir, provenance)
    return outcome.report(planned, records, done, wall_s)


def _check_space(
    plans: Sequence[Extraction], missing: Sequence[Mapping[str, Mapping[int, str]]]
) -> None:
    """Raises CacheError where the disk lacks the space for what is pending."""
    found = [forecast(*each) for each in zip(plans, missing, strict=True)]
    needed, free = sum(each.needed_bytes for each in found), min(each.free_bytes for each in found)
    if needed > free:
        raise CacheError(
            f"{plans[0].dataset_dir}: {size(needed)} are needed and {size(free)} are free"
        )


def _compute(
    planned: Extraction,
    shards: list[Shard],
    runtime: Runtime,
    client: "Client",
    say: Callable[[str], None],
    held: Callable[[], None],
) -> Progress:
    from understudy.extract import cluster
    from understudy.extract.drive import Drive

    job = planned.job
    most_failures, failed = runtime.allowed(job.n_clips), 0
    if most_failures is not None:
        failed = _failed_before(planned, {shard.number for shard in shards})
    slots = job.slots if runtime.scheduler is None else cluster.threads(client)
    n_clips = sum(len(shard.rows) for shard in shards)
    with Live(planned.index.name, n_clips, show=runtime.progress) as live:
        drive = Drive(client, job, live.update, live.say(say), most_failures, failed, held)
        return drive.run(plan.tasks(shards, max(1, slots)))


def _failed_before(planned: Extraction, pending: Set[int]) -> int:
    """Clips that failed in the shards that are kept."""
    kept = [number for number in range(planned.n_shards) if number not in pending]

    def failed(number: int) -> set[str]:
        records = (item.writer.record(number) or {} for item in planned.job.tracks)
        return {failure["clip_id"] for each in records for failure in each.get("failures", ())}

    return len(set[str]().union(*places.spread(planned.dataset_dir, failed, kept)))


def _sweep(dataset_dir: Place) -> None:
    """Removes what processes that were killed left half-written, be it in this very run."""
    remove(*partials(dataset_dir), *dataset_dir.glob(".*.part"))
