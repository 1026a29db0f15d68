"""What the Discogs-EffNet models hear: Essentia's `TensorflowInputMusiCNN`, and its patches.

Essentia adds up the band edges in float32, and that rounding reaches the features: a bank made in
float64 changes them by up to 6e-4, beside a strong tone. So the bank here rounds where it does.
"""

import numpy as np
import torch
from torch import nn

RATE_HZ = 16000
FRAME = 512
HOP = 256
BANDS = 96
COMPRESSION = 10_000.0

PATCH_FRAMES = 128
PATCH_HOP_FRAMES = 62
PATCH_S, PATCH_HOP_S = PATCH_FRAMES * HOP / RATE_HZ, PATCH_HOP_FRAMES * HOP / RATE_HZ
PATCH_SAMPLES = FRAME + (PATCH_FRAMES - 1) * HOP
"""Samples that the frames of a patch see, 2.064 s."""
LEAD = FRAME // 2
"""Zeros before a clip: its first frame is centred on its first sample."""


class MusicnnLogMel(nn.Module):
    """Audio (batch, samples) at 16 kHz -> log10(1 + 10000 power) of mel bands (batch, frame, 96).

    Frames of 512 samples every 256, all inside the audio: 1 + floor((samples - 512) / 256).
    """

    window: torch.Tensor
    bank: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(FRAME, periodic=False), persistent=False)
        self.register_buffer("bank", torch.from_numpy(slaney_bank()), persistent=False)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft(audio.unfold(-1, FRAME, HOP) * self.window)
        power = spectrum.real.square() + spectrum.imag.square()
        return torch.log10(1 + COMPRESSION * (power @ self.bank.T))


def n_frames(n_samples: int) -> int:
    """Frames that Essentia cuts from a clip: the last is the first centred at or behind its end."""
    return 1 - (-n_samples // HOP)


def patches(log_mel: torch.Tensor) -> torch.Tensor:
    """Patches (batch, patch, 128, 96) of (batch, frame, 96), every 62 frames.

    Fewer frames than 128 are repeated cyclically.
    """
    frames = log_mel.shape[1]
    if frames < PATCH_FRAMES:
        repeated = torch.arange(PATCH_FRAMES, device=log_mel.device) % frames
        log_mel = log_mel[:, repeated]
    return log_mel.unfold(1, PATCH_FRAMES, PATCH_HOP_FRAMES).transpose(2, 3)


def slaney_bank() -> np.ndarray:
    """Mel bank float32 (96, 257), 0-8000 Hz: Slaney's scale and area norm, rounded as Essentia."""
    one = np.float32
    slope, step, corner_hz = one(0.015), one(np.log(6.4) / 27), one(1000)
    corner = one(corner_hz * slope)
    highest = corner + one(np.log(one(RATE_HZ / 2) / corner_hz)) / step
    mels = np.cumsum(np.full(BANDS + 2, highest / one(BANDS + 1)), dtype=one)
    mels = np.concatenate([[one(0)], mels[:-1]])
    above = np.exp(((mels - corner) * step).astype(np.float64)).astype(one)
    edges = np.where(mels < corner, mels / slope, corner_hz * above)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    hz = np.arange(FRAME // 2 + 1, dtype=one) * one(RATE_HZ / FRAME)
    rising = np.where((low <= hz) & (hz < centre), (hz - low) / (centre - low), one(0))
    falling = np.where((centre <= hz) & (hz < high), (high - hz) / (high - centre), one(0))
    return (rising + falling) / (((centre - low) + (high - centre)) / one(2))
