"""Bringing a teacher's frames to a student's steps, by time; no loop over the batch.

`embedding` (batch, frame, channel), `valid` (batch, frame) bool: False for padding and silence,
which may hold anything, NaN included.
"""

import torch
from torch import Tensor


def crop_mean(embedding: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each crop's valid frames (batch, channel), and which crops have any (batch,)."""
    weight = valid.to(embedding.dtype)[..., None]
    total = torch.where(valid[..., None], embedding, 0).sum(1)
    return total / weight.sum(1).clamp(min=1), valid.any(1)


def to_steps(
    embedding: Tensor, valid: Tensor, centre_s: Tensor, start_s: Tensor, end_s: Tensor
) -> tuple[Tensor, Tensor]:
    """The teacher at each of the student's steps.

    A step takes the mean of the valid frames whose centre lies in [start, end); without one, the
    valid frame nearest to the step's own centre (frames equally near share it). So a clip-level
    vector serves every step. A crop without valid frames has no valid step.

    Args:
        embedding, valid: See above.
        centre_s: (batch, frame), seconds from the crop's start.
        start_s, end_s: (step,), seconds from the crop's start.

    Returns:
        Embeddings (batch, step, channel), zero where not valid, and valid (batch, step).
    """
    start_s, end_s = (t.to(centre_s)[:, None] for t in (start_s, end_s))
    centre_s = centre_s[:, None, :]
    usable = valid[:, None, :]
    inside = usable & (centre_s >= start_s) & (centre_s < end_s)
    gap_s = (centre_s - (start_s + end_s) / 2).abs().masked_fill(~usable, torch.inf)
    nearest = usable & (gap_s == gap_s.amin(-1, keepdim=True))
    chosen = torch.where(inside.any(-1, keepdim=True), inside, nearest)
    weight = chosen.to(embedding.dtype)
    weight = weight / weight.sum(-1, keepdim=True).clamp(min=1)
    return weight @ torch.where(valid[..., None], embedding, 0), chosen.any(-1)
