"""MULE against upstream's package: resampling, front end, slices, network with formula weights."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from understudy import audio
from understudy.teachers.mule import Block, SlowFastNFNet, StandardisedConv
from understudy.teachers.mule_frontend import SliceLogMel, slice_plan

SHORT = (1025, 8000, 16000, 32000, 32160)
WHOLE = (47840, 47999, 48000, 50000, 96000, 160000)


@pytest.fixture(scope="module")
def expected(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "mule_frontend.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def front_end() -> SliceLogMel:
    return SliceLogMel(gain=1.0)


@pytest.fixture(scope="module")
def network() -> SlowFastNFNet:
    """With the goldens' formula weights: seed 1, in the order upstream creates its layers."""
    network = SlowFastNFNet().eval().requires_grad_(False)
    draw = np.random.Generator(np.random.PCG64(1))

    def put(parameter: torch.Tensor, value: np.ndarray | float) -> None:
        parameter.copy_(torch.from_numpy(np.array(value, np.float32)))

    for conv in parts(network, StandardisedConv):
        n_out, n_in, height, width = conv.weight.shape
        kernel = draw.standard_normal((height, width, n_in, n_out))
        put(conv.weight, kernel.transpose(3, 2, 0, 1))
        put(conv.gain, draw.uniform(0.6, 1.4, n_out))
        put(conv.bias, 0.1 * draw.standard_normal(n_out))
    for dense in parts(network, torch.nn.Linear):
        n_out, n_in = dense.weight.shape
        put(dense.weight, draw.standard_normal((n_in, n_out)).T / np.sqrt(n_in))
        put(dense.bias, 0.1 * draw.standard_normal(n_out))
    for block in parts(network, Block):
        put(block.gain, draw.uniform(0.3, 1.0))
    return network


def parts(network: SlowFastNFNet, kind: type) -> list:
    return [part for part in network.modules() if isinstance(part, kind)]


def mirrored(samples: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.pad(samples, 200, "reflect"))[None]


def slices(front_end: SliceLogMel, samples: np.ndarray) -> np.ndarray:
    plan = slice_plan(len(samples))
    assert plan is not None
    assert plan.mirrored == 200
    clip = mirrored(samples)[0]
    return front_end(torch.stack([clip[s : s + plan.length] for s in plan.start])).numpy()


def close(found, wanted, absolute):
    np.testing.assert_allclose(np.asarray(found), wanted, atol=absolute, rtol=0)


def test_resampling(golden):
    with np.load(golden / "mule_resample.npz") as arrays:
        pcm, wanted = arrays["pcm44k"], arrays["audio16k_resampy"]
    found = audio.resample(audio.from_int16(pcm).mean(1), 44100, 16000, "kaiser_best")
    assert len(found) == len(wanted)
    close(found[:-1], wanted[:-1], 3e-5)  # upstream's last sample may be 0


def test_mel_bank(front_end, expected):
    close(front_end.bank, expected["fb"], 2e-7)


@pytest.mark.parametrize("n_samples", SHORT + WHOLE)
def test_log_mel(n_samples, front_end, expected):
    found = front_end.log_mel(mirrored(expected[f"audio_{n_samples}"]))[0]
    close(found, expected[f"mel_{n_samples}"], 2e-5)


@pytest.mark.parametrize("n_samples", WHOLE)
def test_slices(n_samples, front_end, expected):
    found = slices(front_end, expected[f"audio_{n_samples}"])
    assert len(found) == expected[f"nslices_{n_samples}"]
    close(found, expected[f"slices_{n_samples}"][..., 0], 5e-5)


def test_slices_of_half_a_minute(front_end, expected):
    found = slices(front_end, expected["audio_480000"])
    assert len(found) == expected["nslices_480000"]
    close(found[0], expected["slices_480000_first"][..., 0], 5e-5)
    close(found[-1], expected["slices_480000_last"][..., 0], 5e-5)
    statistics = np.stack([found.mean((1, 2)), found.std((1, 2))])
    close(statistics, expected["slices_480000_meanstd"], 5e-5)


def test_variables_are_those_of_the_published_model(network, golden):
    with (golden / "mule_variables.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))

    def shapes(kind: str) -> list[tuple[int, ...]]:
        return [
            tuple(int(n) for n in row["kernel_HWIO"].strip("()").split(",") if n)
            for row in rows
            if row["layer"].startswith(kind)
        ]

    convs = parts(network, StandardisedConv)
    assert [tuple(c.weight.permute(2, 3, 1, 0).shape) for c in convs] == shapes("weight_stand")
    strides = [row["strides"] for row in rows if row["layer"].startswith("weight_stand")]
    assert [str(conv.stride) for conv in convs] == strides
    groups = [row["groups"] for row in rows if row["layer"].startswith("weight_stand")]
    assert [str(conv.groups) for conv in convs] == groups
    assert [tuple(d.weight.T.shape) for d in parts(network, torch.nn.Linear)] == shapes("dense")
    assert len(parts(network, Block)) == len(shapes("scalar_multiply"))


def test_network_unfolded_and_folded(network, golden):
    with np.load(golden / "mule_net.npz") as arrays:
        log_mel, wanted = torch.from_numpy(arrays["x"][..., 0]), arrays["y"]
    close(network(log_mel), wanted, 5e-5)
    for conv in parts(network, StandardisedConv):
        conv.fold_()
    close(network(log_mel), wanted, 5e-5)
