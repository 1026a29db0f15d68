"""What a run would do and take, before anything is written."""

import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from understudy.cache import Place
from understudy.extract import plan
from understudy.extract.live import duration
from understudy.extract.pending import again, pending
from understudy.extract.prepare import Extraction
from understudy.extract.progress import size

PROBE_S = 20.0  # of work on a sample of clips
SAMPLE_CLIPS = 8  # of the sample that share batches


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run would do: bytes and files, without a look at any audio."""

    n_clips: int
    hours: float
    clips_per_shard: int
    n_shards: int
    pending: Mapping[str, int]
    bytes: Mapping[str, int]
    needed_bytes: int
    needed_objects: int
    free_bytes: int


def forecast(planned: Extraction, missing: Mapping[str, Mapping[int, str]]) -> Forecast:
    """Sums up a plan; `missing` is from `pending`."""
    job = planned.job
    per_clip = planned.clip_bytes
    rows = {
        name: sum(len(job.tracks[0].writer.rows(number)) for number in numbers)
        for name, numbers in missing.items()
    }
    files = {item.track.name: 1 + len(item.writer.kind.arrays) for item in job.tracks}
    return Forecast(
        n_clips=job.n_clips,
        hours=float(np.nansum(planned.index.clips["duration_s"])) / 3600,
        clips_per_shard=job.clips_per_shard,
        n_shards=planned.n_shards,
        pending={name: len(numbers) for name, numbers in missing.items()},
        bytes={name: round(size * job.n_clips) for name, size in per_clip.items()},
        needed_bytes=round(sum(per_clip[name] * count for name, count in rows.items())),
        needed_objects=sum(files[name] * len(numbers) for name, numbers in missing.items()),
        free_bytes=_free_bytes(planned.dataset_dir),
    )


def _free_bytes(folder: Place) -> int:
    """What the disk has left; of an object store more than anything needs."""
    if not isinstance(folder, Path):
        return sys.maxsize
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Times measured on a sample of clips, on this machine, and what follows from them."""

    clips: int
    audio_s: float
    read_s: float
    infer_s: Mapping[str, float]
    wall_s: float
    left_s: float
    at_a_time: int

    def __str__(self) -> str:
        total = max(self.read_s + sum(self.infer_s.values()), 1e-9)
        shares = {"reading": self.read_s, **self.infer_s}
        split = ", ".join(f"{name} {100 * value / total:.0f} %" for name, value in shares.items())
        return (
            f"about {duration(self.left_s)} of work, if {self.at_a_time} at a time do not slow "
            f"each other down: {self.clips} clips ({self.audio_s:.0f} s of audio) took "
            f"{self.wall_s:.1f} s here, one after the other ({split}; writing was not measured)"
        )


def probe(
    planned: Extraction, missing: Mapping[str, Mapping[int, str]], limit_s: float = PROBE_S
) -> Probe | None:
    """Extracts a sample of what is pending, for `limit_s`, and drops it; None if nothing is."""
    from understudy.extract.cluster import one_thread
    from understudy.extract.load import load
    from understudy.extract.shard import ShardTrack

    job, size_ = planned.job, planned.job.clips_per_shard
    numbers = sorted({number for track in missing.values() for number in track})
    rows = [row for k in numbers for row in range(k * size_, min((k + 1) * size_, job.n_clips))]
    if not rows:
        return None
    random.Random(0).shuffle(rows)
    jobs = {item.track.name: item for item in job.tracks if missing[item.track.name]}
    wanted = {(item.rate_hz, item.resampler) for item in jobs.values()}
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
    return Probe(
        clips=n_clips,
        audio_s=audio_s,
        read_s=read_s,
        infer_s=infer_s,
        wall_s=wall_s,
        left_s=(reading + inferring) / n if on_cpu else max(reading / n_decoders, inferring / n),
        at_a_time=n,
    )


def lines(planned: Extraction) -> Iterable[str]:
    """The forecast of one dataset for a terminal."""
    missing = pending(planned)
    found = forecast(planned, missing)
    yield (
        f"{planned.index.name}: {found.n_clips} clips, {found.hours:.2f} h of audio, "
        f"{found.n_shards} shards of {found.clips_per_shard} clips"
    )
    yield from [*planned.changes, *again(missing)]
    width = max(map(len, planned.stores))
    for name, path in planned.stores.items():
        yield (
            f"{name:<{width}}  {size(found.bytes[name]):>9}  "
            f"{found.pending[name]} of {found.n_shards} shards to do  {path}"
        )
    free = f", {size(found.free_bytes)} free" if isinstance(planned.dataset_dir, Path) else ""
    yield f"{size(found.needed_bytes)} in {found.needed_objects} files to write{free}"
    if found.needed_bytes > found.free_bytes:
        yield "the disk lacks the space: a real run would refuse"
    if measured := probe(planned, missing):
        yield str(measured)
