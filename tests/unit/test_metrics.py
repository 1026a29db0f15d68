"""Metrics: scikit-learn as the oracle, on tied scores and sparse labels."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from understudy import metrics
from understudy.errors import DataError

SHAPES = st.tuples(st.integers(1, 30), st.integers(1, 4))


@st.composite
def multi_label(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores on a coarse grid (many ties) and labels in -1/0/1."""
    shape = draw(SHAPES)
    score = draw(arrays(np.float64, shape, elements=st.sampled_from([0.0, 0.1, 0.5, 0.7, 1.0])))
    return score, draw(arrays(np.int8, shape, elements=st.sampled_from([-1, 0, 1])))


@given(multi_label())
def test_multi_label_equals_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    score, label = case
    found = {
        "ap": metrics.average_precision(score, label)[0],
        "auc": metrics.roc_auc(score, label)[0],
        "f1": metrics.f1(score, label)[0],
    }
    for k in range(label.shape[1]):
        known = label[:, k] != 0
        truth, column = label[known, k] == 1, score[known, k]
        if not truth.any():
            assert all(np.isnan(values[k]) for values in found.values())
            continue
        assert found["ap"][k] == pytest.approx(average_precision_score(truth, column), abs=1e-12)
        assert found["f1"][k] == pytest.approx(f1_score(truth, column > 0.5), abs=1e-12)
        if truth.all():
            assert np.isnan(found["auc"][k])
        else:
            assert found["auc"][k] == pytest.approx(roc_auc_score(truth, column), abs=1e-12)


@given(multi_label())
def test_mean_is_over_defined_classes_and_the_rest_are_named(
    case: tuple[np.ndarray, np.ndarray],
) -> None:
    score, label = case
    names = [f"label {k}" for k in range(label.shape[1])]
    per_class, mean = metrics.average_precision(score, label)
    result = metrics.evaluate(score, label, names)
    without = [n for n, column in zip(names, label.T, strict=True) if not (column == 1).any()]
    assert result["left_out"] == without
    assert [result["per_class"][name] for name in without] == [None] * len(without)
    if len(without) < len(names):
        assert mean == pytest.approx(np.nanmean(per_class))
    else:
        assert np.isnan(mean)
        assert result["value"] is None
    json.dumps(result, allow_nan=False)


@given(st.data())
def test_single_label_equals_scikit_learn(data: st.DataObject) -> None:
    n_clips, n_classes = data.draw(SHAPES)
    label = data.draw(arrays(np.int64, n_clips, elements=st.integers(0, n_classes - 1)))
    score = data.draw(arrays(np.float32, (n_clips, n_classes), elements=st.floats(0, 1, width=32)))
    guess, present = score.argmax(axis=1), np.unique(label)
    assert metrics.accuracy(score, label) == pytest.approx((guess == label).mean())
    per_class, mean = metrics.f1(score, label)
    for k in present:
        assert per_class[k] == pytest.approx(f1_score(label == k, guess == k), abs=1e-12)
    wanted = f1_score(label, guess, labels=present, average="macro")
    assert mean == pytest.approx(wanted, abs=1e-12)


def test_perfect_reversed_and_constant_scores() -> None:
    label = np.array([[1], [1], [-1], [-1]])
    for score, ap, auc in (([4, 3, 2, 1], 1.0, 1.0), ([1, 2, 3, 4], 5 / 12, 0.0)):
        column = np.array(score, dtype=float)[:, None]
        assert metrics.average_precision(column, label)[1] == pytest.approx(ap)
        assert metrics.roc_auc(column, label)[1] == auc
    constant = np.full((4, 1), 0.3)
    assert metrics.average_precision(constant, label)[1] == 0.5  # the prevalence
    assert metrics.roc_auc(constant, label)[1] == 0.5


def test_unknown_labels_change_nothing() -> None:
    rng = np.random.default_rng(0)
    score, label = rng.random((40, 3)), rng.choice([-1, 1], (40, 3))
    extra = np.concatenate([score, rng.random((10, 3))])
    masked = np.concatenate([label, np.zeros((10, 3), dtype=int)])
    assert metrics.average_precision(extra, masked)[1] == metrics.average_precision(score, label)[1]


def test_single_label_summary() -> None:
    score = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.7, 0.3, 0.0], [0.1, 0.9, 0.0]])
    result = metrics.evaluate(score, np.array([0, 0, 0, 1]), ["a", "b", "c"])
    assert (result["metric"], result["value"]) == ("accuracy", 0.75)
    assert result["per_class"] == {"a": 2 / 3, "b": 1.0, "c": None}
    assert result["left_out"] == ["c"]
    assert result["n_positive"] == {"a": 3, "b": 1, "c": 0}


@pytest.mark.parametrize(
    ("score", "label", "message"),
    [
        ([[0.1, np.nan]], [[1, -1]], "1 of 2 are not finite, the first at clip 0, label 1"),
        ([0.1, 0.2], [1, 0], r"wanted \(clip, label\)"),
        ([[0.1, 0.2]], [[1], [1]], "wanted shape"),
        ([[0.1, 0.2]], [[1, 2]], "wanted -1 to 1, found 1 to 2"),
        ([[0.1, 0.2]], [2], "wanted 0 to 1"),
        ([[0.1, 0.2]], [[0.5, 1]], "whole numbers"),
        ([[0.1, 0.2]], [[np.nan, 1]], "whole numbers"),
    ],
)
def test_bad_input_is_explained(score: list, label: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        metrics.validate(score, label)


def test_metrics_of_the_other_task_are_refused() -> None:
    with pytest.raises(DataError, match="label matrix"):
        metrics.average_precision([[0.1, 0.2]], [1])
    with pytest.raises(DataError, match="single-label classes"):
        metrics.accuracy([[0.1, 0.2]], [[1, -1]])
    with pytest.raises(DataError, match="1 label names for 2"):
        metrics.evaluate([[0.1, 0.2]], [[1, -1]], ["a"])
