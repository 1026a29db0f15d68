"""How sure a score is: bootstrap intervals and paired comparisons over clips and trainings.

Clips are resampled by group (one recording cut into clips, one artist, ...), since clips of a group
are no independent evidence. A resample is a weight per group; every metric is computed from those
weights and one ranking of the clips, nothing is sorted again.

Several runs of a system are resampled jointly: one draw of groups serves all runs, systems and
folds, so that comparisons are paired by clip, and the runs of each fold are drawn too, so that the
luck of a training counts. Runs of equal fold and seed are drawn together.

Folds share most of their training clips, so their scores are no independent samples, and a standard
error over folds would be too small by an unknown amount. Here folds are not resampled: their test
clips, which are different ones, are pooled. The intervals therefore hold for other test clips and
other seeds, but for training sets like these; what another training set would do is not in them.

Of n groups or trainings n - 1 are drawn, which makes the variance of a resampled mean unbiased also
for few (Rao and Wu, JASA 83, 1988). From one training nothing can be learnt about others: then the
interval holds for that very model.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from understudy import metrics
from understudy.errors import DataError

N_RESAMPLES = 1000
LEVEL = 0.95
SEED = 1223
BLOCK = 250
"""Resamples computed at once: what is in work stays in the processor's cache."""


@dataclass(frozen=True)
class Scored:
    """One set of predictions, as `understudy.metrics` wants them, with a group for each clip."""

    scores: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    """str (clip,)"""

    def __post_init__(self) -> None:
        metrics.validate(self.scores, self.labels)
        if self.groups.shape != self.scores.shape[:1]:
            raise DataError(f"groups: wanted ({len(self.scores)},), found {self.groups.shape}")


@dataclass(frozen=True)
class Draws:
    """Resamples of groups of clips.

    Attributes:
        groups: str (group,), sorted.
        n_resamples: How many.
        seed: Same groups, number and seed, same draws.
    """

    groups: np.ndarray
    n_resamples: int = N_RESAMPLES
    seed: int = SEED

    @classmethod
    def over(
        cls, scored: Iterable[Scored], n_resamples: int = N_RESAMPLES, seed: int = SEED
    ) -> "Draws":
        """Draws of all groups that occur in `scored`."""
        return cls(np.unique(np.concatenate([one.groups for one in scored])), n_resamples, seed)

    @cached_property
    def weight(self) -> np.ndarray:
        """float64 (group, resample): how often each group is drawn."""
        rng = np.random.default_rng(self.seed)
        return _draw(len(self.groups), self.n_resamples, rng)

    def trainings(self, runs: Sequence[tuple[int | None, int | None]]) -> np.ndarray:
        """float64 (run, resample): weight of each run, 1 on average.

        Args:
            runs: (fold, seed) of each. Runs are drawn within their fold; the same seeds of a fold
                get the same weights at every call.
        """
        weight = np.ones((len(runs), self.n_resamples))
        for fold in dict.fromkeys(fold for fold, _ in runs):
            rows = [row for row, (other, _) in enumerate(runs) if other == fold]
            if len(rows) > 1:
                rows.sort(key=lambda row: str(runs[row][1]))
                rng = np.random.default_rng((self.seed, 1 + (fold or 0)))
                drawn = _draw(len(rows), self.n_resamples, rng)
                weight[rows] = drawn * len(rows) / (len(rows) - 1)
        return weight

    def describe(self, level: float = LEVEL) -> dict[str, Any]:
        """How an interval over these draws was made, JSON-able."""
        return {
            "method": "grouped percentile bootstrap",
            "level": level,
            "n_resamples": self.n_resamples,
            "seed": self.seed,
            "n_groups": len(self.groups),
        }


def resampled(scored: Scored, draws: Draws) -> dict[str, np.ndarray]:
    """The metrics of every resample.

    Returns:
        The names of `metrics.evaluate`, ("mAP", "roc_auc", "macro_f1") or ("accuracy",
        "macro_f1"), to (resample,), and "per_class" to (label, resample): average precision or
        recall. NaN where a resample leaves a value undefined.
    """
    place = np.searchsorted(draws.groups, scored.groups)
    compute = _multi_label if scored.labels.ndim == 2 else _single_label
    parts = [
        compute(scored.scores, scored.labels, place, draws.weight[:, start : start + BLOCK])
        for start in range(0, draws.n_resamples, BLOCK)
    ]
    return {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}


def interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float] | None:
    """Percentile interval of resampled values (resample,); None where fewer than half are known."""
    known = values[~np.isnan(values)]
    if 2 * len(known) < len(values) or not len(known):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def evaluate(
    scored: Scored, label_names: Sequence[str], draws: Draws | None = None, level: float = LEVEL
) -> dict[str, Any] | None:
    """Intervals of what `metrics.evaluate` reports on the same predictions, JSON-able.

    Returns:
        [low, high] (or None) for `value`, `also` {name: ...} and `per_class` {label: ...}, and how
        they were made; None for clips of a single group.
    """
    draws = draws or Draws.over([scored])
    if len(draws.groups) < 2:
        return None
    found = {name: _intervals(values, level) for name, values in resampled(scored, draws).items()}
    per_class = found.pop("per_class")
    main = found.pop("mAP" if scored.labels.ndim == 2 else "accuracy")
    return draws.describe(level) | {
        "value": main,
        "also": found,
        "per_class": dict(zip(label_names, per_class, strict=True)),
    }


@dataclass(frozen=True)
class Trial:
    """One run's resampled values, (resample,) or (label, resample)."""

    fold: int | None
    seed: int | None
    values: np.ndarray


def mean_over_runs(trials: Sequence[Trial], draws: Draws) -> np.ndarray:
    """The mean over a system's runs, resampled."""
    weight = draws.trainings([(trial.fold, trial.seed) for trial in trials])
    return np.mean([w * one.values for w, one in zip(weight, trials, strict=True)], axis=0)


def mean_difference(pairs: Sequence[tuple[Trial, Sequence[Trial]]], draws: Draws) -> np.ndarray:
    """The mean, resampled, of runs of one system minus the mean of their partners of another.

    Partners have the fold of their run. One of equal seed shares its batches and crops and is drawn
    with it; where only one of the two systems has seeds, the other's runs are drawn alone.
    """
    weight = draws.trainings([(run.fold, run.seed) for run, _ in pairs])
    total = np.zeros(draws.n_resamples)
    for w, (run, partners) in zip(weight, pairs, strict=True):
        if any(partner.seed != run.seed for partner in partners):
            other = mean_over_runs(partners, draws)
        else:
            other = w * np.mean([partner.values for partner in partners], axis=0)
        total += w * run.values - other
    return total / len(pairs)


def p_value(differences: np.ndarray) -> float | None:
    """Two-sided p-value of resampled differences (resample,) against no difference.

    The smallest 1 - level whose percentile interval leaves out 0, at least 1 / (resamples + 1).
    """
    known = differences[~np.isnan(differences)]
    if not len(known):
        return None
    beyond = min((known <= 0).sum(), (known >= 0).sum())
    return float(min(1.0, 2 * (beyond + 1) / (len(known) + 1)))


def holm(p_values: Mapping[Any, float]) -> dict[Any, float]:
    """p-values corrected for their number: the chance of any false finding among them (Holm)."""
    result, largest = {}, 0.0
    for rank, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        largest = max(largest, min(1.0, p_values[key] * (len(p_values) - rank)))
        result[key] = largest
    return result


def _draw(n: int, n_resamples: int, rng: np.random.Generator) -> np.ndarray:
    return rng.multinomial(n - 1, np.full(n, 1 / n), n_resamples).T.astype(np.float64)


def _intervals(values: np.ndarray, level: float) -> Any:
    if values.ndim == 2:
        return [_intervals(row, level) for row in values]
    found = interval(values, level)
    return None if found is None else list(found)


def _multi_label(
    scores: np.ndarray, labels: np.ndarray, place: np.ndarray, weight: np.ndarray
) -> dict[str, np.ndarray]:
    ranked = [_ranked(s, y, place, weight) for s, y in zip(scores.T, labels.T, strict=True)]
    precision, auc = (np.stack(values) for values in zip(*ranked, strict=True))
    f1 = _f1(scores > 0.5, labels == 1, labels != 0, place, weight)
    return {
        "mAP": _mean(precision),
        "roc_auc": _mean(auc),
        "macro_f1": _mean(f1),
        "per_class": precision,
    }


def _single_label(
    scores: np.ndarray, labels: np.ndarray, place: np.ndarray, weight: np.ndarray
) -> dict[str, np.ndarray]:
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
