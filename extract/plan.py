"""What to extract, as pure functions of the index, the teachers' timing and what is committed.

Everything that decides array bytes is fixed here: rows of a shard, frame capacity of a track and
the order of clips. Nothing in this file reads audio, weights or stores. A plan holds numbers of
shards and no clips, so that it is small for any number of them: workers look up the clips of a
shard in the index that the run has saved beside the stores.
"""

import os
import tempfile
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from understudy import schema
from understudy.cache import Place, StoreWriter, Track, clip_keys, place
from understudy.cache.places import kept_copy
from understudy.cache.store import INDEX
from understudy.errors import ConfigError
from understudy.index.file import read_rows
from understudy.teachers import TeacherSpec

COLUMNS = ("clip_id", "path", "start_s", "duration_s")
TASK_SHARDS = 16  # most shards of one dask task
MOST_DECODERS = 8  # threads of one task
ANY_DEVICE = "auto"  # each worker takes the GPU it has, or else its CPU
LIMIT_S = 600.0  # of a task without any sign of life
LONG = 8  # medians: how long a clip of unknown length may well be


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip to decode; `duration_s` None is the whole file."""

    clip_id: str
    path: str  # relative to the dataset's root
    start_s: float
    duration_s: float | None
    key: int


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a clip has no row in a track: a status name of the schema and the ledger's reason."""

    status: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Rows that one writer owns in every track; `tracks` are the ones not yet committed."""

    number: int
    rows: range
    tracks: tuple[str, ...]
    refused: tuple[tuple[int, Failure], ...] = ()  # rows that are not to be touched, and why


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
    decode_threads: int | None  # of each task; None leaves it to the worker
    limit_s: float  # see `LIMIT_S`

    @property
    def scratch(self) -> str:
        """Folder for what does not fit memory: beside the stores, where they are on a disk."""
        on_disk = isinstance(place(self.dataset_dir), Path)
        return self.dataset_dir if on_disk else tempfile.gettempdir()


def samples_at(duration_s: np.ndarray, rate_hz: int) -> np.ndarray:
    """Samples of clips after resampling to `rate_hz`, int64 (clip,); 0 where unknown (NaN).

    `duration_s` is samples / rate of the file, so the product can miss a whole number by rounding
    alone; hence the tolerance under the ceiling.
    """
    duration_s = np.nan_to_num(np.asarray(duration_s, np.float64), nan=0.0)
    return np.ceil(duration_s * rate_hz - 1e-6).clip(0).astype(np.int64)


def clip_frames(n_samples: np.ndarray, frames_of: Callable[[int], int]) -> np.ndarray:
    """Frames of clips, int64 (clip,); 0 where the length is unknown.

    A longer clip must not have fewer frames: `frames_of` is called some times for each number of
    frames that occurs, however many lengths there are.
    """
    lengths, which = np.unique(n_samples, return_inverse=True)
    frames = np.zeros(len(lengths), np.int64)
    spans = [(int(np.searchsorted(lengths, 1)), len(lengths) - 1)]
    while spans:
        first, last = spans.pop()
        if first > last:
            continue
        ends = [frames_of(int(lengths[row])) for row in (first, last)]
        frames[[first, last]] = ends
        if ends[0] == ends[1]:
            frames[first:last] = ends[0]
        else:
            middle = (first + last) // 2
            spans += [(first + 1, middle), (middle + 1, last - 1)]
    return frames[which]


def with_room(frames: np.ndarray) -> np.ndarray:
    """`frames`, int64 (clip,), with those of clips of unknown length as if they were long: as the
    longest, but a header that promises too much shall not make each of them so."""
    known = frames[frames > 0]
    if not len(known):
        return frames
    return np.where(frames > 0, frames, min(known.max(), LONG * int(np.median(known))))


def padding(track: Track, frames: np.ndarray) -> float:
    """How many times larger padding makes a track whose clips have `frames` (clip,)."""
    return track.max_frames * len(frames) / max(int(frames.sum()), 1)


def as_concat(track: Track, frames: np.ndarray, clips_per_shard: int) -> Track:
    """The track in the layout concat, for clips of `frames` (clip,)."""
    fullest = np.add.reduceat(frames, np.arange(0, len(frames), clips_per_shard)).max()
    return replace(track, layout=schema.CONCAT, shard_frames=max(1, int(fullest)))


def clip_bytes(track: Track) -> int:
    """Bytes of the longest clip's data."""
    return track.max_frames * track.dim * np.dtype(track.dtype).itemsize


def stored_clip_bytes(track: Track, frames: np.ndarray) -> float:
    """Mean bytes on disk of the data of clips of `frames` (clip,)."""
    per_clip = float(frames.mean()) if track.layout == schema.CONCAT else track.max_frames
    return clip_bytes(track) / track.max_frames * per_clip


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
    n_clips: int, clips_per_shard: int, pending: Mapping[str, Container[int]]
) -> list[Shard]:
    """Shards with something left to do, in order; `pending` is track -> shard numbers."""
    result = []
    for number, first in enumerate(range(0, n_clips, clips_per_shard)):
        tracks = tuple(name for name, numbers in pending.items() if number in numbers)
        if tracks:
            rows = range(first, min(first + clips_per_shard, n_clips))
            result.append(Shard(number=number, rows=rows, tracks=tracks))
    return result


def shard_clips(dataset_dir: str | Place, shards: Iterable[Shard]) -> list[list[Clip]]:
    """Clips of each shard, from the index that the run has saved in `dataset_dir`."""
    index = kept_copy(place(dataset_dir) / INDEX)
    return [clips(table) for table in read_rows(index, [shard.rows for shard in shards], COLUMNS)]


def clips(table: pd.DataFrame) -> list[Clip]:
    """Clips of rows of an index, of the columns `COLUMNS`."""
    return [
        Clip(
            clip_id=clip_id,
            path=path,
            start_s=start_s,
            duration_s=None if np.isnan(duration_s) else duration_s,
            key=key,
        )
        for (clip_id, path, start_s, duration_s), key in zip(
            table.itertuples(index=False, name=None),
            clip_keys(table["clip_id"], table["start_s"], table["duration_s"]).tolist(),
            strict=True,
        )
    ]


def tasks(pending: Sequence[Shard], slots: int) -> list[tuple[Shard, ...]]:
    """Cuts pending shards into dask tasks: long enough that decoding runs ahead of inference,
    short enough that each of `slots` tasks at a time gets several."""
    size = max(1, min(TASK_SHARDS, -(-len(pending) // (4 * slots))))
    return [tuple(pending[i : i + size]) for i in range(0, len(pending), size)]


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def decoders(tasks: int = 1) -> int:
    """Threads that decode for each of `tasks` tasks at a time on this machine."""
    return max(1, min(MOST_DECODERS, cores() // tasks))


def default_device() -> str:
    """ "cuda" where there is one, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def file_stamp(path: str | Path) -> tuple[int, int]:
    """Size of a file and its time of change in ns; -1 and -1 where there is none to see."""
    try:
        found = os.stat(path)  # noqa: PTH116  (Path takes a multiple of the time)
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns
