"""Transformations of the teacher's embedding."""

import pytest
import torch

from understudy.errors import ConfigError
from understudy.train import compression


@pytest.mark.parametrize("name", compression.names())
def test_any_leading_shape(name):
    transform = compression.build(name, 12, 7)
    for shape in ((4,), (4, 3)):
        out = transform(torch.randn(*shape, 12))
        assert out.shape == (*shape, transform.n_out)


def test_widths_and_parameters():
    def count(name, **settings):
        transform = compression.build(name, 768, 512, **settings)
        return transform.n_out, sum(p.numel() for p in transform.parameters())

    assert count("none") == (768, 0)
    assert count("linear") == (512, 768 * 512 + 512)
    assert count("mlp", hidden=10) == (512, 769 * 10 + 11 * 512)


def test_none_is_the_identity_and_linear_is_affine():
    x, y = torch.randn(2, 5, 12).unbind()
    assert torch.equal(compression.build("none", 12, 7)(x), x)
    linear = compression.build("linear", 12, 7)
    torch.testing.assert_close(linear((x + y) / 2), (linear(x) + linear(y)) / 2)


def test_mlp_is_not_affine():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mlp = compression.build("mlp", 12, 7)
        x, y = torch.randn(2, 5, 12).unbind()
    assert (mlp((x + y) / 2) - (mlp(x) + mlp(y)) / 2).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("liner", {}, "unknown compression 'liner'; did you mean 'linear'"),
        ("linear", {"hidden": 3}, "compression linear: unknown key 'hidden'"),
        ("mlp", {"hiden": 3}, "did you mean 'hidden'"),
        ("mlp", {"hidden": 0}, "wanted hidden of at least 1, found 0"),
    ],
)
def test_what_cannot_be_built(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        compression.build(name, 12, 7, **settings)
