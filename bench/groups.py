"""Five students over one stream against five lone runs: time and peak memory.

    python -m bench.groups

SC-CNN, batch 16, the paper's five systems. A step is reading, front end and update for all five.
Both ways take turns; `ratio` is the median over rounds. On a CPU the process's own seconds count,
so that others' load does not; there, only reading and the front end are shared. Peak memory is of
processes of their own, the largest of the lone ones.
"""

import multiprocessing
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click
import torch

from bench.loader import TEACHER, make_cache
from bench.steps import SYSTEMS, now_s
from understudy.index import ClipIndex
from understudy.train.config import resolve
from understudy.train.feed import RunPlan, open_feed
from understudy.train.learner import Learner
from understudy.train.loop import Training
from understudy.train.setup import prepare

ROUNDS = {16: 12, 128: 3}
PEAK_STEPS = 2


def stepper(folder: Path, systems: Sequence[str], width: int) -> Callable[[], float]:
    """A function that takes one step with a group of students and tells its seconds."""
    index = ClipIndex.load(folder / "bench" / "index.parquet", folder)
    plans = [
        RunPlan(
            run_dir=folder / "absent" / system,
            settings=resolve({"student": {"width": width}}, system=system),
            teachers=(TEACHER,),
        )
        for system in systems
    ]
    feed = open_feed(index, plans, cache=folder, stores=[], fold=None)
    learners = [Learner(prepare(feed, plan), plan.run_dir) for plan in plans]
    training = Training(feed, learners, progress=False)
    batches = training.read(feed.stream.crops(0), 0)

    def step() -> float:
        started = now_s(feed.device)
        batch, images = next(batches)
        for learner in learners:
            learner.step(batch, images.of(learner))
        return now_s(feed.device) - started

    return step


def table() -> str:
    """Milliseconds for one step of all five students, and peak memory."""
    lines = [f"{'width':>5}  {'five students':<16}{'ms/step':>9}{'ratio':>8}{'peak MB':>10}"]
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as name:
        folder = Path(name)
        make_cache(folder, 400)
        peaks = _peaks(folder)
        for width, rounds in ROUNDS.items():
            alone = [stepper(folder, [system], width) for system in SYSTEMS]
            group = stepper(folder, SYSTEMS, width)
            times = [(sum(step() for step in alone), group()) for _ in range(rounds + 2)][2:]
            lone_s, group_s = (statistics.median(column) for column in zip(*times, strict=True))
            ratio = statistics.median(own / lone for lone, own in times)
            for kind, seconds, quotient, peak in (
                ("lone runs", lone_s, 1.0, peaks[width, False]),
                ("one stream", group_s, ratio, peaks[width, True]),
            ):
                lines.append(
                    f"{width:>5}  {kind:<16}{1e3 * seconds:>9.0f}{quotient:>8.2f}{peak:>10.0f}"
                )
    return "\n".join(lines)


def peak_mb(folder: Path, systems: Sequence[str], width: int) -> float:
    """Peak memory after some steps: of the GPU, else of this process."""
    step = stepper(folder, systems, width)
    for _ in range(PEAK_STEPS):
        step()
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def _peaks(folder: Path) -> dict[tuple[int, bool], float]:
    """By width, and whether five students share a process. It comes before anything large: a
    process inherits its parent's peak."""
    return {
        (width, grouped): max(_apart(folder, systems, width) for systems in groups)
        for width in ROUNDS
        for grouped, groups in ((False, [[system] for system in SYSTEMS]), (True, [SYSTEMS]))
    }


def _apart(folder: Path, systems: Sequence[str], width: int) -> float:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak_mb, folder, systems, width).result()


if __name__ == "__main__":
    click.echo(table())
