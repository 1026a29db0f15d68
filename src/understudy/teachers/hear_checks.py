"""What a module of the HEAR API must give: shapes, types, and timestamps in milliseconds."""

from typing import Any

import numpy as np
import torch

from understudy.errors import WeightsError

LATE_MS = 1e-3
"""Of rounding, by which the last timestamp may come after the end."""


def checked_scenes(found: Any, n_sounds: int, dim: int, name: str) -> torch.Tensor:
    """Scene embeddings (sound, dim); WeightsError where they break the API."""
    return _checked_embeddings(found, (n_sounds, dim), f"teacher {name}: scene embeddings")


def checked_timestamps(
    found: Any, n_sounds: int, dim: int, duration_ms: float, name: str
) -> tuple[torch.Tensor, np.ndarray]:
    """Embeddings (sound, timestamp, dim) and instants (timestamp,) in seconds.

    Args:
        found: What get_timestamp_embeddings gave.
        n_sounds, dim, duration_ms: Of the sounds it was given.
        name: The teacher's.

    Raises:
        WeightsError: It breaks the API; the message says what was found.
    """
    where = f"teacher {name}: timestamp embeddings"
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise WeightsError(f"{where}: wanted (embeddings, timestamps), found {_kind(found)}")
    embedding, timestamps = found
    n_frames = embedding.shape[1] if getattr(embedding, "ndim", 0) == 3 else 0
    embedding = _checked_embeddings(embedding, (n_sounds, n_frames or -1, dim), where)
    if not isinstance(timestamps, torch.Tensor) or timestamps.shape != embedding.shape[:2]:
        wanted = tuple(embedding.shape[:2])
        raise WeightsError(f"{where}: wanted timestamps {wanted}, found {_kind(timestamps)}")
    milliseconds = timestamps.detach().cpu().double().numpy()
    if not np.isfinite(milliseconds).all():
        raise WeightsError(f"{where}: timestamps are not finite")
    if (milliseconds != milliseconds[0]).any():
        raise WeightsError(f"{where}: timestamps differ between sounds of equal length")
    milliseconds = milliseconds[0]
    late = np.flatnonzero(np.diff(milliseconds) <= 0)
    if len(late):
        before, after = milliseconds[late[0] : late[0] + 2]
        raise WeightsError(
            f"{where}: wanted increasing timestamps, found {after:g} after {before:g} ms"
        )
    first, last = milliseconds[0], milliseconds[-1]
    if 0 < last <= duration_ms / 1000 and duration_ms >= 1000:
        raise WeightsError(
            f"{where}: wanted milliseconds, found a last timestamp of {last:g} for "
            f"{duration_ms:g} ms of audio: these are seconds"
        )
    if first < 0 or last > duration_ms + LATE_MS:
        raise WeightsError(
            f"{where}: wanted timestamps of 0 to {duration_ms:g} ms, found {first:g} to {last:g}"
        )
    return embedding, milliseconds / 1000


def _checked_embeddings(found: Any, shape: tuple[int, ...], where: str) -> torch.Tensor:
    if not isinstance(found, torch.Tensor) or tuple(found.shape) != shape:
        wanted = ", ".join("timestamps" if size < 0 else str(size) for size in shape)
        raise WeightsError(f"{where}: wanted a tensor ({wanted}), found {_kind(found)}")
    if found.dtype != torch.float32:
        raise WeightsError(f"{where}: wanted float32, found {found.dtype}")
    return found


def _kind(found: Any) -> str:
    if isinstance(found, torch.Tensor | np.ndarray):
        return f"{found.dtype} {tuple(found.shape)}"
    return type(found).__name__
