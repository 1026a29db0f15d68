import threading
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import tiny

from understudy import cache
from understudy.errors import AudioError, DataError
from understudy.timing import frame_centres
from understudy.train.frames import Standardise, TeacherFrames
from understudy.train.stream import Stream, order


class Ramp:
    """Audio whose sample i of clip c is 100 c + i // 100."""

    def __init__(self, n_samples: np.ndarray, broken: int | None = None) -> None:
        self.identity: dict[str, Any] | None = None
        self.n_samples = n_samples
        self.broken = broken

    def clip(self, row):
        raise NotImplementedError

    def crops(self, rows, starts, out):
        if self.broken in rows:
            raise AudioError(f"clip {self.broken}", "gone")
        out[:] = 0
        for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
            samples = 100 * row + np.arange(start, int(self.n_samples[row])) // 100
            out[i, : len(samples)] = samples[: out.shape[1]]


def make(n_clips=11, usable=None, broken=None, frames=None, batch_clips=3, seed=5, length=2000):
    index = tiny.index(n_clips)
    return Stream(
        index,
        np.arange(n_clips),
        np.ones(n_clips, bool) if usable is None else usable,
        Ramp(np.full(n_clips, length), broken),
        frames or {},
        batch_clips=batch_clips,
        crop_samples=1000,
        seed=seed,
    )


def flat(plan):
    return [(int(r), int(s)) for rows, starts in plan for r, s in zip(rows, starts, strict=True)]


def test_an_epoch_is_a_pure_function_of_seed_and_number():
    assert flat(make().crops(4)) == flat(make().crops(4))
    assert flat(make().crops(4)) != flat(make().crops(5))
    assert flat(make().crops(4)) != flat(make(seed=6).crops(4))


def test_an_epoch_holds_each_clip_once_and_leaves_out_the_incomplete_batch():
    plan = make().crops(0)
    assert [len(rows) for rows, _ in plan] == [3, 3, 3]
    rows = [row for row, _ in flat(plan)]
    assert len(set(rows)) == 9
    assert len(set(flat(make().crops(0))) | set(flat(make().crops(1)))) > 9


def test_fewer_clips_than_a_batch_make_one_batch():
    plan = make(batch_clips=64).crops(0)
    assert [len(rows) for rows, _ in plan] == [11]


def test_leaving_a_clip_out_moves_no_other_clip():
    usable = np.ones(11, bool)
    usable[7] = False
    with_it, without = (
        flat(make(batch_clips=1).crops(0)),
        flat(make(10 + 1, usable, batch_clips=1).crops(0)),
    )
    assert [clip for clip in with_it if clip[0] != 7] == without


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 10**6), st.integers(1, 50))
def test_order_is_a_permutation_with_places_below_one(seed, epoch, n_clips):
    shuffle, place = order(seed, epoch, n_clips)
    assert sorted(shuffle) == list(range(n_clips))
    assert ((place >= 0) & (place < 1)).all()


def test_crops_reach_from_the_first_to_the_last_possible_start():
    stream = make(length=1003)
    starts = {start for epoch in range(40) for _, start in flat(stream.crops(epoch))}
    assert starts == {0, 1, 2, 3}
    assert {start for _, start in flat(make(length=400).crops(0))} == {0}


def test_batches_hold_what_the_plan_says_in_reused_buffers():
    stream = make()
    plan = stream.crops(0) + stream.crops(1)
    places = set()
    for (rows, starts), batch in zip(plan, stream.read(plan), strict=True):
        wanted = 100 * rows[:, None] + (starts[:, None] + np.arange(1000)) // 100
        np.testing.assert_array_equal(batch.audio.numpy(), wanted)
        np.testing.assert_array_equal(batch.labels.numpy(), tiny.index(11).labels[rows])
        assert batch.audio.dtype == torch.int16
        places.add(batch.audio.data_ptr())
    assert len(places) == 3


def test_going_on_within_an_epoch_gives_the_rest_of_it():
    stream = make()
    whole = [batch.audio.clone() for batch in stream.read(stream.crops(2))]
    rest = [batch.audio.clone() for batch in stream.read(stream.crops(2)[1:])]
    assert all(map(torch.equal, whole[1:], rest))
    assert len(rest) == 2


def test_an_error_while_reading_ahead_is_raised_in_its_place():
    stream = make(broken=int(make().crops(0)[2][0][0]))
    batches = stream.read(stream.crops(0))
    assert len(list(islice(batches, 2))) == 2
    with pytest.raises(AudioError, match="gone"):
        next(batches)


def test_leaving_early_ends_the_reading_thread():
    before = threading.active_count()
    stream = make()
    batches = stream.read(10 * stream.crops(0))
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()
    assert threading.active_count() == before
    assert len(list(stream.read(stream.crops(0)))) == 3


def test_windows_cover_every_usable_clip_and_mix_clips():
    usable = np.ones(11, bool)
    usable[4] = False
    stream = make(usable=usable, length=2500)
    plan = stream.windows(np.array([2, 4, 6, 8]))
    assert sorted(flat(plan)) == [(r, s) for r in (2, 6, 8) for s in (0, 750, 1500)]
    assert all(len(set(rows)) == len(rows) for rows, _ in plan)


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    index = tiny.index(9)
    folder = tiny.make_cache(tmp_path_factory.mktemp("cache"), index)
    readers = {name: cache.CacheReader(cache.find(folder, "tiny", name)) for name in tiny.TEACHERS}
    for reader in readers.values():
        reader._levels[3, 0] = -90.0  # one silent frame
    return index, readers


def teacher_frames(readers, name, silence_db=-70.0):
    index, reader = readers[0], readers[1][name]
    return TeacherFrames(reader, index.clips["duration_s"].to_numpy(), silence_db)


def crop(frames, rows, start_s, crop_s):
    slots = frames.capacity(crop_s)
    data = np.zeros((len(rows), slots, frames.dim), frames.dtype)
    centre_s, valid = np.zeros((len(rows), slots), np.float32), np.zeros((len(rows), slots), bool)
    frames.crops(np.asarray(rows), np.asarray(start_s), crop_s, data, centre_s, valid)
    return data, centre_s, valid


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.floats(0, 5.9)), min_size=1, max_size=4),
    st.floats(0.2, 7),
)
def test_frames_are_those_whose_centre_lies_in_the_crop(readers, crops, crop_s):
    frames = teacher_frames(readers, "framewise", silence_db=-200.0)
    durations = readers[0].clips["duration_s"].to_numpy()
    rows = [row for row, _ in crops]
    start_s = [min(start, durations[row]) for row, start in crops]
    data, centre_s, valid = crop(frames, rows, start_s, crop_s)
    for i, row in enumerate(rows):
        whole, n_frames = frames.reader.gather([row])
        centres = frame_centres(int(n_frames[0]), 1.0, 0.5, durations[row]) - start_s[i]
        wanted = np.flatnonzero((centres >= 0) & (centres < crop_s))
        if not len(wanted):
            wanted = np.abs(centres - crop_s / 2).argmin(keepdims=True)
        assert valid[i].sum() == len(wanted)
        assert valid[i][: len(wanted)].all()
        np.testing.assert_array_equal(data[i][valid[i]], whole[0][wanted])
        np.testing.assert_allclose(centre_s[i][valid[i]], centres[wanted], atol=1e-6)


def test_a_clip_level_vector_belongs_to_every_crop(readers):
    frames = teacher_frames(readers, "clipwise")
    data, _, valid = crop(frames, [1, 1], [0.0, 1.5], 0.5)
    assert valid.all()
    assert data.shape == (2, 1, tiny.DIM)
    np.testing.assert_array_equal(data[0], data[1])


def test_silent_frames_are_not_valid(readers):
    _, _, valid = crop(teacher_frames(readers, "framewise"), [3, 4], [0.0, 0.0], 1.2)
    assert valid.tolist() == [[False, True, False], [True, True, False]]
    _, _, valid = crop(teacher_frames(readers, "clipwise"), [3], [0.0], 1.2)
    assert not valid.any()


def test_statistics_are_those_of_the_valid_frames(readers):
    frames = teacher_frames(readers, "framewise")
    rows = np.array([7, 3, 0, 5])
    valid = []
    for row in rows:
        data, n_frames = frames.reader.gather([row])
        valid.append(data[0, int(row == 3) : n_frames[0]])  # clip 3 begins with a silent frame
    wanted = np.concatenate(valid).astype(np.float64)
    standardise = Standardise(tiny.DIM)
    standardise.fit(frames.timelines(rows))
    np.testing.assert_allclose(standardise.mean, wanted.mean(0), rtol=1e-6)
    np.testing.assert_allclose(standardise.std, wanted.std(0), rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 99))
def test_statistics_do_not_depend_on_the_blocks(sizes, seed):
    blocks = [np.random.default_rng((seed, i)).normal(50, 2, (n, 3)) for i, n in enumerate(sizes)]
    for block in blocks:
        block[:, 2] = 7.0
    standardise = Standardise(3)
    if sum(sizes) == 0:
        with pytest.raises(DataError, match="silence_db"):
            standardise.fit(iter(blocks))
        return
    standardise.fit(iter(blocks))
    whole = np.concatenate(blocks)
    std = whole.std(0)
    std[2] = 1.0  # a constant channel is only centred
    if len(whole) > 1:
        np.testing.assert_allclose(standardise.std, std, rtol=1e-5)
    np.testing.assert_allclose(standardise.mean, whole.mean(0), rtol=1e-5)
    assert standardise(torch.tensor(whole))[:, 2].abs().max() == 0
