"""What one teacher has to say to a student: its compression C, its head H, its distance.

teacher e -> C -> c -> H -> teacher's prediction -> L_teacher       moves C and H alone
student s, c -> L_distance        moves the student (and FitNet's projection); c is detached
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from understudy.errors import ConfigError
from understudy.train import alignment, compression, losses
from understudy.train.stream import Mix


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedding:
    """A teacher's frames of the crops of a batch, standardised."""

    frames: Tensor
    """float32 (batch, frame, channel)."""
    valid: Tensor
    """(batch, frame) bool, False for padding and silence. A crop without any is left out of the
    distance and of L_teacher."""
    centre_s: Tensor | None = None
    """(batch, frame), seconds from the crop's start; needed for alignment "frames" only."""


class Teaching(nn.Module):
    """Losses that one teacher is the source of; holds what is trained beside the student.

    Attributes:
        projection: FitNet's linear layer from the student's to the teacher's width, where there
            is no compression; else None.
        compression: C, with its linear head `head` (H); None without one, and then there is no
            L_teacher either.

    Args:
        distance: A key of `losses.DISTANCES`.
        compression_name, compression_settings: See `compression.build`.
        aligned: "frames": step by step; "mean": means over the crop.
        detach: Keep the distance's gradient out of C.
        task: "multi-label" or "single-label".
        n_classes: Number of labels.
        student_dim, teacher_dim: Channels of the feature map and of the embedding.
    """

    def __init__(
        self,
        distance: str,
        compression_name: str,
        compression_settings: dict[str, Any],
        *,
        aligned: Literal["frames", "mean"],
        detach: bool,
        task: str,
        n_classes: int,
        student_dim: int,
        teacher_dim: int,
    ) -> None:
        super().__init__()
        self.distance = losses.DISTANCES[distance]
        self.aligned = aligned
        self.detach = detach
        self.task = task
        self.projection: nn.Linear | None = None
        self.compression: compression.Compression | None = None
        self.head: nn.Linear | None = None
        if compression_name != "none":
            self.compression = compression.build(
                compression_name, teacher_dim, student_dim, **compression_settings
            )
            if distance == "fitnet" and self.compression.n_out != student_dim:
                raise ConfigError(
                    f"fitnet wants the student's {student_dim} channels, and {compression_name} "
                    f"makes {self.compression.n_out} of the teacher's {teacher_dim}"
                )
            self.head = nn.Linear(self.compression.n_out, n_classes)
        elif distance == "fitnet":
            self.projection = nn.Linear(student_dim, teacher_dim)

    def forward(
        self,
        feature_map: Tensor,
        labels: Tensor,
        embedding: Embedding,
        step_spans: Sequence[Any] | None,
        mix: Mix | None,
    ) -> tuple[Tensor, Tensor]:
        """Distance and L_teacher (0 without a compression), float32 scalars.

        Args:
            feature_map: (batch, step, channel), the student's.
            labels: (batch, label) in -1/0/1, or (batch,) class indices.
            embedding: The teacher's.
            step_spans: The student's `step_spans` of the crop: start and end, (step,) each.
            mix: How the crops were mixed; targets are mixed alike, step by step.
        """
        feature = feature_map.float()
        frames = embedding.frames.detach().float()
        mean, mean_valid = _mixed(*alignment.crop_mean(frames, embedding.valid), mix)
        if self.aligned == "mean":
            feature = feature.mean(1, keepdim=True)
            target, valid = mean[:, None], mean_valid[:, None]
        else:
            target, valid = _mixed(*_by_step(frames, embedding, step_spans), mix)
        if self.compression is not None:
            target = self.compression(target)
            if self.detach:
                target = target.detach()
        if self.projection is not None:
            feature = self.projection(feature)
        distance = self.distance(feature, target, valid)
        if self.compression is None or self.head is None:
            return distance, torch.zeros_like(distance)
        logits = self.head(self.compression(mean))
        return distance, losses.mixed_prediction(logits, labels, self.task, mean_valid, mix)


def _by_step(
    frames: Tensor, embedding: Embedding, step_spans: Sequence[Any] | None
) -> tuple[Tensor, Tensor]:
    if embedding.centre_s is None or step_spans is None:
        raise ConfigError('alignment "frames" wants centre_s and step_spans')
    start_s, end_s = (torch.as_tensor(edge, device=frames.device) for edge in step_spans)
    return alignment.to_steps(frames, embedding.valid, embedding.centre_s, start_s, end_s)


def _mixed(target: Tensor, valid: Tensor, mix: Mix | None) -> tuple[Tensor, Tensor]:
    """Targets mixed as the crops are; valid where both are."""
    if mix is None:
        return target, valid
    weight = mix.weight.view(-1, *[1] * (target.ndim - 1))
    mixed = torch.where(valid[..., None], target, 0)
    mixed = weight * mixed + (1 - weight) * mixed[mix.partner]
    return mixed, valid & valid[mix.partner]
