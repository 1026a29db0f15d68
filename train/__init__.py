"""Stage 2: audio and cached embeddings -> students. `loop` is the path to read."""

from typing import TYPE_CHECKING

from understudy.registry import on_first_use

if TYPE_CHECKING:
    from understudy.train.loop import train, train_group

__all__ = ["train", "train_group"]

# Help on the command line needs no torch.
__getattr__ = on_first_use("understudy.train.loop", __all__)
