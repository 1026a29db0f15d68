"""Students against golden vectors: maps, embeddings and logits within 1e-4 of their rms."""

import json

import numpy as np
import pytest
import torch
from tests import fill

from understudy import students

MODELS = {
    "sc_cnn": ("sc-cnn", {"shortcut": 3}),
    "sc_cnn_k1": ("sc-cnn", {"shortcut": 1}),
    "hcnn": ("hcnn", {}),
}
CASES = ["a", "b", "c", "d", "silence"]


@pytest.fixture(scope="module", params=MODELS)
def model(request, golden):
    """(student with golden weights, its arrays, its key list)."""
    name, settings = MODELS[request.param]
    with torch.random.fork_rng():
        student = students.build(name, 50, **settings).eval()
    fill.fill_(student, 1)
    with np.load(golden / f"{request.param}.npz") as arrays:
        vectors = dict(arrays)
    keys = json.loads((golden / f"keys_{request.param}.json").read_text())["keys"]
    return student, vectors, keys


def close(found: torch.Tensor, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    limit = 1e-4 * float(np.sqrt(np.mean(wanted.astype("f8") ** 2)))
    assert np.abs(found.numpy() - wanted).max() <= limit


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_network(model, case):
    student, vectors, _ = model
    wanted = {k.split("/")[1]: v for k, v in vectors.items() if k.startswith(f"{case}/")}
    n_samples = int(wanted["n_samples"])
    audio = torch.from_numpy(fill.audio(1, 16_000, n_samples))
    if case == "silence":
        audio[0] = 0
        audio[1, n_samples // 2 :] = 0

    log_mel = student.front_end(audio)
    output = student(audio)
    pooled = output.feature_map.amax(1)
    embedding = student.bn(student.dense1(pooled)).relu()

    assert log_mel.shape[-1] == wanted["n_frames"]
    golden_mel = log_mel[..., :: int(wanted["logmel_stride"])].squeeze(1).numpy()
    assert golden_mel.shape == wanted["logmel"].shape
    assert np.abs(golden_mel - wanted["logmel"]).max() <= 5e-3
    close(output.feature_map.mT, wanted["map"])
    close(pooled, wanted["pooled"])
    close(embedding, wanted["embedding"])
    close(output.logits, wanted["logits"])
    assert np.abs(output.logits.sigmoid().numpy() - wanted["prob"]).max() <= 5e-5


@torch.no_grad()
def test_filter_bank(model):
    student, vectors, _ = model
    bank = student.get_submodule(student.front_end_name).bank()
    np.testing.assert_allclose(bank.sum(0), vectors["fb_column_sums"], rtol=1e-5, atol=2e-5)
    if "f0" in vectors:
        np.testing.assert_allclose(student.hstft.f0, vectors["f0"], rtol=1e-6)
        np.testing.assert_array_equal(bank.argmax(0), vectors["fb_column_argmax"])
        np.testing.assert_allclose(student.hstft.bw_Q.detach(), vectors["bw_Q"], rtol=1e-6)


def test_state_dict_is_the_published_one(model):
    student, _, keys = model
    found = {key: list(value.shape) for key, value in student.state_dict().items()}
    constants = {key for key in keys if fill.is_constant(key) and "num_batches" not in key}
    assert found == {key: shape for key, shape in keys.items() if key not in constants}


@pytest.mark.parametrize("constants", ["as listed", "empty", "absent"])
def test_published_checkpoint_loads_strictly(model, constants, tmp_path):
    student, _, keys = model
    state = {}
    for key, shape in keys.items():
        counter = key.endswith("num_batches_tracked")
        if fill.is_constant(key) and not counter:
            if constants == "absent":
                continue
            shape = [0] if constants == "empty" else shape
        state[key] = torch.tensor(7) if counter else torch.from_numpy(fill.value(2, key, shape))
    fresh = type(student)(student.n_classes, **student.settings)
    fresh.load_state_dict(state, strict=True)
    file = tmp_path / "best_model.pth"
    torch.save(state, file)
    from_file = type(student)(student.n_classes, **student.settings)
    from_file.load_published(file)
    for key, value in from_file.state_dict().items():
        assert torch.equal(value, state[key])
        assert torch.equal(value, fresh.state_dict()[key])
