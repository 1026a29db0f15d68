"""CNN14 against the upstream implementation: front end, network, published file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import fill
from tests.fill import close, tagger_audio
from torch.utils.flop_counter import FlopCounterMode

from understudy import teachers
from understudy.errors import WeightsError
from understudy.teachers.panns import DFT_KEYS, MEL_KEY, Cnn14, SlaneyLogMel
from understudy.teachers.tagger import Tagger

CASES = ("ten_seconds", "one_second", "odd", "shortest", "silence")


@pytest.fixture(scope="module")
def expected(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "cnn14.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def front_end() -> SlaneyLogMel:
    return SlaneyLogMel()


@pytest.fixture(scope="module")
def filled() -> Cnn14:
    with torch.device("meta"):
        network = Cnn14().eval().requires_grad_(False)
    network = network.to_empty(device="cpu")
    assert all(name.endswith("num_batches_tracked") for name in fill.fill_(network, 1))
    return network


@pytest.fixture(scope="module")
def checkpoint(filled, front_end) -> dict:
    """What the published file holds: the state, and what training left with it."""
    constants = dict.fromkeys(DFT_KEYS, torch.zeros(513, 1, 1024)) | {MEL_KEY: front_end.bank.T}
    return {
        "iteration": np.int64(600_000),
        "model": constants | filled.state_dict(),
        "sampler": {"indexes": np.arange(9), "pointer": 3},
    }


@pytest.fixture(scope="module")
def teacher(checkpoint, tmp_path_factory) -> Tagger:
    path = tmp_path_factory.mktemp("panns") / "Cnn14.pth"
    torch.save(checkpoint, path)
    built = teachers.build("panns", path)
    path.unlink()
    assert isinstance(built, Tagger)
    return built


def test_keys_shapes_and_order_are_the_published_ones(filled, golden):
    wanted = json.loads((golden / "keys_cnn14.json").read_text())["keys"]
    front_end = [*DFT_KEYS, MEL_KEY]
    assert list(wanted)[:3] == front_end
    found = {key: list(value.shape) for key, value in filled.state_dict().items()}
    assert list(found) == list(wanted)[3:]
    assert found == {key: shape for key, shape in wanted.items() if key not in front_end}


def test_card_counts_what_the_network_has():
    card = teachers.card("panns")
    with torch.device("meta"):
        network = Cnn14().eval()
    counted = {id(p): p.numel() for p in network.parameters()}
    for unused in network.fc_audioset.parameters():
        del counted[id(unused)]
    assert sum(counted.values()) == card.parameters
    with FlopCounterMode(display=False) as counter:
        logits, embedding = network(torch.empty(1, 1001, 64, device="meta"))
    assert counter.get_total_flops() / 2 == pytest.approx(10 * card.macs_per_s)
    assert (logits.shape, embedding.shape) == ((1, 527), (1, card.dim))


@pytest.mark.parametrize("case", CASES)
def test_front_end(case, front_end, expected):
    log_mel = front_end(tagger_audio(case, expected[f"{case}/n_samples"]))
    assert log_mel.shape == (2, expected[f"{case}/n_frames"], 64)
    found = log_mel[:, :: int(expected[f"{case}/logmel_stride"])]
    np.testing.assert_allclose(found, expected[f"{case}/logmel"], rtol=0, atol=5e-3)


@pytest.mark.parametrize("case", CASES)
def test_network(case, front_end, filled, expected):
    log_mel = front_end(tagger_audio(case, expected[f"{case}/n_samples"]))
    steps = filled.feature_map(log_mel)
    assert steps.shape == (2, 2048, expected[f"{case}/n_steps"])
    close(steps[:, ::64], expected[f"{case}/map"])
    close(steps.amax(2) + steps.mean(2), expected[f"{case}/pooled"])
    logits, embedding = filled(log_mel)
    close(embedding, expected[f"{case}/embedding"])
    close(logits, expected[f"{case}/logits"])


@pytest.mark.parametrize("case", CASES)
def test_teacher(case, teacher, expected):
    """Folded, from a file."""
    audio = tagger_audio(case, expected[f"{case}/n_samples"])
    close(teacher.embed(audio).embedding[:, 0], expected[f"{case}/embedding"])
    logits = teacher.logits(audio)
    close(logits, expected[f"{case}/logits"])
    np.testing.assert_allclose(logits.sigmoid(), expected[f"{case}/prob"], rtol=0, atol=5e-5)


def test_slaney_bands(front_end):
    bank = front_end.bank.double()
    hz = torch.arange(513) * 31.25
    assert (bank.sum(1) * 31.25)[32:] == pytest.approx(np.ones(32), abs=1e-2)
    assert ((bank > 0).sum(1) > 0).all()
    assert bank[:, (hz <= 50) | (hz >= 14000)].abs().max() == 0


@pytest.mark.parametrize("n_bins", [257, 513])
def test_weights_made_for_another_front_end_are_refused(n_bins, front_end, tmp_path):
    """CNN14 for 16 kHz, 257 bins, differs in nothing else."""
    bank = front_end.bank.T.roll(1, 0)[:n_bins].contiguous()
    torch.save({"model": {MEL_KEY: bank}}, path := tmp_path / "Cnn14_16k.pth")
    with pytest.raises(WeightsError, match=r"Cnn14_16k\.pth: weights of another front end"):
        teachers.build("panns", path)


@pytest.mark.parametrize("content", [{"model": 3}, {"model": {"bn0.weight": 3}}])
def test_checkpoints_without_a_state_are_refused(content, tmp_path):
    torch.save(content, path := tmp_path / "Cnn14.pth")
    with pytest.raises(WeightsError, match=r"Cnn14\.pth: wanted a PyTorch file .* found .*int"):
        teachers.build("panns", path)
