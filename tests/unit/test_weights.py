"""Weights files with more in them than tensors: what is read, and what never runs."""

import collections
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from understudy.errors import WeightsError
from understudy.teachers import weights

STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}


def saved(content, path: Path, zipped: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_numpy_values_beside_the_weights_are_passed_over(zipped, tmp_path):
    content = {
        "iteration": np.int64(600_000),
        "sampler": {"indexes": np.arange(50), "rate": np.float32(0.5), "name": np.array(["a"])},
        "model": collections.OrderedDict(STATE),
    }
    network = nn.Linear(3, 2)
    path = saved(content, tmp_path / "network.pth", zipped)
    weights.load_(network, path, lambda found: found["model"])
    assert torch.equal(network.weight, STATE["weight"])
    assert torch.equal(network.bias, STATE["bias"])


def test_numpy_values_among_the_weights_are_refused(tmp_path):
    path = saved(STATE | {"bias": np.ones(2)}, tmp_path / "network.pth")
    with pytest.raises(WeightsError, match="'bias': StandIn"):
        weights.load_(nn.Linear(3, 2), path)


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "function",
    [Path.touch, os.mkdir, os.system, eval, exec, getattr, torch.load, np.save, io.open, type],
)
def test_no_function_named_in_a_file_is_called(function, zipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = {
        Path.touch: (Path("ran"),),
        os.mkdir: ("ran",),
        os.system: ("touch ran",),
        eval: ("open('ran', 'w')",),
        exec: ("open('ran', 'w')",),
        getattr: (Path, "cwd"),
        torch.load: ("ran",),
        np.save: ("ran.npy", [1]),
        io.open: ("ran", "w"),
        type: ("Ran", (), {}),
    }[function]
    path = saved(STATE | {"extra": Call(function, *arguments)}, tmp_path / "network.pth", zipped)
    with pytest.raises(WeightsError, match="without running code"):
        weights.load_(nn.Linear(3, 2), path)
    assert [file.name for file in tmp_path.iterdir()] == ["network.pth"]


def test_a_stand_in_passes_no_call_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nested = Call(np.dtype, Call(os.mkdir, "ran"))
    with pytest.raises(WeightsError, match="without running code"):
        weights.load_(nn.Linear(3, 2), saved(STATE | {"extra": nested}, tmp_path / "network.pth"))
    assert not (tmp_path / "ran").exists()


def test_a_plain_pickle_is_refused_unread(tmp_path):
    path = tmp_path / "network.pth"
    path.write_bytes(pickle.dumps({"extra": Call(os.mkdir, str(tmp_path / "ran"))}))
    with pytest.raises(WeightsError, match="without running code"):
        weights.load_(nn.Linear(3, 2), path)
    assert not (tmp_path / "ran").exists()


def test_an_adaptation_that_refuses_names_the_file(tmp_path):
    def adapted(content):
        raise WeightsError("made for 16 kHz")

    path = saved(STATE, tmp_path / "network.pth")
    with pytest.raises(WeightsError, match=r"network\.pth: made for 16 kHz"):
        weights.load_(nn.Linear(3, 2), path, adapted)
    with pytest.raises(WeightsError, match="found a int"):
        weights.load_(nn.Linear(3, 2), path, lambda content: 3)


def test_random_weights_use_a_modules_own_rule():
    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(4))

        def random_(self, generator: torch.Generator) -> None:
            nn.init.normal_(self.token, generator=generator)

    first, again, other = (nn.Sequential(Token(), nn.LayerNorm(4)) for _ in range(3))
    identity = [weights.random_(net, seed) for net, seed in ((first, 0), (again, 0), (other, 1))]
    assert identity == ["random:0", "random:0", "random:1"]
    drawn, repeated, others = (net.state_dict()["0.token"] for net in (first, again, other))
    assert torch.equal(drawn, repeated)
    assert not torch.equal(drawn, others)
    with pytest.raises(AssertionError, match="no rule"):
        weights.random_(nn.Conv1d(1, 1, 1), 0)
