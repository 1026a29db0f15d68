"""What MULE hears: slices of a log-mel spectrogram, and where in a clip they lie."""

import numpy as np
import torch
from torch import nn

from understudy.timing import WindowPlan, frame_centres

RATE_HZ = 16000
WINDOW = 400
HOP = 160
N_FFT = 2048
BANDS = 96
COMPRESSION = 10_000.0
LEAST_DEVIATION = 0.01

SLICE_FRAMES = 300
SLICE_HOP_FRAMES = 200
SLICE_S, SLICE_HOP_S = 3.0, 2.0
SLICE_SAMPLES = WINDOW + (SLICE_FRAMES - 1) * HOP
"""Samples that the frames of a slice see, 3.015 s."""


class SliceLogMel(nn.Module):
    """Windows (batch, samples) at 16 kHz -> standardised log-mels (batch, 96, frames).

    Frames of 400 samples every 160, all inside the window: 1 + floor((samples - 400) / 160).

    Args:
        gain: Of the samples.
    """

    window: torch.Tensor
    bank: torch.Tensor

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.register_buffer("window", gain * torch.hann_window(WINDOW), persistent=False)
        self.register_buffer("bank", _unit_mel_bank(), persistent=False)

    def log_mel(self, audio: torch.Tensor) -> torch.Tensor:
        """log10(1 + 10000 power) of mel bands, not yet standardised."""
        frames = audio.unfold(-1, WINDOW, HOP) * self.window
        spectrum = torch.fft.rfft(frames, N_FFT).transpose(1, 2)
        power = spectrum.real.square() + spectrum.imag.square()
        return torch.log10(1 + COMPRESSION * (self.bank @ power))

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        log_mel = self.log_mel(audio)
        deviation, mean = torch.std_mean(log_mel, (1, 2), correction=0, keepdim=True)
        return (log_mel - mean) / deviation.clamp(min=LEAST_DEVIATION)


def _unit_mel_bank() -> torch.Tensor:
    """(BANDS, bin) on the HTK mel scale, 0-8000 Hz: triangles in Hz, rows of unit L2 norm."""
    hz = torch.arange(N_FFT // 2 + 1, dtype=torch.float64) * RATE_HZ / N_FFT
    highest = 2595 * np.log10(1 + RATE_HZ / 2 / 700)
    mels = torch.linspace(0, highest, BANDS + 2, dtype=torch.float64).unsqueeze(1)
    edges = 700 * (10 ** (mels / 2595) - 1)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (hz - low) / (centre - low), (high - hz) / (high - centre)
    bank = torch.minimum(rising, falling).clamp(min=0)
    return nn.functional.normalize(bank, dim=1).float()


def slice_plan(n_samples: int) -> WindowPlan | None:
    """MULE's own slices of a clip, or None where the clip is too short for one.

    The clip, mirrored at its ends, has a frame centred on every multiple of 160 samples. Slices of
    300 frames are centred on frames 200, 400, ... and moved to lie inside the clip: at 10 s they
    begin at frames 50, 250, 450, 650 and 701.
    """
    n_frames = 1 + n_samples // HOP
    if n_frames < SLICE_FRAMES:
        return None
    half = SLICE_FRAMES // 2
    centre = np.arange(SLICE_HOP_FRAMES, n_frames, SLICE_HOP_FRAMES, dtype=np.int64)
    start = np.clip(centre, half, n_frames - half) - half
    centre_s = frame_centres(len(start), SLICE_S, SLICE_HOP_S, n_samples / RATE_HZ, "centred")
    return WindowPlan(
        start=start * HOP, length=SLICE_SAMPLES, centre_s=centre_s, mirrored=WINDOW // 2
    )
