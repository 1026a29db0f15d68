"""Planning of an extraction: pure functions."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.audio import resampled_length
from understudy.cache import clip_key
from understudy.errors import ConfigError
from understudy.extract import plan
from understudy.extract.changes import explain
from understudy.index import ClipIndex

RATES = st.sampled_from([8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000])


def index(names: str, duration_s: float = 1.0, **durations_s: float) -> ClipIndex:
    listed = [durations_s.get(name, duration_s) for name in names]
    table = pd.DataFrame({"clip_id": list(names), "path": list(names), "duration_s": listed})
    labels = np.zeros((len(names), 0), np.int8)
    return ClipIndex(name="d", clips=table, labels=labels, label_names=(), root=Path())


@given(st.integers(1, 10_000_000), RATES, RATES)
def test_length_from_a_header_is_the_length_after_resampling(n: int, from_hz: int, to_hz: int):
    assert plan.samples_at(np.array([n / from_hz]), to_hz)[0] == resampled_length(n, from_hz, to_hz)


def test_unreadable_header_has_no_length():
    assert plan.samples_at(np.array([np.nan, 0.5]), 16000).tolist() == [0, 8000]


@given(st.lists(st.integers(0, 300), min_size=1, max_size=40), st.integers(1, 9))
def test_frames_of_every_length_are_found_with_few_calls(n_samples: list[int], hop: int):
    called: list[int] = []

    def frames_of(n: int) -> int:
        called.append(n)
        return max(1, n // (30 * hop))

    found = plan.clip_frames(np.array(n_samples), frames_of)
    assert found.tolist() == [max(1, n // (30 * hop)) if n else 0 for n in n_samples]
    assert 0 not in called


def test_frames_of_a_million_lengths_take_a_hundred_calls():
    calls = iter(range(1000))
    found = plan.clip_frames(np.arange(1_000_000), lambda n: n // 100_000 + next(calls) * 0)
    assert np.unique(found).tolist() == list(range(10))
    assert next(calls) < 1000


def test_workers_read_the_clips_of_their_shards(tmp_path: Path):
    n = 150_000  # several row groups of the file
    names = [f"c{i}" for i in range(n)]
    durations_s = np.where(np.arange(n) % 7, np.arange(n) + 0.5, np.nan)
    table = pd.DataFrame({"clip_id": names, "path": names, "duration_s": durations_s})
    labels = np.zeros((n, 0), np.int8)
    path = tmp_path / "index.parquet"
    ClipIndex(name="d", clips=table, labels=labels, label_names=(), root=Path()).save(path)
    size = 50_000
    shards = plan.shards(n, size, {"a": [0, 1, 2]})
    found = plan.shard_clips(path.parent, [shards[1], shards[2]])
    assert [len(clips) for clips in found] == [size, size]
    for row in (size, 2 * size - 1, 2 * size, n - 1):
        clip = found[row // size - 1][row % size]
        assert (clip.clip_id, clip.path, clip.start_s) == (f"c{row}", f"c{row}", 0.0)
        assert clip.duration_s == (row + 0.5 if row % 7 else None)
        assert clip.key == clip_key(f"c{row}", 0.0, durations_s[row])


def test_capacity_is_the_longest_clip_and_at_least_one_frame():
    assert plan.clip_frames(np.array([9, 0, 3, 9]), lambda n: n // 2).tolist() == [4, 0, 1, 4]
    assert plan.clip_frames(np.array([0, 0]), lambda n: 1 // n).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("n_clips", "clip_bytes", "wanted"),
    [(400, 1_000, 7), (1, 1_000, 1), (100_000, 1_000_000, 128), (10, 10**9, 1)],
)
def test_shard_rule(n_clips: int, clip_bytes: int, wanted: int):
    assert plan.settle_shard_clips(None, None, n_clips, clip_bytes) == wanted


def test_shard_size_of_the_first_extraction_stays():
    assert plan.settle_shard_clips(None, 5, 400, 1) == 5
    assert plan.settle_shard_clips(5, 5, 400, 1) == 5
    assert plan.settle_shard_clips(9, None, 400, 1) == 9
    with pytest.raises(ConfigError, match="5 clips per shard, found 6"):
        plan.settle_shard_clips(6, 5, 400, 1)
    with pytest.raises(ConfigError, match="wanted 1 or more"):
        plan.settle_shard_clips(0, None, 400, 1)


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 5), st.data())
def test_tasks_cover_what_is_pending_once(n_clips: int, size: int, slots: int, data: st.DataObject):
    n_shards = -(-n_clips // size)
    numbers = st.sets(st.integers(0, n_shards - 1))
    pending = {"a": data.draw(numbers), "b": data.draw(numbers)}
    shards = plan.shards(n_clips, size, pending)
    tasks = plan.tasks(shards, slots)
    assert [shard for task in tasks for shard in task] == shards
    assert [shard.number for shard in shards] == sorted(pending["a"] | pending["b"])
    for shard in shards:
        assert list(shard.rows) == [row for row in range(n_clips) if row // size == shard.number]
        assert {name for name in pending if shard.number in pending[name]} == set(shard.tracks)
    assert all(0 < len(task) <= plan.TASK_SHARDS for task in tasks)


@pytest.mark.parametrize(
    ("new", "wanted"),
    [
        (index("abcd"), ["1 clip added (d)"]),
        (index("ab"), ["1 clip removed (c)"]),
        (index("abc", b=2.0), ["1 clip changed (b)"]),
        (
            index("bc"),
            [
                "1 clip removed (a)",
                "2 clips moved to another row (b, c): their shards are computed again",
            ],
        ),
        (index("abc"), []),
        (index("abc", b=float("nan")), ["1 clip changed (b)"]),
        (index("vwxyz"), ["5 clips added (v, w, x, ...)", "3 clips removed (a, b, c)"]),
    ],
)
def test_changes_are_explained(new: ClipIndex, wanted: list[str]):
    assert explain(index("abc"), new) == wanted
