"""What a run would do and take, told before it does anything."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from understudy.cache import Place
from understudy.disk import free_bytes
from understudy.extract.pending import again, pending
from understudy.extract.prepare import Extraction
from understudy.extract.probe import probe
from understudy.extract.progress import size


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
    return free_bytes(folder)


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
    fits = found.needed_bytes <= found.free_bytes
    if not fits:
        yield "the disk lacks the space: a real run would refuse"
    if measured := probe(planned, missing, write=fits):
        yield str(measured)
