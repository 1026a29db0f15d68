"""What a dask worker does: shards of clips in, committed shards of every track out.

Threads decode and resample ahead of inference, and one thread writes behind it.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from itertools import chain

from understudy import config, teachers
from understudy.cache import StoreWriter, place
from understudy.cache.places import spread
from understudy.extract.inhand import InHand
from understudy.extract.load import Loaded, load, untouched
from understudy.extract.plan import (
    ANY_DEVICE,
    Clip,
    Job,
    Shard,
    TrackJob,
    decoders,
    default_device,
    shard_clips,
)
from understudy.extract.progress import Progress
from understudy.extract.shard import ShardTrack
from understudy.teachers import TeacherSpec
from understudy.teachers.base import Teacher

AHEAD_S = 120.0  # most audio decoded ahead of inference, to bound memory


class Stopped(Exception):
    """The coordinator asked for a stop; what was not committed is computed again next time."""


def process(
    job: Job,
    shards: Sequence[Shard],
    beat: Callable[[Progress], bool] = lambda _: False,
    *,
    alone: bool = False,
) -> Progress:
    """Extracts and commits shards, the pending tracks of each; leaves out what the same run has
    committed already.

    Args:
        job: The run's constants.
        shards: Each is written whole, by this call alone.
        beat: Is told the progress since its last call; returning True stops the work.
        alone: Nobody would notice the death of this process but the next run, which is left a note
            of the clips that were in hand.

    Raises:
        Stopped: `beat` said so.
    """
    jobs = {item.track.name: item for item in job.tracks}
    writers = {name: item.writer for name, item in jobs.items()}
    done = spread(place(job.dataset_dir), partial(_committed, job, writers), shards)
    shards = [shard for shard, there in zip(shards, done, strict=True) if not there]
    names = {name for shard in shards for name in shard.tracks}
    needed = [jobs[name] for name in names]
    computing, wanted = computers(needed, job.device), audio_of(needed)
    total, step = Progress(), Progress()

    def tick() -> None:
        nonlocal total, step
        total += step
        told, step = step, Progress()
        if beat(told):
            raise Stopped

    with (
        InHand(place(job.dataset_dir) if alone else None) as hand,
        ThreadPoolExecutor(job.decode_threads or decoders()) as pool,
        ThreadPoolExecutor(1) as disk,
    ):

        def decode(clip: Clip) -> Loaded:
            with hand.holding(clip):
                return load(clip, wanted, job.root, job.scratch)

        clips = shard_clips(job.dataset_dir, shards)
        stream = ahead(pool, decode, chain.from_iterable(map(decodable, shards, clips)))
        writing: Future[Progress] | None = None
        try:
            for shard, owned in zip(shards, clips, strict=True):
                parts = {
                    name: ShardTrack(
                        jobs[name], computing[name], owned, job.batch_windows, tick, hand.holding
                    )
                    for name in shard.tracks
                }
                files, refused = [], dict(shard.refused)
                for row, clip in enumerate(owned):
                    began = time.perf_counter()
                    loaded = (
                        untouched(clip, job.root, refused[row]) if row in refused else next(stream)
                    )
                    step.wait_s += time.perf_counter() - began
                    files.append((loaded.sha256, loaded.file_stamp))
                    for part in parts.values():
                        part.add(row, loaded)
                    step.clips += 1
                    step.audio_s += loaded.duration_s
                    step.read_s += loaded.read_s
                    tick()
                for part in parts.values():
                    part.finish()
                    step.infer_s += part.infer_s
                if writing is not None:
                    step += writing.result()
                writing = disk.submit(_write, writers, shard.number, parts, job.run_id, files)
                tick()
            if writing is not None:
                step += writing.result()
            tick()
        finally:
            pool.shutdown(cancel_futures=True)
    return total


def computers(tracks: Iterable[TrackJob], device: str) -> dict[str, Teacher | None]:
    """What computes each track, by its name; None for audio, which is only decoded."""
    return {
        item.track.name: None if item.spec is None else cached_teacher(item.spec, device)
        for item in tracks
    }


def audio_of(tracks: Iterable[TrackJob]) -> set[tuple[int, str]]:
    """The (rate in Hz, resampler) at which the tracks want clips."""
    return {(item.rate_hz, item.resampler) for item in tracks}


def _committed(job: Job, writers: Mapping[str, StoreWriter], shard: Shard) -> bool:
    """Whether this very run has written the shard: a task that is tried again need not."""
    return all(
        (writers[name].record(shard.number) or {}).get("run_id") == job.run_id
        for name in shard.tracks
    )


def decodable(shard: Shard, clips: Iterable[Clip]) -> Iterator[Clip]:
    """Those of its clips that are not refused."""
    refused = dict(shard.refused)
    return (clip for row, clip in enumerate(clips) if row not in refused)


def ahead(
    pool: Executor, function: Callable[[Clip], Loaded], clips: Iterable[Clip]
) -> Iterator[Loaded]:
    """`map` in order, with at most AHEAD_S seconds of audio in flight."""
    queue: deque[tuple[float, Future[Loaded]]] = deque()
    in_flight_s = 0.0
    for clip in clips:
        clip_s = clip.duration_s or 0.0
        while queue and in_flight_s + clip_s > AHEAD_S:
            done_s, future = queue.popleft()
            in_flight_s -= done_s
            yield future.result()
        queue.append((clip_s, pool.submit(function, clip)))
        in_flight_s += clip_s
    while queue:
        yield queue.popleft()[1].result()


def _write(
    writers: Mapping[str, StoreWriter],
    number: int,
    parts: Mapping[str, ShardTrack],
    run_id: str,
    files: Sequence[tuple[str, tuple[int, int]]],
) -> Progress:
    began = time.perf_counter()
    for name, part in parts.items():
        writers[name].write_shard(number, part.payload(), part.record(run_id, files))
    failed = {row for part in parts.values() for row in part.failures}
    return Progress(shards=1, failed=len(failed), write_s=time.perf_counter() - began)


_TEACHERS: dict[str, Teacher] = {}
_BUILDING = threading.Lock()


def cached_teacher(spec: TeacherSpec, device: str) -> Teacher:
    """The teacher of `spec`, built once per process."""
    key = _key(spec, device)
    with _BUILDING:
        if key not in _TEACHERS:
            here = default_device() if device == ANY_DEVICE else device
            _TEACHERS[key] = teachers.from_spec(spec, here)
        return _TEACHERS[key]


def lend(teacher: Teacher, device: str) -> Callable[[], object]:
    """Lets workers inside this process use `teacher` itself; returns what takes it back."""
    key = _key(teacher.spec, device)
    _TEACHERS[key] = teacher
    return lambda: _TEACHERS.pop(key, None)


def _key(spec: TeacherSpec, device: str) -> str:
    return f"{config.digest(spec)} {device}"
