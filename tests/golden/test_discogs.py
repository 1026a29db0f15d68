"""DisCogs against Essentia: front end and resampling. Its network is a stand-in: see `Layouts`."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from understudy import audio, teachers
from understudy.errors import ConfigError, WeightsError
from understudy.teachers import discogs, discogs_stand_in
from understudy.teachers.base import Teacher
from understudy.teachers.discogs_frontend import MusicnnLogMel, n_frames, patches

TOLERANCE = 5e-5
LENGTHS = [100, 256, 257, 511, 512, 513, 8000, 12345, 32512, 32513, 32768, 33000, 160000, 160001]


@pytest.fixture(scope="module")
def expected(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "discogs_frontend.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return teachers.build("discogs", "random")


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    return 3 * torch.rand(130, 128, 96, generator=torch.Generator().manual_seed(1))


class TestFrontEnd:
    def test_bank_is_essentias_to_the_last_bit(self, expected):
        front_end = MusicnnLogMel()
        np.testing.assert_array_equal(front_end.bank.numpy(), expected["fb"])
        np.testing.assert_allclose(front_end.window.numpy(), expected["window"], atol=2e-7)

    @pytest.mark.parametrize("case", [*map(str, LENGTHS), "gap"])
    def test_log_mel(self, expected, case):
        samples, wanted = expected[f"audio_{case}"], expected[f"mel_{case}"]
        found = MusicnnLogMel()(clip_of_frames(samples))[0].numpy()
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=TOLERANCE)

    def test_digital_silence_needs_no_noise(self, expected):
        found = MusicnnLogMel()(clip_of_frames(expected["audio_gap"]))[0].numpy()
        np.testing.assert_allclose(found, expected["mel_gap_keep"], atol=TOLERANCE)


class TestTimeline:
    """Whole path, against patches cut from Essentia's features."""

    @pytest.mark.parametrize("n_samples", LENGTHS)
    def test_embeddings_are_of_essentias_patches(self, expected, teacher, n_samples):
        mel = torch.from_numpy(expected[f"mel_{n_samples}"])
        cyclic = mel[torch.arange(max(128, len(mel))) % len(mel)]
        starts = range(0, len(cyclic) - 127, 62)
        wanted = teacher.network(torch.stack([cyclic[start : start + 128] for start in starts]))
        timeline = teacher.embed(torch.from_numpy(expected[f"audio_{n_samples}"]))
        assert timeline.embedding.shape == (1, len(starts), 1280)
        torch.testing.assert_close(timeline.embedding[0], wanted, rtol=1e-3, atol=1e-3)
        if len(starts) > 1:
            middles = (np.array(starts) + 64) * 256 / 16000
            np.testing.assert_allclose(timeline.centre_s, middles, atol=1e-9)
        elif n_samples <= 32768:
            assert timeline.centre_s.tolist() == [n_samples / 32000]

    @pytest.mark.parametrize(
        ("duration_s", "wanted"),
        [(2.016, 1), (2.5, 1), (3.0, 1), (10.0, 9), (29.1, 28), (30.0, 29)],
    )
    def test_number_of_patches(self, teacher, duration_s, wanted):
        assert teacher.plan(round(duration_s * 16000)).n == wanted

    @pytest.mark.parametrize("n_samples", [32256, 32257, 48128, 48129, 48639, 48640])
    def test_patches_at_the_edges(self, teacher, n_samples):
        frames = 1 + -(-n_samples // 256)
        assert n_frames(n_samples) == frames
        assert teacher.plan(n_samples).n == max(1, (frames - 128) // 62 + 1)

    def test_fewer_frames_are_repeated_cyclically(self):
        log_mel = torch.arange(50.0)[None, :, None].expand(1, 50, 96)
        assert patches(log_mel)[0, 0, :, 0].tolist() == [frame % 50 for frame in range(128)]


class TestResampling:
    """Essentia's examples interpolate linearly, which aliases; ours is held to its best quality."""

    def test_deviations_are_those_the_card_states(self, golden):
        with np.load(golden / "discogs_resample.npz") as arrays:
            stereo, mono, linear, best = (arrays[k] for k in ("stereo44k", "mono", "q4", "q1"))
        np.testing.assert_array_equal(stereo.mean(1), mono)
        found = audio.resample(mono, 44100, 16000)
        assert len(found) == len(linear)
        rms = np.sqrt(np.mean(np.square(best)))
        inner = slice(100, len(best) - 100)
        deviations = [
            np.sqrt(np.mean(np.square((found[: len(best)] - other[: len(best)])[inner]))) / rms
            for other in (best, linear)
        ]
        assert deviations[0] < 0.017
        assert 0.5 < deviations[1] < 0.7

    def test_essentias_own_is_a_linear_one_a_sample_late(self, golden):
        with np.load(golden / "discogs_resample.npz") as arrays:
            mono, linear = arrays["mono"], arrays["q4"]
        late = np.interp(np.arange(len(linear)) * 2.75625 - 1, np.arange(len(mono)), mono)
        np.testing.assert_allclose(late[:-2], linear[:-2], atol=2e-3)


class TestLayouts:
    """Graphs of the documented names and shapes: fixed batch of 64, a projection at the end."""

    def test_stand_in_has_the_documented_shape(self):
        model = discogs_stand_in.model(0)
        onnx.checker.check_model(model)
        (given,), (taken,) = model.graph.input, model.graph.output
        assert (given.name, shape(given)) == ("melspectrogram", [64, 128, 96])
        assert (taken.name, shape(taken)) == ("embeddings", [64, 512])
        sizes = {item.name: np.prod(item.dims) for item in model.graph.initializer}
        learned = {"Conv": slice(1, None), "BatchNormalization": slice(1, 3)}
        parameters = sum(
            sizes[name]
            for node in model.graph.node
            for name in node.input[learned.get(node.op_type, slice(0))]
        )
        assert parameters == teachers.card("discogs").parameters

    def test_open_batch_equals_batches_of_64(self, noise):
        network = discogs.open_batch(discogs_stand_in.model(3), "stand-in", 1280)
        assert network.fixed_batch is None
        wanted = fixed_network(discogs_stand_in.model(3))(noise[:66])
        for n_batch in (1, 5, 64, 66):
            found = network(noise[:n_batch])
            torch.testing.assert_close(found, wanted[:n_batch], rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("layout", ["gemm", "matmul", "two_gemms"])
    def test_what_the_last_product_takes_is_the_embedding(self, noise, layout):
        model, weight = small(layout)
        projected = run(model, noise[:64])
        network = discogs.open_batch(model, layout, 1280)
        embedding = network(noise[:64])
        assert network.fixed_batch is None
        assert embedding.shape == (64, 1280)
        torch.testing.assert_close(embedding @ torch.from_numpy(weight), projected)

    def test_a_graph_that_names_its_batch_inside_keeps_it(self, noise):
        network = discogs.open_batch(small("reshape")[0], "reshape", 1280)
        assert network.fixed_batch == 64
        wanted = discogs.open_batch(small("gemm")[0], "gemm", 1280)(noise)
        assert torch.equal(network(noise[:5]), network(noise)[:5])
        torch.testing.assert_close(network(noise), wanted)

    def test_a_graph_without_projection_gives_its_output(self, noise):
        network = discogs.open_batch(small("multi")[0], "multi", 1280)
        torch.testing.assert_close(
            network(noise[:2]), discogs.open_batch(small("gemm")[0], "gemm", 1280)(noise[:2])
        )

    def test_a_file_is_told_by_its_sha256(self, teacher, tmp_path):
        path = tmp_path / "some.onnx"
        path.write_bytes(discogs_stand_in.model(0).SerializeToString())
        other = teachers.build("discogs", path)
        assert len(other.weights_sha256) == 64
        assert other.identity().get("settings") is None
        clip = 0.1 * torch.randn(1, 40000, generator=torch.Generator().manual_seed(0))
        assert torch.equal(other.embed(clip).embedding, teacher.embed(clip).embedding)
        assert "stand-in" not in other.card.title

    def test_random_weights_are_called_a_stand_in(self, teacher):
        assert "stand-in" in teacher.card.title
        assert teacher.card.training_data == ()
        assert "stand-in" in teacher.identity()["settings"]["network"]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "wanted an ONNX model, found 0 bytes"),
            (b"\x80\x04not a model at all", "wanted an ONNX model"),
            (lambda: small("gemm", width=640)[0], "projects 1280 values, found 640"),
            (lambda: small("gemm", bands=64)[0], r"\(batch, 128, 96\), found \[64, 128, 64\]"),
            (lambda: small("integers")[0], r"one float32 input, found melspectrogram tensor\(int"),
            (lambda: small("images")[0], r"embeddings \(64, 1280\), found \(64, 1, 1280\)"),
        ],
    )
    def test_other_files_are_refused(self, tmp_path, content, message):
        path = tmp_path / "foreign.onnx"
        path.write_bytes(content if isinstance(content, bytes) else content().SerializeToString())
        with pytest.raises(WeightsError, match=rf"foreign\.onnx.*{message}"):
            teachers.build("discogs", path)

    def test_a_truncated_file_is_refused(self, tmp_path):
        path = tmp_path / "half.onnx"
        path.write_bytes(discogs_stand_in.model(0).SerializeToString()[:9_000_000])
        with pytest.raises(WeightsError, match=r"half\.onnx"):
            teachers.build("discogs", path)

    @pytest.mark.parametrize("setting", [{"precision": "bfloat16"}, {"compile": True}])
    def test_settings_of_torch_networks_are_refused(self, setting):
        with pytest.raises(ConfigError, match="teacher discogs"):
            teachers.build("discogs", "random", **setting)


def clip_of_frames(samples: np.ndarray) -> torch.Tensor:
    """A clip (1, samples) with the zeros that Essentia's frames see around it."""
    behind = 256 * n_frames(len(samples)) - len(samples)
    return torch.from_numpy(np.pad(samples, (256, behind)))[None]


def shape(item: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in item.type.tensor_type.shape.dim]


def fixed_network(model: onnx.ModelProto) -> discogs.OnnxNetwork:
    output = discogs.expose(model, 1280, "stand-in")
    network = discogs.OnnxNetwork(model.SerializeToString(), "stand-in", output, fixed_batch=64)
    network.settle(1280)
    return network


def run(model: onnx.ModelProto, features: torch.Tensor) -> torch.Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString())
    return torch.from_numpy(session.run(["embeddings"], {"melspectrogram": features.numpy()})[0])


def small(layout: str, width: int = 1280, bands: int = 96) -> tuple[onnx.ModelProto, np.ndarray]:
    """A model of batch 64: bands summed over time, times a constant, projected; the projection."""
    rng = np.random.default_rng(0)
    spread = rng.standard_normal((bands, width), dtype=np.float32) / 128
    weight = rng.standard_normal((width, 512), dtype=np.float32) / 128
    constants = {
        "axis": np.array([1]),
        "spread": spread,
        "weight": weight,
        "transposed": np.ascontiguousarray(weight.T),
        "zeros": np.zeros(512, np.float32),
        "no_bias": np.zeros(width, np.float32),
        "sizes": np.array([64, width]),
    }
    nodes: list[tuple[str, list[str], str, dict[str, Any]]] = []
    nodes += [("ReduceSum", ["sound", "axis"], "bands", {"keepdims": int(layout == "images")})]
    if layout == "two_gemms":
        nodes += [("Gemm", ["bands", "spread", "no_bias"], "hidden", {})]
        nodes += [("Relu", ["hidden"], "embedding", {})]
    else:
        nodes += [("Einsum", ["bands", "spread"], "embedding", {"equation": "...i,ij->...j"})]
    output = "embeddings"
    if layout == "reshape":
        nodes += [("Reshape", ["embedding", "sizes"], "shaped", {})]
        nodes += [("Gemm", ["shaped", "transposed", "zeros"], output, {"transB": 1})]
    elif layout in ("matmul", "images"):
        nodes += [("MatMul", ["embedding", "weight"], "product", {})]
        nodes += [("Add", ["product", "zeros"], output, {})]
    elif layout == "multi":
        output = "embedding"
    else:
        nodes += [("Gemm", ["embedding", "transposed", "zeros"], output, {"transB": 1})]
    kind = TensorProto.INT32 if layout == "integers" else TensorProto.FLOAT
    cast = [helper.make_node("Cast", ["melspectrogram"], ["sound"], to=TensorProto.FLOAT)]
    made = [helper.make_node(op, inputs, [out], **more) for op, inputs, out, more in nodes]
    used = {name for node in made for name in node.input}
    graph = helper.make_graph(
        cast + made,
        layout,
        [helper.make_tensor_value_info("melspectrogram", kind, (64, 128, bands))],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, name) for name, v in constants.items() if name in used],
    )
    opsets = [helper.make_opsetid("", discogs_stand_in.OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), weight
