"""MULE's timeline and settings; its card against its network; its way through the cache."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests import mule_file
from torch.utils.flop_counter import FlopCounterMode

from understudy import audio, datasets, teachers
from understudy.cache import CacheReader
from understudy.errors import ConfigError
from understudy.extract import extract
from understudy.teachers.base import Teacher
from understudy.teachers.mule import SlowFastNFNet
from understudy.teachers.mule_frontend import HOP, SLICE_SAMPLES, slice_plan
from understudy.timing import frame_centres


@pytest.fixture
def teacher(monkeypatch) -> Teacher:
    mule_file.narrow(monkeypatch)
    return teachers.build("mule", "random")


def noise(n_samples: int) -> torch.Tensor:
    return 0.1 * torch.randn(1, n_samples, generator=torch.Generator().manual_seed(n_samples))


def test_card_counts_what_the_network_has():
    card = teachers.card("mule")
    with torch.device("meta"):
        network = SlowFastNFNet()
    assert sum(p.numel() for p in network.parameters()) == card.parameters
    with FlopCounterMode(display=False) as counter:
        embedding = network(torch.empty(1, 96, 300, device="meta"))
    assert counter.get_total_flops() / 2 == pytest.approx(card.chunk_s * card.macs_per_s)
    assert embedding.shape == (1, card.dim)
    assert round(card.chunk_s * card.sample_rate) == SLICE_SAMPLES


@given(st.integers(47840, 3_000_000))
def test_slices_lie_in_the_mirrored_clip_two_seconds_apart(n_samples):
    plan = slice_plan(n_samples)
    assert plan is not None
    assert plan.n == max(1, n_samples // 32000)
    assert plan.start[0] >= 0
    assert plan.start[-1] + plan.length <= n_samples + 2 * plan.mirrored
    assert not (plan.start % HOP).any()
    assert (np.diff(plan.start)[:-1] == 32000).all()
    middle = plan.start + plan.length / 2 - plan.mirrored
    assert np.abs(middle / 16000 - plan.centre_s).max() <= 0.01


def test_slices_of_ten_seconds():
    plan = slice_plan(160_000)
    assert plan is not None
    assert (plan.start // HOP).tolist() == [50, 250, 450, 650, 701]
    assert plan.centre_s.tolist() == [2, 4, 6, 8, 8.5]
    assert slice_plan(47839) is None


def test_own_timing_gives_slices_and_no_other_does(teacher):
    clip = noise(160_000)
    timeline = teacher.embed(clip)
    assert timeline.centre_s.tolist() == [2, 4, 6, 8, 8.5]
    assert torch.equal(teacher.embed(clip, window_s=3.0, hop_s=2.0).embedding, timeline.embedding)
    first = teacher.forward(clip[:, 8000 - 200 : 8000 - 200 + SLICE_SAMPLES])
    torch.testing.assert_close(timeline.embedding[:, 0], first)
    assert teacher.embed(clip, window_s=3.0).centre_s.tolist() == [1.5, 4.5, 7.5]


def test_a_clip_too_short_for_a_slice_is_padded(teacher):
    clip = noise(40_000)
    timeline = teacher.embed(clip)
    assert timeline.centre_s.tolist() == [1.25]
    padded = torch.nn.functional.pad(clip, (0, 8000))
    torch.testing.assert_close(timeline.embedding[:, 0], teacher.forward(padded))


def test_the_grid_enters_the_identity_with_the_slices(teacher):
    assert teacher.identity()["grid"] == "centred"
    assert "grid" not in teachers.build("mule", "random", window_s=3.0).identity()


def test_recordings_of_one_channel_count_half(teacher):
    stereo = teachers.build("mule", "random", source_channels=2)
    clip = noise(48_240)
    torch.testing.assert_close(stereo.forward(0.5 * clip), teacher.forward(clip))
    faint = 1e-3 * clip  # in loud audio a gain is little but an offset, which is taken off
    assert (stereo.forward(faint) - teacher.forward(faint)).abs().max() > 1e-3
    assert "settings" not in teacher.identity()
    assert stereo.identity()["settings"] == {"source_channels": 2}
    with pytest.raises(ConfigError, match="source_channels of at least 1, found 0"):
        teachers.build("mule", "random", source_channels=0)


def test_bfloat16_stays_near(teacher):
    half = teachers.build("mule", "random", precision="bfloat16")
    clip = noise(48_240)
    wanted = teacher.forward(clip)
    found = half.forward(clip)
    assert found.dtype == torch.float32
    assert 0 < (found - wanted).abs().max() < 0.1 * wanted.abs().max()


def test_a_store_holds_the_timeline_of_embed(teacher, tmp_path):
    root = tmp_path / "clips"
    root.mkdir()
    for name, duration_s in (("short", 1.0), ("long", 9.3)):
        samples = noise(round(duration_s * 44100))[0].numpy()
        audio.write(root / f"{name}.wav", samples, 44100)
    index = datasets.load("folder", root)
    paths = extract(index, [teacher], tmp_path / "cache", dtype="float32", progress=False)
    reader = CacheReader(paths["mule"])
    for row in range(len(index)):
        decoded = audio.decode(index.absolute(row))
        heard = audio.resample(decoded.samples, 44100, 16000, "kaiser_best")
        wanted = teacher.embed(torch.from_numpy(heard))
        found, n_frames = reader.gather(np.array([row]))
        assert n_frames[0] == len(wanted.centre_s)
        np.testing.assert_allclose(found[0, : n_frames[0]], wanted.embedding[0], atol=1e-5)
        duration_s = float(index.clips["duration_s"].to_numpy()[row])
        centre_s = frame_centres(int(n_frames[0]), duration_s=duration_s, **reader.timing)
        np.testing.assert_allclose(centre_s, wanted.centre_s, atol=1e-3)
