import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import stores

from understudy import cache
from understudy.errors import CacheError


@pytest.fixture(scope="module", params=["embedding", "audio"])
def store(request, tmp_path_factory):
    return stores.make(tmp_path_factory.mktemp("cache"), stores.track(request.param))


def crop(held, rows, starts, count):
    """Frames of rows, padded with the fill value, row by row."""
    fill = np.nan if held.data.ndim == 3 else 0
    out = np.full((len(rows), count, *held.data.shape[2:]), fill, held.data.dtype)
    n_frames = []
    for into, (row, start) in enumerate(zip(rows, starts, strict=True)):
        part = held.data[row, start : start + count]
        out[into, : len(part)] = part
        n_frames.append(min(max(int(held.n_frames[row]) - start, 0), count))
    return out, np.array(n_frames)


ROWS = st.lists(st.integers(0, 9).filter(lambda row: row != 2), max_size=12)


@given(ROWS, st.booleans())
def test_whole_clips(store, rows, into_buffer):
    path, held = store
    out = np.full((len(rows), *held.data.shape[1:]), 5, held.data.dtype) if into_buffer else None
    data, n_frames = cache.CacheReader(path).gather(rows, out=out)
    assert (data is out) == into_buffer
    np.testing.assert_array_equal(data, held.data[rows])
    np.testing.assert_array_equal(n_frames, held.n_frames[rows])
    assert data.dtype == held.data.dtype


@given(st.data())
def test_frames_of_clips(store, data):
    path, held = store
    rows = data.draw(ROWS)
    count = data.draw(st.integers(1, 8))
    limit = held.data.shape[1] + 3
    starts = data.draw(st.lists(st.integers(0, limit), min_size=len(rows), max_size=len(rows)))
    found, n_frames = cache.CacheReader(path).gather(rows, frames=(np.array(starts, int), count))
    wanted, valid = crop(held, rows, starts, count)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(n_frames, valid)


@pytest.mark.parametrize("start", [0, 1, 49, 50])
def test_crop_of_full_length_is_padded_too(store, start):
    path, held = store
    count = held.data.shape[1]
    found, n_frames = cache.CacheReader(path).gather([0, 9], frames=(start, count))
    wanted, valid = crop(held, [0, 9], [start, start], count)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(n_frames, valid)


@settings(max_examples=40)
@given(
    kind=st.sampled_from(["embedding", "audio"]),
    n_clips=st.integers(1, 12),
    clips_per_shard=st.integers(1, 14),
    max_frames=st.integers(1, 6),
    dim=st.integers(1, 5),
    dtype=st.sampled_from(["float16", "float32"]),
)
def test_round_trip_over_shapes(
    tmp_path_factory, kind, n_clips, clips_per_shard, max_frames, dim, dtype
):
    changes = {"dim": dim, "dtype": dtype} if kind == "embedding" else {}
    track = stores.track(kind, max_frames=max_frames, **changes)
    path, held = stores.make(tmp_path_factory.mktemp("c"), track, n_clips, clips_per_shard)
    reader = cache.CacheReader(path)
    rows = np.arange(n_clips)[::-1]
    data, n_frames = reader.gather(rows, missing="nan")
    np.testing.assert_array_equal(data, held.data[rows])
    np.testing.assert_array_equal(n_frames, held.n_frames[rows])
    np.testing.assert_array_equal(reader.status, held.status)
    sizes = (reader.n_clips, reader.max_frames, reader.dim)
    assert sizes == (n_clips, max_frames, dim if kind == "embedding" else 1)
    if held.level_db is not None:
        np.testing.assert_array_equal(reader.level_db(rows), held.level_db[rows].astype("f4"))


def test_row_that_is_not_ok_is_named_with_status_and_clip(tmp_path):
    pd = pytest.importorskip("pandas")
    path, _ = stores.make(tmp_path, stores.track())
    pd.DataFrame({"clip_id": [f"id-{i}" for i in range(10)]}).to_parquet(tmp_path / "index.parquet")
    with pytest.raises(CacheError, match=r"row 2 \('id-2'\) is undecodable"):
        cache.CacheReader(path).gather([1, 2, 3])


def test_missing_nan_fills_only_what_is_not_ok(store):
    path, held = store
    reader = cache.CacheReader(path)
    for frames in (None, (1, 3)):
        data, n_frames = reader.gather([2, 4, 2], frames=frames, missing="nan")
        part = held.data[[2, 4, 2]]
        np.testing.assert_array_equal(data, part if frames is None else part[:, 1:4])
        assert n_frames[0] == n_frames[2] == 0
        with pytest.raises(CacheError, match="undecodable"):  # also after it has been seen
            reader.gather([4, 2], frames=frames)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": [10]}, "row 10 is outside the store's 10"),
        ({"rows": [0, -1]}, "row -1"),
        ({"rows": [0.5]}, "whole numbers"),
        ({"rows": [[0]]}, "whole numbers"),
        ({"rows": [True]}, "whole numbers"),
        ({"rows": [0], "frames": (-1, 2)}, "start >= 0"),
        ({"rows": [0], "frames": (0, 0)}, "count >= 1"),
        ({"rows": [0], "frames": ([0, 1], 2)}, r"\(1,\) starts"),
        ({"rows": [0], "frames": (0.5, 2)}, "starts"),
        ({"rows": [0], "missing": "zero"}, "wanted 'raise' or 'nan'"),
        ({"rows": [0], "out": np.empty((1, 5, 6), np.float32)}, "out is float32"),
        ({"rows": [0], "out": np.empty((2, 5, 6), np.float16)}, "out is float16"),
        ({"rows": [0], "out": np.empty((1, 6, 5), np.float16).mT}, "C-contiguous"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, arguments, message):
    path, _ = stores.make(tmp_path, stores.track())
    with pytest.raises(CacheError, match=message):
        cache.CacheReader(path).gather(**arguments)


def flip(file, at):
    octets = bytearray(file.read_bytes())
    octets[at] ^= 1
    file.write_bytes(octets)


def test_flipped_bit_is_found_at_first_touch_of_its_clip_alone(tmp_path):
    path, held = stores.make(tmp_path, stores.track())
    flip(path / "embedding/c/0/0/0", 70)  # row 1
    reader = cache.CacheReader(path)
    np.testing.assert_array_equal(reader.gather([0, 3])[0], held.data[[0, 3]])
    for frames in (None, (0, 1)):
        with pytest.raises(CacheError, match=r"checksum mismatch in shard 0, row 1;.*verify"):
            reader.gather([3, 1], frames=frames)


def test_crops_of_audio_read_only_their_own_bytes(tmp_path):
    path, held = stores.make(tmp_path, stores.track("audio"))
    flip(path / "pcm/c/0/0", 0)
    reader = cache.CacheReader(path)
    np.testing.assert_array_equal(reader.gather([0], frames=(1, 9))[0], held.data[[0], 1:10])
    with pytest.raises(CacheError, match="checksum mismatch"):
        reader.gather([0])


@pytest.mark.parametrize("size", [0, 3, 100])
def test_truncated_shard_is_named(tmp_path, size):
    path, _ = stores.make(tmp_path, stores.track())
    file = path / "embedding/c/1/0/0"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(CacheError, match=r"embedding/c/1/0/0.*(truncated|checksum)"):
        cache.CacheReader(path).gather([5])


def test_missing_shard_is_named_with_its_rows(tmp_path):
    path, _ = stores.make(tmp_path, stores.track())
    (path / "embedding/c/1/0/0").unlink()
    with pytest.raises(CacheError, match="rows 4 to 7"):
        cache.CacheReader(path).gather([5])


def test_damaged_small_array_is_named(tmp_path):
    path, _ = stores.make(tmp_path, stores.track())
    flip(path / "status/c/1", 0)
    with pytest.raises(CacheError, match="status/c/1: checksum mismatch"):
        cache.CacheReader(path).gather([0])


def test_no_store_is_an_error(tmp_path):
    with pytest.raises(CacheError, match="no store"):
        cache.CacheReader(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"node_type": "group", "attributes": {}}'])
def test_broken_group_metadata_is_an_error(tmp_path, text):
    (tmp_path / "zarr.json").write_text(text)
    with pytest.raises(CacheError):
        cache.CacheReader(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [("float16", "float64"), ('"NaN"', "0"), ('"frame"', '"time"'), ('"shape"', '"form"')],
)
def test_array_metadata_that_break_the_schema_are_an_error(tmp_path, old, new):
    path, _ = stores.make(tmp_path, stores.track())
    file = path / "embedding/zarr.json"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(CacheError, match="array"):
        cache.CacheReader(path)


def read_all(reader):
    return reader.gather(np.arange(reader.n_clips), missing="nan")[0].tobytes()


def test_reader_in_use_goes_to_a_new_process(store):
    path, held = store
    reader = cache.CacheReader(path)
    assert read_all(reader) == held.data.tobytes()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(read_all, reader).result() == held.data.tobytes()


# In a process of its own: the threads of this one may hold anything while it forks.
FORKS = """
import os, sys
import numpy as np
from understudy.cache import CacheReader
reader = CacheReader(sys.argv[1])
rows = np.arange(reader.n_clips)
reader.gather(rows, missing="nan")
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
sys.stdout.buffer.write(reader.gather(rows, missing="nan")[0].tobytes())
"""


def test_reader_in_use_survives_a_fork(store):
    path, held = store
    done = subprocess.run([sys.executable, "-c", FORKS, path], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, held.data.tobytes()), done.stderr


def test_pickle_carries_metadata_alone(store):
    path, _ = store
    reader = cache.CacheReader(path)
    fresh = vars(cache.CacheReader(path)).keys()
    read_all(reader)
    assert vars(reader).keys() > fresh
    assert vars(pickle.loads(pickle.dumps(reader))).keys() == fresh


def test_identity_and_timing_come_from_the_attributes(tmp_path):
    track = stores.track(hop_s=0.5)
    path, _ = stores.make(tmp_path, track)
    reader = cache.CacheReader(path)
    assert reader.identity == track.full_identity
    assert reader.timing == {"window_s": 1.92, "hop_s": 0.5}
    assert (reader.kind, reader.name, reader.dtype) == ("embedding", "teacher", np.float16)


def test_more_data_than_memory_is_read_the_same(store, monkeypatch):
    monkeypatch.setattr("understudy.cache.shards.os.sysconf", lambda _: 1)
    path, held = store
    reader = cache.CacheReader(path)
    for _ in range(2):
        assert read_all(reader) == held.data.tobytes()
