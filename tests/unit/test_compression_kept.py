"""What a compression keeps, against cases with known answers."""

from pathlib import Path

import numpy as np
import pytest
from tests import tiny

from understudy.errors import ConfigError
from understudy.evaluate.compression import compression, load, spectrum
from understudy.evaluate.runs import Run
from understudy.train import train


def test_known_shares() -> None:
    covariance = np.diag([4.0, 3.0, 2.0, 1.0])
    kept = spectrum(np.eye(4)[:2] * [[1.0], [1e-3]], covariance)
    assert kept["variance_kept"] == pytest.approx(0.7)  # gain does not matter
    assert kept["variance_kept_by_pca"] == pytest.approx(0.7)
    assert kept["singular_values"] == pytest.approx([1.0, 1e-3])
    assert kept["effective_dim_before"] == pytest.approx(100 / 30)
    assert kept["effective_dim_after"] == pytest.approx(1.0, abs=1e-4)
    worst = spectrum(np.eye(4)[2:], covariance)
    assert worst["variance_kept"] == pytest.approx(0.3)
    assert worst["variance_kept_by_pca"] == pytest.approx(0.7)


def test_a_square_matrix_keeps_all_and_none_keeps_more_than_pca() -> None:
    rng = np.random.default_rng(0)
    for n_out in (1, 3, 6):
        factor = rng.normal(size=(6, 6))
        kept = spectrum(rng.normal(size=(n_out, 6)), factor @ factor.T)
        assert kept["variance_kept"] <= kept["variance_kept_by_pca"] + 1e-9
        assert sum(kept["variance_after"]) == pytest.approx(1)
    assert kept["variance_kept"] == pytest.approx(1)


def test_of_a_run(tmp_path: Path) -> None:
    index = tiny.index(30)
    cache = tiny.make_cache(tmp_path / "cache", index)
    settings = {**tiny.QUICK, "optim": {**tiny.QUICK["optim"], "max_epochs": 1}}
    how = {"cache": cache, "settings": settings}
    train(index, system="dc_linear", teacher="framewise", run_dir=tmp_path / "a", **how)
    train(index, system="baseline", run_dir=tmp_path / "b", **how)
    compression(tmp_path / "a")
    kept = Run.read(tmp_path / "a").evaluations["compression"]
    (one,) = kept["teachers"]
    assert one["dim_before"] == tiny.DIM
    assert 0 < one["variance_kept"] <= one["variance_kept_by_pca"] + 1e-9
    assert all(0 <= value <= 1 for value in one["probe"].values())
    (read,) = load(Run.read(tmp_path / "a"))
    assert one["singular_values"][0] == pytest.approx(np.linalg.norm(read.matrix, 2))
    with pytest.raises(ConfigError, match="no compression that is one matrix"):
        compression(tmp_path / "b")
