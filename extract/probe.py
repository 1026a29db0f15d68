"""How long a run would take, from a sample of its work."""

import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from understudy import schema
from understudy.cache import ShardPayload, StoreWriter
from understudy.disk import existing
from understudy.errors import CacheError
from understudy.extract import plan
from understudy.extract.live import duration
from understudy.extract.plan import TrackJob
from understudy.extract.prepare import Extraction

PROBE_S = 20.0  # of work on a sample of clips
SAMPLE_CLIPS = 8  # of the sample that share batches
WRITE_S = 2.0  # of writing
WRITE_SHARDS = 8  # of a track, at most


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Times measured on a sample of clips, on this machine, and what follows from them."""

    clips: int
    audio_s: float
    read_s: float
    infer_s: Mapping[str, float]
    wall_s: float
    write_s: float | None
    """Of all that is left to write, from some shards that were written; None without."""
    left_s: float
    at_a_time: int

    def __str__(self) -> str:
        total = max(self.read_s + sum(self.infer_s.values()), 1e-9)
        shares = {"reading": self.read_s, **self.infer_s}
        split = ", ".join(f"{name} {100 * value / total:.0f} %" for name, value in shares.items())
        writing = "was not measured"
        if self.write_s is not None:
            writing = f"takes about {duration(self.write_s)} meanwhile"
        return (
            f"about {duration(self.left_s)} of work, if {self.at_a_time} at a time do not slow "
            f"each other down: {self.clips} clips ({self.audio_s:.0f} s of audio) took "
            f"{self.wall_s:.1f} s here, one after the other ({split}); "
            f"writing {writing}"
        )


def probe(
    planned: Extraction,
    missing: Mapping[str, Mapping[int, str]],
    limit_s: float = PROBE_S,
    *,
    write: bool = True,
) -> Probe | None:
    """Extracts a sample of what is pending, for `limit_s`, and drops it; None if nothing is.

    Args:
        planned: The extraction.
        missing: From `pending`.
        limit_s: Of reading and inference.
        write: Also write shards like those of the run where they will lie, and remove them.
    """
    from understudy.extract.cluster import one_thread
    from understudy.extract.load import load
    from understudy.extract.shard import ShardTrack
    from understudy.extract.worker import audio_of

    job, size_ = planned.job, planned.job.clips_per_shard
    numbers = sorted({number for track in missing.values() for number in track})
    rows = [row for k in numbers for row in range(k * size_, min((k + 1) * size_, job.n_clips))]
    if not rows:
        return None
    random.Random(0).shuffle(rows)
    jobs = {item.track.name: item for item in job.tracks if missing[item.track.name]}
    wanted = audio_of(jobs.values())
    infer_s = dict.fromkeys(jobs, 0.0)
    n_clips, audio_s, read_s = 0, 0.0, 0.0

    def extract(sample: Sequence[int], until: float) -> None:
        nonlocal n_clips, audio_s, read_s
        clips = plan.clips(planned.index.clips.iloc[list(sample)][list(plan.COLUMNS)])
        parts = {
            name: ShardTrack(item, planned.teachers.get(name), clips, job.batch_windows)
            for name, item in jobs.items()
        }
        for row, clip in enumerate(clips):
            loaded = load(clip, wanted, job.root, tempfile.gettempdir())
            for part in parts.values():
                part.add(row, loaded)
            n_clips, audio_s = n_clips + 1, audio_s + loaded.duration_s
            read_s += loaded.read_s
            if time.perf_counter() > until:
                break
        for name, part in parts.items():
            part.finish()
            infer_s[name] += part.infer_s

    with one_thread():
        extract(rows[:1], 0.0)  # the first pass of a network takes longer than all others
        n_clips, audio_s, read_s, infer_s = 0, 0.0, 0.0, dict.fromkeys(jobs, 0.0)
        began = time.perf_counter()
        for first in range(0, len(rows), SAMPLE_CLIPS):
            extract(rows[first : first + SAMPLE_CLIPS], began + limit_s)
            if time.perf_counter() > began + limit_s:
                break
        wall_s = time.perf_counter() - began
    lengths = planned.index.clips["duration_s"].to_numpy()
    lengths = np.where(np.isnan(lengths), audio_s / n_clips, lengths)
    left_s = {
        name: sum(lengths[number * size_ : (number + 1) * size_].sum() for number in found)
        for name, found in ({"": dict.fromkeys(numbers)} | dict(missing)).items()
    }
    per_s = 1 / max(audio_s, 1e-9)
    reading = read_s * per_s * left_s.pop("")
    inferring = sum(infer_s[name] * per_s * left_s[name] for name in jobs)
    on_cpu = job.device == "cpu"
    n = min(job.slots, plan.cores()) if on_cpu else job.slots
    n_decoders = plan.decoders(job.slots) * job.slots
    working = (reading + inferring) / n if on_cpu else max(reading / n_decoders, inferring / n)
    write_s = _write_s(planned, missing) if write else None
    return Probe(
        clips=n_clips,
        audio_s=audio_s,
        read_s=read_s,
        infer_s=infer_s,
        wall_s=wall_s,
        write_s=write_s,
        left_s=max(working, write_s or 0.0),  # shards are written behind the others' work
        at_a_time=n,
    )


def _write_s(planned: Extraction, missing: Mapping[str, Mapping[int, str]]) -> float | None:
    """Seconds to write all that is missing, one shard after the other: tasks share the disk.

    None where that cannot be measured: what refuses is told by a real run, and a bucket may keep
    what was put there for a moment.
    """
    if not isinstance(planned.dataset_dir, Path):
        return None
    jobs = [item for item in planned.job.tracks if missing[item.track.name]]
    total_s = 0.0
    try:
        for item in jobs:
            n_shards = len(missing[item.track.name])
            clip_bytes = planned.clip_bytes[item.track.name]
            most = min(n_shards, WRITE_SHARDS)
            with tempfile.TemporaryDirectory(
                prefix=".dry-run-", dir=existing(planned.dataset_dir)
            ) as folder:
                total_s += n_shards * _shard_s(item, clip_bytes, folder, most, WRITE_S / len(jobs))
    except (CacheError, OSError):
        return None
    return total_s


def _shard_s(item: TrackJob, clip_bytes: float, folder: str, most: int, limit_s: float) -> float:
    """Mean seconds of writing up to `most` shards of a track, made up, for about `limit_s`."""
    track = item.track
    size = len(item.writer.rows(0))
    writer = StoreWriter.open_or_create(folder, track, most * size, size)
    frames = track.max_frames
    if track.layout == schema.CONCAT:
        of_mean = round(clip_bytes / (track.dim * np.dtype(track.dtype).itemsize))
        frames = max(1, min(of_mean, writer.sizes["shard_frames"] // size))
    shape = (size, frames) if item.spec is None else (size, frames, track.dim)
    n_bytes = int(np.prod(shape)) * np.dtype(track.dtype).itemsize
    noise = np.random.default_rng(0).bytes(n_bytes)  # no file system stores it in less
    by_frame = {
        name: np.zeros(shape[:2], array.dtype)
        for name, array in writer.kind.arrays.items()
        if name in ("level_db", "centre_s")
    }
    payload = ShardPayload(
        data=np.frombuffer(noise, track.dtype).reshape(shape),
        n_frames=np.full(size, frames, np.uint32),
        status=np.full(size, schema.load().code("ok"), np.uint8),
        clip_key=np.zeros(size, np.uint64),
        **by_frame,
    )
    record = {"audio_sha256": ["0" * 64] * size}
    took: list[float] = []
    while len(took) < most and sum(took) <= limit_s:
        began = time.perf_counter()
        writer.write_shard(len(took), payload, record)
        took.append(time.perf_counter() - began)
    return sum(took) / len(took)
