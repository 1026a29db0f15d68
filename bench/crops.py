"""Five-second crops of audio: CacheReader.gather against seeking in 16 kHz MP3 files.

Both run on one core, take turns, and count by their fastest round; the page cache is warm. Run:
python -m bench.crops
"""

import shutil
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from understudy import audio, cache

RATE_HZ = 16_000


@click.command()
@click.option("--clips", default=64, show_default=True)
@click.option("--clip-s", default=29.1, show_default=True)
@click.option("--crop-s", default=5.0, show_default=True)
@click.option("--batch", default=16, show_default=True)
@click.option("--rounds", default=15, show_default=True)
def main(clips: int, clip_s: float, crop_s: float, batch: int, rounds: int) -> None:
    """Print CPU milliseconds per crop and their ratio."""
    folder = Path(tempfile.mkdtemp(prefix="understudy-bench-"))
    try:
        rng = np.random.default_rng(0)
        n, crop = round(clip_s * RATE_HZ), round(crop_s * RATE_HZ)
        data = (rng.standard_normal((clips, n)) * 3000).astype(np.int16)
        for row, samples in enumerate(data):
            audio.write(folder / f"{row}.mp3", samples / np.float32(32768), RATE_HZ)
        track = cache.Track(
            kind="audio",
            name="audio",
            dtype="int16",
            max_frames=n,
            identity={"sample_rate": RATE_HZ, "resampler": "none"},
        )
        writer = cache.StoreWriter.open_or_create(folder / "set", track, clips, 32)
        for shard in range(writer.n_shards):
            rows = writer.rows(shard)
            payload = cache.ShardPayload(
                data=data[rows.start : rows.stop],
                n_frames=np.full(len(rows), n, np.uint32),
                status=np.ones(len(rows), np.uint8),
                clip_key=np.arange(rows.start, rows.stop, dtype=np.uint64),
            )
            writer.write_shard(shard, payload, {})
        reader = cache.CacheReader(writer.path)
        out = np.empty((batch, crop), np.int16)
        best = {"gather": np.inf, "mp3": np.inf}
        reader.gather(np.arange(clips), frames=(0, n))
        for _ in range(rounds):
            rows = rng.integers(0, clips, batch)
            start = rng.integers(0, n - crop, batch)
            began = time.process_time()
            reader.gather(rows, out=out, frames=(start, crop))
            middle = time.process_time()
            for row, first in zip(rows.tolist(), start.tolist(), strict=True):
                audio.decode(folder / f"{row}.mp3", first / RATE_HZ, crop_s)
            best["mp3"] = min(best["mp3"], time.process_time() - middle)
            best["gather"] = min(best["gather"], middle - began)
        for name, seconds in best.items():
            click.echo(f"{name:<8}{seconds / batch * 1e3:>8.4f} ms CPU a crop of {crop_s} s")
        click.echo(f"gather is {best['mp3'] / best['gather']:.0f} x faster")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
