"""What every student promises, over all students and their variants (narrow, for speed)."""

import itertools

import numpy as np
import pytest
import torch

from understudy import students
from understudy.errors import ConfigError, UnderstudyError, WeightsError

VARIANTS = {
    "sc-cnn shortcut 1": ("sc-cnn", {"shortcut": 1}),
    "sc-cnn shortcut 3": ("sc-cnn", {"shortcut": 3}),
    "hcnn": ("hcnn", {}),
}
N_CLASSES = 5


def make(variant: str, **settings):
    name, own = VARIANTS[variant]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return students.build(name, N_CLASSES, **{"width": 8, **own, **settings})


def noise(n_samples: int, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n_samples)
    return 0.2 * torch.randn(batch, n_samples, generator=generator)


@pytest.fixture(params=VARIANTS)
def variant(request) -> str:
    return request.param


@pytest.fixture
def student(variant):
    return make(variant).eval()


def test_every_registered_student_is_under_contract():
    assert {name for name, _ in VARIANTS.values()} == set(students.names())


@torch.no_grad()
def test_shapes_follow_the_time_grid(student):
    for n_samples in (1, student.min_samples, student.min_samples + 1, student.input_samples):
        for length in (n_samples, 2 * n_samples + 77_777):
            logits, feature_map = student(noise(length))
            assert logits.shape == (2, N_CLASSES)
            assert feature_map.shape == (2, student.n_steps(length), student.channels)
            start_s, end_s = student.step_spans(length)
            assert start_s.shape == end_s.shape == (student.n_steps(length),)
            np.testing.assert_allclose(start_s[1:], end_s[:-1], rtol=1e-12)
            np.testing.assert_allclose((start_s + end_s) / 2, student.step_centres(length))


def test_time_grid_in_seconds():
    sc_cnn, hcnn = make("sc-cnn shortcut 1"), make("hcnn")
    np.testing.assert_allclose(sc_cnn.step_centres(160_000), 2.048 * np.arange(5))
    np.testing.assert_allclose(sc_cnn.step_spans(59_049), [[-1.024, 1.024], [1.024, 3.072]])
    np.testing.assert_allclose(hcnn.step_centres(240_000), 4.608 * (np.arange(3) + 0.5))
    np.testing.assert_allclose(hcnn.step_spans(80_000), [[0], [4.608]])


def test_a_step_sees_audio_around_its_centre(variant):
    student = make(variant, tap="pre").eval()
    n_samples = 400_000
    audio = noise(n_samples, batch=1).requires_grad_()
    features = student(audio).feature_map
    centre_s = student.step_centres(n_samples)
    step = len(centre_s) // 2
    (gradient,) = torch.autograd.grad(features[0, step].square().sum(), audio)
    energy = gradient[0].square().double()
    seen_s = float((energy * torch.arange(n_samples)).sum() / energy.sum()) / student.sample_rate
    step_s = centre_s[1] - centre_s[0]
    assert abs(seen_s - centre_s[step]) < 0.2 * step_s


@torch.no_grad()
def test_items_of_a_batch_do_not_meet(student):
    audio = noise(student.input_samples, batch=3)
    together, alone = student(audio), student(audio[1:2])
    torch.testing.assert_close(together.logits[1:2], alone.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.feature_map[1:2], alone.feature_map, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_int16_is_divided_by_32768(student):
    pcm = (noise(student.input_samples) * 32768).round().clamp(-32768, 32767).to(torch.int16)
    found, wanted = student(pcm), student(pcm.float() / 32768)
    assert torch.equal(found.logits, wanted.logits)
    assert torch.equal(found.feature_map, wanted.feature_map)


@torch.no_grad()
def test_short_audio_is_padded_with_zeros_at_its_end(student):
    audio = noise(student.min_samples - 100)
    padded = torch.nn.functional.pad(audio, (0, 100))
    assert torch.equal(student(audio).logits, student(padded).logits)


@torch.no_grad()
def test_silence_and_full_scale_are_finite(student):
    silence = torch.zeros(1, student.input_samples)
    for audio in (silence, silence + 1, torch.full_like(silence, -1.0)):
        assert all(part.isfinite().all() for part in student(audio))


@torch.no_grad()
def test_tap(variant):
    audio = noise(make(variant).input_samples)
    outputs = []
    for settings in ({}, {"tap": "post"}, {"tap": "pre"}):
        student = make(variant, **settings).eval()
        # The untrained map has one sign only, more or less.
        student.get_parameter("layer7.bn_2.bias")[::2] -= 3
        student.get_parameter("layer7.bn_2.bias")[1::2] += 3
        outputs.append(student(audio))
    default, post, pre = outputs
    assert 0 < (pre.feature_map < 0).float().mean() < 1
    assert torch.equal(pre.feature_map.relu(), post.feature_map)
    assert torch.equal(pre.logits, post.logits)
    assert torch.equal(default.feature_map, post.feature_map)


def test_every_parameter_learns(variant):
    student = make(variant).train()
    student(noise(student.input_samples, batch=3)).logits.square().sum().backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A bias before a batch normalisation has no effect in training.
        if "conv" not in name and name != "dense1.bias":
            assert parameter.grad.abs().max() > 0, name


@torch.no_grad()
def test_front_end_is_float32_whatever_the_rest_is(variant):
    audio = noise(make(variant).input_samples)
    wanted = make(variant).eval().front_end(audio)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = make(variant).eval().front_end(audio)
        logits = make(variant).eval()(audio).logits
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)
    assert logits.dtype == torch.bfloat16
    for dtype in (torch.float64, torch.bfloat16):
        student = make(variant).eval().to(dtype)
        found = student.front_end(audio)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
        assert student(audio).logits.dtype == dtype


@torch.no_grad()
def test_rebuilt_from_name_settings_and_state(variant, student):
    twin = students.build(student.name, student.n_classes, **student.settings).eval()
    twin.load_state_dict(student.state_dict())
    audio = noise(student.input_samples)
    assert torch.equal(twin(audio).logits, student(audio).logits)


@torch.no_grad()
def test_constants_survive_the_meta_device(variant, student):
    with torch.device("meta"):
        twin = students.build(student.name, student.n_classes, **student.settings).eval()
    twin.to_empty(device="cpu").load_state_dict(student.state_dict())
    audio = noise(student.input_samples)
    assert torch.equal(twin(audio).logits, student(audio).logits)


@pytest.mark.parametrize(
    ("name", "settings", "n_classes", "n_parameters"),
    [
        ("sc-cnn", {}, 50, 9_088_564),
        ("sc-cnn", {}, 20, 9_073_174),
        ("sc-cnn", {"shortcut": 3}, 50, 12_104_244),
        ("sc-cnn", {"shortcut": 3}, 20, 12_088_854),
        ("hcnn", {}, 50, 3_631_551),
        ("hcnn", {}, 20, 3_623_841),
    ],
)
def test_parameter_counts(name, settings, n_classes, n_parameters):
    with torch.device("meta"):
        student = students.build(name, n_classes, **settings)
    assert sum(p.numel() for p in student.parameters()) == n_parameters


def test_width(variant):
    narrow, wide = make(variant, width=4), make(variant, width=8)
    assert wide.channels == 2 * narrow.channels
    assert wide(noise(wide.input_samples)).feature_map.shape[-1] == wide.channels


@pytest.mark.parametrize(
    ("name", "n_classes", "settings", "message"),
    [
        ("sc-cn", 5, {}, "unknown student 'sc-cn'; did you mean 'sc-cnn'"),
        ("sc-cnn", 5, {"widht": 8}, "did you mean 'width'"),
        ("hcnn", 5, {"shortcut": 3}, "unknown key 'shortcut'"),
        ("sc-cnn", 5, {"shortcut": 2}, "shortcut: unknown value '2'"),
        ("hcnn", 5, {"tap": "before"}, "tap: unknown value 'before'"),
        ("hcnn", 5, {"width": 0}, "width: wanted at least 1, found 0"),
        ("hcnn", 5, {"dropout": 1.0}, "dropout: wanted 0 to below 1"),
        ("hcnn", 0, {}, "wanted at least 1 class, found 0"),
    ],
)
def test_what_cannot_be_built(name, n_classes, settings, message):
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        students.build(name, n_classes, **settings)


def test_audio_without_a_batch_is_refused(student):
    with pytest.raises(ConfigError, match=r"wanted audio \(batch, samples\), found \(100,\)"):
        student(torch.zeros(100))


class TestPublished:
    def test_other_shortcut(self):
        state = make("sc-cnn shortcut 3").state_dict()
        with pytest.raises(WeightsError, match=r"layer1\.conv_3\.weight is .*3, 3\), wanted"):
            make("sc-cnn shortcut 1").load_published(state)

    def test_other_network_and_left_over_tensors(self, student):
        state = student.state_dict()
        with pytest.raises(WeightsError, match=r"no tensor dense2\.bias, wanted by"):
            student.load_published({k: v for k, v in state.items() if k != "dense2.bias"})
        with pytest.raises(WeightsError, match=r"has no tensor head\.weight"):
            student.load_published({**state, "head.weight": torch.zeros(1)})

    def test_refusal_leaves_the_student_alone(self, variant, student):
        before = {key: value.clone() for key, value in student.state_dict().items()}
        other = {key: torch.zeros_like(value) for key, value in before.items()}
        other["dense2.bias"] = torch.zeros(N_CLASSES + 1)
        with pytest.raises(WeightsError, match="5 classes"):
            student.load_published(other)
        assert all(torch.equal(before[k], v) for k, v in student.state_dict().items())

    def test_files(self, student, tmp_path):
        import safetensors.torch

        state = {key: torch.full_like(value, 2) for key, value in student.state_dict().items()}
        torch.save(state, tmp_path / "a.pth")
        safetensors.torch.save_file(state, tmp_path / "b.safetensors")
        for file in ("a.pth", "b.safetensors"):
            twin = students.build(student.name, student.n_classes, **student.settings)
            twin.load_published(tmp_path / file)
            assert all(torch.equal(state[k], v) for k, v in twin.state_dict().items())

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_files_that_are_no_checkpoint(self, student, suffix, tmp_path):
        cases = {"absent": None, "empty": b"", "text": b"<html>not found</html>" * 9}
        whole = tmp_path / f"whole{suffix}"
        if suffix == ".pth":
            torch.save(student.state_dict(), whole)
            cases["cut"] = whole.read_bytes()[:5000]
            torch.save({"epoch": 3}, whole)
            cases["no tensors"] = whole.read_bytes()
        for case, content in cases.items():
            file = tmp_path / f"{case}{suffix}"
            if content is not None:
                file.write_bytes(content)
            with pytest.raises(UnderstudyError, match=f"{case}{suffix}"):
                student.load_published(file)

    def test_no_code_runs_from_a_file(self, student, tmp_path):
        file = tmp_path / "evil.pth"
        torch.save({"x": itertools.count()}, file)  # any object beyond plain tensors
        with pytest.raises(WeightsError, match=r"evil\.pth"):
            student.load_published(file)
