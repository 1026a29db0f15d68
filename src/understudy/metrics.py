"""Scores of predictions: numpy in, plain numbers out.

Conventions
-----------
scores: (clip, label) finite floats, higher means more likely; probabilities where a threshold is
    applied.
labels: multi-label (clip, label) of -1/0/1, 0 unknown and left out of everything; single-label
    (clip,) class indices.

A class whose value is undefined (no known positive, for ROC-AUC no known negative either) is NaN
and left out of the mean; `evaluate` names it. No class counts as 0 or 1 in silence.

Metrics
-------
`average_precision`, `roc_auc`, `f1` for multi-label, `accuracy` and `f1` for single-label data;
`validate` checks the input of all of them and `evaluate` computes everything for one task.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from understudy.errors import DataError


def validate(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Checks and converts one set of predictions.

    Returns:
        scores (clip, label) in their own float type and labels int64, (clip, label) or (clip,).

    Raises:
        DataError: Shapes that do not fit, scores that are not finite, labels out of range.
    """
    score, label = np.asarray(scores), np.asarray(labels)
    if not np.issubdtype(score.dtype, np.floating):
        score = score.astype(np.float64)
    if score.ndim != 2:
        raise DataError(f"scores: wanted (clip, label), found shape {score.shape}")
    if label.shape not in (score.shape, score.shape[:1]):
        raise DataError(
            f"labels: wanted shape {score.shape} (multi-label) or {score.shape[:1]} "
            f"(single-label), found {label.shape}"
        )
    bad = np.argwhere(~np.isfinite(score))
    if len(bad):
        clip, column = bad[0]
        raise DataError(
            f"scores: {len(bad)} of {score.size} are not finite, the first at clip {clip}, "
            f"label {column}"
        )
    if np.any(label != np.round(label)):
        raise DataError("labels: wanted whole numbers")
    label = label.astype(np.int64)
    low, high = (-1, 1) if label.ndim == 2 else (0, score.shape[1] - 1)
    if label.size and not (low <= label.min() and label.max() <= high):
        raise DataError(f"labels: wanted {low} to {high}, found {label.min()} to {label.max()}")
    return score, label


def average_precision(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, float]:
    """Average precision per label and its mean (mAP), scikit-learn's step-wise definition.

    The mean over the positives of the precision at their score's threshold, so clips with equal
    scores enter together.

    Returns:
        per_class float64 (label,), NaN without a known positive; the mean over the others.
    """
    return _per_class(_average_precision, *validate(scores, labels))


def roc_auc(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, float]:
    """Area under the ROC curve per label and its mean: P(positive > negative), ties one half.

    Returns:
        per_class float64 (label,), NaN unless both kinds are known; the mean over the others.
    """
    return _per_class(_roc_auc, *validate(scores, labels))


def f1(scores: ArrayLike, labels: ArrayLike, threshold: float = 0.5) -> tuple[np.ndarray, float]:
    """F1 per label and its mean (macro F1).

    Multi-label: predicted where score > threshold. Single-label: predicted is the highest score.

    Returns:
        per_class float64 (label,), NaN without a known positive; the mean over the others.
    """
    score, label = validate(scores, labels)
    if label.ndim == 1:
        classes = np.arange(score.shape[1])
        label = np.where(label[:, None] == classes, 1, -1)
        score = (score.argmax(axis=1)[:, None] == classes).astype(np.float64)
        threshold = 0.5

    def one(positive: np.ndarray, negative: np.ndarray) -> float:
        hit, false_alarm = (positive > threshold).sum(), (negative > threshold).sum()
        return 2 * hit / (hit + false_alarm + len(positive)) if len(positive) else np.nan

    return _per_class(one, score, label)


def accuracy(scores: ArrayLike, labels: ArrayLike) -> float:
    """Share of clips whose highest score is their class (first class on ties); NaN for no clips."""
    score, label = validate(scores, labels)
    if label.ndim != 1:
        raise DataError("accuracy: wanted single-label classes (clip,), found a label matrix")
    return float((score.argmax(axis=1) == label).mean()) if len(label) else float("nan")


def evaluate(scores: ArrayLike, labels: ArrayLike, label_names: Sequence[str]) -> dict[str, Any]:
    """Everything that is reported about one set of predictions, JSON-able (NaN becomes None).

    Returns:
        metric ("mAP" or "accuracy") and its value; per_class_metric and per_class {label: value};
        chance {label: value} of scores that know nothing (average precision: the share of
        positives); left_out, the labels without a known positive; n_positive and n_negative
        {label: count}; n_clips; also {further metric: value}.
    """
    score, label = validate(scores, labels)
    if len(label_names) != score.shape[1]:
        raise DataError(f"{len(label_names)} label names for {score.shape[1]} columns of scores")
    if label.ndim == 2:
        values, mean = average_precision(score, label)
        main = {"metric": "mAP", "value": _plain(mean), "per_class_metric": "average precision"}
        also = {"roc_auc": roc_auc(score, label)[1], "macro_f1": f1(score, label)[1]}
        known = label
        chance = [np.mean(y[y != 0] == 1) if (y == 1).any() else np.nan for y in label.T]
    else:
        known = np.where(label[:, None] == np.arange(score.shape[1]), 1, -1)
        right = score.argmax(axis=1) == label
        values = np.array(
            [
                right[label == k].mean() if (label == k).any() else np.nan
                for k in range(len(label_names))
            ]
        )
        main = {
            "metric": "accuracy",
            "value": _plain(accuracy(score, label)),
            "per_class_metric": "recall",
        }
        also = {"macro_f1": f1(score, label)[1]}
        chance = [1 / len(label_names)] * len(label_names)
    named = dict(zip(label_names, values, strict=True))
    return main | {
        "per_class": {name: _plain(value) for name, value in named.items()},
        "chance": {n: _plain(c) for n, c in zip(label_names, chance, strict=True)},
        "left_out": [name for name, value in named.items() if np.isnan(value)],
        "n_positive": _counts(label_names, known == 1),
        "n_negative": _counts(label_names, known == -1),
        "n_clips": len(score),
        "also": {name: _plain(value) for name, value in also.items()},
    }


def _per_class(
    metric: Callable[[np.ndarray, np.ndarray], float], score: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, float]:
    """`metric(scores of the positives, scores of the negatives)` for each label, and the mean."""
    if label.ndim != 2:
        raise DataError("wanted a label matrix (clip, label), found single-label classes")
    values = np.array(
        [metric(s[y == 1], s[y == -1]) for s, y in zip(score.T, label.T, strict=True)], np.float64
    )
    defined = values[~np.isnan(values)]
    return values, float(defined.mean()) if len(defined) else float("nan")


def _average_precision(positive: np.ndarray, negative: np.ndarray) -> float:
    if not len(positive):
        return np.nan
    hits = _at_least(positive, positive)
    return float((hits / (hits + _at_least(negative, positive))).mean())


def _roc_auc(positive: np.ndarray, negative: np.ndarray) -> float:
    if not (len(positive) and len(negative)):
        return np.nan
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left")
    up_to = np.searchsorted(ordered, positive, "right")
    return float((below + up_to).mean() / (2 * len(negative)))


def _at_least(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How many of `values` reach each threshold."""
    return len(values) - np.searchsorted(np.sort(values), thresholds, "left")


def _counts(label_names: Sequence[str], mask: np.ndarray) -> dict[str, int]:
    return dict(zip(label_names, mask.sum(axis=0).tolist(), strict=True))


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
