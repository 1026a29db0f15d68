"""What every teacher promises, over all registered teachers (random weights).

Of the EfficientAT widths, which share their code, mn01 and mn04 stand for all; the cards of the
others are held against their networks in `unit/test_efficientat.py`. PaSST runs with one of its
blocks, CNN14 and MULE with narrower ones; whole, they meet their goldens.
"""

import inspect
import json
import pickle

import numpy as np
import pytest
import torch
from tests import mule_file

from understudy import teachers
from understudy.errors import ConfigError, DataError, WeightsError
from understudy.teachers import hear, panns, passt
from understudy.teachers.base import Teacher
from understudy.timing import covering_starts

WINDOW_S, HOP_S = 0.32, 0.16
FLOAT32_ONLY = {"discogs", "spectral"}
SAME_CODE = {"mn02", "mn05", "mn10", "mn20", "mn30", "mn40"}

_built: dict[str, Teacher] = {}


@pytest.fixture(autouse=True, scope="module")
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passt, "BLOCKS", 1)
        patch.setattr(panns, "CHANNELS", (8, 8, 16, 16, 32, 2048))
        mule_file.narrow(patch)
        yield


@pytest.fixture(params=[name for name in teachers.names() if name not in SAME_CODE])
def teacher(request) -> Teacher:
    return built(request.param)


def built(name: str) -> Teacher:
    if name not in _built:
        _built[name] = teachers.build(name, weights="random", window_s=WINDOW_S, hop_s=HOP_S)
    return _built[name]


def noise(teacher: Teacher, duration_s: float, batch: int = 2) -> torch.Tensor:
    n_samples = round(duration_s * teacher.card.sample_rate)
    generator = torch.Generator().manual_seed(n_samples)
    return 0.2 * torch.randn(batch, n_samples, generator=generator)


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", teachers.names())
def test_card_is_complete(name):
    card = teachers.card(name)
    assert card.name == name
    for field in ("title", "version", "licence_code", "licence_weights", "front_end", "policy"):
        assert getattr(card, field).strip(), field
    assert card.citation.strip()
    assert card.dim > 0
    assert card.min_samples > 0
    assert card.chunk_s > 0
    assert card.parameters >= 0
    assert card.window_s == "clip" or card.min_samples <= card.window_s * card.sample_rate
    assert card.storage_dtype in ("float16", "float32")
    if card.parameters:
        assert card.training_data
        assert card.macs_per_s > 0
        assert card.url is not None
        assert card.url.startswith("https://")
        assert card.weights_file


def test_default_timing_is_the_cards(teacher):
    card = teacher.card
    default = teachers.build(card.name, weights="random")
    assert (default.window_s, default.hop_s) == (card.window_s, card.hop_s)
    timeline = default.embed(torch.zeros(1, 3 * card.sample_rate))
    assert timeline.embedding.shape[1] == default.plan(3 * card.sample_rate).n


def test_embed_gives_a_timeline(teacher):
    audio = noise(teacher, 0.7)
    timeline = teacher.embed(audio)
    plan = teacher.plan(audio.shape[1])
    assert timeline.embedding.shape == (2, plan.n, teacher.card.dim)
    assert timeline.embedding.dtype == torch.float32
    assert timeline.embedding.device == teacher.device
    assert not timeline.embedding.requires_grad
    assert timeline.embedding.isfinite().all()
    assert timeline.centre_s.dtype == np.float64
    np.testing.assert_allclose(timeline.centre_s, [0.16, 0.32, 0.48], atol=1e-9)


def test_embedding_depends_on_the_audio(teacher):
    embedding = teacher.embed(noise(teacher, 0.5)).embedding
    assert (embedding[0, 0] - embedding[1, 0]).abs().max() > 1e-3
    assert (embedding[0, 0] - embedding[0, 1]).abs().max() > 1e-3


def test_one_clip_may_come_without_its_batch_axis(teacher):
    audio = noise(teacher, 0.4, batch=1)
    assert torch.equal(teacher.embed(audio[0]).embedding, teacher.embed(audio).embedding)


def test_clips_do_not_see_each_other(teacher):
    audio = noise(teacher, 0.5, batch=3)
    together = teacher.embed(audio).embedding
    alone = torch.cat([teacher.embed(clip).embedding for clip in audio])
    assert_close(together, alone)


def test_forward_of_planned_windows_is_embed(teacher):
    audio = noise(teacher, 0.7, batch=1)
    plan = teacher.plan(audio.shape[1])
    windows = torch.stack([audio[0, start : start + plan.length] for start in plan.start])
    one_by_one = torch.cat([teacher.forward(window[None]) for window in windows])
    assert plan.n == 3
    assert_close(teacher.forward(windows), one_by_one)
    assert_close(teacher.embed(audio).embedding[0], one_by_one)


def test_silence_is_finite_and_the_same_everywhere(teacher):
    embedding = teacher.embed(torch.zeros(2, teacher.card.sample_rate)).embedding
    assert embedding.isfinite().all()
    assert embedding.half().isfinite().all()
    assert_close(embedding, embedding[:1, :1].expand_as(embedding))


@pytest.mark.parametrize("n_samples", [1, 100, 5000])
def test_short_clip_is_padded_with_zeros_and_centred_on_itself(teacher, n_samples):
    audio = noise(teacher, n_samples / teacher.card.sample_rate, batch=1)
    timeline = teacher.embed(audio)
    padded = torch.nn.functional.pad(audio, (0, teacher.plan(n_samples).length - n_samples))
    assert timeline.centre_s.tolist() == [n_samples / teacher.card.sample_rate / 2]
    assert_close(timeline.embedding[:, 0], teacher.forward(padded))


def test_whole_clip_is_one_embedding_about_its_middle(teacher):
    audio = noise(teacher, 0.5)
    timeline = teacher.embed(audio, window_s="clip")
    assert timeline.embedding.shape == (2, 1, teacher.card.dim)
    assert timeline.centre_s.tolist() == [0.25]
    assert_close(timeline.embedding[:, 0], teacher.forward(audio))
    shortest = teacher.embed(audio[:, :1], window_s="clip")
    assert shortest.embedding.isfinite().all()


def test_long_clip_is_the_mean_of_equal_pieces(teacher):
    card = teacher.card
    audio = noise(teacher, max(2.5 * card.chunk_s, 1.1 * card.whole_s), batch=1)
    chunk = round(card.chunk_s * card.sample_rate)
    pieces = [
        teacher.forward(audio[:, start : start + chunk])
        for start in covering_starts(audio.shape[1], chunk)
    ]
    assert len(pieces) > 2
    assert_close(teacher.embed(audio, window_s="clip").embedding[:, 0], torch.stack(pieces).mean(0))


def test_timing_of_one_call(teacher):
    audio = noise(teacher, 1.0, batch=1)
    assert teacher.embed(audio, window_s=0.5).embedding.shape[1] == 2
    assert teacher.embed(audio, window_s=0.5, hop_s=0.1).embedding.shape[1] == 6
    assert teacher.embed(audio, hop_s=0.34).embedding.shape[1] == 3
    assert (teacher.window_s, teacher.hop_s) == (WINDOW_S, HOP_S)


def test_a_timing_of_one_call_that_cannot_be_is_refused(teacher):
    audio = noise(teacher, 1.0, batch=1)
    with pytest.raises(ConfigError, match=f"window for teacher {teacher.card.name} .* found -1 s"):
        teacher.embed(audio, window_s=-1.0)
    with pytest.raises(ConfigError, match="found 'song'"):
        teacher.embed(audio, window_s="song")
    with pytest.raises(ConfigError, match="hop"):
        teacher.embed(audio, hop_s=-1.0)


def test_a_hop_without_windows_is_refused(teacher):
    with pytest.raises(ConfigError, match=r"one embedding per clip.*hop of 0\.5 s"):
        teacher.embed(noise(teacher, 1.0), window_s="clip", hop_s=0.5)


def test_it_leaves_its_input_and_the_global_generator_alone(teacher):
    audio = noise(teacher, 0.4)
    before, generator = audio.clone(), torch.get_rng_state()
    first = teacher.embed(audio).embedding
    assert torch.equal(audio, before)
    assert torch.equal(teacher.embed(audio).embedding, first)
    assert torch.equal(torch.get_rng_state(), generator)


def test_half_precision_around_it_does_not_reach_in(teacher):
    audio = noise(teacher, 0.4)
    wanted = teacher.embed(audio).embedding
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(teacher.embed(audio).embedding, wanted)


def test_bfloat16_is_near_and_another_identity(teacher):
    settings = {"window_s": WINDOW_S, "hop_s": HOP_S, "precision": "bfloat16"}
    if teacher.card.name in FLOAT32_ONLY:
        with pytest.raises(ConfigError, match="precision"):
            teachers.build(teacher.card.name, "random", **settings)
        return
    half = teachers.build(teacher.card.name, "random", **settings)
    audio = noise(teacher, 0.5)
    wanted, found = teacher.embed(audio).embedding, half.embed(audio).embedding
    assert found.dtype == torch.float32
    deviation = (found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()
    assert 1e-4 < deviation < 0.1
    assert half.identity() == teacher.identity() | {"precision": "bfloat16"}
    assert teachers.from_spec(half.spec).precision == "bfloat16"


def test_compiled_is_the_same_and_another_identity(teacher, monkeypatch):
    """Compiling itself takes minutes: `make soak`."""
    settings = {"window_s": WINDOW_S, "hop_s": HOP_S, "compile": True}
    if teacher.card.name in FLOAT32_ONLY:
        with pytest.raises(ConfigError, match="compile"):
            teachers.build(teacher.card.name, "random", **settings)
        return
    compiled_functions = []
    monkeypatch.setattr(torch, "compile", lambda f: compiled_functions.append(f) or f)
    compiled = teachers.build(teacher.card.name, "random", **settings)
    audio = noise(teacher, 0.5)
    assert_close(compiled.embed(audio).embedding, teacher.embed(audio).embedding)
    assert len(compiled_functions) == 1
    assert compiled.identity()["settings"] == {"compile": True}
    assert "settings" not in teacher.identity()


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")
def test_compiled_in_earnest(teacher):
    if teacher.card.name in FLOAT32_ONLY:
        pytest.skip("no torch network")
    compiled = teachers.build(
        teacher.card.name, "random", window_s=WINDOW_S, hop_s=HOP_S, compile=True
    )
    for duration_s in (0.5, 0.9):  # another batch size
        audio = noise(teacher, duration_s)
        assert_close(compiled.embed(audio).embedding, teacher.embed(audio).embedding)


def test_building_is_seeded_and_leaves_the_global_generator_alone(teacher):
    generator = torch.get_rng_state()
    audio = noise(teacher, 0.4)
    again, other = (
        teachers.build(teacher.card.name, "random", window_s=WINDOW_S, hop_s=HOP_S, seed=seed)
        for seed in (0, 1)
    )
    assert torch.equal(torch.get_rng_state(), generator)
    wanted = teacher.embed(audio).embedding
    assert torch.equal(again.embed(audio).embedding, wanted)
    if teacher.network is not None:
        assert (other.embed(audio).embedding - wanted).abs().max() > 1e-3
        assert (again.weights_sha256, other.weights_sha256) == ("random:0", "random:1")


def test_spec_travels_and_builds_the_same_teacher(teacher):
    spec = pickle.loads(pickle.dumps(teacher.spec))
    assert spec == teacher.spec
    rebuilt = teachers.from_spec(spec)
    audio = noise(teacher, 0.4)
    assert rebuilt.identity() == teacher.identity()
    assert torch.equal(rebuilt.embed(audio).embedding, teacher.embed(audio).embedding)


def test_identity_is_plain_and_holds_what_changes_the_embedding(teacher):
    identity = teacher.identity()
    assert json.loads(json.dumps(identity, allow_nan=False)) == identity
    assert identity["name"] == teacher.card.name
    assert (identity["window_s"], identity["hop_s"]) == (WINDOW_S, HOP_S)
    assert identity["weights_sha256"] == ("random:0" if teacher.network is not None else "none")
    assert {"version", "front_end", "resampler", "precision", "sample_rate", "dim"} <= set(identity)


@pytest.mark.parametrize("audio", [np.zeros(16000, np.int16), np.zeros((1, 1, 16000), np.float32)])
def test_audio_of_another_kind_is_refused(teacher, audio):
    with pytest.raises(DataError, match=r"wanted float audio \(batch, samples\), found"):
        teacher.embed(audio)


def test_audio_without_samples_is_refused(teacher):
    with pytest.raises(DataError, match="found 0"):
        teacher.embed(torch.zeros(1, 0))


def test_windows_too_short_for_it_are_refused(teacher):
    too_few = teacher.card.min_samples - 1
    with pytest.raises(DataError, match=f"at least {too_few + 1} samples, found {too_few}"):
        teacher.forward(torch.zeros(1, too_few))
    with pytest.raises(ConfigError, match=f"at least {too_few + 1} samples"):
        teachers.build(teacher.card.name, "random", window_s=too_few / teacher.card.sample_rate)


@pytest.mark.parametrize("settings", [{"windw_s": 1.0}, {"window_s": "clap"}, {"hop_s": -1.0}])
def test_settings_that_cannot_be_are_refused(teacher, settings):
    with pytest.raises(ConfigError):
        teachers.build(teacher.card.name, "random", **settings)


def test_a_device_that_is_not_there_is_refused(teacher):
    with pytest.raises(ConfigError, match="device 'cuda:99' cannot be used"):
        teachers.build(teacher.card.name, "random", device="cuda:99")


def test_a_missing_weights_file_is_named(teacher, tmp_path):
    with pytest.raises((WeightsError, ConfigError), match=r"no-such\.pt"):
        teachers.build(teacher.card.name, tmp_path / "no-such.pt")


def test_unknown_teacher_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'spectral'"):
        teachers.build("spectal")


class TestHear:
    """Rules of HEAR's validator."""

    @pytest.fixture
    def module(self, teacher) -> hear.HearModule:
        return hear.module(teacher.card.name, window_s=WINDOW_S)

    @pytest.fixture
    def model(self, teacher) -> hear.HearModel:
        return hear.HearModel(teacher, WINDOW_S, hear.HOP_S)

    def test_every_argument_has_a_default(self, module):
        parameters = inspect.signature(module.load_model).parameters.values()
        assert all(
            p.default is not inspect.Parameter.empty or p.kind is inspect.Parameter.VAR_KEYWORD
            for p in parameters
        )

    def test_model(self, model):
        assert isinstance(model, torch.nn.Module)
        assert not any(part.training for part in model.modules())
        assert model.sample_rate in (16000, 22050, 32000, 44100, 48000)
        assert type(model.scene_embedding_size) is int
        assert type(model.timestamp_embedding_size) is int
        assert model.to("cpu") is model

    def test_load_model(self, module, teacher):
        model = module.load_model("random")
        assert isinstance(model, hear.HearModel)
        assert model.teacher.identity()["weights_sha256"] == teacher.weights_sha256
        assert (model.window_s, model.hop_s) == (WINDOW_S, 0.05)

    def test_scenes(self, module, model):
        audio = uniform(4, round(2.74 * model.sample_rate))
        embedding = module.get_scene_embeddings(audio, model)
        assert embedding.shape == (4, model.scene_embedding_size)
        assert embedding.dtype == torch.float32

    @pytest.mark.parametrize("duration_s", [0.01, 1.07, 1.98, 4.0])
    def test_timestamps(self, module, model, duration_s):
        audio = uniform(2, round(duration_s * model.sample_rate))
        embedding, timestamp = module.get_timestamp_embeddings(audio, model)
        assert embedding.shape == (2, timestamp.shape[1], model.timestamp_embedding_size)
        assert embedding.dtype == torch.float32
        assert embedding.isfinite().all()
        assert torch.equal(timestamp[0], timestamp[1])
        assert timestamp[0, 0] == 0
        duration_ms = 1000 * duration_s
        assert duration_ms - 50 < timestamp[0, -1] <= duration_ms
        spacing_ms = timestamp[0].diff()
        assert torch.allclose(spacing_ms, torch.full_like(spacing_ms, 50), atol=1e-2)

    def test_a_timestamp_is_the_middle_of_its_window(self, module, model):
        n_samples = model.sample_rate
        audio = torch.zeros(1, n_samples)
        audio[:, round(0.6 * n_samples) :] = 0.2 * uniform(1, n_samples - round(0.6 * n_samples))
        embedding, timestamp = module.get_timestamp_embeddings(audio, model)
        silent = embedding[0, 5]  # at 250 ms, far from both ends
        differs = (embedding[0] - silent).abs().amax(1) > 1e-3
        # A window of 320 ms reaches 160 ms ahead; a grid of patches leaves its last 60 ms unheard.
        assert timestamp[0][differs].min() in (450, 500)
        assert differs[10:].all()


def uniform(batch: int, n_samples: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n_samples)
    return 2 * torch.rand(batch, n_samples, generator=generator) - 1
