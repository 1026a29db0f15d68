"""`understudy.hear.*`: each teacher is a HEAR module; one stands for the rules, which
`test_teachers.py` holds against all teachers."""

import importlib

import pytest
import torch

from understudy import teachers


@pytest.mark.parametrize("name", teachers.names())
def test_every_teacher_is_a_module(name):
    module = importlib.import_module(f"understudy.hear.{name}")
    for function in ("load_model", "get_scene_embeddings", "get_timestamp_embeddings"):
        assert callable(getattr(module, function))


@pytest.mark.parametrize("name", ["discogs", "mn04", "spectral"])
@pytest.mark.parametrize("silent", [True, False])
def test_one_second(name, silent):
    module = importlib.import_module(f"understudy.hear.{name}")
    model = module.load_model("random")
    generator = torch.Generator().manual_seed(0)
    audio = 0.1 * torch.randn(2, model.sample_rate, generator=generator) * (not silent)
    scene = module.get_scene_embeddings(audio, model)
    assert scene.shape == (2, model.scene_embedding_size)
    assert scene.dtype == torch.float32
    embedding, timestamp = module.get_timestamp_embeddings(audio, model)
    assert embedding.shape == (2, 21, model.timestamp_embedding_size)
    assert embedding.dtype == torch.float32
    assert scene.isfinite().all()
    assert embedding.isfinite().all()
    torch.testing.assert_close(timestamp[0], 50 * torch.arange(21.0))
