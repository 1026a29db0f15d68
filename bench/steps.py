"""One training step: with a cached teacher, without one, and with the teacher at work in the loop.

    python -m bench.steps

Batch 16, SC-CNN, one optimiser step on a batch that is there already. Kinds of steps take turns;
the median of each counts, and `ratio` is the median over rounds of its time by the plain step's
in the same round. On a CPU the process's own seconds count, so that others' load does not. The
online teacher, mn04 with random weights (a small one), embeds the crop's windows at 32 kHz, which
are there already: no decoding and no resampling is counted.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch

from bench.loader import TEACHER, make_cache
from understudy import teachers
from understudy.train.config import resolve
from understudy.train.feed import RunPlan, open_feed
from understudy.train.learner import Learner
from understudy.train.loop import Images
from understudy.train.setup import prepare

ROUNDS = {16: 9, 128: 3}
SYSTEMS = ("baseline", "fitnet", "fitnet_linear", "dc", "dc_linear")


def table() -> str:
    """Milliseconds a step, narrow and full width."""
    lines = [f"{'width':>5}  {'step':<22}{'ms':>9}{'ratio':>8}"]
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as name:
        folder = Path(name)
        index = make_cache(folder, 128)
        for width, rounds in ROUNDS.items():
            times = measure(folder, index, width, rounds)
            for kind, seconds in times.items():
                ratio = statistics.median(
                    own / plain for own, plain in zip(seconds, times["baseline"], strict=True)
                )
                lines.append(
                    f"{width:>5}  {kind:<22}{1e3 * statistics.median(seconds):>9.1f}{ratio:>8.3f}"
                )
    return "\n".join(lines)


def measure(folder: Path, index, width: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of every step, by kind."""
    plans = [
        RunPlan(
            run_dir=folder / f"{system}-{width}",
            settings=resolve({"student": {"width": width}}, system=system),
            teachers=(TEACHER,),
        )
        for system in SYSTEMS
    ]
    feed = open_feed(index, plans, cache=folder, stores=[], fold=None)
    learners = {
        plan.settings.distill.system: Learner(prepare(feed, plan), plan.run_dir) for plan in plans
    }
    batch = next(feed.stream.read(feed.stream.crops(0)[:1])).to(feed.device)
    teacher = teachers.build("mn04", weights="random", device=str(feed.device))
    rate_hz = teacher.card.sample_rate
    sound = 0.1 * torch.randn(len(batch.rows), feed.stream.crop_samples * rate_hz // 16_000)

    def online() -> None:
        teacher.embed(sound)
        step("dc_linear")

    def step(system: str) -> None:
        learner = learners[system]
        learner.step(batch, Images(batch, feed.augment, 0).of(learner))

    kinds: dict[str, Callable[[], None]] = {
        system: lambda system=system: step(system) for system in SYSTEMS
    }
    kinds["dc_linear, online mn04"] = online
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(rounds + 2):  # the first two allocate
        for kind, run in kinds.items():
            started = now_s(feed.device)
            run()
            if number > 1:
                times[kind].append(now_s(feed.device) - started)
    return times


def now_s(device: torch.device) -> float:
    """A clock that the device has kept up with."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    click.echo(table())
