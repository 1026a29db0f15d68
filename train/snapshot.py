"""RUN/last.safetensors: the whole state of a run, so that going on equals never having stopped."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from understudy import checkpoint
from understudy.errors import WeightsError
from understudy.train.setup import Setup

NAME = "last.safetensors"


@dataclass
class State:
    """Where a run stands: with the weights, everything a checkpoint holds."""

    epoch: int = 0
    """Epochs done."""
    position: int = 0
    """Batches done of the epoch after them."""
    step: int = 0
    """Steps done."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums of the losses over this epoch's steps."""
    lowest_loss: float | None = None
    """Lowest validation loss (L_student) so far."""
    stale_epochs: int = 0
    """Epochs since then."""
    best: dict[str, Any] | None = None
    """Metric, value, epoch and step of the best checkpoint."""
    ended: str | None = None
    """Why training ended; None while it goes on."""


def save(
    run_dir: Path,
    setup: Setup,
    optimiser: torch.optim.Optimizer,
    plateau: ReduceLROnPlateau,
    state: State,
    log_bytes: int,
) -> None:
    """Writes weights, optimiser, schedule and `state` in one atomic step.

    The sampler's state is (epoch, position) of `state`, and random draws are functions of seed and
    step; `log_bytes` is the log's length here.
    """
    tensors = {
        f"{name}.{key}": value
        for name, module in _modules(setup).items()
        for key, value in module.state_dict().items()
    }
    for number, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{number}.{key}": value for key, value in moments.items()}
    header = {
        "digest": setup.record["digest"],
        "state": asdict(state),
        "lr": [group["lr"] for group in optimiser.param_groups],
        "plateau": {
            "best": plateau.best if math.isfinite(plateau.best) else None,
            "num_bad_epochs": plateau.num_bad_epochs,
            "last_epoch": plateau.last_epoch,
        },
        "log_bytes": log_bytes,
    }
    checkpoint.save(run_dir / NAME, tensors, header)


def load(
    run_dir: Path, setup: Setup, optimiser: torch.optim.Optimizer, plateau: ReduceLROnPlateau
) -> tuple[State, int] | None:
    """Puts everything back and returns what `save` was given; None without a checkpoint.

    Raises:
        WeightsError: A damaged checkpoint, or one of another run.
    """
    path = run_dir / NAME
    if not path.exists():
        return None
    tensors, header = checkpoint.load(path)
    if header.get("digest") != setup.record["digest"]:
        raise WeightsError(f"{path}: a checkpoint of another run than config.json's")
    for name, module in _modules(setup).items():
        module.load_state_dict(checkpoint.subset(tensors, f"{name}."))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in checkpoint.subset(tensors, "optimiser.").items():
        number, _, key = name.partition(".")
        moments.setdefault(int(number), {})[key] = value
    groups = optimiser.state_dict()["param_groups"]
    for group, lr in zip(groups, header["lr"], strict=True):
        group["lr"] = lr
    optimiser.load_state_dict({"state": moments, "param_groups": groups})
    best: Any = header["plateau"]["best"]
    plateau.load_state_dict({**header["plateau"], "best": math.inf if best is None else best})
    return State(**header["state"]), header["log_bytes"]


def _modules(setup: Setup) -> dict[str, torch.nn.Module]:
    return {
        "student": setup.student,
        "objective": setup.objective,
        "standardise": setup.standardise,
    }
