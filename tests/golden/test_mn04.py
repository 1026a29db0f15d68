"""mn04 against the upstream implementation: front end, network, real weights on real clips."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
import torchaudio
from tests import fill

from understudy import teachers
from understudy.teachers.base import Teacher
from understudy.teachers.efficientat import MobileNet
from understudy.teachers.frontends import KaldiLogMel

CASES = ("one", "five", "ten", "short", "shortest", "silence")
CLIPS = {"1-100032-A": 0, "1-187207-A": 20, "1-172649-A": 40}


@pytest.fixture(scope="module")
def expected(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "mn04.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def expected_real(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "mn04_real.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def front_end() -> KaldiLogMel:
    return KaldiLogMel()


@pytest.fixture(scope="module")
def filled() -> MobileNet:
    network = MobileNet(0.4).eval().requires_grad_(False)
    untouched = fill.fill_(network, 1)
    assert len(untouched) == 46
    assert all(name.endswith("num_batches_tracked") for name in untouched)
    return network


@pytest.fixture(scope="module")
def teacher(shared: Path) -> Teacher:
    return teachers.build("mn04", shared / "weights" / "mn04_as_mAP_432.pt")


def close(found, wanted, absolute, relative=0.0):
    np.testing.assert_allclose(np.asarray(found), wanted, atol=absolute, rtol=relative)


def case_audio(case: str, n_samples: int) -> torch.Tensor:
    audio = fill.audio(1, 32000, n_samples)
    if case == "silence":
        audio[0], audio[1, n_samples // 2 :] = 0, 0
    return torch.from_numpy(audio)


def test_keys_shapes_and_order_are_the_published_ones(filled, golden):
    wanted = json.loads((golden / "keys_mn04.json").read_text())
    found = {key: list(value.shape) for key, value in filled.state_dict().items()}
    assert list(found) == list(wanted)
    assert found == wanted


def test_mel_bank(front_end, expected):
    bank = front_end.bank.numpy()[:, :512]
    close(bank.sum(1), expected["fb_row_sums"], 2e-4)
    assert (bank.argmax(1) == expected["fb_row_argmax"]).all()
    assert np.count_nonzero(front_end.bank) == 947


@pytest.mark.parametrize("case", CASES)
def test_front_end(case, front_end, expected):
    log_mel = front_end(case_audio(case, int(expected[f"{case}/n_samples"])))
    assert log_mel.shape == (2, 128, int(expected[f"{case}/n_frames"]))
    stride = int(expected[f"{case}/logmel_stride"])
    close(log_mel[:, :, ::stride], expected[f"{case}/logmel"], 2e-4)


@pytest.mark.parametrize("case", CASES)
def test_network(case, front_end, filled, expected):
    means, rms, last = [], [], torch.empty(0)
    image = front_end(case_audio(case, int(expected[f"{case}/n_samples"]))).unsqueeze(1)
    log_mel = image[:, 0]
    for layer in filled.features:
        image = last = layer(image)
        means.append(image.mean((1, 2, 3)))
        rms.append(image.square().mean((1, 2, 3)).sqrt())
    close(torch.stack(means), expected[f"{case}/layer_mean"], 1e-4)
    close(torch.stack(rms), expected[f"{case}/layer_rms"], 1e-4)
    close(last[:, ::32], expected[f"{case}/map"], 5e-4)
    logits, embedding = filled(log_mel)
    close(embedding, expected[f"{case}/embedding"], 1e-4, 1e-5)
    close(logits, expected[f"{case}/logits"], 1e-4, 1e-5)


@pytest.mark.parametrize("clip", CLIPS)
def test_real_clip(clip, teacher, shared, expected_real):
    wanted = {
        key.removeprefix(f"{clip}/"): value
        for key, value in expected_real.items()
        if key.startswith(f"{clip}/")
    }
    path = shared / "data" / "esc10" / "audio" / f"{clip}-{CLIPS[clip]}.ogg"
    wave, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    wave = torch.from_numpy(wave.mean(1))
    audio = torchaudio.functional.resample(wave, rate_hz, 32000)
    assert [len(wave), len(audio)] == wanted["n_samples"].tolist()
    close(audio[32000:32128], wanted["wave_32000"], 1e-6)

    log_mel = teacher.front_end(audio[None])
    assert log_mel.shape[2] == wanted["n_frames"]
    close(log_mel[0, :, ::10], wanted["logmel"], 2e-4)
    close(teacher.embed(audio, window_s="clip").embedding[0, 0], wanted["embedding"], 1e-4)
    logits = teacher.logits(audio[None])[0]
    close(logits, wanted["logits"], 5e-4)
    assert logits.topk(5).indices.tolist() == wanted["top5_index"].tolist()

    second = audio[32000:64000]
    timeline = teacher.embed(second, window_s=1.0)
    close(timeline.embedding[0, 0], wanted["window_1s/embedding"], 1e-4)
    close(teacher.logits(second[None])[0], wanted["window_1s/logits"], 5e-4)

    resampled = torch.from_numpy(soxr.resample(wave.numpy(), rate_hz, 32000, quality="HQ"))
    embedding = teacher.embed(resampled, window_s="clip").embedding[0, 0]
    close(embedding, wanted["soxr_hq_embedding"], 1e-4)


def test_real_weights_are_those_of_the_card(teacher):
    assert teacher.weights_sha256 == teacher.card.weights_sha256
    assert teacher.identity()["weights_sha256"] == teacher.card.weights_sha256
