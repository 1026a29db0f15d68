"""Front ends of the students: 16 kHz audio to decibel images, always in float32.

Their constants are computed here, never loaded or saved: published checkpoints store them in
several shapes, or not at all.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

RATE_HZ = 16_000
N_FFT = 512
HOP_SAMPLES = 256
N_BINS = N_FFT // 2 + 1
N_BANDS = 128
N_HARMONICS = 6
FLOOR_POWER = 1e-10


class FrontEnd(nn.Module):
    """Power spectrogram, a filter bank, decibels.

    STFT: 512-point periodic Hann window, hop 256 samples, centred with reflect padding, power,
    not normalised. Decibels: 10 log10(max(power, 1e-10)), no limit on the range.

    Shape:
        audio (batch, samples), samples >= 257 -> (batch, image, band, frame),
        frame = 1 + samples // 256.
    """

    n_images = 1
    published: tuple[str, ...] = ()
    """Keys of constants in published checkpoints, below this module's own; loading ignores them."""

    def __init__(self) -> None:
        super().__init__()
        for name, value in self._constants().items():
            self.register_buffer(name, value, persistent=False)
        self.register_load_state_dict_pre_hook(_drop_published)

    def _constants(self) -> Mapping[str, Tensor]:
        return {"window": torch.hann_window(N_FFT, periodic=True, dtype=torch.float32)}

    def _apply(self, fn, recurse=True):
        # `.half()` or `.to_empty()` must not reach the constants; only the device may change.
        super()._apply(fn, recurse)
        for name, value in self._constants().items():
            setattr(self, name, value.to(getattr(self, name).device))
        return self

    def bank(self) -> Tensor:
        """Weights of the filter bank, (bin, image * band) float32."""
        raise NotImplementedError

    def forward(self, audio: Tensor) -> Tensor:
        """Decibel images (batch, image, band, frame) float32; int16 audio is divided by 32768."""
        with torch.autocast(audio.device.type, enabled=False):
            scale = 1 / 32768 if audio.dtype == torch.int16 else 1.0
            spectrum = torch.stft(
                audio.float() * scale,
                N_FFT,
                hop_length=HOP_SAMPLES,
                window=self.get_buffer("window"),
                center=True,
                pad_mode="reflect",
                return_complex=True,
            )
            return self.decibels(torch.view_as_real(spectrum).square().sum(-1))

    def decibels(self, power: Tensor) -> Tensor:
        """Decibel images (batch, image, band, frame) of power (batch, bin, frame)."""
        banded = self.bank().T @ power
        return (10 * banded.clamp(min=FLOOR_POWER).log10()).unflatten(1, (self.n_images, N_BANDS))


def _drop_published(module, state_dict, prefix, *_) -> None:
    for key in module.published:
        state_dict.pop(prefix + key, None)


class MelFrontEnd(FrontEnd):
    """128 triangular HTK mel bands from 0 to 8000 Hz, linear in Hz, without area normalisation.

    Band 0 lies between two bins and is empty: it reads -100 dB always.
    """

    published = ("spectrogram.window", "mel_scale.fb")

    def _constants(self) -> Mapping[str, Tensor]:
        top_mel = 2595 * np.log10(1 + RATE_HZ / 2 / 700)
        edges_hz = 700 * (10 ** (np.linspace(0, top_mel, N_BANDS + 2) / 2595) - 1)
        bins_hz = np.linspace(0, RATE_HZ / 2, N_BINS)[:, None]
        low_hz, centre_hz, high_hz = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
        rise = (bins_hz - low_hz) / (centre_hz - low_hz)
        fall = (high_hz - bins_hz) / (high_hz - centre_hz)
        mel = torch.from_numpy(np.maximum(0, np.minimum(rise, fall))).float()
        return {**super()._constants(), "mel": mel}

    def bank(self) -> Tensor:
        return self.get_buffer("mel")


class HarmonicFrontEnd(FrontEnd):
    """Triangular bands at 128 pitches and their first six harmonics, one image per harmonic.

    Pitches go up in half semitones from C1 (32.703 Hz, MIDI 24) up to, not including, MIDI 88.
    The band at f is (0.1079 f + 24.7) / bw_Q wide, and bw_Q is learned: the bank is recomputed in
    every forward.
    """

    n_images = N_HARMONICS
    published = ("spec.window",)

    def __init__(self) -> None:
        super().__init__()
        self.bw_Q = nn.Parameter(torch.ones(1))

    def _constants(self) -> Mapping[str, Tensor]:
        midi = 24 + np.arange(N_BANDS) / 2
        pitch_hz = 440 * 2 ** ((midi - 69) / 12)
        centre_hz = np.outer(np.arange(1, N_HARMONICS + 1), pitch_hz).reshape(-1)
        return {
            **super()._constants(),
            "f0": torch.from_numpy(centre_hz).float(),
            "bins_hz": torch.linspace(0, RATE_HZ / 2, N_BINS, dtype=torch.float32),
        }

    def bank(self) -> Tensor:
        centre_hz = self.get_buffer("f0")
        width_hz = (0.1079 * centre_hz + 24.7) / self.bw_Q.float()
        offset_hz = (self.get_buffer("bins_hz")[:, None] - centre_hz).abs()
        return torch.relu(1 - 2 * offset_hz / width_hz)
