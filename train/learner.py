"""One student in training: its steps, its validation, its schedule, its files.

The batches come from outside (`loop`), so a student learns the same alone and in a group.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy import checkpoint
from understudy.train import snapshot
from understudy.train.compression import Pca
from understudy.train.runlog import RunLog
from understudy.train.setup import Setup, seed_torch
from understudy.train.snapshot import State
from understudy.train.stream import Batch
from understudy.train.teaching import Embedding
from understudy.train.validation import Validation, check_finite


class Learner:
    """A run between its last checkpoint and its end.

    Args:
        setup: What it is made of.
        run_dir: Where its files are; what is there is taken up.
    """

    def __init__(self, setup: Setup, run_dir: Path) -> None:
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
        self.compute = setup.settings.compute
        if self.compute.channels_last:
            setup.student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        from_image = setup.student.from_image
        # Inductor would choose channels_last for CPUs; see `ComputeSettings.channels_last`.
        options: dict[str, Any] = {"layout_optimization": setup.feed.device.type != "cpu"}
        self.from_image = (
            torch.compile(from_image, options=options) if self.compute.compile else from_image
        )
        self.spans = setup.student.step_spans(setup.feed.stream.crop_samples)
        self.metric = "mAP" if setup.feed.index.task == "multi-label" else "accuracy"
        self.sums: dict[str, Tensor] = {}
        self.saved_s = time.monotonic()
        self.log_bytes = self.resume()

    def resume(self) -> int:
        """Takes up the last checkpoint, or begins; returns the log's length in bytes there."""
        setup = self.setup
        saved = snapshot.load(self.run_dir, setup, self.optimiser, self.plateau)
        if saved is not None:
            self.state, log_bytes = saved
            return log_bytes
        self.fit_teachers()
        return 0

    def fit_teachers(self) -> None:
        """Statistics of the training embeddings: standardisation, then principal components."""
        setup = self.setup
        for key, standardise, teaching in zip(
            setup.frames, setup.standardise, setup.objective.teachings, strict=True
        ):
            if setup.settings.distill.standardise == "channel":
                standardise.load_state_dict(setup.feed.statistics(key).state_dict())
            if isinstance(teaching.compression, Pca):
                blocks = map(torch.from_numpy, setup.feed.timelines(key))
                teaching.compression.fit(
                    standardise(block.to(setup.feed.device)) for block in blocks
                )

    def open(self) -> None:
        """Opens the log where the checkpoint left it."""
        self.log = RunLog(
            self.run_dir / "log.jsonl", self.log_bytes, self.setup.settings.run.tensorboard
        )

    def close(self) -> None:
        """Closes the log."""
        self.log.close()

    @property
    def total_steps(self) -> int:
        """Steps of the run unless it stops early."""
        return self.optim.total_steps(self.setup.feed.stream.steps_per_epoch)

    @property
    def until(self) -> int:
        """Batches of the current epoch up to its end, or to the last step of the run."""
        left = self.optim.max_steps - self.state.step
        return min(self.setup.feed.stream.steps_per_epoch, self.state.position + left)

    def takes(self, position: int) -> bool:
        """Whether batch `position` of the current epoch is its next one."""
        return self.state.position == position < self.until

    def begin_epoch(self) -> None:
        """Sums go on where the checkpoint left them."""
        self.sums = {
            name: torch.tensor(value, dtype=torch.float64)
            for name, value in self.state.sums.items()
        }

    def step(self, batch: Batch, image: Tensor) -> dict[str, Tensor]:
        """One update; returns its losses.

        Gradients are clipped apart: L_teacher must not throttle the student. Random draws are a
        function of seed and step, whoever else draws.
        """
        self.setup.student.train()
        self.schedule()
        seed_torch(self.optim.seed, f"step {self.state.step}")
        _, losses = self.forward(batch, image)
        self.optimiser.zero_grad()
        losses["total"].backward()
        for group in self.groups.values():
            torch.nn.utils.clip_grad_norm_(group, self.optim.clip_norm)
        self.optimiser.step()
        losses = {name: value.detach() for name, value in losses.items()}
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.double()
        self.state.step += 1
        self.state.position += 1
        return losses

    def schedule(self) -> None:
        """The learning rate of the next step, where it is a function of the step."""
        if self.optim.schedule == "cosine":
            done = self.state.step / self.total_steps
            for group in self.optimiser.param_groups:
                group["lr"] = self.optim.lr * (1 + math.cos(math.pi * done)) / 2

    def forward(self, batch: Batch, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (batch, label) and the objective's losses.

        Args:
            batch: On the run's device.
            image: What the student's front end makes of the audio.
        """
        setup = self.setup
        if self.compute.channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        half = self.compute.precision == "bf16"
        with torch.autocast(setup.feed.device.type, torch.bfloat16, enabled=half):
            output = self.from_image(image)
        embeddings = []
        for key, standardise in zip(setup.frames, setup.standardise, strict=True):
            frames = batch.frames[key]
            embeddings.append(
                Embedding(
                    frames=standardise(frames.embedding),
                    valid=frames.valid,
                    centre_s=frames.centre_s,
                )
            )
        losses = setup.objective(output, batch.labels, embeddings, self.spans, batch.mix)
        return output.logits, losses

    def finish_epoch(self, validation: Validation, timing: Mapping[str, float]) -> dict[str, str]:
        """Logs the epoch, keeps the best weights, adapts the learning rate, decides on the end.

        Returns:
            What is shown of it.
        """
        state = self.state
        valid_losses, value = validation.result()
        steps = max(1, state.position)
        losses = {name: float(total) / steps for name, total in self.sums.items()}
        check_finite(losses, f"a training loss up to step {state.step}")
        state.epoch += 1
        state.position, state.sums = 0, {}
        self.log.write(
            "epoch",
            epoch=state.epoch,
            step=state.step,
            lr=self.lr,
            train=losses,
            valid=valid_losses,
            metric=self.metric,
            value=value,
            timing=timing,
        )
        if state.best is None or value > state.best["value"]:
            state.best = {
                "metric": self.metric,
                "value": value,
                "epoch": state.epoch,
                "step": state.step,
                "valid_loss": valid_losses["student"],
            }
            self.save_best()
        if state.lowest_loss is None or valid_losses["student"] < state.lowest_loss:
            state.lowest_loss, state.stale_epochs = valid_losses["student"], 0
        else:
            state.stale_epochs += 1
        if self.optim.schedule == "plateau":
            self.plateau.step(valid_losses["student"])
        state.ended = self.reason_to_end()
        if state.ended:
            self.log.write(
                "end",
                reason=state.ended,
                epoch=state.epoch,
                step=state.step,
                best=state.best,
                n_left_out=len(self.setup.record["left_out"]),
                timing=timing,
            )
        return {
            **({"train": f"{losses['total']:.3f}"} if losses else {}),
            "valid": f"{valid_losses['student']:.3f}",
            self.metric: f"{value:.3f}",
        }

    def reason_to_end(self) -> str | None:
        """Why training ends after this epoch; None if it goes on."""
        state, optim = self.state, self.optim
        if state.step >= optim.max_steps:
            return f"optim.max_steps {optim.max_steps}"
        if optim.max_epochs is not None and state.epoch >= optim.max_epochs:
            return f"optim.max_epochs {optim.max_epochs}"
        if state.stale_epochs >= optim.stop_patience:
            return f"no lower validation loss for {state.stale_epochs} epochs"
        return None

    def log_step(self, losses: Mapping[str, Tensor], timing: Mapping[str, float]) -> dict[str, str]:
        """One line of the log; returns what the live line shows."""
        numbers = {name: float(value) for name, value in losses.items()}
        check_finite(numbers, f"the loss at step {self.state.step}")
        self.log.write(
            "step",
            step=self.state.step,
            epoch=self.state.epoch + 1,
            lr=self.lr,
            **numbers,
            timing=timing,
        )
        return {"loss": f"{numbers['total']:.3f}"}

    @property
    def lr(self) -> float:
        """Current learning rate."""
        return self.optimiser.param_groups[0]["lr"]

    @property
    def due(self) -> bool:
        """Whether the end of this epoch is worth a checkpoint."""
        age_s = time.monotonic() - self.saved_s
        return self.state.ended is not None or age_s >= self.setup.settings.run.checkpoint_s

    def save_best(self) -> None:
        """RUN/best.safetensors, the student alone, and what is to be said about it in best.json."""
        about = {"digest": self.setup.record["digest"], **(self.state.best or {})}
        path = self.run_dir / "best.safetensors"
        checkpoint.save(path, self.setup.student.state_dict(), about)
        checkpoint.write_json(self.run_dir / "best.json", about)

    def save(self) -> None:
        """RUN/last.safetensors: with the log, everything that going on from here takes."""
        self.state.sums = {name: float(v) for name, v in self.sums.items() if self.state.position}
        log_bytes = self.log.sync()
        snapshot.save(self.run_dir, self.setup, self.optimiser, self.plateau, self.state, log_bytes)
        self.saved_s = time.monotonic()
