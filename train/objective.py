"""What a student is trained on: its own prediction, and its distance to teachers' embeddings.

student -> logits -> L_pred                                         moves the student alone
student, teachers -> L_distance, L_teacher                          see `teaching`

L_student = (1 - w) L_pred + w L_distance
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from understudy.errors import ConfigError, unknown
from understudy.students.base import Student, StudentOutput
from understudy.train import losses
from understudy.train.settings import ObjectiveSettings, Share
from understudy.train.stream import Mix
from understudy.train.teaching import Embedding, Teaching


class Objective(nn.Module):
    """Losses of one batch; holds what is trained beside the student.

    Attributes:
        teachings: One `Teaching` for each teacher, in the order of `teacher_dims`.

    Args:
        settings: What the system is made of.
        task: "multi-label" or "single-label".
        n_classes: Number of labels.
        student_dim: Channels of the feature map.
        teacher_dims: Channels of the embedding of each teacher, by name; none without a distance.
    """

    def __init__(
        self,
        settings: ObjectiveSettings,
        *,
        task: str,
        n_classes: int,
        student_dim: int,
        teacher_dims: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.task = task
        self.teachings = nn.ModuleList()
        self.weights: list[float] = []
        if settings.distance == "none":
            return
        if not teacher_dims:
            raise ConfigError(f"distance {settings.distance} wants a teacher, found none")
        for name in settings.teachers:
            if name not in teacher_dims:
                raise ConfigError(f"distill.teachers: {unknown('teacher', name, teacher_dims)}")
        shares = {name: settings.teachers.get(name, Share()) for name in teacher_dims}
        total = sum(share.weight for share in shares.values())
        for name, share in shares.items():
            self.weights.append(share.weight / total)
            own = share.compression_settings
            teaching = Teaching(
                settings.distance,
                share.compression or settings.compression,
                settings.compression_settings if own is None else own,
                aligned=settings.alignment,
                detach=settings.detach,
                task=task,
                n_classes=n_classes,
                student_dim=student_dim,
                teacher_dim=teacher_dims[name],
            )
            self.teachings.append(teaching)

    def parameter_groups(self, student: Student) -> dict[str, list[nn.Parameter]]:
        """Parameters that share a gradient norm: "student" (with the projections), and "teacher 0"
        and so on (C and H of each, often empty)."""
        groups = {"student": list(student.parameters())}
        for number, teaching in enumerate(self.teachings):
            groups["student"] += _parameters(teaching.projection)
            groups[f"teacher {number}"] = [
                *_parameters(teaching.compression),
                *_parameters(teaching.head),
            ]
        return groups

    def forward(
        self,
        output: StudentOutput,
        labels: Tensor,
        embeddings: Sequence[Embedding] = (),
        step_spans: Sequence[Any] | None = None,
        mix: Mix | None = None,
    ) -> dict[str, Tensor]:
        """Losses of one batch, all float32 scalars.

        Args:
            output: The student's.
            labels: (batch, label) in -1/0/1, or (batch,) class indices.
            embeddings: One for each teacher; not needed without a distance.
            step_spans: The student's `step_spans` of the crop: start and end, (step,) each; needed
                for alignment "frames" only.
            mix: How the crops of the batch were mixed with each other, if they were.

        Returns:
            "total" = "student" + "teacher", to be minimised; "student" is what validation watches;
            "prediction" and "distance" make it up. Terms a system does not have are 0.
        """
        with torch.autocast(output.logits.device.type, enabled=False):
            prediction = losses.mixed_prediction(output.logits, labels, self.task, mix=mix)
            distance = teacher_loss = torch.zeros_like(prediction)
            student_loss = prediction
            if self.teachings:
                if len(embeddings) != len(self.teachings):
                    raise ConfigError(f"distance {self.settings.distance} wants teacher frames")
                for teaching, weight, embedding in zip(
                    self.teachings, self.weights, embeddings, strict=True
                ):
                    away, own = teaching(output.feature_map, labels, embedding, step_spans, mix)
                    distance = distance + weight * away
                    teacher_loss = teacher_loss + own
                w = self.settings.distance_weight
                student_loss = (1 - w) * prediction + w * distance
            return {
                "total": student_loss + teacher_loss,
                "student": student_loss,
                "prediction": prediction,
                "distance": distance,
                "teacher": teacher_loss,
            }


def _parameters(module: Any) -> list[nn.Parameter]:
    return [] if module is None else list(module.parameters())
