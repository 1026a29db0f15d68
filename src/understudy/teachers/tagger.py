"""Teachers whose network is a tagger: an embedding, and logits made from it."""

from typing import cast

import torch

from understudy.teachers.base import Teacher

CLASSES = 527
"""AudioSet classes."""


class Tagger(Teacher):
    """Its network has `embed(features)`, and gives (logits, embedding) when called."""

    def _embed(self, features: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.network.embed(features))  # type: ignore[union-attr,operator]

    def logits(self, windows: torch.Tensor) -> torch.Tensor:
        """AudioSet logits (batch, 527) of windows (batch, samples), in one pass.

        Probabilities are their sigmoid, which is the caller's.
        """
        assert self.network is not None
        network = self.network
        with torch.no_grad():
            windows = windows.to(self.device, torch.float32)
            return self._compute(lambda features: network(features)[0], windows)
