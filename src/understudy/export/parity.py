"""Whether an exported network is the student: the same logits, at several lengths and batches."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from understudy.errors import UnderstudyError
from understudy.export.graphs import Entry
from understudy.students.base import Student

TOLERANCE = 1e-4
"""Largest difference from torch's logits, over their root mean square."""
DURATIONS_S = (0.5, 3.7, 5.0, 30.0)
BATCHES = (1, 7)

Network = Callable[[Tensor], Tensor]


@torch.no_grad()
def errors(student: Student, networks: Mapping[str, tuple[Network, Entry]]) -> dict[str, float]:
    """Of every network the largest difference from the student's logits, over their rms.

    Noise that fades, of DURATIONS_S in batches of BATCHES; a wrong shape or what is not finite is
    infinitely wrong.
    """
    worst = dict.fromkeys(networks, 0.0)
    for duration_s in DURATIONS_S:
        for batch in BATCHES:
            audio = probe_sound(batch, round(duration_s * student.sample_rate))
            fed = {"audio": audio, "log_mel": student.front_end(audio)}
            wanted = student.from_image(fed["log_mel"]).logits
            rms = wanted.square().mean().sqrt()
            for name, (network, entry) in networks.items():
                found = network(fed[entry])
                error = float("inf")
                if found.shape == wanted.shape and found.isfinite().all():
                    error = float((found - wanted).abs().max() / rms)
                worst[name] = max(worst[name], error)
    return worst


def require_small(error: float, where: str) -> None:
    """Raises UnderstudyError, and so no file gets its name, where `error` is beyond TOLERANCE."""
    if not error <= TOLERANCE:
        raise UnderstudyError(
            f"{where}: its logits differ from torch's by {error:.2g} of their rms, wanted at most "
            f"{TOLERANCE:g}; nothing was exported"
        )


def probe_sound(batch: int, n_samples: int) -> Tensor:
    """Seeded noise (batch, samples), each sound louder than the one before and fading."""
    generator = torch.Generator().manual_seed(n_samples)
    noise = 2 * torch.rand(batch, n_samples, generator=generator) - 1
    gain = torch.logspace(-2, 0, batch + 1)[1:, None]
    return gain * torch.linspace(1, 0, n_samples) * noise
