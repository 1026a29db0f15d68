"""Peak memory of a call, on a GPU or of this process."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_PROCESS = Path("/proc/self")


def peak_mb(call: Callable[[], Any], device: str) -> float | None:
    """Most memory (MB) that a call takes beyond what was held before it.

    On a CPU it is that of the whole process, from Linux's own count; None where nothing tells.
    """
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier passes left is not there already
        (_PROCESS / "clear_refs").write_text("5")  # the peak starts anew
        before_kb = _status_kb("VmRSS")
        call()
        return (_status_kb("VmHWM") - before_kb) * 1024 / 1e6
    except (OSError, AttributeError):
        return None


def _status_kb(field: str) -> int:
    lines = (_PROCESS / "status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
