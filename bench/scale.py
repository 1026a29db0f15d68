"""Ten million clips: how long a store of them takes to open, and an extraction of them to plan.

Shards are sparse files that hold nothing but their index, so that the disk needs no 460 GB. Run:
python -m bench.scale
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import pandas as pd

from bench.reads import track
from understudy import cache
from understudy.cache import layout
from understudy.index import ClipIndex

FRAMES, DIM = 30, 768
READER = """
import os, sys, time
import numpy as np
from understudy import cache

def private():
    with open("/proc/self/statm") as file:
        _, resident, shared, *_ = map(int, file.read().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")

before = private()
start = time.perf_counter()
reader = cache.CacheReader(sys.argv[1])
opened = time.perf_counter() - start
rng = np.random.default_rng(0)
reader.status, reader.n_frames
read = time.perf_counter() - start
step = reader.store.sizes["clips_per_shard"]
reader._shards.present(np.arange(0, reader.n_clips, step))
mapped = time.perf_counter() - start
used = private() - before
print(f"metadata {opened * 1e3:.0f} ms; with status and n_frames {read:.2f} s; with every shard's "
      f"index checked and mapped {mapped:.2f} s; memory {used / 1e6:.0f} MB")
"""


def sparse_store(folder: Path, n_clips: int, clips_per_shard: int) -> Path:
    """A store whose shards are holes but for their index, and whose rows are all ok."""
    writer = cache.StoreWriter.open_or_create(folder, track(FRAMES, DIM), n_clips, clips_per_shard)
    store = writer._store
    row_bytes = FRAMES * DIM * 2
    small = {
        name: layout.encode_chunk(np.full(clips_per_shard, value, dtype), (clips_per_shard,), 0)
        for name, value, dtype in (("status", 1, np.uint8), ("n_frames", FRAMES, np.uint32))
    }
    for shard in range(writer.n_shards):
        rows = writer.rows(shard)
        path = Path(str(store.chunk_path("embedding", shard)))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.seek(len(rows) * (row_bytes + layout.CRC_BYTES))
            file.write(layout.shard_index(len(rows), row_bytes, clips_per_shard))
        for name, content in small.items():
            path = Path(str(store.chunk_path(name, shard)))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return Path(str(writer.path))


PLANNER = """
import resource, sys, time
from pathlib import Path
from understudy.extract import plan, prepare
from understudy.extract.pending import pending
from understudy.index import ClipIndex

folder = Path(sys.argv[1])
teachers = prepare.build(["spectral"])
before, cpu, marks = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time(), []
def mark():
    marks.append(time.perf_counter())
mark()
index = ClipIndex.load(folder / "index.parquet", folder)
mark()
job = prepare.prepare(index, teachers, folder / "cache", audio=True)
mark()
shards = plan.shards(job.job.n_clips, job.job.clips_per_shard, pending(job))
tasks = plan.tasks(shards, job.job.slots)
mark()
cpu = time.process_time() - cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load_s, prepare_s, tasks_s = (b - a for a, b in zip(marks, marks[1:]))
print(f"plan: index {load_s:.1f} s, prepare {prepare_s:.1f} s, {len(tasks)} tasks {tasks_s:.1f} s; "
      f"in all {marks[-1] - marks[0]:.1f} s ({cpu:.1f} s of processor); peak memory "
      f"{peak / 1e6:.2f} GB, {before / 1e6:.2f} GB of it before the index was opened")
"""


def save_index(folder: Path, n_clips: int) -> str:
    """Writes an index of clips of any length from 1 to 30 s; says how long and large."""
    names = pd.Series(np.arange(n_clips)).astype("str")
    samples = np.random.default_rng(0).integers(44100, 30 * 44100, n_clips)
    clips = pd.DataFrame(
        {
            "clip_id": names,
            "path": "audio/" + names.str[-3:] + "/" + names + ".flac",
            "duration_s": samples / 44100,
        }
    )
    labels = np.zeros(n_clips, np.int64)
    began = time.perf_counter()
    index = ClipIndex(name="bench", clips=clips, labels=labels, label_names=("none",), root=folder)
    made = time.perf_counter()
    index.save(folder / "index.parquet")
    saved_s, size = time.perf_counter() - made, (folder / "index.parquet").stat().st_size
    return (
        f"index of {n_clips} clips: checked in {made - began:.1f} s, saved in {saved_s:.1f} s, "
        f"{size / 1e6:.0f} MB"
    )


@click.command()
@click.option("--clips", default=10_000_000, show_default=True)
@click.option("--clips-per-shard", default=2048, show_default=True)
@click.option("--plan-clips", default=10_000_000, show_default=True, help="Clips to plan.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write; a new one.")
def main(clips: int, clips_per_shard: int, plan_clips: int, folder: Path | None) -> None:
    """Print the time and memory that a store and a plan of so many clips take."""
    folder = Path(tempfile.mkdtemp(prefix="understudy-bench-", dir=folder))
    try:
        if clips:
            path = sparse_store(folder, clips, clips_per_shard)
            used = sum(f.stat().st_blocks * 512 for f in path.rglob("*") if f.is_file())
            click.echo(
                f"{clips} clips of {FRAMES} x {DIM} float16, {clips_per_shard} a shard; "
                f"{used / 1e6:.0f} MB on disk"
            )
            subprocess.run([sys.executable, "-c", READER, str(path)], check=True)
        if plan_clips:
            click.echo(save_index(folder, plan_clips))
            subprocess.run([sys.executable, "-c", PLANNER, str(folder)], check=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
