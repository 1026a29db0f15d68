"""Windows and frame times: where they lie, how many there are, that they do not drift."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import ConfigError, DataError
from understudy.timing import covering_starts, frame_centres, plan_windows

n_samples = st.integers(1, 2_000_000)
rates_hz = st.sampled_from([8000, 16000, 22050, 32000, 44100])
durations_s = st.one_of(
    st.sampled_from([0.05, 0.1, 0.48, 0.96, 1.0, 1.92, 10.0]), st.floats(0.02, 12)
)


@given(n_samples, rates_hz, durations_s, durations_s)
def test_windows_lie_inside_the_clip_and_no_more_would_fit(n, rate_hz, window_s, hop_s):
    plan = plan_windows(n, rate_hz, window_s, hop_s)
    assert plan.start.dtype == np.int64
    assert plan.centre_s.dtype == np.float64
    assert plan.n == len(plan.start) == len(plan.centre_s) >= 1
    assert plan.start[0] == 0
    assert abs(plan.length - window_s * rate_hz) <= 0.5
    following = math.floor(plan.n * hop_s * rate_hz + 0.5)
    assert following + plan.length > n
    if n >= plan.length:
        assert plan.start[-1] + plan.length <= n
    else:
        assert plan.n == 1


@given(n_samples, rates_hz, durations_s, durations_s)
def test_starts_and_centres_do_not_drift(n, rate_hz, window_s, hop_s):
    plan = plan_windows(n, rate_hz, window_s, hop_s)
    assert np.abs(plan.start - np.arange(plan.n) * hop_s * rate_hz).max() <= 0.5 + 1e-6
    n_inside = min(plan.length, n)
    middles_s = (plan.start + n_inside / 2) / rate_hz
    assert np.abs(plan.centre_s - middles_s).max() <= 1.01 / rate_hz
    assert plan.centre_s[-1] <= n / rate_hz


@given(n_samples, rates_hz, durations_s, durations_s)
def test_frame_centres_need_only_what_a_store_keeps(n, rate_hz, window_s, hop_s):
    plan = plan_windows(n, rate_hz, window_s, hop_s)
    centres_s = frame_centres(plan.n, window_s, hop_s, n / rate_hz)
    assert np.array_equal(centres_s, plan.centre_s)


def test_default_timeline_of_five_seconds():
    plan = plan_windows(160_000, 32000, 1.92, 0.96)
    assert plan.length == 61_440
    assert plan.start.tolist() == [0, 30_720, 61_440, 92_160]
    assert plan.centre_s.tolist() == pytest.approx([0.96, 1.92, 2.88, 3.84], abs=1e-12)


@pytest.mark.parametrize(
    ("n", "frames"), [(61_439, 1), (61_440, 1), (92_159, 1), (92_160, 2), (122_880, 3)]
)
def test_one_more_window_needs_a_whole_hop_more(n, frames):
    assert plan_windows(n, 32000, 1.92, 0.96).n == frames


def test_short_clip_is_one_window_about_its_middle():
    plan = plan_windows(16_000, 32000, 1.92, 0.96)
    assert (plan.n, plan.start[0], plan.length) == (1, 0, 61_440)
    assert plan.centre_s.tolist() == [0.25]


def test_whole_clip_is_one_window_about_its_middle():
    plan = plan_windows(96_000, 32000, "clip", 0.0)
    assert (plan.n, plan.start[0], plan.length) == (1, 0, 96_000)
    assert plan.centre_s.tolist() == [1.5]


@pytest.mark.parametrize(
    ("window_s", "hop_s", "named"),
    [
        (0.0, 1.0, "window"),
        (-1.0, 1.0, "window"),
        (math.nan, 1.0, "window"),
        (math.inf, 1.0, "window"),
        (1.0, 0.0, "hop"),
        (1.0, 1e-6, "hop"),
        (1.0, math.inf, "hop"),
    ],
)
def test_a_timing_that_cannot_be_is_refused(window_s, hop_s, named):
    with pytest.raises(ConfigError, match=named):
        plan_windows(16000, 16000, window_s, hop_s)


def test_a_clip_without_samples_is_refused():
    with pytest.raises(DataError, match="at least one sample, found 0"):
        plan_windows(0, 16000, 1.0, 1.0)


@given(n_samples, st.integers(1, 500_000))
def test_covering_windows_are_the_fewest_and_reach_both_ends(n, length):
    start = covering_starts(n, length)
    assert start.dtype == np.int64
    assert len(start) == max(1, math.ceil(n / length))
    assert start[0] == 0
    assert start[-1] == max(0, n - length)
    gaps = np.diff(start)
    assert (gaps > 0).all()
    assert (gaps <= length).all()
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


def test_centred_grid_moves_its_last_windows_into_the_clip():
    assert frame_centres(5, 3.0, 2.0, 10.0, "centred").tolist() == [2, 4, 6, 8, 8.5]
    assert frame_centres(1, 3.0, 2.0, 3.2, "centred").tolist() == pytest.approx([1.7])
    assert frame_centres(1, 3.0, 2.0, 1.0, "centred").tolist() == [0.5]
    assert frame_centres(1, "clip", 0.0, 10.0, "centred").tolist() == [5.0]
