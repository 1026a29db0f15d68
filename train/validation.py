"""Validation of one student, fed from outside like its training."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from understudy import metrics, predict
from understudy.errors import ConfigError
from understudy.train.stream import Batch

if TYPE_CHECKING:
    from understudy.train.learner import Learner


class Validation:
    """Mean losses over the windows of all validation clips, and mAP or accuracy of the clips.

    Windows and averaging are those of `predict.predict_clips`.
    """

    def __init__(self, learner: "Learner") -> None:
        self.learner = learner
        self.feed = learner.setup.feed
        self.rows = self.feed.valid_rows
        self.scores = np.zeros((len(self.rows), self.feed.index.n_labels))
        self.n_windows = np.zeros(len(self.rows))
        self.sums: dict[str, float] = {}
        learner.setup.student.eval()

    @torch.no_grad()
    def add(self, batch: Batch, image: Tensor) -> None:
        """Takes in a batch of windows."""
        logits, losses = self.learner.forward(batch, image)
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value) * len(batch.rows)
        clips = np.searchsorted(self.rows, batch.rows)
        probabilities = predict.probabilities(logits.float(), self.feed.index.task)
        np.add.at(self.scores, clips, probabilities.double().cpu().numpy())
        np.add.at(self.n_windows, clips, 1)

    def result(self) -> tuple[dict[str, float], float]:
        """Losses, and the metric's value; ConfigError where a loss is not finite."""
        losses = {name: value / self.n_windows.sum() for name, value in self.sums.items()}
        check_finite(losses, f"the validation loss after step {self.learner.state.step}")
        scores = self.scores / self.n_windows[:, None]
        labels: Any = self.feed.index.labels[self.rows]
        if self.feed.index.task == "multi-label":
            return losses, metrics.average_precision(scores, labels)[1]
        return losses, metrics.accuracy(scores, labels)


def check_finite(losses: Mapping[str, float], what: str) -> None:
    """Raises ConfigError, saying `what` is not finite, if one of `losses` is not."""
    bad = [name for name, value in losses.items() if not math.isfinite(value)]
    if bad:
        raise ConfigError(
            f"{what} is not finite ({', '.join(bad)}): the run has diverged; "
            "begin another with a lower optim.lr"
        )
