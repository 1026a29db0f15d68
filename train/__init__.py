"""Stage 2: audio and cached embeddings -> students. `loop` is the path to read."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from understudy.train.loop import train, train_group

__all__ = ["train", "train_group"]


def __getattr__(name: str) -> Any:  # on first use: help on the command line needs no torch
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from understudy.train import loop

    return getattr(loop, name)
