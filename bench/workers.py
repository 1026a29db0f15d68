"""One extraction by one worker and by two, where the teacher is the bottleneck.

mn10 with random weights over one-channel noise at its own rate, into a fresh cache each time, in
turns; the least of several. `call s` is the whole call, `work s` the run as profile.json has it.
Run: python -m bench.workers
"""

import json
import os
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from understudy import audio, datasets
from understudy.extract import extract
from understudy.index import ClipIndex

TEACHER, RATE_HZ = "mn10", 32_000
CLIPS, CLIP_S, ROUNDS = 768, 10.0, 2


def collection(folder: Path) -> ClipIndex:
    """Clips of noise in `folder`."""
    generator = np.random.default_rng(0)
    for number in range(CLIPS):
        samples = generator.normal(0, 0.1, round(CLIP_S * RATE_HZ)).astype(np.float32)
        audio.write(folder / f"{number:03}.wav", samples, RATE_HZ)
    return datasets.load("folder", folder)


def seconds(index: ClipIndex, workers: int) -> tuple[float, float]:
    """Of the whole call, and of its work alone."""
    with tempfile.TemporaryDirectory() as cache:
        began = time.perf_counter()
        extract(
            index, [TEACHER], cache, weights={TEACHER: "random"}, workers=workers, progress=False
        )
        whole = time.perf_counter() - began
        runs = json.loads((Path(cache) / index.name / "profile.json").read_text())["runs"]
    return whole, float(runs[-1]["wall_s"])


def main() -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "noise"
        root.mkdir()
        index = collection(root)
        taken = {1: [seconds(index, 1)], 2: [seconds(index, 2)]}
        for _ in range(ROUNDS - 1):
            for workers, results in taken.items():
                results.append(seconds(index, workers))
    hours = CLIPS * CLIP_S / 3600
    click.echo(f"{TEACHER}, {CLIPS} clips of {CLIP_S:.0f} s, {os.cpu_count()} cores")
    click.echo(f"{'workers':>7} {'call s':>8} {'work s':>8} {'audio-h/h':>10} {'x one worker':>13}")
    one = min(work for _, work in taken[1])
    for workers, results in taken.items():
        work = min(work for _, work in results)
        click.echo(
            f"{workers:7} {min(whole for whole, _ in results):8.1f} {work:8.1f} "
            f"{hours / work * 3600:10.0f} {one / work:13.2f}"
        )


if __name__ == "__main__":
    main()
