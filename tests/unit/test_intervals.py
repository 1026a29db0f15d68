"""Intervals: resampled metrics equal those of repeated clips; coverage and false alarms by
simulation."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from understudy import intervals, metrics
from understudy.errors import DataError
from understudy.intervals import Draws, Scored, Trial

N_REPEATS = 120
"""Simulated test sets in the quick form; the long one has five times as many."""


@st.composite
def cases(draw: st.DrawFn) -> Scored:
    """Few clips and groups, tied scores, unknown labels or classes without clips."""
    n_clips, n_labels = draw(st.integers(1, 25)), draw(st.integers(1, 4))
    grid = st.sampled_from([0.0, 0.1, 0.5, 0.7, 1.0])
    scores = draw(arrays(np.float64, (n_clips, n_labels), elements=grid))
    if draw(st.booleans()):
        labels = draw(arrays(np.int8, scores.shape, elements=st.sampled_from([-1, 0, 1])))
    else:
        labels = draw(arrays(np.int64, n_clips, elements=st.integers(0, n_labels - 1)))
    groups = draw(st.lists(st.sampled_from("abcdefg"), min_size=n_clips, max_size=n_clips))
    return Scored(scores, labels, np.array(groups))


@given(cases())
def test_a_resample_is_worth_the_repeated_clips(case: Scored) -> None:
    draws = Draws.over([case], n_resamples=6)
    found = intervals.resampled(case, draws)
    counts = draws.weight[np.searchsorted(draws.groups, case.groups)].astype(int)
    names = [str(k) for k in range(case.scores.shape[1])]
    assert (counts[:, 0] == 1).all()
    for k in range(1 + draws.n_resamples):
        rows = np.repeat(np.arange(len(case.scores)), counts[:, k])
        wanted = metrics.evaluate(case.scores[rows], case.labels[rows], names)
        assert _number(wanted["value"]) == pytest.approx(found[wanted["metric"]][k], nan_ok=True)
        for name, value in wanted["also"].items():
            assert _number(value) == pytest.approx(found[name][k], nan_ok=True)
        per_class = [_number(value) for value in wanted["per_class"].values()]
        assert per_class == pytest.approx(found["per_class"][:, k], nan_ok=True)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def test_draws_are_of_whole_groups_and_repeatable() -> None:
    draws = Draws(np.array(["a", "b", "c"]), n_resamples=50, seed=3)
    assert draws.weight.sum(axis=0).tolist() == [3, *[2] * 50]
    assert np.array_equal(draws.weight, Draws(draws.groups, 50, 3).weight)
    assert not np.array_equal(draws.weight, Draws(draws.groups, 50, 4).weight)


def test_trainings_are_drawn_within_their_fold_and_alike_for_every_system() -> None:
    draws = Draws(np.array(["a", "b"]), n_resamples=2000)
    runs = [(fold, seed) for fold in (1, 2) for seed in (7, 8, 9)]
    weight = draws.trainings(runs)
    assert np.array_equal(weight, draws.trainings(runs[::-1])[::-1])
    assert weight[:3] == pytest.approx(draws.trainings(runs[:3]))
    assert weight[:3].sum(axis=0) == pytest.approx(3)
    assert not np.array_equal(weight[:3], weight[3:])
    assert (draws.trainings([(1, None), (2, None)]) == 1).all()
    # The variance of the mean of three is a third of the sample variance, unbiased.
    values = np.array([0.1, 0.5, 0.3])
    assert (weight[:, 0] == 1).all()
    assert (values @ weight[:3] / 3).var() == pytest.approx(values.var(ddof=1) / 3, rel=0.1)


def test_equal_systems_do_not_differ_and_pairs_cancel_what_they_share() -> None:
    draws = Draws(np.array(["a", "b"]), n_resamples=200)
    rng = np.random.default_rng(0)
    runs = [Trial(1, seed, rng.normal(size=201)) for seed in (1, 2, 3)]
    assert intervals.mean_difference([(r, [r]) for r in runs], draws) == pytest.approx(0)
    better = [Trial(1, run.seed, run.values + 0.25) for run in runs]
    pairs = [(run, [base]) for run, base in zip(better, runs, strict=True)]
    found = intervals.mean_difference(pairs, draws)
    assert found == pytest.approx(0.25)
    low, high = intervals.difference_interval(found, 100) or (0, 0)
    assert 0.2 < low < 0.25 < high < 0.3
    # A system without seeds meets the mean of all partners; their luck counts.
    single = Trial(1, None, np.ones(201))
    spread = intervals.mean_difference([(single, runs)], draws)
    assert spread == pytest.approx(1 - intervals.mean_over_runs(runs, draws))


def test_p_values_agree_with_intervals_and_holm_corrects_them() -> None:
    values = np.random.default_rng(0).normal(2.2, 1, 4000)
    values[0] = 2.2
    p = intervals.p_value(values, 40)
    assert p is not None
    assert p == pytest.approx(2 * stats.t.sf(2.2, 39), rel=0.1)
    for sign in (-1, 1):
        low, high = intervals.difference_interval(values, 40, 1 - p + 1e-6 * sign) or (0, 0)
        assert (low > 0) == (sign < 0)
        assert (low + high) / 2 == pytest.approx(2.2)
    assert intervals.p_value(-values, 40) == p
    assert intervals.p_value(np.zeros(99), 40) == 1
    corrected = intervals.holm({"a": 0.01, "b": 0.04, "c": 0.03})
    assert corrected == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})


@given(cases())
def test_every_interval_holds_its_score(case: Scored) -> None:
    names = [str(k) for k in range(case.scores.shape[1])]
    found = intervals.evaluate(case, names, Draws.over([case], n_resamples=20))
    if found is None:
        return
    wanted = metrics.evaluate(case.scores, case.labels, names)
    pairs = [(wanted["value"], found["value"])]
    for name in ("also", "per_class"):
        assert wanted[name].keys() == found[name].keys()
        pairs += [(value, found[name][key]) for key, value in wanted[name].items()]
    for value, ends in pairs:
        if ends is not None:
            assert 0 <= ends[0] <= value + 1e-9
            assert value - 1e-9 <= ends[1] <= 1
            assert ends[1] - ends[0] > 0.01


def test_interval_of_a_share_is_wilsons() -> None:
    right = np.arange(400) < 300
    scored = Scored(
        np.eye(2)[right.astype(int)], np.ones(400, np.int64), np.arange(400).astype(str)
    )
    draws = Draws.over([scored], 4000)
    found = intervals.interval(intervals.resampled(scored, draws)["accuracy"], 400)
    wanted = stats.binomtest(300, 400).proportion_ci(method="wilson")
    assert found == pytest.approx((wanted.low, wanted.high), abs=0.003)


def test_perfect_systems_are_not_certain() -> None:
    labels = np.arange(80) % 4
    perfect = Scored(np.eye(4)[labels], labels, np.arange(80).astype(str))
    draws = Draws.over([perfect])
    found = intervals.evaluate(perfect, list("abcd"), draws)
    assert found is not None
    # None of 80 wrong: as many as 4.5 % may be, at one-sided 97.5 % (Clopper and Pearson).
    assert found["value"] == pytest.approx([0.955, 1], abs=0.003)
    assert found["per_class"]["a"] == pytest.approx([0.82, 1], abs=0.01)  # none of 20
    values = intervals.resampled(perfect, draws)["accuracy"]
    low, high = intervals.difference_interval(values - values, 80) or (0, 0)
    assert 0.02 < high == -low < 0.03


def test_few_positives_do_not_lift_the_interval() -> None:
    rng = np.random.default_rng(1)
    labels = np.where(rng.random((200, 50)) < 0.015, 1, -1)
    scored = Scored(rng.random((200, 50)), labels, np.arange(200).astype(str))
    draws = Draws.over([scored])
    values = intervals.resampled(scored, draws)["mAP"]
    low, high = intervals.interval(values, 200) or (1, 0)
    lifted = values[1:].mean() - values[0]
    assert lifted > values.std() / 2  # and so would be an interval of percentiles
    assert abs((low + high) / 2 - values[0]) < lifted / 1.5


def test_intervals_of_a_score_are_plain_and_name_what_is_undefined() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice([-1, 1], (60, 3))
    labels[:, 2] = 0
    scored = Scored(rng.random((60, 3)), labels, np.arange(60).astype(str))
    found = intervals.evaluate(scored, ["a", "b", "unknown"])
    assert found is not None
    value = metrics.average_precision(scored.scores, labels)[1]
    assert found["value"][0] < value < found["value"][1]
    assert found["per_class"]["unknown"] is None
    assert found["also"].keys() == {"roc_auc", "macro_f1"}
    assert (found["level"], found["n_resamples"], found["n_groups"]) == (0.95, 1000, 60)
    json.dumps(found, allow_nan=False)
    assert intervals.evaluate(Scored(scored.scores, labels, np.full(60, "a")), list("abc")) is None
    with pytest.raises(DataError, match="groups: wanted"):
        Scored(scored.scores, labels, np.array(["a"]))


def simulate(rng: np.random.Generator, n_groups: int, task: str) -> Scored:
    """Clips of one group share label and half of the noise."""
    group = np.repeat(np.arange(n_groups), rng.integers(1, 4, n_groups))
    n_labels = {"multi-label": 4, "few positives": 10}.get(task, 5)
    noise = 0.7 * (
        rng.normal(size=(n_groups, n_labels))[group] + rng.normal(size=(len(group), n_labels))
    )
    if task in ("single-label", "near 1"):
        labels = rng.integers(0, n_labels, n_groups)[group]
        skill = 1.2 if task == "single-label" else 4
        return Scored(noise + skill * np.eye(n_labels)[labels], labels, group.astype(str))
    share = 0.2 if task == "multi-label" else 0.06
    labels = np.where(rng.random((n_groups, n_labels)) < share, 1, -1)[group]
    return Scored(1 / (1 + np.exp(-noise - 0.7 * labels)), labels, group.astype(str))


def coverage(task: str, n_repeats: int, n_groups: int = 100) -> dict[str, float]:
    """Share of simulated test sets whose interval holds the mean over all of them."""
    rng = np.random.default_rng(5)
    scores: dict[str, list[tuple[float, float, float]]] = {}
    for repeat in range(n_repeats):
        scored = simulate(rng, n_groups, task)
        found = intervals.resampled(scored, Draws.over([scored], 400, seed=repeat))
        del found["per_class"]
        for name, values in found.items():
            low, high = intervals.interval(values, n_groups) or (1, 0)
            scores.setdefault(name, []).append((values[0], low, high))
    shares = {}
    for name, rows in scores.items():
        value, low, high = np.array(rows).T
        assert ((low <= value) & (value <= high)).all()
        shares[name] = float(((low <= value.mean()) & (value.mean() <= high)).mean())
    return shares


@pytest.mark.parametrize("task", ["multi-label", "single-label"])
def test_coverage_in_brief(task: str) -> None:
    # 120 repeats of .95 stay above .89 but in 1 of 200 cases; clips taken for independent do not.
    assert min(coverage(task, N_REPEATS).values()) > 0.87


@pytest.mark.soak
@pytest.mark.parametrize("task", ["multi-label", "few positives", "near 1", "single-label"])
@pytest.mark.parametrize("n_groups", [50, 100, 400])
def test_coverage(task: str, n_groups: int) -> None:
    found = coverage(task, 5 * N_REPEATS, n_groups)
    least = 0.88 if (task, n_groups) == ("few positives", 50) else 0.92  # of 3 positives a label
    assert all(share > least for share in found.values()), found


def false_alarms(n_repeats: int, n_seeds: int, clip_noise: float, seed_noise: float) -> float:
    """How often two equally good systems differ at .05: five folds, seeds, shared clips."""
    rng = np.random.default_rng(11)
    alarms = 0
    n_groups, n_folds = 150, 5
    fold_of = np.arange(n_groups) % n_folds
    names = np.arange(n_groups).astype(str)
    for repeat in range(n_repeats):
        draws = Draws(np.sort(names), 400, seed=repeat)
        hard = rng.normal(size=n_groups)
        systems = []
        for _ in range(2):
            own = clip_noise * rng.normal(size=n_groups)
            trials = []
            for fold in range(1, n_folds + 1):
                rows = fold_of == fold - 1
                for seed in range(n_seeds):
                    luck = seed_noise * rng.normal() + rng.normal(size=rows.sum())
                    right = (hard + own)[rows] + luck > 0
                    scores = np.stack([~right, right], axis=1).astype(float)
                    scored = Scored(scores, np.ones(rows.sum(), np.int64), names[rows])
                    trials.append(Trial(fold, seed, intervals.resampled(scored, draws)["accuracy"]))
            systems.append(trials)
        pairs = [(one, [other]) for one, other in zip(*systems, strict=True)]
        p = intervals.p_value(intervals.mean_difference(pairs, draws), n_groups)
        alarms += p is not None and p < 0.05
    return alarms / n_repeats


def test_false_alarms_in_brief() -> None:
    assert false_alarms(60, 2, 0.5, 0.3) < 0.15


@pytest.mark.soak
@pytest.mark.parametrize("n_seeds", [1, 3])
@pytest.mark.parametrize(("clip_noise", "seed_noise"), [(0.0, 0.0), (0.5, 0.3), (0.2, 0.8)])
def test_false_alarms(n_seeds: int, clip_noise: float, seed_noise: float) -> None:
    if n_seeds == 1 and seed_noise:
        pytest.skip("one training tells nothing of others")
    assert false_alarms(300, n_seeds, clip_noise, seed_noise) < 0.09
