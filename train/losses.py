"""Distances between a student's and a teacher's features, and the losses of a prediction.

Features are (batch, channel) or (batch, step, channel); widths may differ where the distance
allows it, and a (batch, channel) tensor serves every step of the other. `mask` (batch, step), or
(batch,) without steps, is False for items to leave out: whatever they hold, NaN included, neither
the value nor a gradient sees it.

Everything is computed in float32 with autocast off, but for the Gram matrix of `dc`; float64 stays
float64.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from understudy.errors import ConfigError

if TYPE_CHECKING:
    from understudy.train.stream import Mix

IDENTICAL = 1e-12
"""Squared distance, relative to the squared norms, up to which two items count as identical."""
SQUARED_FLOOR = 1e-12
"""Added to squared distances (EAsT's constant): an item is 1e-6 from itself."""
STABILISER = 1e-9
"""Added under the root of the correlation's denominator (EAsT's constant)."""


def fitnet(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error over all elements of all valid items; 0 where there are none.

    Raises:
        ConfigError: Widths differ.
    """
    if student.shape[-1] != teacher.shape[-1]:
        raise ConfigError(
            f"fitnet: wanted features of one width, found student {student.shape[-1]}"
            f" and teacher {teacher.shape[-1]}"
        )
    with torch.autocast(student.device.type, enabled=False):
        x, y, valid = _steps_first(student, teacher, mask)
        error = (x - y).square().mean(-1)
        return error.sum() / valid.sum().clamp(min=1)


def dc(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, unbiased: bool = False
) -> Tensor:
    """One minus the distance correlation over the batch, averaged over steps.

    The biased V-statistic, a ratio of squared quantities left un-rooted (as in EAsT): per step,
    distances sqrt(|x_i - x_j|^2 + 1e-12) of the valid items are double-centred to A and B, and
    the loss is 1 - mean(A B) / sqrt(mean(A A) mean(B B) + 1e-9). Wide features in a small batch
    have a loss near 0 whether they agree or not. `unbiased` centres by Székely & Rizzo's (2014)
    bias-corrected rule instead: about 1 for independent features, and up to 2.

    Steps with fewer than 2 valid items (unbiased: 4) are left out of the mean over steps; without
    any step the loss is 1, with zero gradients.

    Distances come from the Gram matrix of the centred features, in float64: in float32 the
    gradient of pairs a hundred times nearer than the others would be lost to rounding. Pairs
    nearer than `IDENTICAL` count as duplicates, without a gradient, which is safe.
    """
    with torch.autocast(student.device.type, enabled=False):
        x, y, valid = _steps_first(student, teacher, mask)
        least = 4 if unbiased else 2
        n = valid.sum(-1)
        enough = n >= least
        n = n.clamp(min=least).to(x.dtype)[:, None, None]
        pair = valid[:, :, None] & valid[:, None, :]
        if unbiased:
            pair = pair & ~torch.eye(len(student), dtype=torch.bool, device=x.device)
        a, b = (_centred(_distances(z, valid, pair), pair, n, unbiased) for z in (x, y))
        n_pairs = (n * (n - 3) if unbiased else n.square())[:, 0, 0]
        ab, aa, bb = ((p * q).sum((-2, -1)) / n_pairs for p, q in ((a, b), (a, a), (b, b)))
        correlation = ab / (aa * bb + STABILISER).sqrt()
        return 1 - torch.where(enough, correlation, 0).sum() / enough.sum().clamp(min=1)


def cosine(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference of the two matrices of cosine similarities between items.

    Per step over pairs of valid items, then the mean over steps; steps with fewer than 2 valid
    items are left out, and without any step the loss is 0. A zero vector is similar to nothing.
    """
    with torch.autocast(student.device.type, enabled=False):
        x, y, valid = _steps_first(student, teacher, mask)
        difference = (_similarities(x) - _similarities(y)).abs().sum((-2, -1))
        n = valid.sum(-1)
        mean = difference / n.clamp(min=1).square()
        enough = n >= 2
        return torch.where(enough, mean, 0).sum() / enough.sum().clamp(min=1)


DISTANCES: Mapping[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "fitnet": fitnet,
    "dc": dc,
    "dc_unbiased": partial(dc, unbiased=True),
    "cosine": cosine,
}


def prediction(
    logits: Tensor,
    labels: Tensor,
    task: str,
    valid: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """The target task's loss, a mean over what is known; 0 where nothing is.

    Args:
        logits: (batch, label).
        labels: "multi-label": (batch, label) in -1/0/1, 0 unknown and skipped: binary
            cross-entropy. "single-label": (batch,) class indices: cross-entropy.
        task: "multi-label" or "single-label".
        valid: (batch,) bool, False for items to leave out.
        weight: (batch,), by which each item's losses are multiplied.
    """
    if task not in ("multi-label", "single-label"):
        raise ConfigError(f"wanted task multi-label or single-label, found '{task}'")
    with torch.autocast(logits.device.type, enabled=False):
        logits = _full(logits)
        if task == "multi-label":
            target = (labels > 0).to(logits.dtype)
            loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
            known = labels != 0
        else:
            loss = F.cross_entropy(logits, labels, reduction="none")
            known = torch.ones_like(labels, dtype=torch.bool)
        if valid is not None:
            known = known & valid.view(-1, *[1] * (known.ndim - 1))
        if weight is not None:
            loss = loss * weight.view(-1, *[1] * (loss.ndim - 1))
        return torch.where(known, loss, 0).sum() / known.sum().clamp(min=1)


def mixed_prediction(
    logits: Tensor,
    labels: Tensor,
    task: str,
    valid: Tensor | None = None,
    mix: "Mix | None" = None,
) -> Tensor:
    """`prediction` of crops that are mixed: the losses of both labels, mixed alike."""
    if mix is None:
        return prediction(logits, labels, task, valid)
    if valid is not None:
        valid = valid & valid[mix.partner]
    own = prediction(logits, labels, task, valid, mix.weight)
    return own + prediction(logits, labels[mix.partner], task, valid, 1 - mix.weight)


def _full(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _steps_first(
    student: Tensor, teacher: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Two (step, batch, channel), zero where invalid, and valid (step, batch)."""
    x, y = (_full(z)[:, None] if z.ndim == 2 else _full(z) for z in (student, teacher))
    n_batch, n_steps = x.shape[0], max(x.shape[1], y.shape[1])
    shapes = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
    if x.ndim != 3 or y.ndim != 3 or len(y) != n_batch or {x.shape[1], y.shape[1]} - {1, n_steps}:
        raise ConfigError(f"features do not correspond: {shapes}")
    if mask is None:
        valid = torch.ones(n_steps, n_batch, dtype=torch.bool, device=x.device)
    else:
        mask = mask[:, None] if mask.ndim == 1 else mask
        if mask.shape[0] != n_batch or mask.shape[1] not in (1, n_steps):
            raise ConfigError(f"mask {tuple(mask.shape)} does not correspond to {shapes}")
        valid = mask.bool().expand(n_batch, n_steps).T
        x, y = (torch.where(valid.T[..., None], z, 0) for z in (x, y))
    x, y = (z.expand(-1, n_steps, -1).transpose(0, 1) for z in (x, y))
    return x, y, valid


def _distances(x: Tensor, valid: Tensor, pair: Tensor) -> Tensor:
    """Euclidean distances (step, batch, batch) of the pairs that count; 0 for the others."""
    dtype, x = x.dtype, x.double()
    n = valid.sum(-1).clamp(min=1).to(x.dtype)[:, None, None]
    # Without its mean over the batch the Gram matrix loses what the items have in common, and
    # with it nearly all of the cancellation below.
    x = torch.where(valid[..., None], x - x.sum(1, keepdim=True) / n, 0)
    gram = x @ x.mT
    norm = gram.diagonal(dim1=-2, dim2=-1)
    norms = norm[:, :, None] + norm[:, None, :]
    squared = norms - 2 * gram
    apart = pair & (squared > IDENTICAL * norms)  # an item is never apart from itself
    distance = (torch.where(apart, squared, 0) + SQUARED_FLOOR).sqrt()
    return torch.where(pair, distance, 0).to(dtype)


def _centred(distance: Tensor, pair: Tensor, n: Tensor, unbiased: bool) -> Tensor:
    """Double-centred (unbiased: U-centred) distances; zero for pairs that do not count."""
    row = distance.sum(-1, keepdim=True)
    total = row.sum(-2, keepdim=True)
    if unbiased:
        centred = distance - (row + row.mT) / (n - 2) + total / ((n - 1) * (n - 2))
    else:
        centred = distance - (row + row.mT) / n + total / n.square()
    return torch.where(pair, centred, 0)


def _similarities(x: Tensor) -> Tensor:
    """Cosine similarities between items, (step, batch, batch); zero for a zero vector."""
    squared = x.square().sum(-1, keepdim=True)
    zero = squared <= torch.finfo(x.dtype).tiny
    unit = torch.where(zero, 0, x * torch.where(zero, 1, squared).rsqrt())
    return unit @ unit.mT
