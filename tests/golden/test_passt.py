"""PaSST against the upstream implementation: front end, network, HEAR scenes and timestamps."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import fill
from tests.fill import close, tagger_audio
from torch.utils.flop_counter import FlopCounterMode

from understudy import teachers
from understudy.teachers import hear
from understudy.teachers.frontends import KaldiLogMel
from understudy.teachers.passt import Passt, Transformer

SINGLE_PASS = ("ten_seconds", "one_second", "shortest", "silence")


@pytest.fixture(scope="module")
def expected(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "passt.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def front_end() -> KaldiLogMel:
    return KaldiLogMel()


class Both(Passt):
    """Gives logits and embedding, 1295 values, as hear21passt does by default."""

    def _embed(self, features: torch.Tensor) -> torch.Tensor:
        return torch.cat(self.network(features), dim=1)  # type: ignore[misc]


@pytest.fixture(scope="module")
def teacher() -> Both:
    card = replace(teachers.card("passt"), dim=1295)
    both = Both(card, "random", "cpu", {})
    assert both.network is not None
    assert fill.fill_(both.network, 1) == []
    return both


@pytest.fixture(scope="module")
def filled(teacher) -> Transformer:
    return teacher.network


def test_keys_shapes_and_order_are_the_published_ones(filled, golden):
    wanted = json.loads((golden / "keys_passt.json").read_text())["keys"]
    found = {key: list(value.shape) for key, value in filled.state_dict().items()}
    assert list(found) == list(wanted)
    assert found == wanted


def test_card_counts_what_the_network_has():
    card = teachers.card("passt")
    with torch.device("meta"):
        network = Transformer().eval()
    assert sum(p.numel() for p in network.parameters()) == card.parameters
    with FlopCounterMode(display=False) as counter:
        logits, embedding = network(torch.empty(1, 128, 1000, device="meta"))
    assert counter.get_total_flops() / 2 == pytest.approx(10 * card.macs_per_s)
    assert (logits.shape, embedding.shape) == ((1, 527), (1, card.dim))


@pytest.mark.parametrize("case", SINGLE_PASS)
def test_front_end(case, front_end, expected):
    case = f"scene/{case}"
    log_mel = front_end(tagger_audio(case[6:], expected[f"{case}/n_samples"]))
    assert log_mel.shape == (2, 128, expected[f"{case}/n_frames"])
    wanted = expected[f"{case}/logmel"]
    found = log_mel[:, :, :: int(expected[f"{case}/logmel_stride"])]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-4)


@pytest.mark.parametrize("case", SINGLE_PASS)
def test_network(case, front_end, filled, expected):
    log_mel = front_end(tagger_audio(case, expected[f"scene/{case}/n_samples"]))
    columns = filled.patch_embed(log_mel.unsqueeze(1)).shape[2:]
    assert list(columns) == expected[f"scene/{case}/patch_grid"].tolist()
    with torch.no_grad():
        assert filled.tokens(log_mel).shape[1] == expected[f"scene/{case}/n_tokens"]
        logits, embedding = filled(log_mel)
    close(embedding, expected[f"scene/{case}/embedding"])
    close(logits, expected[f"scene/{case}/logits"])


@torch.no_grad()
def test_blocks(front_end, filled, expected):
    case = "scene/one_second"
    shown = [0, 1, 2, -1]
    tokens = filled.tokens(front_end(tagger_audio("one_second", expected[f"{case}/n_samples"])))
    close(tokens[:, shown], expected[f"{case}/tokens_in"])
    for number, block in enumerate(filled.blocks):
        last_two = block(tokens, 2)
        tokens = block(tokens)
        torch.testing.assert_close(last_two, tokens[:, :2], rtol=1e-4, atol=1e-4)
        if number in (0, 11):
            close(tokens[:, shown], expected[f"{case}/block{number}"])


@pytest.mark.parametrize("case", [*SINGLE_PASS[1:], "longer_than_ten"])
def test_hear_scene(case, teacher, expected):
    audio = tagger_audio(case, expected[f"scene/{case}/n_samples"])
    n_clips = 1 if case == "longer_than_ten" else 2  # five windows of 10 s each: time
    logits, embedding = teacher.scene(audio[:n_clips]).split([527, 768], dim=1)
    close(embedding, expected[f"scene/{case}/embedding"][:n_clips])
    close(logits, expected[f"scene/{case}/logits"][:n_clips])


@pytest.mark.parametrize(
    ("case", "window_s", "hop_s", "n_samples"),
    [("default", 0.16, 0.05, 8000), ("east_960ms", 0.96, 0.96, 100_000)],
)
def test_hear_timestamps(case, window_s, hop_s, n_samples, teacher, expected):
    model = hear.HearModel(teacher, window_s, hop_s)
    assert n_samples == expected[f"timestamps/{case}/n_samples"]
    audio = tagger_audio(case, n_samples)
    found, milliseconds = hear.get_timestamp_embeddings(audio, model)
    logits, embedding = found.split([527, 768], dim=2)
    np.testing.assert_array_equal(milliseconds, expected[f"timestamps/{case}/milliseconds"])
    close(embedding, expected[f"timestamps/{case}/embedding"])
    if case == "default":
        close(logits, expected[f"timestamps/{case}/logits"])


def test_timestamps_of_a_clip_too_short_to_mirror(teacher):
    """Upstream refuses 2560 samples."""
    timeline = teacher.centred(tagger_audio("", 2560), 0.16, 0.05)
    assert timeline.centre_s.tolist() == [0, 0.05]
    assert timeline.embedding.isfinite().all()


def test_default_timeline(teacher):
    assert (teacher.window_s, teacher.hop_s) == (0.96, 0.96)
    assert teacher.plan(320_000).n == 10
