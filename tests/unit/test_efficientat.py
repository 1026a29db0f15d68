"""EfficientAT's widths: cards against networks, folding, and weights files that do not fit."""

import hashlib
import pickle
import re
from pathlib import Path

import pytest
import torch
from tests import fill
from torch.utils.flop_counter import FlopCounterMode

from understudy import fetch, teachers
from understudy.errors import DataError, WeightsError
from understudy.teachers.efficientat import MobileNet, folded

WIDTHS = [name for name in teachers.names() if name.startswith("mn")]


def network(width: float) -> MobileNet:
    with torch.device("meta"):
        return MobileNet(width).eval()


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """State of a filled mn01."""
    filled = network(0.1).to_empty(device="cpu")
    with torch.no_grad():
        for module in filled.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_parameters()
        fill.fill_(filled, 1)
    return filled.state_dict()


@pytest.fixture
def weights(state, tmp_path):
    path = tmp_path / "mn01.pt"
    torch.save(state, path)
    return path


@pytest.mark.parametrize("name", WIDTHS)
def test_card_counts_what_the_network_has(name):
    card, net = teachers.card(name), network(int(name[2:]) / 10)
    assert sum(p.numel() for p in net.parameters()) == card.parameters
    with FlopCounterMode(display=False) as counter:
        logits, embedding = net(torch.empty(1, 128, 1000, device="meta"))
    assert counter.get_total_flops() / 2 == pytest.approx(10 * card.macs_per_s)
    assert (logits.shape, embedding.shape) == ((1, 527), (1, card.dim))


@pytest.mark.parametrize(("frames", "columns"), [(2, 1), (96, 3), (192, 6), (200, 7), (1000, 32)])
def test_last_map_has_a_column_for_32_frames(frames, columns):
    last = network(0.4).features(torch.empty(1, 1, 128, frames, device="meta"))
    assert last.shape == (1, 384, 4, columns)


def test_folding_changes_nothing_but_rounding(state):
    log_mel = torch.from_numpy(fill.noise(1, "log-mel", (2, 128, 40)))
    net = network(0.1).to_empty(device="cpu")
    net.load_state_dict(state)
    with torch.no_grad():
        logits, embedding = net(log_mel)
        folded(net)
        assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in net.modules())
        torch.testing.assert_close(net(log_mel), (logits, embedding), rtol=1e-4, atol=1e-4)


def test_a_weights_file_is_its_sha256(weights):
    teacher = teachers.build("mn01", weights)
    assert teacher.weights_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert teacher.identity()["weights_sha256"] == teacher.weights_sha256
    audio = torch.from_numpy(fill.audio(1, 32000, 32000))
    rebuilt = teachers.from_spec(teacher.spec)
    assert torch.equal(rebuilt.embed(audio).embedding, teacher.embed(audio).embedding)


def test_a_spec_refuses_weights_that_changed_meanwhile(weights, state):
    spec = teachers.build("mn01", weights).spec
    torch.save({key: value + 1 for key, value in state.items()}, weights)
    with pytest.raises(WeightsError, match=f"wanted weights with sha256 {spec.weights_sha256}"):
        teachers.from_spec(spec)


def test_relative_path_in_a_spec_is_made_absolute(weights, monkeypatch):
    monkeypatch.chdir(weights.parent)
    assert teachers.build("mn01", weights.name).spec.weights == str(weights)


def test_weights_of_another_width_are_told_by_their_shapes(weights):
    with pytest.raises(WeightsError) as error:
        teachers.build("mn02", weights)
    assert str(weights) in str(error.value)
    assert "missing (features.2.block.2.0.weight" in str(error.value)
    assert re.search(r"found other shapes \(\S+ \(.*\), wanted \(", str(error.value))


def test_missing_and_unwanted_keys_are_named(state, tmp_path):
    other = dict(state)
    other["classifier.9.weight"] = other.pop("classifier.5.weight")
    torch.save(other, path := tmp_path / "other.pt")
    wanted = r"1 missing \(classifier\.5\.weight\); 1 not wanted \(classifier\.9\.weight\)"
    with pytest.raises(WeightsError, match=wanted):
        teachers.build("mn01", path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "0 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "bytes that do not load"),
        (b"PK\x03\x04 not an archive", "bytes that do not load"),
    ],
)
def test_files_that_are_no_weights_are_refused(content, found, tmp_path):
    path = tmp_path / "mn01.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=found) as error:
        teachers.build("mn01", path)
    assert str(path) in str(error.value)


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_code_in_a_weights_file_does_not_run(tmp_path):
    marker = tmp_path / "ran"
    content = {"features.0.0.weight": Payload(marker)}
    pickle.loads(pickle.dumps(content))
    assert marker.exists()
    marker.unlink()
    for save in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))):
        save(content, path := tmp_path / "mn01.pt")
        with pytest.raises(WeightsError, match="without running code"):
            teachers.build("mn01", path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "found"),
    [([1, 2], "found a list"), ({"epoch": 3}, "'epoch': int"), ({}, "missing")],
)
def test_something_else_than_a_state_dict_is_refused(content, found, tmp_path):
    torch.save(content, path := tmp_path / "mn01.pt")
    with pytest.raises(WeightsError, match=found):
        teachers.build("mn01", path)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="cannot read the weights"):
        teachers.build("mn01", tmp_path)


def test_published_weights_are_looked_for_at_home_first(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(fetch, "download", lambda *_, **__: pytest.fail("fetched"))
    (tmp_path / "home" / "weights").mkdir(parents=True)
    weights.rename(tmp_path / "home" / "weights" / "mn01_as_mAP_298.pt")
    assert len(teachers.build("mn01").weights_sha256) == 64


def test_published_weights_are_fetched_and_offline_says_what_to_do(tmp_path, monkeypatch):
    asked = {}

    def offline(url, destination, *, sha256, size, **_):
        asked.update(url=url, destination=destination, sha256=sha256, size=size)
        raise DataError(f"{url}: no network")

    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path))
    monkeypatch.setattr(fetch, "download", offline)
    with pytest.raises(WeightsError, match=r"no network; .*--weights mn04=PATH"):
        teachers.build("mn04")
    card = teachers.card("mn04")
    assert asked == {
        "url": card.url,
        "destination": tmp_path / "weights" / "mn04_as_mAP_432.pt",
        "sha256": card.weights_sha256,
        "size": card.weights_bytes,
    }
