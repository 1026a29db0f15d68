"""What a student is trained on: its own prediction, and its distance to a teacher's embedding.

teacher e -> C -> c -> H -> teacher's prediction -> L_teacher       moves C and H alone
student   -> logits -> L_pred                                       moves the student alone
student s, c -> L_distance        moves the student (and FitNet's projection); c is detached

L_student = (1 - w) L_pred + w L_distance
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from understudy import config
from understudy.errors import ConfigError, unknown
from understudy.students.base import Student, StudentOutput
from understudy.train import alignment, compression, losses


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """What a system is made of."""

    distance: Literal["none", "fitnet", "dc", "dc_unbiased", "cosine"] = "none"
    """Distance between student and teacher; "none" trains on the labels alone."""
    compression: Literal["none", "linear", "mlp"] = "none"
    """Transformation C of the teacher's embedding, learned from the labels alone."""
    compression_settings: dict[str, Any] = field(default_factory=dict)
    """Settings of that transformation."""
    alignment: Literal["frames", "mean"] = "frames"
    """Compare step by step, or the means over the crop."""
    detach: bool = True
    """Keep the distance's gradient out of C."""
    distance_weight: float = 0.6
    """w of L_student = (1 - w) L_pred + w L_distance."""

    def __post_init__(self) -> None:
        if not 0 <= self.distance_weight <= 1:
            raise ConfigError(f"distance_weight: wanted 0 to 1, found {self.distance_weight}")
        if self.distance == "none" and self.compression != "none":
            raise ConfigError(
                f"compression {self.compression} without a distance has nothing to serve"
            )


SYSTEMS: Mapping[str, ObjectiveSettings] = {
    "baseline": ObjectiveSettings(),
    "fitnet": ObjectiveSettings(distance="fitnet"),
    "fitnet_linear": ObjectiveSettings(distance="fitnet", compression="linear"),
    "dc": ObjectiveSettings(distance="dc"),
    "dc_linear": ObjectiveSettings(distance="dc", compression="linear"),
}
"""The paper's five trained systems. Any other combination starts from one of them."""


def system_settings(system: str, changes: Mapping[str, Any] | None = None) -> ObjectiveSettings:
    """Settings of the preset `system` with `changes` to its fields.

    Raises:
        ConfigError: An unknown system, field or value; the nearest is named.
    """
    if system not in SYSTEMS:
        raise ConfigError(unknown("system", system, SYSTEMS))
    preset = config.to_mapping(SYSTEMS[system])
    merged = {**preset, **(changes or {})}
    return config.from_mapping(ObjectiveSettings, merged, f"system {system}")


class Objective(nn.Module):
    """Losses of one batch; holds what is trained beside the student.

    Attributes:
        projection: FitNet's linear layer from the student's to the teacher's width, where there
            is no compression; else None.
        compression: C, with its linear head `head` (H); None without one, and then there is no
            L_teacher either.

    Args:
        settings: What the system is made of.
        task: "multi-label" or "single-label".
        n_classes: Number of labels.
        student_dim, teacher_dim: Channels of the feature map and of the embedding; `teacher_dim`
            may be None without a distance.
    """

    def __init__(
        self,
        settings: ObjectiveSettings,
        *,
        task: str,
        n_classes: int,
        student_dim: int,
        teacher_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.task = task
        self.projection: nn.Linear | None = None
        self.compression: compression.Compression | None = None
        self.head: nn.Linear | None = None
        if settings.distance == "none":
            return
        if teacher_dim is None:
            raise ConfigError(f"distance {settings.distance} wants a teacher, found none")
        if settings.compression != "none":
            self.compression = compression.build(
                settings.compression, teacher_dim, student_dim, **settings.compression_settings
            )
            self.head = nn.Linear(self.compression.n_out, n_classes)
        elif settings.distance == "fitnet":
            self.projection = nn.Linear(student_dim, teacher_dim)

    def parameter_groups(self, student: Student) -> dict[str, list[nn.Parameter]]:
        """Parameters that share a gradient norm: "student" (with the projection) and "teacher"
        (C and H, often empty)."""
        return {
            "student": [*student.parameters(), *_parameters(self.projection)],
            "teacher": [*_parameters(self.compression), *_parameters(self.head)],
        }

    def forward(
        self,
        output: StudentOutput,
        labels: Tensor,
        teacher: Tensor | None = None,
        frame_valid: Tensor | None = None,
        frame_centre_s: Tensor | None = None,
        step_spans: Sequence[Any] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of one batch, all float32 scalars.

        Args:
            output: The student's.
            labels: (batch, label) in -1/0/1, or (batch,) class indices.
            teacher: (batch, frame, channel), standardised; not needed without a distance.
            frame_valid: (batch, frame) bool, False for padding and silence. A crop without any
                is left out of the distance and of L_teacher.
            frame_centre_s: (batch, frame), seconds from the crop's start.
            step_spans: The student's `step_spans` of the crop: start and end, (step,) each. It
                and `frame_centre_s` are needed for alignment "frames" only.

        Returns:
            "total" = "student" + "teacher", to be minimised; "student" is what validation watches;
            "prediction" and "distance" make it up. Terms a system does not have are 0.
        """
        with torch.autocast(output.logits.device.type, enabled=False):
            prediction = losses.prediction(output.logits, labels, self.task)
            distance = teacher_loss = torch.zeros_like(prediction)
            student_loss = prediction
            if self.settings.distance != "none":
                if teacher is None or frame_valid is None:
                    raise ConfigError(f"distance {self.settings.distance} wants teacher frames")
                teacher = teacher.detach().float()
                mean, mean_valid = alignment.crop_mean(teacher, frame_valid)
                if self.settings.alignment == "mean":
                    feature = output.feature_map.float().mean(1, keepdim=True)
                    target, target_valid = mean[:, None], mean_valid[:, None]
                else:
                    feature = output.feature_map.float()
                    target, target_valid = _by_step(
                        teacher, frame_valid, frame_centre_s, step_spans
                    )
                distance = self._distance(feature, target, target_valid)
                w = self.settings.distance_weight
                student_loss = (1 - w) * prediction + w * distance
                if self.compression is not None and self.head is not None:
                    teacher_logits = self.head(self.compression(mean))
                    teacher_loss = losses.prediction(teacher_logits, labels, self.task, mean_valid)
            return {
                "total": student_loss + teacher_loss,
                "student": student_loss,
                "prediction": prediction,
                "distance": distance,
                "teacher": teacher_loss,
            }

    def _distance(self, feature: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        if self.compression is not None:
            target = self.compression(target)
            if self.settings.detach:
                target = target.detach()
        if self.projection is not None:
            feature = self.projection(feature)
        return losses.DISTANCES[self.settings.distance](feature, target, valid)


def _by_step(
    teacher: Tensor, valid: Tensor, centre_s: Tensor | None, step_spans: Sequence[Any] | None
) -> tuple[Tensor, Tensor]:
    if centre_s is None or step_spans is None:
        raise ConfigError('alignment "frames" wants frame_centre_s and step_spans')
    start_s, end_s = (torch.as_tensor(edge, device=teacher.device) for edge in step_spans)
    return alignment.to_steps(teacher, valid, centre_s, start_s, end_s)


def _parameters(module: nn.Module | None) -> list[nn.Parameter]:
    return [] if module is None else list(module.parameters())
