"""Front ends that more than one teacher uses."""

import math

import torch
from torch import nn


class KaldiLogMel(nn.Module):
    """Log-mel of PaSST and EfficientAT at 32 kHz: (batch, samples) -> (batch, 128, frames).

    Pre-emphasis 0.97, STFT with n_fft 1024, hop 320 and a symmetric Hann window of 800, Kaldi mel
    bank from 0 to 15000 Hz, ln(power + 1e-5), then (v + 4.5) / 5. frames = 1 + floor((samples -
    1) / 320); at least 514 samples. This is their evaluation mode; their training mode moves the
    bank's edges and masks at random.

    Source: Koutini et al., Interspeech 2022 (arXiv:2110.05069); Schmid et al., arXiv:2211.04772.
    """

    N_FFT = 1024
    HOP = 320
    WINDOW = 800
    BANDS = 128
    RATE_HZ = 32000
    HIGHEST_HZ = 15000.0

    window: torch.Tensor
    bank: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        hann = torch.hann_window(self.WINDOW, periodic=False)
        self.register_buffer("window", hann, persistent=False)
        bank = kaldi_mel_bank(self.BANDS, self.N_FFT, self.RATE_HZ, self.HIGHEST_HZ)
        self.register_buffer("bank", bank, persistent=False)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        emphasised = audio[:, 1:] - 0.97 * audio[:, :-1]
        spectrum = torch.stft(
            emphasised,
            self.N_FFT,
            self.HOP,
            self.WINDOW,
            self.window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()
        return (torch.log(self.bank @ power + 1e-5) + 4.5) / 5


def kaldi_mel_bank(bands: int, n_fft: int, rate_hz: int, highest_hz: float) -> torch.Tensor:
    """Mel bank float32 (bands, n_fft // 2 + 1) from 0 Hz, with triangles linear in mel.

    mel(f) = 1127 ln(1 + f / 700); peaks of 1, rows not normalised.
    """

    def mel(hz: torch.Tensor) -> torch.Tensor:
        return 1127 * torch.log1p(hz / 700)

    edges = torch.linspace(
        0, 1127 * math.log1p(highest_hz / 700), bands + 2, dtype=torch.float64
    ).unsqueeze(1)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    bins = mel(torch.arange(n_fft // 2 + 1, dtype=torch.float64) * rate_hz / n_fft)
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    return torch.minimum(rising, falling).clamp(min=0).float()
