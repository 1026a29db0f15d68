"""Stage 2: audio and cached embeddings -> a student. `loop` is the path to read."""

from understudy.train.loop import train

__all__ = ["train"]
