"""Metrics against stored values of scikit-learn and of the ancestor project."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from understudy import metrics

EXACT: dict[str, Any] = {"rel": 1e-5, "abs": 1e-6}


@pytest.fixture
def stored(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "metrics.npz") as arrays:
        return dict(arrays)


def test_per_class_values_and_means(stored: dict[str, np.ndarray]) -> None:
    score, label = stored["score"], stored["label"]
    for metric, name, mean_name in (
        (metrics.average_precision, "average_precision", "mAP"),
        (metrics.roc_auc, "roc_auc", "macro_roc_auc"),
    ):
        per_class, mean = metric(score, label)
        assert per_class == pytest.approx(stored[name], **EXACT)
        assert mean == pytest.approx(float(stored[mean_name]), **EXACT)


def test_ancestor_project(stored: dict[str, np.ndarray]) -> None:
    score, label = stored["score"], stored["label"]
    found = (
        metrics.average_precision(score, label)[1],
        metrics.roc_auc(score, label)[1],
        metrics.f1(score, label, threshold=0.4)[1],
    )
    wanted = [float(stored[f"reference/{name}"]) for name in ("mAP", "auc_roc", "binary_f1")]
    assert found == pytest.approx(wanted, **EXACT)


def test_classes_without_positives_are_nan_and_left_out(stored: dict[str, np.ndarray]) -> None:
    score, label = stored["score"], stored["degenerate/label"]
    per_class, mean = metrics.average_precision(score, label)
    wanted = stored["degenerate/average_precision"]
    assert per_class == pytest.approx(wanted, nan_ok=True, **EXACT)
    known_mean = float(stored["degenerate/mAP_over_classes_with_a_positive"])
    assert mean == pytest.approx(known_mean, **EXACT)
    result = metrics.evaluate(score, label, list("abcdefg"))
    assert result["left_out"] == ["a", "b"]
    assert result["value"] == mean
