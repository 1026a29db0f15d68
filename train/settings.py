"""Settings of what a student is trained on, and of how its crops are varied; the paper's systems.

Plain data: reading them needs no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from understudy import config
from understudy.errors import ConfigError, unknown

CompressionName = Literal["none", "linear", "mlp", "pca"]


@dataclass(frozen=True, kw_only=True)
class Share:
    """One of several teachers."""

    weight: float = 1.0
    """Its part of L_distance, relative to the others'."""
    compression: CompressionName | None = None
    """Instead of the system's."""
    compression_settings: dict[str, Any] | None = None
    """Instead of the system's."""

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise ConfigError(f"weight: wanted more than 0, found {self.weight}")


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """What a system is made of."""

    distance: Literal["none", "fitnet", "dc", "dc_unbiased", "cosine"] = "none"
    """Distance between student and teacher; "none" trains on the labels alone."""
    compression: CompressionName = "none"
    """Transformation C of the teacher's embedding, learned from the labels alone ("pca": fitted to
    the training embeddings)."""
    compression_settings: dict[str, Any] = field(default_factory=dict)
    """Settings of that transformation."""
    alignment: Literal["frames", "mean"] = "frames"
    """Compare step by step, or the means over the crop."""
    detach: bool = True
    """Keep the distance's gradient out of C."""
    distance_weight: float = 0.6
    """w of L_student = (1 - w) L_pred + w L_distance."""
    teachers: dict[str, Share] = field(default_factory=dict, metadata={"later": True})
    """What is particular to a teacher, by its name."""

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


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """How training crops are varied; validation never is."""

    gain_db: float = 0.0
    """Level changes by up to this, up or down."""
    mixup: float = 0.0
    """Two crops are mixed, with their labels and embeddings, by a Beta(mixup, mixup) weight."""
    time_masks: int = 0
    """SpecAugment: stretches of the decibel image set to its mean ..."""
    time_mask_s: float = 0.5
    """... each at most this long."""
    band_masks: int = 0
    """SpecAugment: runs of bands set to the image's mean ..."""
    band_mask_bands: int = 16
    """... each at most this wide."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if getattr(self, each.name) < 0:
                raise ConfigError(
                    f"augment.{each.name}: wanted 0 or more, found {getattr(self, each.name)}"
                )

    @property
    def draws(self) -> int:
        """Random numbers for one crop."""
        return 2 + 2 * (self.time_masks + self.band_masks)
