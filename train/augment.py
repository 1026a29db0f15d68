"""Augmentation: gain, mixup and SpecAugment.

Every draw is a function of (seed, epoch, clip), whatever batch the clip is in and whoever asks, so
a group's students see the same and a resumed run goes on exactly. Time is never stretched or moved:
a step of the student stays aligned with its target.
"""

from dataclasses import replace

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from understudy.students.frontend import HOP_SAMPLES, RATE_HZ
from understudy.train.settings import AugmentSettings
from understudy.train.stream import Batch, Mix


class Augment:
    """Augmentation of the crops of one dataset.

    Args:
        settings: What is varied.
        seed: Of all draws.
        n_clips: Rows of the index.
    """

    def __init__(self, settings: AugmentSettings, seed: int, n_clips: int) -> None:
        self.settings = settings
        self._seed = seed
        self._n_clips = n_clips
        self._epoch = -1
        self._table = np.zeros((0, 0))

    def draws(self, epoch: int, rows: np.ndarray) -> np.ndarray:
        """float64 (batch, draw) in [0, 1) of the crops of `rows` in `epoch`."""
        if epoch != self._epoch:
            rng = np.random.default_rng((self._seed, epoch, 1))
            self._table = rng.random((self._n_clips, self.settings.draws))
            self._epoch = epoch
        return self._table[rows]

    def audio(self, epoch: int, batch: Batch) -> Batch:
        """The batch with its audio changed (then float32), and how it was mixed."""
        gain_db, alpha = self.settings.gain_db, self.settings.mixup
        if not gain_db and not alpha:
            return batch
        draws = self.draws(epoch, batch.rows)
        gain = 10 ** (gain_db * (2 * draws[:, :1] - 1) / 20) / 32_768
        audio = batch.audio.float() * _tensor(gain, batch.audio)
        if not alpha:
            return replace(batch, audio=audio)
        mix = Mix(
            partner=torch.arange(len(audio), device=audio.device).roll(1),
            weight=_tensor(stats.beta.ppf(draws[:, 1], alpha, alpha), audio),
        )
        weight = mix.weight[:, None]
        audio = weight * audio + (1 - weight) * audio[mix.partner]
        return replace(batch, audio=audio, mix=mix)

    def image(self, epoch: int, rows: np.ndarray, image: Tensor) -> Tensor:
        """The decibel image (batch, image, band, frame) with its masks."""
        chosen = self.settings
        if not chosen.time_masks and not chosen.band_masks:
            return image
        draws = self.draws(epoch, rows)[:, 2:]
        n_time = 2 * chosen.time_masks
        longest = chosen.time_mask_s * RATE_HZ / HOP_SAMPLES
        hidden = _spans(draws[:, :n_time], longest, image.shape[3], image)[:, None, None, :]
        bands = _spans(draws[:, n_time:], chosen.band_mask_bands, image.shape[2], image)
        hidden = hidden | bands[:, None, :, None]
        return torch.where(hidden, image.mean((2, 3), keepdim=True), image)


def _spans(draws: np.ndarray, longest: float, size: int, like: Tensor) -> Tensor:
    """bool (batch, size): inside one of the spans that pairs of draws (length, place) tell."""
    length = np.floor(draws[:, 0::2] * (min(longest, size) + 1))
    start = np.floor(draws[:, 1::2] * (size - length + 1))
    place = np.arange(size)
    inside = (place >= start[..., None]) & (place < (start + length)[..., None])
    return torch.from_numpy(inside.any(axis=1)).to(like.device)


def _tensor(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like.device, torch.float32)
