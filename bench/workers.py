"""One extraction by one worker process and by two, where the teacher is the bottleneck.

Scheduler and workers are processes of their own, started by dask's command lines, each worker with
one thread. Random weights over noise at the teacher's own rate, into a fresh cache each time, the
teacher built before; the ways take turns, and the least of several counts. "this process" is
`--workers 1`: as many tasks at a time as there are cores. Run: python -m bench.workers
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import numpy as np

from understudy import audio, datasets, teachers
from understudy.extract import extract
from understudy.index import ClipIndex

CLIP_S, ROUNDS = 10.0, 2
CLIPS = {"passt": 24, "mn10": 512}
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def collection(folder: Path, n_clips: int, rate_hz: int) -> ClipIndex:
    """Clips of noise in `folder`."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(n_clips):
        samples = generator.normal(0, 0.1, round(CLIP_S * rate_hz)).astype(np.float32)
        audio.write(folder / f"{number:04}.wav", samples, rate_hz)
    return datasets.load("folder", folder)


@contextmanager
def cluster(n_workers: int) -> Iterator[str | None]:
    """Address of a scheduler with as many workers; None for none."""
    if not n_workers:
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    dask, here = [sys.executable, "-m", "dask"], ["--host", "127.0.0.1", "--no-dashboard"]
    address = f"tcp://127.0.0.1:{port}"
    calls = [[*dask, "scheduler", *here, "--port", port]]
    calls += [[*dask, "worker", address, *here, "--nthreads", "1", "--no-nanny"]] * n_workers
    with ExitStack() as stack:
        for call in calls:
            process = subprocess.Popen(
                call, env={**os.environ, **ONE_THREAD}, stderr=subprocess.DEVNULL
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield address


def seconds(index: ClipIndex, teacher: str, scheduler: str | None, clips_per_shard: int) -> float:
    """Of the run, as profile.json has it."""
    with tempfile.TemporaryDirectory() as cache:
        extract(
            index,
            [teacher],
            cache,
            weights={teacher: "random"},
            scheduler=scheduler,
            clips_per_shard=clips_per_shard,
            progress=False,
        )
        runs = json.loads((Path(cache) / index.name / "profile.json").read_text())["runs"]
    return float(runs[-1]["wall_s"])


def measure(teacher: str, folder: Path) -> None:
    """Prints one teacher's rows."""
    rate_hz = teachers.build(teacher, weights="random").card.sample_rate
    n_clips = CLIPS[teacher]
    shard = max(4, n_clips // 32)
    index = collection(folder / teacher, n_clips, rate_hz)
    first = collection(folder / f"{teacher}-first", 2 * shard, rate_hz)
    ways = {"1 process": 1, "2 processes": 2, "this process": 0}
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, n_workers in ways.items():
            with cluster(n_workers) as scheduler:
                time.sleep(10 if n_workers else 0)  # until all workers have joined
                seconds(first, teacher, scheduler, shard)
                taken[way].append(seconds(index, teacher, scheduler, shard))
    one, hours = min(taken["1 process"]), n_clips * CLIP_S / 3600
    for way, times in taken.items():
        least = min(times)
        click.echo(
            f"{teacher:<8} {n_clips:6} {way:<14} {least:8.1f} {hours / least * 3600:10.1f} "
            f"{one / least:10.2f}"
        )


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(CLIPS)))
def main(names: tuple[str, ...]) -> None:
    """Prints the table."""
    click.echo(f"{os.cpu_count()} cores; clips of {CLIP_S:.0f} s of noise, random weights")
    click.echo(f"{'':<8} {'clips':>6} {'':<14} {'s':>8} {'audio-h/h':>10} {'x 1 proc.':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for teacher in names or CLIPS:
            measure(teacher, Path(folder))


if __name__ == "__main__":
    main()
