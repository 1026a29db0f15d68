"""Passes of a teacher over batches of windows, whatever memory allows."""

from contextlib import AbstractContextManager, nullcontext
from weakref import WeakKeyDictionary

import numpy as np
import torch

from understudy.errors import UnderstudyError
from understudy.teachers.base import Teacher


def strict(device: torch.device) -> AbstractContextManager[None]:
    """Keeps cuDNN from rounding float32 to TF32, and from choosing algorithms by a race."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )


FATAL = (torch.AcceleratorError,)
"""After these, every further call of this process fails, too."""
HOPELESS = 32  # clips that a teacher fails on, having embedded none, before the run ends

_MOST_WINDOWS: WeakKeyDictionary[Teacher, int] = WeakKeyDictionary()
"""Largest batch of each teacher that memory held, of those for which it ran out."""


def forward(teacher: Teacher, windows: np.ndarray) -> tuple[torch.Tensor, int]:
    """Embeddings of windows, (batch, channel) on the teacher's device, perhaps still computed.

    Where memory runs out, batches of this teacher are halved from then on, down to one window.

    Returns:
        The embeddings, and by how many passes more than one they were made.
    """
    batch = torch.from_numpy(windows)
    if teacher.device.type == "cuda":
        batch = batch.pin_memory().to(teacher.device, non_blocking=True)
    while True:
        most = _MOST_WINDOWS.get(teacher, len(batch))
        try:
            with strict(teacher.device):
                parts = [teacher.forward(part) for part in batch.split(most)]
        except torch.OutOfMemoryError:
            most = min(most, len(batch))
            if most == 1:
                raise
            _MOST_WINDOWS[teacher] = most // 2
        else:
            return torch.cat(parts), len(parts) - 1


_FAILED: WeakKeyDictionary[Teacher, int] = WeakKeyDictionary()
"""Clips that each teacher failed on before it embedded any; -1 once it has."""


def count(teacher: Teacher, error: Exception | None) -> str:
    """Notes whether `teacher` embedded a clip; what a ledger says about `error`.

    Raises:
        UnderstudyError: It never embeds any.
    """
    failed = _FAILED.get(teacher, 0)
    if error is None:
        _FAILED[teacher] = -1
        return ""
    text = " ".join(str(error).split()) or type(error).__name__
    reason = f"teacher {teacher.card.name}: {type(error).__name__}: {text[:200]}"
    if isinstance(error, UnderstudyError):
        reason = text
    if failed >= 0:
        _FAILED[teacher] = failed + 1
        if failed + 1 >= HOPELESS:
            raise UnderstudyError(f"{reason} (on each of its first {HOPELESS} clips)") from error
    return reason
