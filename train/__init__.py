"""Stage 2: audio and cached embeddings -> students. `loop` is the path to read."""

from understudy.train.loop import train, train_group

__all__ = ["train", "train_group"]
