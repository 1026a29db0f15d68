"""`hear:MODULE`: modules of others, and what they get wrong."""

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from understudy import cache, teachers
from understudy.errors import CacheError, ConfigError, DataError, WeightsError
from understudy.extract import extract
from understudy.teachers import hear_module
from understudy.timing import frame_centres

RATE_HZ = 16000
HOP_MS = 40


class Model(nn.Module):
    sample_rate = RATE_HZ
    scene_embedding_size = 3
    timestamp_embedding_size = 4

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 4)
        self.lengths: list[int] = []
        nn.init.constant_(self.linear.weight, 0.5)
        nn.init.constant_(self.linear.bias, 0.25)


def load_model(model_file_path: str = "") -> Model:
    sys.stdout.write("a banner")
    model = Model()
    if model_file_path:
        model.load_state_dict(torch.load(model_file_path, weights_only=True))
    return model


def get_scene_embeddings(audio: torch.Tensor, model: Model) -> torch.Tensor:
    return model.linear(audio.square().mean(1, keepdim=True))[:, :3]


def get_timestamp_embeddings(audio: torch.Tensor, model: Model) -> tuple[Any, Any]:
    """Mean square of the 40 ms about i * 40 ms."""
    model.lengths.append(audio.shape[1])
    hop = HOP_MS * RATE_HZ // 1000
    padded = nn.functional.pad(audio, (hop // 2, hop))
    level = padded.unfold(1, hop, hop).square().mean(-1, keepdim=True)
    level = level[:, : 1 + audio.shape[1] // hop]
    timestamps = HOP_MS * torch.arange(level.shape[1]).float()
    return model.linear(level), timestamps.expand(len(audio), -1)


@pytest.fixture
def module(monkeypatch) -> ModuleType:
    """An installed package "their.audio"; its functions may be replaced."""
    found = ModuleType("their.audio")
    for function in (load_model, get_scene_embeddings, get_timestamp_embeddings):
        setattr(found, function.__name__, function)
    monkeypatch.setitem(sys.modules, "their", ModuleType("their"))
    monkeypatch.setitem(sys.modules, "their.audio", found)
    return found


def build(**settings: Any) -> Any:
    return teachers.build("hear:their.audio", **settings)


def noise(duration_s: float, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return 0.1 * torch.randn(batch, round(duration_s * RATE_HZ), generator=generator)


def test_its_own_timestamps_are_the_timeline(module, capsys):
    teacher = build()
    assert capsys.readouterr().out == ""
    audio = noise(1.5)
    timeline = teacher.embed(audio)
    wanted, _ = get_timestamp_embeddings(audio, load_model())
    torch.testing.assert_close(timeline.embedding, wanted)
    np.testing.assert_allclose(timeline.centre_s, 0.04 * np.arange(38), atol=1e-6)
    assert (teacher.card.dim, teacher.hop_s) == (4, 0.04)
    assert teacher.plan(audio.shape[1]).centre_s.tolist() == timeline.centre_s.tolist()


@pytest.mark.parametrize("duration_s", [60.0, 60.5, 61.5, 121.3])
def test_long_clips_go_in_pieces(module, duration_s):
    teacher = build()
    audio = noise(duration_s, batch=1)
    timeline = teacher.embed(audio)
    np.testing.assert_allclose(
        timeline.centre_s, 0.04 * np.arange(1 + int(duration_s / 0.04 + 1e-6)), atol=1e-5
    )
    assert teacher.plan(audio.shape[1]).centre_s.tolist() == timeline.centre_s.tolist()
    assert max(teacher.network.lengths) <= 61 * RATE_HZ
    whole, _ = get_timestamp_embeddings(audio, load_model())
    inner = np.abs(timeline.centre_s % 60) > 0.02  # others look beyond their piece
    torch.testing.assert_close(timeline.embedding[:, inner], whole[:, inner])


@pytest.mark.parametrize(("n_samples", "wanted"), [(1, 1), (639, 1), (640, 2), (8000, 13)])
def test_short_clips_are_padded_for_it(module, n_samples, wanted):
    teacher = build()
    timeline = teacher.embed(noise(1.0)[:, :n_samples])
    assert len(timeline.centre_s) == wanted == teacher.plan(n_samples).n
    assert min(teacher.network.lengths) == RATE_HZ


def test_windows_are_scenes(module):
    teacher = build(window_s=0.5, hop_s=0.25)
    audio = noise(1.0)
    timeline = teacher.embed(audio)
    assert timeline.centre_s.tolist() == [0.25, 0.5, 0.75]
    wanted = get_scene_embeddings(audio[:, 4000:12000], load_model())
    torch.testing.assert_close(timeline.embedding[:, 1], wanted)
    assert build(window_s="clip").embed(audio).embedding.shape == (2, 1, 3)


def test_identity_and_spec(module, tmp_path):
    model = load_model()
    nn.init.constant_(model.linear.bias, 0.75)
    torch.save(model.state_dict(), tmp_path / "their.pt")
    teacher = teachers.build("hear:their.audio", tmp_path / "their.pt", training_data=["AudioSet"])
    identity = teacher.identity()
    assert identity["name"] == "hear:their.audio"
    assert identity["grid"] == "stored"
    assert identity["weights_sha256"].startswith("state:")
    assert identity["weights_sha256"] != build().identity()["weights_sha256"]
    assert teacher.card.training_data == ("AudioSet",)
    again = teachers.from_spec(teacher.spec)
    assert again.identity() == identity
    assert torch.equal(again.embed(noise(1.0)).embedding, teacher.embed(noise(1.0)).embedding)


def breaking(change: Any) -> Any:
    def function(audio: torch.Tensor, model: Model) -> Any:
        return change(*get_timestamp_embeddings(audio, model))

    return function


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e, t: (e, t / 1000), "last timestamp of 2 for 2000 ms of audio: these are seconds"),
        (lambda e, t: (e, t.flip(1)), "wanted increasing timestamps, found 1960 after 2000 ms"),
        (lambda e, t: (e, t * 0), "wanted increasing timestamps, found 0 after 0 ms"),
        (lambda e, t: (e, t + 100), "timestamps of 0 to 2000 ms, found 100 to 2100"),
        (lambda e, t: (e, t - 100), "timestamps of 0 to 2000 ms, found -100 to 1900"),
        (lambda e, t: (e, t.log()), "not finite"),
        (lambda e, t: (e, t + torch.arange(2)[:, None] / 9), "differ between sounds"),
        (lambda e, t: (e, t[:, 1:]), r"wanted timestamps \(2, 51\), found torch.float32 \(2, 50\)"),
        (lambda e, t: (e, t.numpy()), r"wanted timestamps \(2, 51\), found float32 \(2, 51\)"),
        (lambda e, t: (e.double(), t), "wanted float32, found torch.float64"),
        (lambda e, t: (e.half(), t), "wanted float32, found torch.float16"),
        (lambda e, t: (e[..., :3], t), r"\(2, 51, 4\), found torch.float32 \(2, 51, 3\)"),
        (lambda e, t: (e[0], t), r"\(2, timestamps, 4\), found torch.float32 \(51, 4\)"),
        (lambda e, t: e, r"wanted \(embeddings, timestamps\), found torch.float32"),
    ],
)
def test_timestamps_that_break_the_api(module, change, message):
    module.get_timestamp_embeddings = breaking(change)
    with pytest.raises(WeightsError, match=rf"teacher hear:their\.audio: .*{message}"):
        build()


def test_scenes_that_break_the_api(module):
    module.get_scene_embeddings = lambda audio, model: torch.zeros(len(audio), 4)
    with pytest.raises(WeightsError, match=r"scene embeddings: wanted a tensor \(2, 3\)"):
        build(window_s=1.0)
    module.get_scene_embeddings = lambda audio, model: torch.zeros(len(audio), 3).double()
    with pytest.raises(WeightsError, match=r"wanted float32, found torch\.float64"):
        build(window_s="clip")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: object(), "wanted a torch module as model, found object"),
        (lambda: sized(sample_rate=16000.0), "wanted an int as sample_rate, found 16000.0"),
        (lambda: sized(scene_embedding_size=np.int64(3)), "scene_embedding_size, found np.int64"),
        (lambda: sized(timestamp_embedding_size=None), "timestamp_embedding_size, found None"),
        (lambda: 1 / 0, r"load_model fails \(ZeroDivisionError"),
    ],
)
def test_models_that_break_the_api(module, model, message):
    module.load_model = model
    with pytest.raises(WeightsError, match=rf"hear:their\.audio: .*{message}"):
        build()


def sized(**sizes: Any) -> Model:
    model = Model()
    for name, value in sizes.items():
        setattr(model, name, value)
    return model


def test_what_fails_inside_is_named(module):
    module.get_timestamp_embeddings = lambda audio, model: audio[7]
    with pytest.raises(DataError, match=r"get_timestamp_embeddings fails for \(2, 32000\) samples"):
        build()


def test_modules_that_are_none(module, monkeypatch):
    with pytest.raises(ConfigError, match=r"hear:no\.such\.thing: cannot be imported"):
        teachers.build("hear:no.such.thing")
    with pytest.raises(ConfigError, match="it lacks load_model, get_scene_embeddings"):
        teachers.build("hear:json")
    with pytest.raises(ConfigError, match="did you mean 'hear:MODULE'"):
        teachers.build("hear:")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "random"}, "makes its weights itself"),
        ({"hop_s": 0.5}, "a hop_s wants a window_s"),
        ({"precision": "bfloat16"}, "unknown value 'bfloat16'"),
    ],
)
def test_settings_it_does_not_take(module, settings, message):
    with pytest.raises(ConfigError, match=message):
        build(**settings)


def test_understudys_own_modules_are_such_modules():
    teacher = teachers.build("hear:understudy.hear.spectral")
    own = teachers.build("spectral")
    audio = noise(1.3, batch=1)
    timeline = teacher.embed(audio)
    wanted = own.centred(audio, 1.0, 0.05)
    torch.testing.assert_close(timeline.embedding, wanted.embedding)
    np.testing.assert_allclose(timeline.centre_s, wanted.centre_s, atol=1e-6)


class TestStores:
    """Stores of such teachers hold the instant of every frame."""

    @pytest.fixture
    def clips(self, tmp_path) -> Any:
        import soundfile

        from understudy import datasets

        for number, duration_s in enumerate((0.5, 2.0, 3.3)):
            samples = noise(duration_s, batch=1)[0].numpy()
            soundfile.write(tmp_path / f"{number}.wav", samples, RATE_HZ, subtype="FLOAT")
        (tmp_path / "labels.csv").write_text("path,label\n0.wav,a\n1.wav,b\n2.wav,a\n")
        return datasets.load("folder", tmp_path, csv="labels.csv")

    def test_timestamps_are_stored(self, module, clips, tmp_path):
        teacher = build()
        stores = extract(clips, [teacher], tmp_path / "cache", dtype="float32", progress=False)
        reader = cache.CacheReader(stores["hear:their.audio"])
        assert cache.verify(reader.path) == []
        data, n_frames = reader.gather([0, 1, 2])
        assert n_frames.tolist() == [13, 51, 83]
        centre_s, level_db = reader.centre_s([0, 1, 2]), reader.level_db([0, 1, 2])
        for row, n in enumerate(n_frames.tolist()):
            assert np.isfinite(level_db[row, :n]).all()
            np.testing.assert_allclose(centre_s[row, :n], 0.04 * np.arange(n), atol=1e-6)
            assert np.isnan(centre_s[row, n:]).all()
        wanted = teacher.embed(noise(2.0, batch=1)).embedding[0].numpy()
        np.testing.assert_allclose(data[1, :51], wanted, atol=1e-6)

    def test_a_crop_takes_the_frames_whose_instants_lie_in_it(self, module, clips, tmp_path):
        from understudy.train.frames import TeacherFrames

        stores = extract(clips, [build()], tmp_path / "cache", progress=False)
        reader = cache.CacheReader(stores["hear:their.audio"])
        frames = TeacherFrames(reader, np.array([0.5, 2.0, 3.3]), -100.0)
        n_slots = frames.capacity(1.0)
        assert n_slots in (25, 26)  # rounding may bring in one at either end
        slots = np.zeros((1, n_slots, 4), reader.dtype)
        centre_s, valid = np.zeros((1, n_slots)), np.zeros((1, n_slots), bool)
        frames.crops(np.array([2]), np.array([1.01]), 1.0, slots, centre_s, valid)
        assert valid.sum() == 25
        np.testing.assert_allclose(centre_s[valid], 0.03 + 0.04 * np.arange(25), atol=1e-6)

    def test_planned_instants_are_stored_too(self, module, clips, tmp_path):
        teacher = build(window_s=0.5)
        reader = cache.CacheReader(
            extract(clips, [teacher], tmp_path / "cache", progress=False)["hear:their.audio"]
        )
        assert reader.timing == {"window_s": 0.5, "hop_s": 0.5, "grid": "stored"}
        wanted = frame_centres(6, 0.5, 0.5, 3.3)
        np.testing.assert_array_equal(reader.centre_s([2])[0], wanted)

    def test_other_stores_say_that_theirs_follow(self, clips, tmp_path):
        stores = extract(clips, ["spectral"], tmp_path / "cache", progress=False)
        with pytest.raises(CacheError, match="follow from window_s and hop_s"):
            cache.CacheReader(stores["spectral"]).centre_s([0])
        assert not (tmp_path / "cache" / clips.name / stores["spectral"].name / "centre_s").exists()


def test_digest_tells_models_apart():
    one, other = Model(), Model()
    assert hear_module.state_digest(one) == hear_module.state_digest(other)
    nn.init.constant_(other.linear.bias, 0.0)
    assert hear_module.state_digest(one) != hear_module.state_digest(other)


@pytest.mark.filterwarnings("ignore")
def test_the_real_hear21passt(monkeypatch, capsys):
    """Its code, functions and model, with random weights in place of a download."""
    base = pytest.importorskip("hear21passt.base")
    passt = pytest.importorskip("hear21passt.models.passt")
    preprocess = pytest.importorskip("hear21passt.models.preprocess")
    wrapper = pytest.importorskip("hear21passt.wrapper")

    def load_model(model_file_path: str = "") -> nn.Module:
        torch.manual_seed(0)
        arch = "passt_s_swa_p16_128_ap476"
        net = passt.get_model(arch=arch, pretrained=False)
        net.blocks = net.blocks[:1]
        return wrapper.PasstBasicWrapper(
            mel=preprocess.AugmentMelSTFT(n_mels=128, sr=32000, win_length=800, hopsize=320),
            net=net,
            mode="all",
            arch=arch,
        )

    monkeypatch.setattr(base, "load_model", load_model)
    teacher = teachers.build("hear:hear21passt.base")
    assert capsys.readouterr().out == ""
    assert (teacher.card.dim, teacher.hop_s) == (1295, 0.05)
    assert teacher.card.version == "0.0.26"
    timeline = teacher.embed(0.1 * torch.randn(1, 35200))
    np.testing.assert_allclose(timeline.centre_s, 0.05 * np.arange(23), atol=1e-6)
