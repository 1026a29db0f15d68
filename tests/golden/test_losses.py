"""Distances against golden values and gradients: 1e-5 relative, 1e-6 absolute."""

import numpy as np
import pytest
import torch

from understudy.train import losses


def close(found, wanted) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def vectors(golden):
    with np.load(golden / "losses.npz") as arrays:
        return {key: torch.from_numpy(np.asarray(value)) for key, value in arrays.items()}


def inputs(vectors, case: str) -> tuple[torch.Tensor, torch.Tensor]:
    student, teacher = vectors["student"], vectors["teacher"]
    if case.startswith("fitnet"):
        teacher = vectors["teacher_same_width"]
    if case.endswith("identical"):
        student = teacher = vectors["teacher_same_width"]
    if case.endswith("constant_student"):
        student = torch.zeros_like(student)
    n_clips = {"batch_two": 2, "batch_one": 1}.get(case.split("/")[1], len(student))
    return student[:n_clips].clone(), teacher[:n_clips].clone()


# golden name -> (distance, whether the features are averaged over time first)
CASES = {
    "distance_correlation/per_step": ("dc", False),
    "distance_correlation/time_mean": ("dc", True),
    "distance_correlation/identical": ("dc", False),
    "distance_correlation/constant_student": ("dc", False),
    "distance_correlation/batch_two": ("dc", False),
    "distance_correlation/batch_one": ("dc", False),
    "cosine_distance_difference/per_step": ("cosine", False),
    "cosine_distance_difference/time_mean": ("cosine", True),
    "fitnet/mean_over_all": ("fitnet", False),
    "fitnet/mean_over_all_after_time_mean": ("fitnet", True),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(vectors, case, masked):
    name, time_mean = CASES[case]
    student, teacher = (z.requires_grad_() for z in inputs(vectors, case))
    x, y = (z.mean(1) if time_mean else z for z in (student, teacher))
    mask = torch.ones(x.shape[:-1], dtype=torch.bool) if masked else None
    loss = losses.DISTANCES[name](x, y, mask)
    close(loss.detach(), vectors[case])
    loss.backward()
    for side, tensor in (("student", student), ("teacher", teacher)):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        if (wanted := vectors.get(f"{case}/grad_{side}")) is not None:
            scale = float(wanted.abs().max())
            np.testing.assert_allclose(tensor.grad, wanted, rtol=1e-5, atol=1e-6 * max(scale, 1))
            assert (tensor.grad - wanted).norm() <= 1e-5 * wanted.norm() + 1e-9


@pytest.mark.parametrize("case", CASES)
def test_float64_stays_float64(vectors, case):
    name, time_mean = CASES[case]
    x, y = (z.double().mean(1) if time_mean else z.double() for z in inputs(vectors, case))
    loss = losses.DISTANCES[name](x, y, None)
    assert loss.dtype == torch.float64
    np.testing.assert_allclose(loss, vectors[f"{case}/float64"], rtol=1e-9, atol=1e-10)


def test_each_step(vectors):
    student, teacher = vectors["student"], vectors["teacher"]
    found = [losses.dc(student[:, step], teacher[:, step]) for step in range(student.shape[1])]
    wanted = vectors["distance_correlation/each_step"]
    close(torch.stack(found), wanted)


def test_frames_repeated_to_a_common_grid(vectors):
    teacher = vectors["align/teacher"]
    student = vectors["student"].repeat_interleave(2, dim=1)[:, : teacher.shape[1]]
    wanted = vectors["align/student_twice_teacher_once"]
    close(losses.dc(student, teacher), wanted)
