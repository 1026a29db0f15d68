"""Batches of audio crops and embeddings: the stream against what one would otherwise use.

    python -m bench.loader

All give 16 crops of 59,049 samples and 10 x 768 numbers, from the same store or copies of it, with
a warm page cache. Methods take turns; the fastest round of each counts. `wait` is what a training
loop would wait for a batch while it computes for 50 ms.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
import zarr
from torch.utils.data import DataLoader, Dataset

from understudy import cache, predict
from understudy.index import ClipIndex
from understudy.train.frames import FramesKey, TeacherFrames
from understudy.train.stream import Stream

RATE_HZ = 16_000
CROP_SAMPLES = 59_049
CLIP_S = 10
CLIPS, DIM, BATCH, ROUNDS = 512, 768, 16, 3
TEACHER = "random"
LABELS = 10
KEY = FramesKey(TEACHER, -70.0)
STEP_S = 0.05


def make_cache(folder: Path, n_clips: int = CLIPS, dim: int = DIM) -> ClipIndex:
    """Writes FOLDER/bench with noise, and embeddings of a teacher of one frame a second."""
    classes = np.arange(n_clips) % LABELS
    index = ClipIndex(
        name="bench",
        clips=pd.DataFrame(
            {
                "clip_id": [f"{row:05d}" for row in range(n_clips)],
                "path": [f"{row:05d}.wav" for row in range(n_clips)],
                "duration_s": np.full(n_clips, float(CLIP_S)),
                "split": ["train" if row % 40 else "valid" for row in range(n_clips)],
            }
        ),
        labels=classes,
        label_names=tuple(map(str, range(LABELS))),
        root=folder,
    )
    (folder / index.name).mkdir(parents=True)
    index.save(folder / index.name / "index.parquet")
    identity = {"sample_rate": RATE_HZ, "resampler": "none"}
    audio = cache.Track(
        kind="audio", name="audio", dtype="int16", max_frames=CLIP_S * RATE_HZ, identity=identity
    )
    frames = cache.Track(
        kind="embedding",
        name=TEACHER,
        dtype="float16",
        max_frames=CLIP_S,
        dim=dim,
        identity=identity
        | {
            "version": "1",
            "weights_sha256": "none",
            "front_end": "random numbers",
            "dim": dim,
            "window_s": 1.0,
            "hop_s": 1.0,
            "precision": "float32",
        },
    )
    rng = np.random.default_rng(0)
    for track in (audio, frames):
        writer = cache.StoreWriter.open_or_create(folder / index.name, track, n_clips, 64)
        for shard in range(writer.n_shards):
            rows = writer.rows(shard)
            n = len(rows)
            if track.kind == "audio":
                data = rng.integers(-9000, 9000, (n, track.max_frames), np.int16)
                level_db = None
            else:
                data = rng.standard_normal((n, CLIP_S, dim), np.float32)
                data += 2 * classes[rows, None, None]
                level_db = np.zeros((n, CLIP_S), np.float16)
            keys = [cache.clip_key(f"{row:05d}", 0.0, float(CLIP_S)) for row in rows]
            payload = cache.ShardPayload(
                data=data.astype(track.dtype),
                n_frames=np.full(n, track.max_frames, np.uint32),
                status=np.ones(n, np.uint8),
                clip_key=np.array(keys, np.uint64),
                level_db=level_db,
            )
            writer.write_shard(shard, payload, {})
        writer.finalise({})
    return index


def open_stream(folder: Path, index: ClipIndex, batch_clips: int = BATCH) -> Stream:
    """The stream over all clips."""
    audio = predict.audio_source(index, folder)
    reader = cache.CacheReader(cache.find(folder, index.name, TEACHER))
    duration_s = index.clips["duration_s"].to_numpy(np.float64)
    return Stream(
        index,
        np.arange(len(index)),
        np.ones(len(index), bool),
        audio,
        {KEY: TeacherFrames(reader, duration_s, KEY.silence_db)},
        batch_clips=batch_clips,
        crop_samples=CROP_SAMPLES,
        seed=0,
    )


class Clips(Dataset):
    """One crop at a time in float32, as a training script reads them in a DataLoader's workers."""

    def __init__(self, folder: Path, index: ClipIndex) -> None:
        self.audio = cache.CacheReader(cache.find(folder, index.name, "audio"))
        self.frames = cache.CacheReader(cache.find(folder, index.name, TEACHER))
        self.n = len(index)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        start = int(np.random.default_rng(row).integers(0, CLIP_S * RATE_HZ - CROP_SAMPLES))
        samples, _ = self.audio.gather(np.array([row]), frames=(start, CROP_SAMPLES))
        frames, _ = self.frames.gather(np.array([row]))
        audio = torch.from_numpy(samples[0].astype(np.float32) / 32_768)
        return audio, torch.from_numpy(frames[0].astype(np.float32))


def plain(
    read: Callable[[int, int], tuple[np.ndarray, np.ndarray]], n_clips: int
) -> Iterator[object]:
    """Batches in reused buffers, filled clip by clip by `read(row, start)`."""
    rng = np.random.default_rng(0)
    audio = np.empty((BATCH, CROP_SAMPLES), np.int16)
    frames = np.empty((BATCH, CLIP_S, DIM), np.float16)
    order = rng.permutation(n_clips)
    for first in range(0, n_clips - BATCH + 1, BATCH):
        for place, row in enumerate(order[first : first + BATCH].tolist()):
            start = int(rng.integers(0, CLIP_S * RATE_HZ - CROP_SAMPLES))
            audio[place], frames[place] = read(row, start)
        yield audio, frames


def loaders(folder: Path, index: ClipIndex) -> dict[str, Callable[[], Iterator[object]]]:
    """Name to a function that begins an epoch."""
    stores = {name: cache.find(folder, "bench", name) for name in ("audio", TEACHER)}
    arrays = [
        zarr.open_array(stores["audio"] / "pcm", mode="r"),
        zarr.open_array(stores[TEACHER] / "embedding", mode="r"),
    ]
    (folder / "clips").mkdir()
    whole = []
    for name, array in zip(("audio", "frames"), arrays, strict=True):
        np.save(folder / f"{name}.npy", array[:])
        whole.append(np.load(folder / f"{name}.npy", mmap_mode="r"))
        for row, clip in enumerate(whole[-1]):
            np.save(folder / "clips" / f"{name}-{row}.npy", clip)

    def memmap(row: int, start: int):
        return whole[0][row, start : start + CROP_SAMPLES], whole[1][row]

    def files(row: int, start: int):
        audio = np.load(folder / "clips" / f"audio-{row}.npy", mmap_mode="r")
        return audio[start : start + CROP_SAMPLES], np.load(folder / "clips" / f"frames-{row}.npy")

    def by_zarr(row: int, start: int):
        return np.asarray(arrays[0][row, start : start + CROP_SAMPLES]), np.asarray(arrays[1][row])

    stream = open_stream(folder, index)
    worker = DataLoader(
        Clips(folder, index), BATCH, shuffle=True, num_workers=2, persistent_workers=True
    )
    return {
        "stream": lambda: stream.read(stream.crops(0)),
        "memmap": partial(plain, memmap, CLIPS),
        "one .npy per clip": partial(plain, files, CLIPS),
        "zarr-python": partial(plain, by_zarr, CLIPS),
        "DataLoader, 2 workers": lambda: iter(worker),
    }


def table() -> str:
    """Crops per second, and milliseconds of waiting."""
    folder = Path(tempfile.mkdtemp(prefix="understudy-bench-"))
    try:
        index = make_cache(folder)
        methods = loaders(folder, index)
        best = dict.fromkeys(methods, np.inf)
        wait = dict.fromkeys(methods, np.inf)
        for number in range(ROUNDS + 1):  # the first warms page cache, workers and checks
            for name, begin in methods.items():
                batches = begin()
                next(batches)
                started = time.perf_counter()
                n = sum(1 for _ in batches)
                taken_s = (time.perf_counter() - started) / n
                waited_s = _waited(begin()) if number else np.inf
                if number:
                    best[name] = min(best[name], taken_s)
                    wait[name] = min(wait[name], waited_s)
    finally:
        shutil.rmtree(folder)
    lines = [f"{'loader':<24}{'crops/s':>10}{'x DataLoader':>14}{'wait ms':>9}"]
    slowest = best["DataLoader, 2 workers"]
    for name, seconds in best.items():
        lines.append(
            f"{name:<24}{BATCH / seconds:>10.0f}{slowest / seconds:>14.1f}{1e3 * wait[name]:>9.2f}"
        )
    return "\n".join(lines)


def _waited(batches: Iterator[object], n: int = 12) -> float:
    """Median wait for a batch, seconds, while each is worked on for STEP_S."""
    next(batches)
    waits = []
    for _ in range(n):
        time.sleep(STEP_S)
        started = time.perf_counter()
        next(batches)
        waits.append(time.perf_counter() - started)
    getattr(batches, "close", lambda: None)()
    return float(np.median(waits))


if __name__ == "__main__":
    click.echo(table())
