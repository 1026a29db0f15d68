"""PANNs' CNN14: twelve 3 x 3 convolutions over a log-mel spectrogram.

Own implementation from the facts of the paper (arXiv:1912.10211); its state_dict has the
published keys and shapes, less the three constants of the front end that are stored with them.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.functional import avg_pool2d
from torch.nn.utils.fusion import fuse_conv_bn_eval

from understudy.errors import WeightsError
from understudy.teachers.tagger import CLASSES, Tagger

CHANNELS = (64, 128, 256, 512, 1024, 2048)
DIM = CHANNELS[-1]
MEL_KEY = "logmel_extractor.melW"
DFT_KEYS = (
    "spectrogram_extractor.stft.conv_real.weight",
    "spectrogram_extractor.stft.conv_imag.weight",
)


class SlaneyLogMel(nn.Module):
    """(batch, samples) at 32 kHz -> decibels (batch, frames, 64); at least 513 samples.

    STFT with n_fft 1024, hop 320 and a periodic Hann window, centred, reflected at the ends; power
    in 64 Slaney mel bands of equal area from 50 to 14000 Hz; 10 log10 of it, from -100 dB on.
    frames = 1 + floor(samples / 320).
    """

    N_FFT = 1024
    HOP = 320
    BANDS = 64
    RATE_HZ = 32000
    RANGE_HZ = (50.0, 14000.0)
    FLOOR = 1e-10

    window: torch.Tensor
    bank: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(self.N_FFT), persistent=False)
        bank = slaney_mel_bank(self.BANDS, self.N_FFT, self.RATE_HZ, *self.RANGE_HZ)
        self.register_buffer("bank", bank, persistent=False)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        spectrum = torch.stft(
            audio,
            self.N_FFT,
            self.HOP,
            window=self.window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        power = (spectrum.real.square() + spectrum.imag.square()).transpose(1, 2)
        return 10 * torch.log10((power @ self.bank.T).clamp(min=self.FLOOR))


def slaney_mel_bank(
    bands: int, n_fft: int, rate_hz: int, lowest_hz: float, highest_hz: float
) -> torch.Tensor:
    """Mel bank float32 (bands, n_fft // 2 + 1): triangles linear in Hz, of area 1 Hz.

    Slaney's scale: 200/3 Hz a mel up to 1000 Hz (mel 15), then a factor 6.4 in 27 mels.

    Source: M. Slaney, Auditory Toolbox, Interval Research report 1998-010.
    """
    step = math.log(6.4) / 27

    def mel(hz: float) -> float:
        return hz * 3 / 200 if hz < 1000 else 15 + math.log(hz / 1000) / step

    mels = torch.linspace(mel(lowest_hz), mel(highest_hz), bands + 2, dtype=torch.float64)
    edges = torch.where(mels < 15, mels * 200 / 3, 1000 * torch.exp((mels - 15) * step))
    low, centre, high = (edges[k : k + bands].unsqueeze(1) for k in range(3))
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * rate_hz / n_fft
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return (triangles * 2 / (high - low)).float()


class ConvBlock(nn.Module):
    """Two convolutions, each with batch normalisation and ReLU."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(n_out)
        self.bn2: nn.Module = nn.BatchNorm2d(n_out)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        image = torch.relu(self.bn1(self.conv1(image)))
        return torch.relu(self.bn2(self.conv2(image)))

    def fold(self) -> None:
        """Puts the normalisations into the convolutions."""
        self.conv1 = fuse_conv_bn_eval(self.conv1, self.bn1)  # type: ignore[arg-type]
        self.conv2 = fuse_conv_bn_eval(self.conv2, self.bn2)  # type: ignore[arg-type]
        self.bn1, self.bn2 = nn.Identity(), nn.Identity()


class Cnn14(nn.Module):
    """Decibels (batch, frames, 64) -> logits (batch, 527), embedding (batch, 2048).

    At least 32 frames; the last map has a step for every 32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(SlaneyLogMel.BANDS)
        for number, (n_in, n_out) in enumerate(zip((1, *CHANNELS), CHANNELS, strict=False), 1):
            self.add_module(f"conv_block{number}", ConvBlock(n_in, n_out))
        self.fc1 = nn.Linear(DIM, DIM)
        self.fc_audioset = nn.Linear(DIM, CLASSES)

    @property
    def blocks(self) -> list[ConvBlock]:
        """The convolution blocks, first to last."""
        return [module for module in self.children() if isinstance(module, ConvBlock)]

    def feature_map(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Mean over frequency of the last block's map, (batch, 2048, frames // 32)."""
        image = self.bn0(log_mel.transpose(1, 2).unsqueeze(3))  # bands in the place of channels
        image = image.permute(0, 3, 2, 1)
        *halving, last = self.blocks
        for block in halving:
            image = avg_pool2d(block(image), 2)
        return last(image).mean(3)

    def embed(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Embedding (batch, 2048) alone."""
        steps = self.feature_map(log_mel)
        return torch.relu(self.fc1(steps.amax(2) + steps.mean(2)))

    def forward(self, log_mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedding = self.embed(log_mel)
        return self.fc_audioset(embedding), embedding


def folded(network: Cnn14) -> Cnn14:
    """`network` (eval) with its convolutions' batch normalisations folded into them, in place.

    The same function to rounding, quicker in channels-last order; its state_dict is no longer the
    published one.
    """
    for block in network.blocks:
        block.fold()
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class Panns(Tagger):
    """Teacher `panns`. Its network is folded."""

    def _make_front_end(self) -> SlaneyLogMel:
        return SlaneyLogMel()

    def _make_network(self) -> Cnn14:
        return Cnn14()

    def _prepared(self, network: nn.Module) -> nn.Module:
        assert isinstance(network, Cnn14)
        return folded(network)

    def _state(self, content: Mapping[Any, Any]) -> Any:
        """The checkpoint's "model", or a bare state_dict, without the front end's constants.

        WeightsError where those are of another front end: CNN14 for 16 kHz has the same network.
        """
        state = content.get("model", content)
        if not isinstance(state, Mapping):
            return state
        bank, found = self.front_end.get_buffer("bank").cpu(), state.get(MEL_KEY)
        if isinstance(found, torch.Tensor) and not (
            found.shape == bank.T.shape and torch.allclose(found, bank.T, atol=1e-6)
        ):
            raise WeightsError(
                f"weights of another front end: {MEL_KEY} holds other mel bands than wanted "
                f"({self.card.front_end})"
            )
        return {key: value for key, value in state.items() if key not in (MEL_KEY, *DFT_KEYS)}
