"""Metrics of weighted groups of clips, for many weightings at once; NaN where undefined."""

import numpy as np
from scipy import sparse


def multi_label(
    scores: np.ndarray, labels: np.ndarray, place: np.ndarray, weight: np.ndarray
) -> dict[str, np.ndarray]:
    """mAP, roc_auc and macro_f1 (column,); per_class (label, column), average precision.

    Args:
        scores, labels: (clip, label), labels in -1/0/1.
        place: (clip,) group of each.
        weight: (group, column).
    """
    ranked = [_ranked(s, y, place, weight) for s, y in zip(scores.T, labels.T, strict=True)]
    precision, auc = (np.stack(values) for values in zip(*ranked, strict=True))
    f1 = _f1(scores > 0.5, labels == 1, labels != 0, place, weight)
    return {
        "mAP": _mean(precision),
        "roc_auc": _mean(auc),
        "macro_f1": _mean(f1),
        "per_class": precision,
    }


def single_label(
    scores: np.ndarray, labels: np.ndarray, place: np.ndarray, weight: np.ndarray
) -> dict[str, np.ndarray]:
    """accuracy and macro_f1 (column,); per_class (label, column), recall. As `multi_label`."""
    classes = np.arange(scores.shape[1])
    guess = scores.argmax(axis=1)
    truth = labels[:, None] == classes
    right = _totals(truth & (guess == labels)[:, None], place, weight)
    clips = _totals(truth, place, weight)
    f1 = _f1(guess[:, None] == classes, truth, np.ones_like(truth), place, weight)
    return {
        "accuracy": _ratio(right.sum(axis=0), clips.sum(axis=0)),
        "macro_f1": _mean(f1),
        "per_class": _ratio(right, clips),
    }


def _ranked(
    score: np.ndarray, label: np.ndarray, place: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Average precision and ROC-AUC (resample,) of one label.

    Negatives are counted between and at the scores of positives: row 2j holds those better than the
    j-th best positive score (and worse than the one before it), row 2j + 1 those equal to it.
    """
    positive, negative = label == 1, label == -1
    best_first = np.unique(-score[positive])
    n = len(best_first)
    if not n:
        nothing = np.full(weight.shape[1], np.nan)
        return nothing, nothing
    row = np.searchsorted(best_first, -score[positive])
    hits = _counts(row, place[positive], n, weight)
    worse = -score[negative]
    row = np.searchsorted(best_first, worse) + np.searchsorted(best_first, worse, "right")
    false = np.cumsum(_counts(row, place[negative], 2 * n + 1, weight), axis=0)
    true = np.cumsum(hits, axis=0)
    reached = false[1::2]
    precision = np.divide(true, true + reached, out=np.zeros_like(true), where=hits > 0)
    beaten = false[-1] - (false[:-1:2] + reached) / 2
    return (
        _ratio((hits * precision).sum(axis=0), true[-1]),
        _ratio((hits * beaten).sum(axis=0), true[-1] * false[-1]),
    )


def _f1(
    guess: np.ndarray, truth: np.ndarray, known: np.ndarray, place: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """F1 (label, resample); NaN without a positive."""
    hits = _totals(guess & truth, place, weight)
    positives = _totals(truth, place, weight)
    guessed = _totals(guess & known, place, weight)
    return np.where(positives > 0, _ratio(2 * hits, positives + guessed), np.nan)


def _totals(mask: np.ndarray, place: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(label, resample) weights of the clips in `mask` (clip, label)."""
    clip, column = np.nonzero(mask)
    return _counts(column, place[clip], mask.shape[1], weight)


def _counts(row: np.ndarray, place: np.ndarray, n_rows: int, weight: np.ndarray) -> np.ndarray:
    """(row, resample) weights of clips, given the row and the group of each."""
    ones = np.ones(len(place))
    counts = sparse.csr_array((ones, (row, place)), shape=(n_rows, len(weight)))
    return counts @ weight


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over labels (label, resample) of those that are known."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(axis=0), known.sum(axis=0))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    below = np.asarray(below, np.float64)
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)
