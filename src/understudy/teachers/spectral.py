"""`spectral`: a hand-made embedding without weights, every dimension of which has a name.

Statistics over a window's frames of log-mel bands, MFCC, chroma, spectral contrast, onset
strength and spectral shape, in the usual definitions (Mueller, Fundamentals of Music Processing;
Jiang et al. 2002 for contrast). A teacher for tests and for baselines without any training data.
"""

import math
from itertools import pairwise

import torch
from torch import nn

from understudy.teachers.base import Teacher

RATE_HZ = 16000
N_FFT = 2048
HOP = 320
BANDS = 64
MFCC = 20
CHROMA_HZ = (130.0, 4000.0)
CONTRAST_EDGES_HZ = (100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0, 8000.0)
CONTRAST_SHARE = 0.2
ROLL_OFF_SHARE = 0.85
FLOOR = 1e-10
"""Power added before every logarithm and share: -100 dB of a full-scale sine."""

PITCH_CLASSES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
SHAPES = ("level", "centroid", "bandwidth", "roll_off", "flatness")
FRAME_FEATURES = (
    *(f"log_mel_{band:02d}" for band in range(BANDS)),
    *(f"mfcc_{order:02d}" for order in range(MFCC)),
    *(f"chroma_{name}" for name in PITCH_CLASSES),
    *(f"contrast_{low:.0f}_hz" for low in CONTRAST_EDGES_HZ[:-1]),
    *SHAPES,
    "onset",
)
DIMENSIONS = (
    *(f"{name}_mean" for name in FRAME_FEATURES),
    *(f"{name}_std" for name in FRAME_FEATURES),
    "onset_max",
    "zero_crossings",
)
"""Names of the embedding's values, in order.

Log-mel, MFCC, contrast, level and onset are in units of 50 dB (log-mel and level plus 1, so that
-100 dB is -1 and a full-scale sine about 1); chroma are shares of a frame's energy; centroid,
bandwidth and roll-off are fractions of 8000 Hz; flatness and zero crossings lie in 0 to 1.
"""


class SpectralFeatures(nn.Module):
    """(batch, samples) at 16 kHz -> (batch, len(DIMENSIONS)); at least 2048 samples.

    Frames of 2048 samples (128 ms) every 320 (20 ms), fully inside the window.
    """

    window: torch.Tensor
    mel: torch.Tensor
    dct: torch.Tensor
    chroma: torch.Tensor
    fraction: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        hz = torch.arange(N_FFT // 2 + 1, dtype=torch.float64) * RATE_HZ / N_FFT
        window = torch.hann_window(N_FFT)
        constants = {
            "window": window * 2 / window.sum(),  # a full-scale sine on a bin has power 1
            "mel": _mel_bank(hz),
            "dct": _dct(MFCC, BANDS),
            "chroma": _chroma_bank(hz),
            "fraction": (hz * 2 / RATE_HZ).unsqueeze(1),
        }
        for name, value in constants.items():
            self.register_buffer(name, value.float(), persistent=False)
        self.contrast_bins = [
            slice(math.ceil(low * N_FFT / RATE_HZ), math.ceil(high * N_FFT / RATE_HZ))
            for low, high in pairwise(CONTRAST_EDGES_HZ)
        ]

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        frames = audio.unfold(-1, N_FFT, HOP)
        spectrum = torch.fft.rfft(frames * self.window).transpose(1, 2)
        power = spectrum.real.square() + spectrum.imag.square()  # (batch, bin, frame)
        log_power = decibels(power)
        log_mel = decibels(self.mel @ power) + 1
        chroma = self.chroma @ power + FLOOR
        rise = torch.relu(log_mel[:, :, 1:] - log_mel[:, :, :-1]).mean(1, keepdim=True)
        onset = nn.functional.pad(rise, (1, 0))
        features = torch.cat(
            [
                log_mel,
                self.dct @ log_mel,
                chroma / chroma.sum(1, keepdim=True),
                *(self._contrast(log_power[:, bins]) for bins in self.contrast_bins),
                decibels(2 * frames.square().mean(-1)).unsqueeze(1) + 1,
                *self._shape(power, log_power),
                onset,
            ],
            dim=1,
        )
        crossings = (audio[:, 1:] * audio[:, :-1] < 0).float().mean(1, keepdim=True)
        return torch.cat(
            [features.mean(2), features.std(2, correction=0), onset.amax(2), crossings], dim=1
        )

    def _contrast(self, log_power: torch.Tensor) -> torch.Tensor:
        """Mean of a band's loudest bins less that of its softest, (batch, 1, frame)."""
        n = max(1, round(CONTRAST_SHARE * log_power.shape[1]))
        loud = log_power.topk(n, 1, sorted=False).values
        soft = log_power.topk(n, 1, largest=False, sorted=False).values
        return (loud.mean(1) - soft.mean(1)).unsqueeze(1)

    def _shape(self, power: torch.Tensor, log_power: torch.Tensor) -> list[torch.Tensor]:
        """Centroid, bandwidth, roll-off and flatness, each (batch, 1, frame)."""
        power = power + FLOOR
        total = power.sum(1, keepdim=True)
        share = power / total
        centroid = (share * self.fraction).sum(1, keepdim=True)
        variance = (share * (self.fraction - centroid).square()).sum(1, keepdim=True)
        below = share.cumsum(1) < ROLL_OFF_SHARE
        roll_off = below.float().mean(1, keepdim=True)
        geometric = 10 ** (5 * log_power.mean(1, keepdim=True))
        flatness = geometric / (total / power.shape[1])
        return [centroid, variance.sqrt(), roll_off, flatness]


def decibels(power: torch.Tensor) -> torch.Tensor:
    """Power, 1 for a full-scale sine, in units of 50 dB; zero power gives -2."""
    return torch.log10(power + FLOOR) / 5


def _mel_bank(hz: torch.Tensor) -> torch.Tensor:
    """(BANDS, bin): HTK mel scale, triangles linear in frequency with peaks of 1."""
    highest = 2595 * math.log10(1 + RATE_HZ / 2 / 700)
    mels = torch.linspace(0, highest, BANDS + 2, dtype=torch.float64).unsqueeze(1)
    edges = 700 * (10 ** (mels / 2595) - 1)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (hz - low) / (centre - low), (high - hz) / (high - centre)
    return torch.minimum(rising, falling).clamp(min=0)


def _dct(n_out: int, n_in: int) -> torch.Tensor:
    """Orthonormal DCT-II, (n_out, n_in)."""
    order = torch.arange(n_out, dtype=torch.float64).unsqueeze(1)
    place = (torch.arange(n_in, dtype=torch.float64) + 0.5) / n_in
    matrix = torch.cos(math.pi * order * place) * math.sqrt(2 / n_in)
    matrix[0] /= math.sqrt(2)
    return matrix


def _chroma_bank(hz: torch.Tensor) -> torch.Tensor:
    """(12, bin): each bin within CHROMA_HZ belongs to its nearest pitch class, A being 440 Hz."""
    bank = torch.zeros(12, len(hz), dtype=torch.float64)
    bins = torch.nonzero((hz >= CHROMA_HZ[0]) & (hz <= CHROMA_HZ[1])).squeeze(1)
    pitch = torch.round(69 + 12 * torch.log2(hz[bins] / 440)).long()
    bank[pitch % 12, bins] = 1
    return bank


class Spectral(Teacher):
    """Teacher `spectral`; `dimensions` names its values."""

    dimensions = DIMENSIONS

    def _make_front_end(self) -> SpectralFeatures:
        return SpectralFeatures()

    def _make_network(self) -> None:
        return None
