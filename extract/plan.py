"""What to extract, as pure functions of the index, the teachers' timing and what is committed.

Everything that decides array bytes is fixed here: rows of a shard, frame capacity of a track and
the order of clips. Nothing in this file reads audio, weights
or stores.
"""

import os
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from understudy import schema
from understudy.cache import StoreWriter, Track
from understudy.errors import ConfigError
from understudy.index import ClipIndex
from understudy.teachers import TeacherSpec

TASK_SHARDS = 16  # most shards of one dask task


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip to decode; `duration_s` None is the whole file."""

    row: int
    clip_id: str
    path: str  # absolute
    relative: str  # to the dataset's root, as in the index
    start_s: float
    duration_s: float | None
    key: int


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Rows that one writer owns in every track; `tracks` are the ones not yet committed."""

    number: int
    clips: tuple[Clip, ...]
    tracks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TrackJob:
    """A track and what computes it; `spec` None is the audio track."""

    track: Track
    writer: StoreWriter
    spec: TeacherSpec | None
    rate_hz: int
    resampler: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """All a worker needs besides its shards. Picklable."""

    run_id: str
    root: str
    dataset_dir: str
    n_clips: int
    clips_per_shard: int
    tracks: tuple[TrackJob, ...]
    device: str
    batch_windows: int
    slots: int  # tasks at a time
    decode_threads: int  # of each task


def samples_at(duration_s: np.ndarray, rate_hz: int) -> np.ndarray:
    """Samples of clips after resampling to `rate_hz`, int64 (clip,); 0 where unknown (NaN).

    `duration_s` is samples / rate of the file, so the product can miss a whole number by rounding
    alone; hence the tolerance under the ceiling.
    """
    duration_s = np.nan_to_num(np.asarray(duration_s, np.float64), nan=0.0)
    return np.ceil(duration_s * rate_hz - 1e-6).clip(0).astype(np.int64)


def clip_frames(n_samples: np.ndarray, frames_of: Callable[[int], int]) -> np.ndarray:
    """Frames of clips, int64 (clip,); 0 where the length is unknown."""
    lengths, which = np.unique(n_samples, return_inverse=True)
    return np.array([frames_of(int(n)) if n > 0 else 0 for n in lengths], np.int64)[which]


def padding(track: Track, frames: np.ndarray) -> float:
    """How many times larger padding makes a track whose clips have `frames` (clip,)."""
    return track.max_frames * len(frames) / max(int(frames.sum()), 1)


def as_concat(track: Track, frames: np.ndarray, clips_per_shard: int) -> Track:
    """The track in the layout concat, for clips of `frames` (clip,)."""
    fullest = np.add.reduceat(frames, np.arange(0, len(frames), clips_per_shard)).max()
    return replace(track, layout=schema.CONCAT, shard_frames=max(1, int(fullest)))


def clip_bytes(track: Track) -> int:
    """Bytes of one clip's data."""
    return track.max_frames * track.dim * np.dtype(track.dtype).itemsize


def settle_shard_clips(
    asked: int | None, existing: int | None, n_clips: int, largest_clip_bytes: int
) -> int:
    """One S for all tracks of a dataset: what its stores have, else `asked`, else the rule.

    Args:
        asked: `--clips-per-shard`.
        existing: Clips per shard of the dataset's stores, if there are any.
        n_clips: Clips of the dataset.
        largest_clip_bytes: Bytes of one clip's data in the largest track.

    Raises:
        ConfigError: `asked` is below 1 or differs from what the stores have.
    """
    if asked is not None and asked < 1:
        raise ConfigError(f"clips per shard: wanted 1 or more, found {asked}")
    if existing is None:
        return asked or schema.load().clips_per_shard(n_clips, largest_clip_bytes)
    if asked not in (None, existing):
        raise ConfigError(
            f"the stores of this dataset have {existing} clips per shard, found {asked}; "
            "leave --clips-per-shard out or use another --cache"
        )
    return existing


def shards(
    clips: Sequence[Clip], clips_per_shard: int, pending: Mapping[str, Container[int]]
) -> list[Shard]:
    """Shards with something left to do, in order; `pending` is track -> shard numbers."""
    result = []
    for number in range(-(-len(clips) // clips_per_shard)):
        tracks = tuple(name for name, numbers in pending.items() if number in numbers)
        if tracks:
            rows = slice(number * clips_per_shard, (number + 1) * clips_per_shard)
            result.append(Shard(number=number, clips=tuple(clips[rows]), tracks=tracks))
    return result


def tasks(pending: Sequence[Shard], slots: int) -> list[tuple[Shard, ...]]:
    """Cuts pending shards into dask tasks: long enough that decoding runs ahead of inference,
    short enough that each of `slots` tasks at a time gets several."""
    size = max(1, min(TASK_SHARDS, -(-len(pending) // (4 * slots))))
    return [tuple(pending[i : i + size]) for i in range(0, len(pending), size)]


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def file_stamp(path: str) -> tuple[int, int]:
    """Size of a file and its time of change in ns; -1 and -1 where there is none to see."""
    try:
        found = Path(path).stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def explain(old: ClipIndex, new: ClipIndex) -> list[str]:
    """What changed between the index in the cache and the one of this run, one line each."""
    before, after = (_identities(index) for index in (old, new))
    added = [clip for clip in after if clip not in before]
    removed = [clip for clip in before if clip not in after]
    both = [(clip, before[clip], after[clip]) for clip in after if clip in before]
    changed = [clip for clip, old_facts, facts in both if old_facts[1:] != facts[1:]]
    moved = [
        clip for clip, old_facts, facts in both if old_facts[1:] == facts[1:] and old_facts != facts
    ]
    lines = [_line("added", added), _line("removed", removed), _line("changed", changed)]
    if moved:
        lines.append(f"{_line('moved to another row', moved)}: their shards are computed again")
    if not any(lines) and old.digest != new.digest:
        lines.append("labels or splits changed; embeddings stay")
    return [line for line in lines if line]


def _identities(index: ClipIndex) -> dict[str, tuple[int, float, float]]:
    columns = index.clips[["clip_id", "start_s", "duration_s"]]
    return {
        str(clip_id): (row, start_s, -1.0 if np.isnan(duration_s) else duration_s)
        for row, (clip_id, start_s, duration_s) in enumerate(
            columns.itertuples(index=False, name=None)
        )
    }


def _line(what: str, clip_ids: Sequence[str]) -> str:
    if not clip_ids:
        return ""
    names = ", ".join(clip_ids[:3]) + (", ..." if len(clip_ids) > 3 else "")
    return f"{len(clip_ids)} clip{'s' * (len(clip_ids) > 1)} {what} ({names})"
