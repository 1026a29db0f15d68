"""Random batches of clips: CacheReader.gather against what one would otherwise use.

All readers fill the same preallocated buffer where they can (zarr-python and np.load cannot), take
turns, and count by their fastest round: with a warm page cache, then with every file dropped from
it before each batch (a host below may still hold them). Run: python -m bench.reads
"""

import gc
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click
import numpy as np
import zarr

from understudy import cache

IDENTITY = {
    "version": "1",
    "weights_sha256": "none",
    "front_end": "random numbers",
    "window_s": 2.0,
    "hop_s": 1.0,
    "resampler": "none",
    "precision": "float32",
    "sample_rate": 16000,
}


def track(n_frames: int, dim: int) -> cache.Track:
    """The track of a store that holds random numbers."""
    return cache.Track(
        kind="embedding",
        name="bench",
        dtype="float16",
        max_frames=n_frames,
        dim=dim,
        identity={**IDENTITY, "dim": dim},
    )


def payload(data: np.ndarray, rows: range) -> cache.ShardPayload:
    """A shard of clips that are all ok and of one length; `data` (clip, frame, channel)."""
    n_clips, n_frames, _ = data.shape
    return cache.ShardPayload(
        data=data,
        n_frames=np.full(n_clips, n_frames, np.uint32),
        status=np.ones(n_clips, np.uint8),
        clip_key=np.array([cache.clip_key(str(row)) for row in rows]),
        level_db=np.zeros((n_clips, n_frames), np.float16),
    )


def make(folder: Path, n_clips: int, n_frames: int, dim: int, clips_per_shard: int) -> Path:
    """Writes one store, a plain array file and one file per clip with the same numbers."""
    writer = cache.StoreWriter.open_or_create(
        folder, track(n_frames, dim), n_clips, clips_per_shard
    )
    rng = np.random.default_rng(0)
    raw = folder / "raw"
    for name in writer.kind.arrays:
        (raw / name).mkdir(parents=True)
    (folder / "clips").mkdir()
    seconds: dict[str, list[float]] = {"store": [], "same fsyncs": [], "one file": []}
    with (folder / "plain.bin").open("wb") as plain:
        for shard in range(writer.n_shards):
            rows = writer.rows(shard)
            shape = (len(rows), n_frames, dim)
            data = rng.standard_normal(shape, dtype=np.float32).astype(np.float16)
            ways: list[tuple[str, Callable[[], None]]] = [
                ("store", partial(writer.write_shard, shard, payload(data, rows), {})),
                # A shard is one file per array, each in a folder of its own, and its record.
                ("same fsyncs", partial(raw_write, raw, shard, data, [*writer.kind.arrays, "."])),
                ("one file", partial(raw_write, folder, shard, data, ["."])),
            ]
            for at in range(len(ways)):
                name, write = ways[(at + shard) % len(ways)]
                start = time.perf_counter()
                write()
                if len(rows) == clips_per_shard:
                    seconds[name].append(time.perf_counter() - start)
            data.tofile(plain)
            for row, clip in zip(rows, data, strict=True):
                np.save(folder / "clips" / f"{row}.npy", clip)
    writer.finalise({})
    shutil.rmtree(raw)
    megabytes = clips_per_shard * n_frames * dim * 2 / 1e6
    speed = {name: (statistics.median(taken), min(taken)) for name, taken in seconds.items()}
    click.echo(f"writing shards of {megabytes:.0f} MB, median (least)")
    for name, (median, least) in speed.items():
        ratio = f"{median / speed['store'][0]:.2f} ({least / speed['store'][1]:.2f})"
        click.echo(f"{name:<32}{median * 1e3:>10.1f} ({least * 1e3:.1f}) ms; store is x {ratio}")
    return Path(str(writer.path))


def raw_write(root: Path, shard: int, data: np.ndarray, folders: Sequence[str]) -> None:
    """A file with the data in the first folder and a small one in each other, all flushed to the
    disk in turn, and then their folders."""
    for number, folder in enumerate(folders):
        with (root / folder / f"{shard}.bin").open("wb") as file:
            data.tofile(file) if number == 0 else file.write(b"x" * 4096)
            os.fsync(file.fileno())
    for folder in folders:
        handle = os.open(root / folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def drop(folder: Path) -> None:
    """Asks the system to forget the files below a folder."""
    for path in [*folder.rglob("*.bin"), *folder.rglob("c/**/*"), *folder.glob("clips/*")]:
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def cold(folder: Path, store: Path, shape: tuple[int, ...], batch: int, rounds: int) -> None:
    """Prints ms/batch on files dropped from the page cache, with and without opening them."""
    rng = np.random.default_rng(2)
    out = np.empty((batch, *shape[1:]), np.float16)
    plain = folder / "plain.bin"

    def take(opened: bool) -> Callable:
        open_it = lambda: np.memmap(plain, np.float16, "r", shape=shape)  # noqa: E731
        array = open_it() if opened else None
        return lambda rows: np.take(
            open_it() if array is None else array, rows, 0, out=out, mode="clip"
        )

    def gather(opened: bool) -> Callable:
        reader = cache.CacheReader(store)
        if opened:
            reader.gather([], out=out[:0])
            _ = reader.status, reader._shards.present(np.arange(shape[0]))
        return lambda rows: reader.gather(rows, out=out)

    def per_file(opened: bool) -> Callable:
        def read(rows: np.ndarray) -> None:
            for into, row in enumerate(rows.tolist()):
                out[into] = np.load(folder / "clips" / f"{row}.npy")

        return read

    makers = {"np.take on a memmap": take, "gather": gather, "one .npy per clip": per_file}
    for opened in (False, True):
        best = dict.fromkeys(makers, np.inf)
        for _ in range(rounds):
            rows = rng.integers(0, shape[0], batch)
            for name, maker in makers.items():
                read = maker(opened)
                gc.collect()
                drop(folder)
                start = time.perf_counter()
                read(rows)
                best[name] = min(best[name], time.perf_counter() - start)
                del read  # the system keeps pages that somebody has mapped
        base = best["one .npy per clip"]
        listed = ", ".join(f"{k} {v * 1e3:.1f} ms ({base / v:.2f} x)" for k, v in best.items())
        click.echo(f"cold, {'open before' if opened else 'first batch'} (x npy): {listed}")


def readers(folder: Path, store: Path, shape: tuple[int, ...]) -> dict[str, Callable]:
    """Name to function of (rows, out)."""
    plain = np.memmap(folder / "plain.bin", np.float16, "r", shape=shape)
    reader = cache.CacheReader(store)
    array = zarr.open_array(store / "embedding", mode="r")

    def per_file(rows: np.ndarray, out: np.ndarray) -> None:
        for into, row in enumerate(rows.tolist()):
            out[into] = np.load(folder / "clips" / f"{row}.npy")

    def by_zarr(rows: np.ndarray, out: np.ndarray) -> None:
        out[:] = array.oindex[rows]

    return {
        "np.take on a memmap": lambda rows, out: np.take(plain, rows, 0, out=out, mode="clip"),
        "CacheReader.gather": lambda rows, out: reader.gather(rows, out=out),
        "CacheReader.gather, new buffer": lambda rows, out: reader.gather(rows),
        "one .npy per clip": per_file,
        "zarr-python oindex": by_zarr,
    }


@click.command()
@click.option("--clips", default=20_000, show_default=True)
@click.option("--frames", default=30, show_default=True)
@click.option("--dim", default=768, show_default=True)
@click.option("--clips-per-shard", default=1024, show_default=True)
@click.option("--batch", default=64, show_default=True)
@click.option("--rounds", default=25, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write; a new one.")
def main(
    clips: int,
    frames: int,
    dim: int,
    clips_per_shard: int,
    batch: int,
    rounds: int,
    folder: Path | None,
) -> None:
    """Print milliseconds per batch and ratios to np.take on a memmap."""
    folder = Path(tempfile.mkdtemp(prefix="understudy-bench-", dir=folder))
    try:
        store = make(folder, clips, frames, dim, clips_per_shard)
        functions = readers(folder, store, (clips, frames, dim))
        rng = np.random.default_rng(1)
        out = np.empty((batch, frames, dim), np.float16)
        reference = np.empty_like(out)
        everything = np.arange(clips)
        for first in range(0, clips, batch):  # warms page cache and first-touch checks
            rows = everything[first : first + batch]
            for name in ("np.take on a memmap", "CacheReader.gather", "one .npy per clip"):
                functions[name](rows, out[: len(rows)])
        best = dict.fromkeys(functions, np.inf)
        for _ in range(rounds):
            for name, read in functions.items():
                batches = [
                    rng.integers(0, clips, batch) for _ in range(1 if "zarr" in name else 10)
                ]
                start = time.perf_counter()
                for rows in batches:
                    read(rows, out)
                best[name] = min(best[name], (time.perf_counter() - start) / len(batches))
                if "new buffer" not in name:
                    functions["np.take on a memmap"](batches[-1], reference)
                    np.testing.assert_array_equal(out, reference)
        base = best["np.take on a memmap"]
        click.echo(f"{batch} random clips of {frames} x {dim} float16 out of {clips}, warm")
        click.echo(f"{'reader':<32}{'ms/batch':>10}{'x memmap':>10}")
        for name, seconds in best.items():
            click.echo(f"{name:<32}{seconds * 1e3:>10.3f}{base / seconds:>10.3f}")
        functions.clear()  # the system keeps pages that somebody has mapped
        cold(folder, store, (clips, frames, dim), batch, rounds=5)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
