"""Distances and prediction losses: masks, degenerate batches, half precision, gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.errors import ConfigError
from understudy.train import losses

NAMES = list(losses.DISTANCES)


def features(batch=8, steps=3, dim=6, other=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, steps, dim, generator=generator, dtype=torch.float64)
    y = torch.randn(batch, steps, other, generator=generator, dtype=torch.float64)
    return x.requires_grad_(), y.requires_grad_()


def naive_dc(x, y):
    """The definition on (batch, step, channel), without care for speed or memory."""

    def centred(z):
        z = z.transpose(0, 1)
        a = ((z[:, :, None] - z[:, None]).square().sum(-1) + 1e-12).sqrt()
        return a - a.mean(1, keepdim=True) - a.mean(2, keepdim=True) + a.mean((1, 2), keepdim=True)

    a, b = centred(x), centred(y)
    aa, ab, bb = ((p * q).mean((1, 2)) for p, q in ((a, a), (a, b), (b, b)))
    return (1 - ab / (aa * bb + 1e-9).sqrt()).mean()


NEAR = {f"a pair at {distance}": distance for distance in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)}


@pytest.mark.parametrize("case", ["iid", "common offset", "nearly identical", "duplicates", *NEAR])
@pytest.mark.parametrize("batch", [3, 16, 64])
def test_dc_gradient_against_the_definition_in_float64(case, batch):
    x, y = (z.detach() for z in features(batch, 3, 256, 384))
    if case == "common offset":
        x = x + 30
    if case == "nearly identical":
        x = 1 + 1e-3 * x
    if case == "duplicates":
        x[1], x[5:6], y[2] = x[0], x[0], y[0]
    if case in NEAR:
        x[1], y[2] = x[0] + NEAR[case] * x[1], y[0] + NEAR[case] * y[2]
    x, y = x.float().double(), y.float().double()
    results = []
    for loss, dtype in ((naive_dc, torch.float64), (losses.dc, torch.float32)):
        leaves = [z.to(dtype).requires_grad_() for z in (x, y)]
        value = loss(*leaves)
        results.append((value.double(), *(g.double() for g in torch.autograd.grad(value, leaves))))
    wanted, found = results
    assert abs(found[0] - wanted[0]) <= 1e-5 * wanted[0] + 1e-6
    for f, w in zip(found[1:], wanted[1:], strict=True):
        assert (f - w).norm() <= 1e-4 * w.norm()


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_masked_items_do_not_exist(name, data):
    """A mask gives what leaving the items out by hand gives, whatever the items hold."""
    batch, steps = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 3))
    bits = st.lists(st.booleans(), min_size=batch * steps, max_size=batch * steps)
    mask = torch.tensor(data.draw(bits)).view(batch, steps)
    x, y = features(batch, steps)
    with torch.no_grad():
        x[~mask], y[~mask] = torch.nan, torch.inf
    distance = losses.DISTANCES[name]
    found = distance(x, y, mask)
    least = {"dc_unbiased": 4, "fitnet": 1}.get(name, 2)
    kept = [(x[m, t], y[m, t], int(m.sum())) for t, m in enumerate(mask.T) if m.sum() >= least]
    if not kept:
        wanted = torch.tensor(1.0 if name.startswith("dc") else 0.0).double()
    elif name == "fitnet":
        wanted = sum(distance(a, b, None) * n for a, b, n in kept) / sum(n for *_, n in kept)
    else:
        wanted = torch.stack([distance(a, b, None) for a, b, _ in kept]).mean()
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    for z, gradient in zip((x, y), torch.autograd.grad(found, (x, y)), strict=True):
        assert gradient.shape == z.shape
        assert gradient.isfinite().all()
        assert (gradient[~mask] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_without_steps_is_one_step(name):
    x, y = features(steps=1)
    mask = torch.tensor([True] * 6 + [False] * 2)
    distance = losses.DISTANCES[name]
    torch.testing.assert_close(distance(x[:, 0], y[:, 0], None), distance(x, y, None))
    torch.testing.assert_close(distance(x[:, 0], y[:, 0], mask), distance(x, y, mask[:, None]))


@pytest.mark.parametrize("name", NAMES)
def test_one_vector_serves_every_step(name):
    x, y = features()
    repeated = y[:, :1].expand(-1, 3, -1)
    torch.testing.assert_close(
        losses.DISTANCES[name](x, y[:, 0], None), losses.DISTANCES[name](x, repeated, None)
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_under_autocast(name, dtype):
    x, y = (z.detach().to(dtype).requires_grad_() for z in features(16, 2, 64, 64))
    with torch.autocast("cpu", dtype=dtype):
        found = losses.DISTANCES[name](x, y, None)
    wanted = losses.DISTANCES[name](x.double(), y.double(), None)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    found.backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, 1.0, -1e4])
def test_constant_features_have_finite_gradients(name, value):
    _, y = (z.detach().float() for z in features())
    x = torch.full_like(y, value).requires_grad_()
    losses.DISTANCES[name](x, y, None).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.abs().max() < 1e5


class TestUnbiased:
    def test_value_against_szekely_and_rizzo(self):
        x, y = (z.detach()[:, 0] for z in features(6, 1, 3, 4))
        n = len(x)

        def u_centred(z):
            a = torch.cdist(z, z)
            u = torch.zeros_like(a)
            for i in range(n):
                for j in range(n):
                    if i != j:
                        u[i, j] = a[i, j] - a[i].sum() / (n - 2) - a[:, j].sum() / (n - 2)
                        u[i, j] += a.sum() / ((n - 1) * (n - 2))
            return u

        a, b = u_centred(x), u_centred(y)
        wanted = 1 - (a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt()
        torch.testing.assert_close(losses.dc(x, y, unbiased=True), wanted, rtol=1e-6, atol=0)

    def test_independent_features_are_not_close(self):
        x, y = (z.detach() for z in features(16, 20, 256, 256))
        assert losses.dc(x, y) < 0.1  # biased: 16 items of 256 channels always look alike
        assert abs(losses.dc(x, y, unbiased=True) - 1) < 0.1

    def test_identical_features_are(self):
        x, _ = features(16, 2, 8)
        assert losses.dc(x, x, unbiased=True) < 1e-6


class TestPrediction:
    def test_unknown_labels_are_skipped(self):
        logits = torch.randn(2, 3, requires_grad=True)
        labels = torch.tensor([[1, 0, -1], [0, 0, 1]], dtype=torch.int8)
        loss = losses.prediction(logits, labels, "multi-label")
        p = logits.sigmoid()
        wanted = -(p[0, 0].log() + (1 - p[0, 2]).log() + p[1, 2].log()) / 3
        torch.testing.assert_close(loss, wanted)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert ((gradient != 0) == (labels != 0)).all()

    def test_single_label(self):
        logits, labels = torch.randn(3, 4), torch.tensor([0, 3, 1])
        wanted = -logits.log_softmax(1)[torch.arange(3), labels].mean()
        torch.testing.assert_close(losses.prediction(logits, labels, "single-label"), wanted)

    @pytest.mark.parametrize("task", ["single-label", "multi-label"])
    def test_items_left_out(self, task):
        logits = torch.randn(3, 4, requires_grad=True)
        labels = torch.tensor([[1, -1, 0, 1]] * 3)
        labels = labels if task == "multi-label" else torch.tensor([1, 2, 3])
        valid = torch.tensor([True, False, True])
        found = losses.prediction(logits, labels, task, valid)
        torch.testing.assert_close(found, losses.prediction(logits[valid], labels[valid], task))
        nothing = losses.prediction(logits, labels, task, torch.zeros(3, dtype=torch.bool))
        assert nothing == 0
        assert (torch.autograd.grad(nothing, logits)[0] == 0).all()

    def test_unknown_task(self):
        with pytest.raises(ConfigError, match="found 'tagging'"):
            losses.prediction(torch.zeros(1, 2), torch.zeros(1, 2), "tagging")


@pytest.mark.parametrize(
    ("student", "teacher", "mask", "message"),
    [
        ((4, 2, 6), (3, 2, 6), None, r"do not correspond: student \(4, 2, 6\)"),
        ((4, 2, 6), (4, 3, 6), None, r"teacher \(4, 3, 6\)"),
        ((4, 2, 6), (4, 2, 6), (4, 3), r"mask \(4, 3\) does not correspond"),
        ((4, 6), (4, 6), (3,), r"mask \(3, 1\) does not correspond"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_shapes_that_do_not_correspond(name, student, teacher, mask, message):
    mask = None if mask is None else torch.ones(mask, dtype=torch.bool)
    with pytest.raises(ConfigError, match=message):
        losses.DISTANCES[name](torch.zeros(student), torch.zeros(teacher), mask)


def test_fitnet_wants_one_width():
    with pytest.raises(ConfigError, match="found student 6 and teacher 8"):
        losses.fitnet(torch.zeros(4, 6), torch.zeros(4, 8))
