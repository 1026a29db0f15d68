"""Ours against the authors' packages, with the same random weights (extra `oracles`).

Neither package is imported as its users would: hear21passt fetches weights, and panns-inference
runs a shell command at import unless a file of labels lies in the home folder.
"""

import functools
import os

import pytest
import torch
from tests import fill

from understudy import teachers
from understudy.teachers import hear
from understudy.teachers.passt import Passt
from understudy.teachers.tagger import Tagger
from understudy.timing import covering_starts

RATE_HZ = 32000
DURATIONS_S = (1, *(pytest.param(s, marks=pytest.mark.soak) for s in (10, 10.5, 35)))

pytestmark = pytest.mark.filterwarnings("ignore")


def clip(duration_s: float) -> torch.Tensor:
    return torch.from_numpy(fill.audio(2, RATE_HZ, round(duration_s * RATE_HZ), batch=1))


def close(found: torch.Tensor, wanted: torch.Tensor, record) -> None:
    """Within 1e-4 of the wanted values' rms."""
    error = (found - wanted).abs().max() / wanted.square().mean().sqrt()
    record("error_over_rms", float(error))
    assert found.shape == wanted.shape
    assert error <= 1e-4


@pytest.fixture(scope="module")
def ours() -> Passt:
    built = teachers.build("passt", "random")
    assert isinstance(built, Passt)
    fill.fill_(built.network, 3)
    return built


@pytest.fixture(scope="module")
def hear21passt(ours):
    """hear21passt's base module with its own wrapper, weights ours."""
    base = pytest.importorskip("hear21passt.base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            base, "get_model_passt", functools.partial(base.get_model_passt, pretrained=False)
        )
        built = functools.partial(base.get_basic_model, mode="embed_only")
        models = {
            (0.16, 0.05): built(),
            (0.96, 0.96): built(timestamp_window=960, timestamp_hop=960),
        }
    for model in models.values():
        model.net.load_state_dict(ours.network.state_dict())
    return base, models


@pytest.mark.parametrize("duration_s", DURATIONS_S)
def test_passt_scene(duration_s, ours, hear21passt, record_property):
    base, models = hear21passt
    wanted = base.get_scene_embeddings(clip(duration_s), models[0.16, 0.05])
    close(ours.scene(clip(duration_s)), wanted, record_property)


@pytest.mark.parametrize("timing", [(0.16, 0.05), (0.96, 0.96)])
@pytest.mark.parametrize("duration_s", DURATIONS_S)
def test_passt_timestamps(duration_s, timing, ours, hear21passt, record_property):
    base, models = hear21passt
    wanted, wanted_ms = base.get_timestamp_embeddings(clip(duration_s), models[timing])
    found, found_ms = hear.get_timestamp_embeddings(clip(duration_s), hear.HearModel(ours, *timing))
    assert torch.equal(found_ms, wanted_ms)
    close(found, wanted, record_property)


@pytest.fixture(scope="module")
def panns_inference(tmp_path_factory):
    """panns-inference's CNN14, filled; its shell command kept from running."""
    home = tmp_path_factory.mktemp("home")
    labels = home / "panns_data" / "class_labels_indices.csv"
    labels.parent.mkdir()
    rows = [f"{index},/m/{index},label {index}" for index in range(527)]
    labels.write_text("\n".join(["index,mid,display_name", *rows]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setattr(os, "system", lambda command: pytest.fail(f"ran {command}"))
        models = pytest.importorskip("panns_inference.models")
    network = models.Cnn14(RATE_HZ, 1024, 320, 64, 50, 14000, 527).eval()
    fill.fill_(network, 3)
    return network


@pytest.fixture(scope="module")
def panns(panns_inference, tmp_path_factory) -> Tagger:
    path = tmp_path_factory.mktemp("panns") / "Cnn14.pth"
    torch.save({"iteration": 1, "model": panns_inference.state_dict()}, path)
    built = teachers.build("panns", path)
    path.unlink()
    assert isinstance(built, Tagger)
    return built


@pytest.mark.parametrize("duration_s", DURATIONS_S)
@torch.no_grad()
def test_panns(duration_s, panns, panns_inference, record_property):
    audio = clip(duration_s)
    pieces = [audio]
    if duration_s > 30:
        starts = covering_starts(audio.shape[1], 10 * RATE_HZ)
        pieces = [audio[:, start : start + 10 * RATE_HZ] for start in starts]
    wanted = torch.stack([panns_inference(piece)["embedding"] for piece in pieces]).mean(0)
    close(panns.embed(audio).embedding[:, 0], wanted, record_property)


@torch.no_grad()
def test_panns_probabilities(panns, panns_inference):
    wanted = panns_inference(clip(1))["clipwise_output"]
    torch.testing.assert_close(panns.logits(clip(1)).sigmoid(), wanted, rtol=0, atol=5e-5)
