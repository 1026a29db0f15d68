"""Training a student, from the first step to the last; killed at any point, it goes on from there.

index, cache -> Stream -> student and Objective -> Adam -> validation -> RUN/best, RUN/last
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from understudy import cache as caches
from understudy import checkpoint, metrics, predict
from understudy.errors import ConfigError
from understudy.index import ClipIndex
from understudy.train import snapshot
from understudy.train.config import resolve
from understudy.train.runlog import Progress, RunLog
from understudy.train.setup import Setup, claim, prepare, seed_torch, threads
from understudy.train.snapshot import State
from understudy.train.stream import Batch


def train(
    index: ClipIndex,
    *,
    student: str | None = None,
    system: str | None = None,
    teacher: str | None = None,
    cache: str | Path | None = None,
    store: str | Path | Sequence[str | Path] = (),
    run_dir: str | Path,
    fold: int | None = None,
    settings: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Path:
    """Trains one student, or goes on where an earlier call with the same arguments stopped.

    Args:
        index: The clips. Its root matters only where the cache has no audio track.
        student: Name of the student; "sc-cnn" unless settings or recipe say otherwise.
        system: Preset of the distillation; "dc_linear" unless settings or recipe say otherwise.
        teacher: Name of the teacher; not needed, and not looked at, by system "baseline".
        cache: Folder of the cache.
        store: Stores (path, folder name or start of the identity) to use where the cache holds
            several of one track.
        run_dir: Folder for config.json, log.jsonl, best.* and last.*; made if absent.
        fold: Test fold (see `ClipIndex.split`); None for the index's own split.
        settings: Nested mapping over `TrainSettings`, such as {"optim": {"lr": 1e-3}}.
        recipe: The same with lower precedence.
        progress: Show a live line where stderr is a terminal.

    Returns:
        run_dir.

    Raises:
        UnderstudyError: Bad settings, a cache that does not fit, a run directory of another run, a
            loss that is not finite.
    """
    chosen = resolve(settings, student=student, system=system, recipe=recipe)
    stores = [store] if isinstance(store, (str, Path)) else list(store)
    run_dir = Path(run_dir)
    with caches.lock(run_dir), threads(chosen.threads), _own_generators():
        setup = prepare(
            index,
            chosen,
            teacher=teacher,
            cache=None if cache is None else Path(cache),
            stores=[str(name) for name in stores],
            fold=fold,
        )
        claim(run_dir, setup.record)
        Training(setup, run_dir, progress).run()
    return run_dir


class Training:
    """One run: `run` is the outline, the other methods are its parts in order."""

    def __init__(self, setup: Setup, run_dir: Path, progress: bool) -> None:
        self.setup = setup
        self.run_dir = run_dir
        self.optim = setup.settings.optim
        self.state = State()
        self.groups = setup.objective.parameter_groups(setup.student)
        self.optimiser = torch.optim.Adam(
            [{"params": group} for group in self.groups.values() if group],
            lr=self.optim.lr,
            weight_decay=self.optim.weight_decay,
        )
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimiser, factor=self.optim.plateau_factor, patience=self.optim.plateau_patience
        )
        self.spans = setup.student.step_spans(setup.stream.crop_samples)
        self.show_progress = progress
        self.begun_s = time.perf_counter()
        self.steps_here = 0

    def run(self) -> None:
        """Trains until something ends it, leaving a checkpoint after every epoch."""
        log_bytes = self.resume()
        if self.state.ended:
            return
        self.log = RunLog(self.run_dir / "log.jsonl", log_bytes)
        self.progress = Progress(self.total_steps, self.state.step, self.show_progress)
        try:
            while not self.state.ended:
                self.train_epoch()
                self.finish_epoch(*self.validate())
                self.save()
        finally:
            self.progress.close()
            self.log.close()

    @property
    def total_steps(self) -> int:
        """Steps of the run unless it stops early."""
        if self.optim.max_epochs is None:
            return self.optim.max_steps
        return min(self.optim.max_steps, self.optim.max_epochs * self.setup.stream.steps_per_epoch)

    def train_epoch(self) -> None:
        """The rest of the current epoch's batches."""
        state, run = self.state, self.setup.settings.run
        plan = self.setup.stream.crops(state.epoch)[state.position :]
        plan = plan[: self.optim.max_steps - state.step]
        sums = {
            name: torch.tensor(value, dtype=torch.float64) for name, value in state.sums.items()
        }
        for batch in self.setup.stream.read(plan):
            losses = self.step(batch.to(self.setup.device))
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.double()
            state.step += 1
            state.position += 1
            self.steps_here += 1
            self.progress.step()
            if state.step % run.log_steps == 0:
                self.log_step(losses)
            if run.checkpoint_steps and state.step % run.checkpoint_steps == 0:
                state.sums = {name: float(value) for name, value in sums.items()}
                self.save()
        state.sums = {name: float(value) for name, value in sums.items()}

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One update. Gradients are clipped apart: L_teacher must not throttle the student."""
        self.setup.student.train()
        _, losses = self.forward(batch)
        self.optimiser.zero_grad()
        losses["total"].backward()
        for group in self.groups.values():
            torch.nn.utils.clip_grad_norm_(group, self.optim.clip_norm)
        self.optimiser.step()
        return {name: value.detach() for name, value in losses.items()}

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (batch, label) and the objective's losses."""
        output = self.setup.student(batch.audio)
        frames = None if batch.frames is None else self.setup.standardise(batch.frames)
        losses = self.setup.objective(
            output, batch.labels, frames, batch.valid, batch.centre_s, self.spans
        )
        return output.logits, losses

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], float]:
        """Mean losses over the windows of all validation clips, and mAP or accuracy of the clips.

        Windows and averaging are those of `predict.predict_clips`.
        """
        setup = self.setup
        setup.student.eval()
        rows = setup.split.valid[setup.stream.usable[setup.split.valid]]
        scores = np.zeros((len(rows), setup.index.n_labels))
        n_windows = np.zeros(len(rows))
        sums: dict[str, float] = {}
        for batch in setup.stream.read(setup.stream.windows(rows)):
            logits, losses = self.forward(batch.to(setup.device))
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(batch.rows)
            clips = np.searchsorted(rows, batch.rows)
            probabilities = predict.probabilities(logits, setup.index.task)
            np.add.at(scores, clips, probabilities.double().cpu().numpy())
            np.add.at(n_windows, clips, 1)
        losses = {name: value / n_windows.sum() for name, value in sums.items()}
        _check_finite(losses, f"the validation loss after step {self.state.step}")
        scores /= n_windows[:, None]
        labels = setup.index.labels[rows]
        if setup.index.task == "multi-label":
            return losses, metrics.average_precision(scores, labels)[1]
        return losses, metrics.accuracy(scores, labels)

    def finish_epoch(self, valid_losses: dict[str, float], value: float) -> None:
        """Logs the epoch, keeps the best weights, adapts the learning rate, decides on the end."""
        state, optim = self.state, self.optim
        metric = "mAP" if self.setup.index.task == "multi-label" else "accuracy"
        steps = max(1, state.position)
        losses = {name: total / steps for name, total in state.sums.items()}
        _check_finite(losses, f"a training loss up to step {state.step}")
        state.epoch += 1
        state.position, state.sums = 0, {}
        self.log.write(
            "epoch",
            epoch=state.epoch,
            step=state.step,
            lr=self.lr,
            train=losses,
            valid=valid_losses,
            metric=metric,
            value=value,
            timing=self.timing(),
        )
        if state.best is None or value > state.best["value"]:
            state.best = {
                "metric": metric,
                "value": value,
                "epoch": state.epoch,
                "step": state.step,
                "valid_loss": valid_losses["student"],
            }
            self.save_best()
        self.progress.show(valid=f"{valid_losses['student']:.3f}", **{metric: f"{value:.3f}"})
        if state.lowest_loss is None or valid_losses["student"] < state.lowest_loss:
            state.lowest_loss, state.stale_epochs = valid_losses["student"], 0
        else:
            state.stale_epochs += 1
        self.plateau.step(valid_losses["student"])
        if state.step >= optim.max_steps:
            state.ended = f"optim.max_steps {optim.max_steps}"
        elif optim.max_epochs is not None and state.epoch >= optim.max_epochs:
            state.ended = f"optim.max_epochs {optim.max_epochs}"
        elif state.stale_epochs >= optim.stop_patience:
            state.ended = f"no lower validation loss for {state.stale_epochs} epochs"
        if state.ended:
            self.log.write(
                "end",
                reason=state.ended,
                epoch=state.epoch,
                step=state.step,
                best=state.best,
                n_left_out=len(self.setup.record["left_out"]),
                timing=self.timing(),
            )

    def log_step(self, losses: dict[str, Tensor]) -> None:
        """One line of the log, and the live line."""
        numbers = {name: float(value) for name, value in losses.items()}
        _check_finite(numbers, f"the loss at step {self.state.step}")
        timing = self.timing()
        self.log.write(
            "step",
            step=self.state.step,
            epoch=self.state.epoch + 1,
            lr=self.lr,
            **numbers,
            timing=timing,
        )
        waiting = f"{timing['waiting_for_data']:.0%}"
        self.progress.show(waiting=waiting, loss=f"{numbers['total']:.3f}")

    def timing(self) -> dict[str, float]:
        """Seconds and steps per second of this process, and its share of waiting for data."""
        elapsed_s = time.perf_counter() - self.begun_s
        return {
            "elapsed_s": round(elapsed_s, 3),
            "steps_per_s": round(self.steps_here / elapsed_s, 3),
            "waiting_for_data": round(self.setup.stream.waited_s / elapsed_s, 4),
        }

    @property
    def lr(self) -> float:
        """Current learning rate."""
        return self.optimiser.param_groups[0]["lr"]

    def save_best(self) -> None:
        """RUN/best.safetensors, the student alone, and what is to be said about it in best.json."""
        about = {"digest": self.setup.record["digest"], **(self.state.best or {})}
        path = self.run_dir / "best.safetensors"
        checkpoint.save(path, self.setup.student.state_dict(), about)
        checkpoint.write_json(self.run_dir / "best.json", about)

    def save(self) -> None:
        """RUN/last.safetensors: with the log, everything that going on from here takes."""
        log_bytes = self.log.sync()
        snapshot.save(self.run_dir, self.setup, self.optimiser, self.plateau, self.state, log_bytes)

    def resume(self) -> int:
        """Takes up the last checkpoint, or begins; returns the log's length in bytes there."""
        setup = self.setup
        saved = snapshot.load(self.run_dir, setup, self.optimiser, self.plateau)
        if saved is not None:
            self.state, log_bytes = saved
            return log_bytes
        if setup.frames is not None and setup.settings.distill.standardise == "channel":
            rows = setup.split.train[setup.stream.usable[setup.split.train]]
            setup.standardise.fit(setup.frames.timelines(rows))
        seed_torch(self.optim.seed, "steps")
        return 0


@contextmanager
def _own_generators() -> Iterator[None]:
    """torch's generators are given back as they were found."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=list(devices)):
        yield


def _check_finite(losses: Mapping[str, float], what: str) -> None:
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if bad:
        raise ConfigError(
            f"{what} is not finite ({', '.join(bad)}): the run has diverged; "
            "begin another with a lower optim.lr"
        )
