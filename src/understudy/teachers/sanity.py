"""Whether a file of weights is what it should be, by what its network says of a known signal."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from understudy import teachers
from understudy.errors import WeightsError
from understudy.teachers.cards import CARDS

SIGNAL_S = 4.0
TOLERANCE = 1e-3
"""Of every value, in units of the recorded rms: library versions and devices differ by less."""

RECORDED: dict[str, dict[str, float]] = {
    "mn04": {
        "rms": 0.2480173,
        "least": -0.3409542,
        "most": 1.423211,
        "cosine_0": -0.1115319,
        "cosine_1": 0.009539634,
        "cosine_7": -0.002110071,
        "cosine_40": 0.003214738,
    },
}
"""Values of published files, by teacher; see `statistics`."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a check.

    Attributes:
        sha256: Of the file.
        values: Of its network's embedding, see `statistics`.
        recorded: What they should be; None where nothing is recorded.
        problems: In what they differ.
    """

    sha256: str
    values: dict[str, float]
    recorded: dict[str, float] | None
    problems: tuple[str, ...]


def check(name: str, weights: Any = None, device: str = "cpu") -> Verdict:
    """Builds teacher `name` with the file `weights` (by default the published one) and tests it.

    Raises:
        ConfigError: An unknown teacher, one without weights, an extra that is not installed.
        WeightsError: A file that is missing, is altered, or does not fit the network.
    """
    teacher = teachers.build(name, weights, device)
    if teacher.weights_sha256 == "none":
        raise WeightsError(f"teacher {name} has no weights")
    audio = signal(teacher.card.sample_rate)
    import torch

    timeline = teacher.embed(torch.from_numpy(audio))
    values = statistics(timeline.embedding[0].cpu().numpy())
    recorded = RECORDED.get(name)
    problems = [f"{key} is not finite" for key, value in values.items() if not math.isfinite(value)]
    if recorded is not None:
        unit = TOLERANCE * recorded["rms"]
        problems += [
            f"{key} is {values[key]:.6g}, wanted {wanted:.6g}"
            for key, wanted in recorded.items()
            if not abs(values[key] - wanted) <= unit
        ]
    card = CARDS.get(name)
    if card is not None and card.weights_sha256 not in (None, teacher.weights_sha256):
        problems.append(f"sha256 is {teacher.weights_sha256}, wanted {card.weights_sha256}")
    return Verdict(
        sha256=teacher.weights_sha256, values=values, recorded=recorded, problems=tuple(problems)
    )


def signal(rate_hz: int) -> np.ndarray:
    """float32 (1, sample): 4 s of five trembling tones over noise, the same on every machine."""
    time_s = np.arange(round(SIGNAL_S * rate_hz)) / rate_hz
    tones = [
        np.sin(2 * np.pi * hz * time_s) * (1 + np.sin(2 * np.pi * (k + 1) * time_s)) / 20
        for k, hz in enumerate((110.0, 440.0, 1250.0, 3100.0, 6700.0))
    ]
    noise = np.random.Generator(np.random.PCG64(7)).integers(-1000, 1000, len(time_s)) / 50_000
    return (np.sum(tones, axis=0) + noise)[None].astype(np.float32)


def statistics(embedding: np.ndarray) -> dict[str, float]:
    """Of an embedding (time, dim): rms, extremes and four projections on cosines over channels."""
    mean = embedding.astype(np.float64).mean(0)
    place = (np.arange(len(mean)) + 0.5) / len(mean)
    projections = {
        f"cosine_{k}": float(np.mean(mean * np.cos(np.pi * k * place))) for k in (0, 1, 7, 40)
    }
    return {
        "rms": float(np.sqrt(np.mean(np.square(mean)))),
        "least": float(mean.min()),
        "most": float(mean.max()),
        **projections,
    }
