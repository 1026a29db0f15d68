"""The lines of the public API, as they are documented."""

import numpy as np
import pytest
import torch

from understudy import audio as codecs


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory):
    """An ESC-10 of a clip a class and fold, in the release's layout, of noise."""
    from understudy.datasets.esc50 import CLASSES, COLUMNS, ESC10_TARGETS

    root = tmp_path_factory.mktemp("esc10")
    (root / "audio").mkdir()
    (root / "meta").mkdir()
    rng = np.random.default_rng(0)
    lines = [",".join(COLUMNS)]
    for fold in range(1, 4):
        for target in ESC10_TARGETS[:3]:
            name = f"{fold}-{target}.wav"
            noise = rng.normal(0, 0.1, 32_000).astype(np.float32)
            codecs.write(root / "audio" / name, noise, 16_000)
            lines.append(f"{name},{fold},{target},{CLASSES[target]},True,{fold}{target},A")
    (root / "meta" / "esc50.csv").write_text("\n".join(lines) + "\n")
    return root


def test_the_documented_lines(root, tmp_path):
    path = "random"
    audio = torch.randn(2, 59_049, generator=torch.Generator().manual_seed(0))
    cache = tmp_path / "cache"

    from understudy import datasets, students, teachers

    index = datasets.load("esc10", root)
    assert len(index) == 9
    teacher = teachers.build("mn04", weights=path, device="cpu")
    assert teacher.card.name == "mn04"
    assert isinstance(teacher.network, torch.nn.Module)
    seconds = audio.repeat(1, 3)[:, : 4 * teacher.card.sample_rate]
    timeline = teacher.embed(seconds)
    assert timeline.embedding.shape == (2, 3, teacher.card.dim)
    np.testing.assert_allclose(timeline.centre_s, [0.96, 1.92, 2.88])
    student = students.build("sc-cnn", n_classes=50, shortcut=1, width=128)
    output = student(audio)
    assert output.logits.shape == (2, 50)
    steps = len(student.step_spans(59_049)[0])
    assert output.feature_map.shape == (2, steps, student.channels)

    from understudy.cache import CacheReader
    from understudy.extract import extract

    stores = extract(index, ["spectral"], cache, audio=True, progress=False)
    assert set(stores) == {"spectral", "audio"}
    reader = CacheReader(stores["spectral"])
    data, n_frames = reader.gather([8, 0])
    assert data.shape == (2, reader.max_frames, reader.dim)
    assert data.dtype == np.float16
    assert n_frames.tolist() == [2, 2]

    from understudy.train import train

    settings = {"student": {"width": 4}, "optim": {"batch": 2, "max_epochs": 1}, "threads": 1}
    run = train(
        index,
        student="sc-cnn",
        system="dc_linear",
        teacher="spectral",
        cache=cache,
        run_dir=tmp_path / "run",
        fold=1,
        settings=settings,
        progress=False,
    )
    assert (run / "best.safetensors").is_file()


@pytest.mark.parametrize("shape", [(8, 5), (4, 3, 5)])
def test_losses_of_vectors_and_of_steps(shape):
    from understudy.train.losses import dc, fitnet

    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(shape, generator=generator) for _ in range(2))
    for loss in (dc, fitnet):
        assert loss(student, teacher).shape == ()
        assert loss(student, student) < 1e-3 < loss(student, teacher)
    assert dc(student, torch.randn(*shape[:-1], 7, generator=generator)).isfinite()


def test_average_precision_returns_classes_and_mean():
    from understudy.metrics import average_precision

    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.8, 0.3]])
    per_class, mean = average_precision(scores, np.array([[1, -1], [-1, 0], [1, -1]]))
    np.testing.assert_array_equal(per_class, [1.0, np.nan])
    assert mean == 1.0
