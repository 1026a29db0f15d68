"""Rules that hear-validator holds a module against, its warnings included."""

import inspect
from types import ModuleType
from typing import Any, cast

import torch

RATES_HZ = (16000, 22050, 32000, 44100, 48000)
SCENE_S = 2.74
TIMESTAMPS_S = (1.07, 1.98, 4.0)


def check(module: ModuleType, *arguments: Any) -> None:
    """Asserts all of them on the model that `load_model(*arguments)` gives."""
    parameters = inspect.signature(module.load_model).parameters.values()
    assert all(
        p.default is not p.empty or p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters
    )
    model: Any = module.load_model(*arguments)
    assert isinstance(cast(object, model), torch.nn.Module)
    assert not any(part.training for part in model.modules())
    assert model.sample_rate in RATES_HZ
    sizes = (model.scene_embedding_size, model.timestamp_embedding_size)
    assert [type(size) for size in sizes] == [int, int]
    assert model.to("cpu") is model
    with torch.no_grad():
        scene = module.get_scene_embeddings(noise(4, SCENE_S, model.sample_rate), model)
        assert scene.shape == (4, sizes[0])
        assert scene.dtype == torch.float32
        assert scene.isfinite().all()
        for duration_s in TIMESTAMPS_S:
            check_timestamps(module, model, duration_s, sizes[1])


def check_timestamps(module: ModuleType, model: Any, duration_s: float, size: int) -> None:
    """Asserts those of one duration, for two sounds."""
    sound = noise(2, duration_s, model.sample_rate)
    embedding, timestamp = module.get_timestamp_embeddings(sound, model)
    assert embedding.ndim == 3
    assert embedding.shape == (2, timestamp.shape[1], size)
    assert embedding.dtype == torch.float32
    assert embedding.isfinite().all()
    assert timestamp.shape == embedding.shape[:2]
    duration_ms = 1000 * sound.shape[1] / model.sample_rate
    spacing = timestamp.diff(dim=1)
    mean = float(spacing.mean())
    assert (spacing - mean).abs().max() <= 1
    assert mean <= 50 + 1e-3
    assert timestamp[:, 0].max() <= mean
    assert timestamp[:, -1].max() <= duration_ms
    assert timestamp[:, -1].min() >= duration_ms - min(mean, 50)


def noise(n_sounds: int, duration_s: float, rate_hz: int) -> torch.Tensor:
    """Uniform noise (sound, sample) in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.rand(n_sounds, int(duration_s * rate_hz), generator=generator) - 1
