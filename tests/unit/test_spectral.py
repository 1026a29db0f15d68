"""`spectral`: each named dimension answers to the sound it is named for."""

import math

import numpy as np
import pytest
import torch

from understudy import teachers
from understudy.teachers.spectral import BANDS, DIMENSIONS, RATE_HZ, Spectral

SECOND = torch.arange(RATE_HZ, dtype=torch.float64) / RATE_HZ


@pytest.fixture(scope="module")
def spectral() -> Spectral:
    teacher = teachers.build("spectral")
    assert isinstance(teacher, Spectral)
    return teacher


def named(teacher: Spectral, audio: torch.Tensor) -> dict[str, float]:
    values = teacher.forward(audio.float()[None])[0].tolist()
    return dict(zip(teacher.dimensions, values, strict=True))


def sine(hz: float, amplitude: float = 0.5) -> torch.Tensor:
    return amplitude * torch.sin(2 * math.pi * hz * SECOND)


def noise(amplitude: float = 0.1) -> torch.Tensor:
    return amplitude * torch.randn(RATE_HZ, generator=torch.Generator().manual_seed(0))


def test_every_dimension_has_its_own_name(spectral):
    assert len(set(DIMENSIONS)) == len(DIMENSIONS) == spectral.card.dim


@pytest.mark.parametrize(("hz", "pitch_class"), [(440, "A"), (261.63, "C"), (1174.66, "D")])
def test_chroma_names_the_note(spectral, hz, pitch_class):
    values = named(spectral, sine(hz))
    chroma = {key: value for key, value in values.items() if key.startswith("chroma_")}
    means = {key: value for key, value in chroma.items() if key.endswith("_mean")}
    assert max(means, key=means.__getitem__) == f"chroma_{pitch_class}_mean"
    assert sum(means.values()) == pytest.approx(1, abs=1e-5)


def test_level_and_log_mel_are_in_units_of_50_db(spectral):
    loud, soft = named(spectral, sine(1000, 1.0)), named(spectral, sine(1000, 0.1))
    assert loud["level_mean"] == pytest.approx(1, abs=1e-3)
    assert loud["level_mean"] - soft["level_mean"] == pytest.approx(20 / 50, abs=1e-4)
    loudest = max(range(BANDS), key=lambda band: loud[f"log_mel_{band:02d}_mean"])
    difference = loud[f"log_mel_{loudest:02d}_mean"] - soft[f"log_mel_{loudest:02d}_mean"]
    assert difference == pytest.approx(20 / 50, abs=1e-4)


@pytest.mark.parametrize("hz", [500.0, 2000.0, 6000.0])
def test_centroid_and_roll_off_follow_a_sine(spectral, hz):
    values = named(spectral, sine(hz))
    assert values["centroid_mean"] == pytest.approx(hz / 8000, abs=2e-3)
    assert values["roll_off_mean"] == pytest.approx(hz / 8000, abs=5e-3)
    assert values["zero_crossings"] == pytest.approx(2 * hz / RATE_HZ, abs=2e-3)
    assert values["bandwidth_mean"] < 0.02


def test_a_log_mel_band_is_loudest_where_the_sine_is(spectral):
    def loudest(hz):
        values = named(spectral, sine(hz))
        return max(range(BANDS), key=lambda band: values[f"log_mel_{band:02d}_mean"])

    assert loudest(200) < loudest(1000) < loudest(4000) < BANDS
    mel = 2595 * math.log10(1 + 1000 / 700) / (2595 * math.log10(1 + 8000 / 700))
    assert loudest(1000) == pytest.approx(mel * (BANDS + 1) - 1, abs=0.6)


def test_noise_is_flat_and_a_sine_is_not(spectral):
    tone, hiss = named(spectral, sine(1000)), named(spectral, noise())
    assert hiss["flatness_mean"] > 0.4
    assert tone["flatness_mean"] < 0.01


def test_harmonics_stand_out_from_what_lies_between_them(spectral):
    partials = torch.stack([sine(110.0 * k, 0.1) for k in range(1, 70)]).sum(0)
    tone, hiss = named(spectral, partials), named(spectral, noise())
    for band in ("400", "800", "1600", "3200"):
        assert tone[f"contrast_{band}_hz_mean"] > hiss[f"contrast_{band}_hz_mean"] + 0.5


def test_clicks_have_onsets_and_steady_noise_has_fewer(spectral):
    clicks = noise(1e-3)
    clicks[2000::4000] += 0.9
    assert named(spectral, clicks)["onset_max"] > 4 * named(spectral, noise())["onset_max"]


def test_cosine_transform_of_bands_is_orthonormal(spectral):
    dct = spectral.front_end.dct
    assert torch.allclose(dct @ dct.T, torch.eye(len(dct)), atol=1e-5)
    values = named(spectral, noise())
    bands = np.array([values[f"log_mel_{band:02d}_mean"] for band in range(BANDS)])
    assert values["mfcc_00_mean"] == pytest.approx(bands.sum() / 8, abs=1e-4)


def test_values_suit_float16(spectral):
    for audio in (torch.zeros(RATE_HZ), noise(1.0), sine(50, 1.0), torch.ones(RATE_HZ)):
        embedding = spectral.forward(audio.float()[None])
        assert embedding.abs().max() < 20
        assert embedding.half().isfinite().all()


def test_silence_is_constant_in_time(spectral):
    values = named(spectral, torch.zeros(RATE_HZ))
    assert all(value == 0 for key, value in values.items() if key.endswith("_std"))
    assert values["log_mel_00_mean"] == pytest.approx(-1)
    assert values["chroma_A_mean"] == pytest.approx(1 / 12)
