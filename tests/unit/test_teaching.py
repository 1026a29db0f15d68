"""Several teachers at once, and principal components."""

import numpy as np
import pytest
import torch

from understudy import students
from understudy.errors import ConfigError
from understudy.train import compression
from understudy.train.objective import Objective
from understudy.train.settings import Share, system_settings
from understudy.train.teaching import Embedding

DIMS = {"a": 6, "b": 9}


def objective(system="dc_linear", **changes):
    torch.manual_seed(0)
    return Objective(
        system_settings(system, changes),
        task="multi-label",
        n_classes=3,
        student_dim=16,
        teacher_dims=DIMS,
    )


def batch():
    generator = torch.Generator().manual_seed(1)
    student = students.build("sc-cnn", 3, width=4, dropout=0.0)
    output = student(0.1 * torch.randn(5, 33_000, generator=generator))
    embeddings = [
        Embedding(
            frames=torch.randn(5, 4, dim, generator=generator),
            valid=torch.ones(5, 4, dtype=torch.bool),
            centre_s=torch.linspace(0.1, 2, 4).expand(5, -1),
        )
        for dim in DIMS.values()
    ]
    return student, (output, torch.ones(5, 3), embeddings, student.step_spans(33_000))


def test_distances_are_weighted_and_each_teacher_has_its_own_compression():
    teachers = {"a": {"weight": 3.0}, "b": {"compression": "mlp"}}
    chosen = objective(teachers=teachers)
    _, arguments = batch()
    output, labels, embeddings, spans = arguments
    parts = [
        teaching(output.feature_map, labels, embedding, spans, None)
        for teaching, embedding in zip(chosen.teachings, embeddings, strict=True)
    ]
    found = chosen(*arguments)
    torch.testing.assert_close(found["distance"], 0.75 * parts[0][0] + 0.25 * parts[1][0])
    torch.testing.assert_close(found["teacher"], parts[0][1] + parts[1][1])
    kinds = [type(teaching.compression).__name__ for teaching in chosen.teachings]
    assert kinds == ["Linear", "Mlp"]


def test_teacher_losses_move_their_own_compression_alone():
    chosen = objective()
    student, arguments = batch()
    chosen(*arguments)["teacher"].backward()
    assert all(p.grad is not None and p.grad.any() for p in chosen.parameters())
    assert all(p.grad is None for p in student.parameters())
    groups = chosen.parameter_groups(student)
    assert list(groups) == ["student", "teacher 0", "teacher 1"]
    found = [id(p) for group in groups.values() for p in group]
    assert sorted(found) == sorted(id(p) for m in (student, chosen) for p in m.parameters())


def test_a_teacher_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"distill\.teachers: unknown teacher 'c'"):
        objective(teachers={"c": {}})
    with pytest.raises(ConfigError, match="weight: wanted more than 0, found 0"):
        Share(weight=0)


def frames(n=400, dim=6):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, dim)) * [5, 1, 0.5, 3, 0.1, 2]
    return torch.from_numpy((x - x.mean(0)) @ np.linalg.qr(rng.standard_normal((dim, dim)))[0])


def test_principal_components_keep_the_most_variance():
    pca = compression.build("pca", 6, 3)
    x = frames()
    assert isinstance(pca, compression.Pca)
    pca.fit(iter(x.split(70)))
    found = pca(x.float())
    values = np.linalg.svd(x.numpy(), compute_uv=False)[:3]
    np.testing.assert_allclose(found.norm(dim=0).numpy(), values, rtol=1e-5)
    covariance = found.T @ found
    torch.testing.assert_close(covariance, torch.diag(covariance.diag()), atol=1e-2, rtol=0)
    assert not list(pca.parameters())
    assert (pca.components.gather(1, pca.components.abs().argmax(1, keepdim=True)) > 0).all()


def test_whitened_components_have_unit_variance():
    pca = compression.build("pca", 6, 4, whiten=True)
    assert isinstance(pca, compression.Pca)
    pca.fit([frames()])
    np.testing.assert_allclose(pca(frames().float()).std(0, correction=0).numpy(), 1, rtol=1e-4)


def test_pca_makes_no_channels_that_are_not_there():
    assert compression.build("pca", 6, 16).n_out == 6
    with pytest.raises(ConfigError, match="pca makes 6 of the teacher's 6"):
        objective("fitnet", compression="pca")
    assert objective("dc", compression="pca").teachings[0].get_buffer(
        "compression.components"
    ).shape == (6, 6)
