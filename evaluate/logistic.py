"""L2-regularised logistic regression of many labels at once, at scikit-learn's optimum.

All labels share their features, so that every step is a few large matrix products: Newton's method,
its linear systems solved by preconditioned conjugate gradients (Nocedal and Wright, Numerical
Optimization, 2nd ed., algorithm 7.1), with a step length for each label. Features are rotated once
into their principal axes, where the Hessian is near d S + 1/C, S the diagonal of squared singular
values and d a label's mean p (1 - p): the preconditioner. Where there are more channels than clips
the optimum lies in the clips' span, and the rotated features have no more columns than that.

The objective is scikit-learn's: the sum over clips of the log loss, and |weight|^2 / (2 C); the
bias is not penalised.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

MAX_STEPS = 60
"""Newton steps of one fit."""
INNER = 0.03
"""How far conjugate gradients reduce the squared residual of a step."""
MAX_INNER = 100
"""Conjugate gradients of one step at most."""
TOLERANCE = 1e-5
"""A label has converged with a step that promised less than this share of its objective; what is
then left to gain is about a hundredth of that."""
ROUGH = 1e-3
"""Tolerance that is enough to compare values of C by their predictions."""


@dataclass(frozen=True)
class Solution:
    """weight float64 (label, channel), bias float64 (label,) and bool (label,)."""

    weight: np.ndarray
    bias: np.ndarray
    converged: np.ndarray


class Problem:
    """Clips to fit, for one C after the other; each fit begins at the solution of the last.

    Args:
        features: (clip, channel), standardised.
        labels: Multi-label (clip, label) in -1/0/1, 0 unknown, each label a regression of its own;
            or single-label (clip,) in 0 .. n - 1, one multinomial regression.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        x = torch.from_numpy(np.asarray(features, np.float32))
        self._axes, spectrum = _principal_axes(x)
        self._x = torch.cat([x @ self._axes, torch.ones(len(x), 1)], dim=1)
        self._spectrum = torch.cat([spectrum, torch.tensor([float(len(x))])])[:, None]
        y = torch.from_numpy(np.asarray(labels, np.int64))
        self._multinomial = y.ndim == 1
        self._y = (functional.one_hot(y) if self._multinomial else y == 1).float()
        self._known = torch.ones_like(self._y) if self._multinomial else (y != 0).float()
        self._beta = torch.zeros(self._x.shape[1], self._y.shape[1])

    @torch.no_grad()
    def fit(self, c: float, tolerance: float = TOLERANCE) -> Solution:
        """The optimum for one C, to a tolerance as of `TOLERANCE`."""
        penalty = torch.full((len(self._beta), 1), 1 / c)
        penalty[-1] = 0
        active = torch.arange(self._y.shape[1])
        logits = self._x @ self._beta
        for _ in range(MAX_STEPS):
            beta, z = self._beta[:, active], logits[:, active]
            y, known = self._y[:, active], self._known[:, active]
            value = self._objective(beta, z, y, known, penalty)
            p = self._probability(z)
            gradient = self._x.T @ (known * (p - y)) + penalty * beta
            change, moved = self._newton(p, known, gradient, penalty)
            slope = self._dot(gradient, change)
            length = torch.ones_like(slope)
            for _ in range(20):
                new = self._objective(beta + length * change, z + length * moved, y, known, penalty)
                too_far = new > value + 1e-4 * length * slope + 1e-6 * value
                if not too_far.any():
                    break
                length = torch.where(too_far, length / 2, length)
            self._beta[:, active] = beta + length * change
            logits[:, active] = z + length * moved
            active = active[-slope / 2 > tolerance * value]
            if not len(active):
                break
        converged = np.ones(self._y.shape[1], bool)
        converged[active.numpy()] = False
        weight = self._axes.double() @ self._beta[:-1].double()
        return Solution(weight.T.numpy().copy(), self._beta[-1].double().numpy(), converged)

    def _newton(
        self, p: Tensor, known: Tensor, gradient: Tensor, penalty: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Newton's step (channel, label), nearly, and what it adds to the logits (clip, label)."""
        change, moved = torch.zeros_like(gradient), torch.zeros_like(p)
        curvature = known * p * (1 - p)
        scale = 1 / (curvature.mean(dim=0) * self._spectrum + penalty).clamp(min=1e-12)
        residual = -gradient
        search = scale * residual
        size = first = self._dot(residual, search)
        live = torch.arange(len(size))
        for _ in range(MAX_INNER):
            ahead = self._x @ search
            if self._multinomial:
                weighted = p * (ahead - (p * ahead).sum(dim=1, keepdim=True))
            else:
                weighted = curvature * ahead
            image = self._x.T @ weighted + penalty * search
            bend = self._dot(search, image)
            length = torch.where(bend > 0, size / bend.clamp(min=1e-30), 0)
            change[:, live] += length * search
            moved[:, live] += length * ahead
            residual = residual - length * image
            preconditioned = scale * residual
            before, size = size, self._dot(residual, preconditioned)
            search = preconditioned + size / before.clamp(min=1e-30) * search
            left = size > INNER * first
            if not left.any():
                break
            if not left.all():  # never where classes share their sums
                live, size, first = live[left], size[left], first[left]
                residual, search, scale = residual[:, left], search[:, left], scale[:, left]
                curvature = curvature[:, left]
        return change, moved

    def _objective(
        self, beta: Tensor, logits: Tensor, y: Tensor, known: Tensor, penalty: Tensor
    ) -> Tensor:
        if self._multinomial:
            loss = -y * functional.log_softmax(logits, dim=1)
        else:
            loss = known * (functional.softplus(logits) - y * logits)
        total = loss.sum(dim=0, dtype=torch.float64).float()
        return self._joined(total) + self._dot(beta, penalty * beta) / 2

    def _probability(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=1) if self._multinomial else logits.sigmoid()

    def _dot(self, a: Tensor, b: Tensor) -> Tensor:
        return self._joined((a * b).sum(dim=0))

    def _joined(self, per_label: Tensor) -> Tensor:
        """Labels are problems of their own, classes one: they share every sum."""
        return per_label.sum().expand_as(per_label) if self._multinomial else per_label


def _principal_axes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Axes (channel, axis) and their squared singular values (axis,); no more axes than clips."""
    if len(x) >= x.shape[1]:
        values, axes = torch.linalg.eigh(x.T @ x)
        return axes, values.clamp(min=0)
    y = x.double()
    values, vectors = torch.linalg.eigh(y @ y.T)
    kept = values > 1e-10 * values[-1].clamp(min=1e-300)
    axes = y.T @ vectors[:, kept] / values[kept].sqrt()
    return axes.float(), values[kept].float()
