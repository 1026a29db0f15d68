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

Resamples tell how much a score varies, not where it lies: a positive clip drawn twice counts as one
more positive above itself, so that average precision is higher in resamples than in the test set,
and percentiles may miss the very score (50 labels on 200 clips: by .9 standard deviations).
Where resamples are all alike, as at 100 % accuracy, percentiles would be a point. So their variance
goes into Wilson's interval for shares (JASA 22, 1927), with as many clips as make a share vary like
the score (for surveys: Kott and Carr, J. Official Statistics 13, 1997) and Student's t for the
normal quantile: it holds the score, stays within 0 and 1, and for an accuracy of 1 over n groups
reaches down to n / (n + t^2). Differences have Student's t, with the variance of one more
group on which systems differ (after Agresti and Min, Statistics in Medicine 24, 2005).

With few positives average precision is higher on small test sets than on large ones (a positive
always finds itself: at chance .21 instead of .15, for 50 clips). Intervals are of the mean over
test sets like the one at hand, of its size.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import stats

from understudy import metrics, weighted
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
        """float64 (group, 1 + resample): how often each group is drawn; first, each once."""
        rng = np.random.default_rng(self.seed)
        drawn = _draw(len(self.groups), self.n_resamples, rng)
        return np.concatenate([np.ones((len(self.groups), 1)), drawn], axis=1)

    def trainings(self, runs: Sequence[tuple[int | None, int | None]]) -> np.ndarray:
        """float64 (run, 1 + resample): weight of each run, 1 on average; first, each 1.

        Args:
            runs: (fold, seed) of each. Runs are drawn within their fold; the same seeds of a fold
                get the same weights at every call.
        """
        weight = np.ones((len(runs), 1 + self.n_resamples))
        for fold in dict.fromkeys(fold for fold, _ in runs):
            rows = [row for row, (other, _) in enumerate(runs) if other == fold]
            if len(rows) > 1:
                rows.sort(key=lambda row: str(runs[row][1]))
                rng = np.random.default_rng((self.seed, 1 + (fold or 0)))
                drawn = _draw(len(rows), self.n_resamples, rng)
                weight[rows, 1:] = drawn * len(rows) / (len(rows) - 1)
        return weight

    def describe(self, level: float = LEVEL) -> dict[str, Any]:
        """How an interval over these draws was made, JSON-able."""
        return {
            "method": "Wilson interval by the variance of a grouped bootstrap",
            "level": level,
            "n_resamples": self.n_resamples,
            "seed": self.seed,
            "n_groups": len(self.groups),
        }


def resampled(scored: Scored, draws: Draws) -> dict[str, np.ndarray]:
    """The metrics of the clips as they are and of every resample.

    Returns:
        The names of `metrics.evaluate`, ("mAP", "roc_auc", "macro_f1") or ("accuracy",
        "macro_f1"), to (1 + resample,), and "per_class" to (label, 1 + resample): average precision
        or recall. NaN where a resample leaves a value undefined.
    """
    place = np.searchsorted(draws.groups, scored.groups)
    compute = weighted.multi_label if scored.labels.ndim == 2 else weighted.single_label
    parts = [
        compute(scored.scores, scored.labels, place, draws.weight[:, start : start + BLOCK])
        for start in range(0, 1 + draws.n_resamples, BLOCK)
    ]
    return {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}


def held(scored: Scored, draws: Draws) -> np.ndarray:
    """bool (label, group): groups with a positive clip of a label, or a clip of a class."""
    labels = scored.labels
    classes = np.arange(scored.scores.shape[1])
    clip, label = np.nonzero(labels == 1 if labels.ndim == 2 else labels[:, None] == classes)
    found = np.zeros((len(classes), len(draws.groups)), bool)
    found[label, np.searchsorted(draws.groups, scored.groups)[clip]] = True
    return found


def interval(values: np.ndarray, n_groups: int, level: float = LEVEL) -> tuple[float, float] | None:
    """Interval of a score between 0 and 1.

    Args:
        values: (1 + resample,), the score first.
        n_groups: Groups that hold what is scored: what a score of 1 was reached on.
        level: Of confidence.

    Returns:
        Ends, with the score between them; None where it or most resamples are undefined.
    """
    variance = _variance(values)
    if variance is None:
        return None
    score = float(np.clip(values[0], 0, 1))
    smoothed = (n_groups * score + 1) / (n_groups + 2)
    bernoulli, assured = score * (1 - score), smoothed * (1 - smoothed)
    variance = max(variance + max(0.0, assured - bernoulli) / n_groups, 1 / (n_groups + 2) ** 2)
    t2_per_n = _quantile(n_groups, level) ** 2 * variance / assured
    centre = score + t2_per_n / 2
    reach = np.sqrt(t2_per_n * bernoulli + t2_per_n**2 / 4)
    low, high = ((centre + sign * reach) / (1 + t2_per_n) for sign in (-1, 1))
    return float(np.clip(low, 0, score)), float(np.clip(high, score, 1))


def difference_interval(
    values: np.ndarray, n_groups: int, level: float = LEVEL
) -> tuple[float, float] | None:
    """Interval of a difference of scores, as `interval` of a score."""
    error = _error(values, n_groups)
    if error is None:
        return None
    reach = _quantile(n_groups, level) * error
    return float(values[0] - reach), float(values[0] + reach)


def p_value(values: np.ndarray, n_groups: int) -> float | None:
    """Two-sided p-value of a difference (1 + resample,): the 1 - level whose interval ends at 0."""
    error = _error(values, n_groups)
    if error is None:
        return None
    return float(2 * stats.t.sf(abs(values[0]) / error, max(1, n_groups - 1)))


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
    found, holding = resampled(scored, draws), held(scored, draws)
    per_class = [
        interval(values, n, level)
        for values, n in zip(found.pop("per_class"), holding.sum(axis=1), strict=True)
    ]
    n_groups = int(holding.any(axis=0).sum())
    also = {name: interval(values, n_groups, level) for name, values in found.items()}
    main = also.pop("mAP" if scored.labels.ndim == 2 else "accuracy")
    return draws.describe(level) | {
        "value": listed(main),
        "also": {name: listed(one) for name, one in also.items()},
        "per_class": dict(zip(label_names, map(listed, per_class), strict=True)),
    }


@dataclass(frozen=True)
class Trial:
    """One run's score and its resamples, (1 + resample,) or (label, 1 + resample)."""

    fold: int | None
    seed: int | None
    values: np.ndarray


def mean_over_runs(trials: Sequence[Trial], draws: Draws) -> np.ndarray:
    """The mean over a system's runs, and resampled."""
    weight = draws.trainings([(trial.fold, trial.seed) for trial in trials])
    return np.mean([w * one.values for w, one in zip(weight, trials, strict=True)], axis=0)


def mean_difference(pairs: Sequence[tuple[Trial, Sequence[Trial]]], draws: Draws) -> np.ndarray:
    """The mean, and resampled, of runs of one system minus the mean of their partners of another.

    Partners have the fold of their run. One of equal seed shares its batches and crops and is drawn
    with it; where only one of the two systems has seeds, the other's runs are drawn alone.
    """
    weight = draws.trainings([(run.fold, run.seed) for run, _ in pairs])
    total = np.zeros(1 + draws.n_resamples)
    for w, (run, partners) in zip(weight, pairs, strict=True):
        if any(partner.seed != run.seed for partner in partners):
            other = mean_over_runs(partners, draws)
        else:
            other = w * np.mean([partner.values for partner in partners], axis=0)
        total += w * run.values - other
    return total / len(pairs)


def holm(p_values: Mapping[Any, float]) -> dict[Any, float]:
    """p-values corrected for their number: the chance of any false finding among them (Holm)."""
    result, largest = {}, 0.0
    for rank, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        largest = max(largest, min(1.0, p_values[key] * (len(p_values) - rank)))
        result[key] = largest
    return result


def _draw(n: int, n_resamples: int, rng: np.random.Generator) -> np.ndarray:
    return rng.multinomial(n - 1, np.full(n, 1 / n), n_resamples).T.astype(np.float64)


def _variance(values: np.ndarray) -> float | None:
    known = values[1:][~np.isnan(values[1:])]
    if np.isnan(values[0]) or not len(known) or 2 * len(known) < len(values) - 1:
        return None
    return float(known.var())


def _error(values: np.ndarray, n_groups: int) -> float | None:
    """Standard error of a difference."""
    variance = _variance(values)
    return None if variance is None else float(np.sqrt(variance + 1 / (n_groups + 2) ** 2))


def _quantile(n_groups: int, level: float) -> float:
    return float(stats.t.ppf((1 + level) / 2, max(1, n_groups - 1)))


def listed(found: tuple[float, float] | None) -> list[float] | None:
    """An interval for JSON."""
    return None if found is None else list(found)
