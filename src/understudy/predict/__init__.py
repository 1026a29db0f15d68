"""Windowed prediction over whole clips, and the audio it reads.

A student sees `input_samples` at a time. A clip gets the fewest windows of that length that cover
it, evenly placed, so they overlap where they must; a shorter clip gets one window, zero-padded at
its end. The probabilities of a clip's windows are averaged. Training validates by the same rule.

`predict.tagger` labels files, from a run or from an exported folder.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from understudy import audio, cache, schema
from understudy.errors import CacheError, DataError
from understudy.index import ClipIndex
from understudy.timing import covering_starts

if TYPE_CHECKING:  # help on the command line needs no torch
    import torch

    from understudy.students.base import Student

RATE_HZ = 16_000


def probabilities(logits: "torch.Tensor", task: str) -> "torch.Tensor":
    """(..., label) probabilities: sigmoid for "multi-label", softmax for "single-label"."""
    return logits.sigmoid() if task == "multi-label" else logits.softmax(dim=-1)


Key = TypeVar("Key")
Forward = Callable[["torch.Tensor"], "torch.Tensor"]
"""Windows float32 (batch, samples), on the CPU, to logits (batch, label) on any device."""


@contextmanager
def evaluating(student: "Student") -> Iterator[Forward]:
    """The student as a `Forward`, in eval mode and on its own device; its mode is restored."""
    device = next(student.parameters()).device
    was_training = student.training
    student.eval()
    try:
        yield lambda windows: student(windows.to(device)).logits
    finally:
        student.train(was_training)


def predict_clips(
    student: "Student", clips: Iterable[np.ndarray], task: str, batch_windows: int = 32
) -> np.ndarray:
    """Probabilities of clips of any length.

    Args:
        student: Evaluated on its own device and in eval mode; its mode is restored.
        clips: float32 (sample,) at 16 kHz, read once and in order.
        task: "multi-label" or "single-label".
        batch_windows: Windows in one forward pass, of as many clips as it takes.

    Returns:
        float32 (clip, label).

    Raises:
        DataError: A clip without samples.
    """
    with evaluating(student) as forward:
        return clip_scores(forward, student.input_samples, clips, task, batch_windows)


def clip_scores(
    forward: Forward,
    input_samples: int,
    clips: Iterable[np.ndarray],
    task: str,
    batch_windows: int = 32,
) -> np.ndarray:
    """`predict_clips` of any network: windows of `input_samples` to logits."""
    sums: list[np.ndarray] = []
    counts: list[int] = []

    def windows() -> Iterator[tuple[int, np.ndarray]]:
        for clip, samples in enumerate(clips):
            if not len(samples):
                raise DataError(f"clip {clip} has no samples")
            starts = covering_starts(len(samples), input_samples)
            counts.append(len(starts))
            for start in starts:
                yield clip, samples[start : start + input_samples]

    for clip, row in window_scores(forward, input_samples, windows(), task, batch_windows):
        if clip == len(sums):
            sums.append(np.zeros_like(row))
        sums[clip] += row
    if not sums:
        return np.zeros((0, 0), np.float32)
    return (np.stack(sums) / np.array(counts)[:, None]).astype(np.float32)


def window_scores(
    forward: Forward,
    input_samples: int,
    windows: Iterable[tuple[Key, np.ndarray]],
    task: str,
    batch_windows: int = 32,
) -> Iterator[tuple[Key, np.ndarray]]:
    """Every key with the probabilities float64 (label,) of its window, in order.

    Args:
        forward, task, batch_windows: As of `clip_scores`.
        input_samples: Shorter windows are filled up with zeros to it.
        windows: (key, float32 (sample,)), read one batch ahead.
    """
    import torch

    pending = iter(windows)
    while group := list(islice(pending, batch_windows)):
        filled = np.zeros((len(group), input_samples), np.float32)
        for row, (_, samples) in zip(filled, group, strict=True):
            row[: len(samples)] = samples
        with torch.no_grad():
            scores = probabilities(forward(torch.from_numpy(filled)), task).double().cpu().numpy()
        yield from zip((key for key, _ in group), scores, strict=True)


class AudioSource(Protocol):
    """16 kHz mono audio of an index's clips."""

    n_samples: np.ndarray
    """int64 (clip,); 0 where a clip cannot be used."""
    identity: dict[str, Any] | None
    """Of the store it is read from, if it is."""

    def clip(self, row: int) -> np.ndarray:
        """float32 (sample,) of one clip; an unusable one raises an UnderstudyError naming it."""
        ...

    def crops(self, rows: np.ndarray, starts: np.ndarray, out: np.ndarray) -> None:
        """Fills `out` int16 (batch, sample) from `starts` (batch,) on; zeros past the end."""
        ...


class CachedAudio:
    """The audio track of a cache: byte-range reads, nothing is decoded."""

    def __init__(self, path: cache.Place) -> None:
        self.reader = cache.CacheReader(path)
        self.identity: dict[str, Any] | None = self.reader.identity
        usable = self.reader.status == schema.load().code("ok")
        self.n_samples = np.where(usable, self.reader.n_frames, 0).astype(np.int64)

    def clip(self, row: int) -> np.ndarray:
        """See AudioSource."""
        data, n_samples = self.reader.gather(np.array([row]))
        return data[0, : int(n_samples[0])].astype(np.float32) * np.float32(1 / 32_768)

    def crops(self, rows: np.ndarray, starts: np.ndarray, out: np.ndarray) -> None:
        """See AudioSource."""
        self.reader.gather(rows, out=out, frames=(starts, out.shape[1]))


class DecodedAudio:
    """The index's own files, decoded and resampled at every read."""

    def __init__(self, index: ClipIndex) -> None:
        self.index = index
        self.identity: dict[str, Any] | None = None
        self.start_s = index.clips["start_s"].to_numpy(np.float64)
        self.duration_s = index.clips["duration_s"].to_numpy(np.float64)  # NaN: unreadable header
        self.n_samples = np.floor(np.nan_to_num(self.duration_s) * RATE_HZ + 1e-6).astype(np.int64)

    def _read(self, row: int, start_s: float, duration_s: float | None) -> np.ndarray:
        path = self.index.absolute(row)
        decoded = audio.decode(path, self.start_s[row] + start_s, duration_s)
        return audio.resample(decoded.samples, decoded.rate_hz, RATE_HZ)

    def clip(self, row: int) -> np.ndarray:
        """See AudioSource."""
        length_s = float(self.duration_s[row])
        return self._read(row, 0.0, None if np.isnan(length_s) else length_s)

    def crops(self, rows: np.ndarray, starts: np.ndarray, out: np.ndarray) -> None:
        """See AudioSource."""
        out[:] = 0
        for place, (row, start) in enumerate(zip(rows.tolist(), starts.tolist(), strict=True)):
            start_s = start / RATE_HZ
            length_s = min(out.shape[1] / RATE_HZ, self.duration_s[row] - start_s)
            samples = self._read(row, start_s, length_s)[: out.shape[1]]
            out[place, : len(samples)] = audio.to_int16(samples)[0]


def audio_source(
    index: ClipIndex, cache_dir: str | Path | None, store: str | Path | None = None
) -> AudioSource:
    """The audio track of CACHE/<dataset> if there is one, else the index's own files.

    Args:
        index: The clips; its root matters only where files are decoded.
        cache_dir: A cache, or None.
        store: One audio store, where the cache holds several.

    Raises:
        CacheError: Several audio tracks and no `store`, or one of other clips.
        DataError: Neither an audio track nor any of the files.
    """
    if store is None and (cache_dir is None or not has_track(cache_dir, index.name, "audio")):
        if not any((index.root / path).exists() for path in index.clips["path"]):
            held = "no cache" if cache_dir is None else f"{cache_dir}: no audio track"
            raise DataError(
                f"{held} of {index.name}, and none of its {len(index)} files in {index.root} (for "
                f"example {index.clips['path'].iloc[0]}); wanted one of the two: their folder with "
                "--root, or the track with `understudy extract ... --audio`"
            )
        return DecodedAudio(index)
    chosen = None if store is None else str(store)
    source = CachedAudio(cache.find(cache_dir or ".", index.name, "audio", chosen))
    check_rows(index, source.reader)
    return source


def has_track(cache_dir: str | Path, dataset: str, track: str) -> bool:
    """Whether CACHE/<dataset> holds a store of `track`."""
    return any(True for _ in (cache.place(cache_dir) / dataset).glob(f"{track}-*.zarr"))


def check_rows(index: ClipIndex, reader: cache.CacheReader) -> None:
    """Raises CacheError unless the rows of a store are the clips of `index`."""
    held = reader.attributes.get("dataset", index.name)
    if held != index.name:
        raise CacheError(f"{reader.path}: a store of dataset {held}, wanted one of {index.name}")
    advice = (
        "run the extraction again, or name the dataset's clips as it did "
        f"({reader.path.parent / 'index.parquet'} lists them)"
    )
    if reader.n_clips < len(index):
        raise CacheError(
            f"{reader.path}: {reader.n_clips} clips, index {index.name} has {len(index)}: {advice}"
        )
    wanted = cache.clip_keys(*(index.clips[c] for c in ("clip_id", "start_s", "duration_s")))
    extracted = reader.status[: len(index)] != schema.load().code("missing")
    changed = np.flatnonzero(extracted & (reader.store.read("clip_key")[: len(index)] != wanted))
    if len(changed):
        raise CacheError(
            f"{reader.path}: {len(changed)} clips are not those of index {index.name}, the first "
            f"is '{index.clips['clip_id'].iloc[changed[0]]}': {advice}"
        )
