"""Stores are plain Zarr v3: what understudy writes, zarr-python reads, and the other way round."""

from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import stores
from zarr.codecs import ZstdCodec

from understudy import cache
from understudy.errors import CacheError

LAYOUTS = pytest.mark.parametrize("layout", ["dense", "concat"])
KINDS = pytest.mark.parametrize("kind", ["embedding", "audio"])
DATA = {"embedding": "embedding", "audio": "pcm"}
UNHURRIED = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def assert_same(path, held, kind):
    """Warnings are errors here."""
    group: Any = zarr.open_group(path, mode="r")
    per_frame = {DATA[kind]: held.data, "level_db": held.level_db}
    per_frame = {name: values for name, values in per_frame.items() if values is not None}
    if group.attrs["layout"] == "concat":
        offset, n_frames = group["offset"][:].astype(int), held.n_frames.astype(int)
        for name, values in per_frame.items():
            for row, (first, n) in enumerate(zip(offset, n_frames, strict=True)):
                np.testing.assert_array_equal(group[name][first : first + n], values[row, :n])
    else:
        for name, values in per_frame.items():
            np.testing.assert_array_equal(group[name][:], values)
    for name in ("n_frames", "status", "clip_key"):
        np.testing.assert_array_equal(group[name][:], getattr(held, name))


@KINDS
@LAYOUTS
def test_zarr_reads_the_same_numbers(tmp_path, kind, layout):
    path, held = stores.make(tmp_path, stores.track(kind, layout=layout))
    assert_same(path, held, kind)
    assert cache.verify(path) == []


@KINDS
def test_oindex_is_gather(tmp_path, kind):
    path, _ = stores.make(tmp_path, stores.track(kind))
    rows = [9, 0, 5]
    array: Any = zarr.open_array(path / DATA[kind], mode="r")
    np.testing.assert_array_equal(array.oindex[rows], cache.CacheReader(path).gather(rows)[0])


@UNHURRIED
@LAYOUTS
@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.sampled_from([1, 3, 9000, 20000])
)
def test_zarr_reads_any_shape(tmp_path_factory, layout, n_clips, clips_per_shard, max_frames, dim):
    track = stores.track(max_frames=max_frames, dim=dim, layout=layout)
    path, held = stores.make(tmp_path_factory.mktemp("c"), track, n_clips, clips_per_shard)
    assert_same(path, held, "embedding")
    data, n_frames = cache.CacheReader(path).gather(range(n_clips), missing="nan")
    np.testing.assert_array_equal(data, held.data)
    np.testing.assert_array_equal(n_frames, held.n_frames)
    assert cache.verify(path) == []


@KINDS
@LAYOUTS
def test_zarr_lists_arrays_and_nothing_else(tmp_path, kind, layout):
    path, _ = stores.make(tmp_path, stores.track(kind, layout=layout))
    group: Any = zarr.open_group(path, mode="r")
    wanted = {DATA[kind], "n_frames", "status", "clip_key"}
    wanted |= {"level_db"} if kind == "embedding" else set()
    wanted |= {"offset"} if layout == "concat" else set()
    assert {name for name, _ in group.members(max_depth=None)} == wanted
    assert group.attrs["complete"]
    assert group["status"].attrs["status_codes"]["1"].startswith("ok")
    first = dict.fromkeys(wanted, "clip")
    if layout == "concat":
        data = "frame" if kind == "embedding" else "sample"
        first |= dict.fromkeys(wanted & {DATA[kind], "level_db"}, data)
    assert {name: array.metadata.dimension_names[0] for name, array in group.arrays()} == first


@KINDS
@pytest.mark.parametrize("clips_per_shard", [1, 3, 4, 10, 16])
def test_reader_reads_what_zarr_wrote_into_our_layout(tmp_path, kind, clips_per_shard):
    track = stores.track(kind)
    held = stores.contents(track, 10)
    path = cache.StoreWriter.open_or_create(tmp_path, track, 10, clips_per_shard).path
    with zarr.config.set({"array.write_empty_chunks": True}):
        group: Any = zarr.open_group(path, mode="r+")
        group[DATA[kind]][:] = held.data
        for name in ("n_frames", "status", "clip_key", "level_db"):
            if getattr(held, name) is not None:
                group[name][:] = getattr(held, name)
    reader = cache.CacheReader(path)
    assert reader._foreign is None
    data, n_frames = reader.gather(range(10), missing="nan")
    np.testing.assert_array_equal(data, held.data)
    np.testing.assert_array_equal(n_frames, held.n_frames)
    written = cache.StoreWriter.open_or_create(tmp_path / "b", track, 10, clips_per_shard)
    stores.write_pending(written, held)
    if clips_per_shard in (1, 10):  # elsewhere zarr orders chunks otherwise or omits the padding
        small = {k: v for k, v in stores.array_files(path).items() if not k.startswith(DATA[kind])}
        assert small.items() <= stores.array_files(written.path).items()


@KINDS
def test_concat_reads_as_dense_does(tmp_path, kind):
    """Clips of several inner chunks, chunks of several clips; clips of 1 frame and failed ones."""
    changes = {"max_frames": 40000} if kind == "audio" else {"max_frames": 9, "dim": 5000}
    dense, held = stores.make(tmp_path, stores.track(kind, **changes), 23)
    path, _ = stores.make(tmp_path, stores.track(kind, layout="concat", **changes), 23)
    one, other = cache.CacheReader(dense), cache.CacheReader(path)
    assert other._foreign is None
    assert (other.max_frames, other.dim, other.dtype) == (one.max_frames, one.dim, one.dtype)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 23, 40)
    for count in (1, 3, held.data.shape[1] // 2, held.data.shape[1] + 2):
        start = rng.integers(0, held.data.shape[1] + 2, 40)
        for frames in (None, (start, count)):
            wanted = one.gather(rows, frames=frames, missing="nan")
            out = np.empty_like(wanted[0])
            found = other.gather(rows, out=out, frames=frames, missing="nan")
            assert found[0] is out
            for here, there in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(here, there)
    if kind == "embedding":
        np.testing.assert_array_equal(one.level_db(rows), other.level_db(rows))
    sizes = [sum(map(len, stores.array_files(folder).values())) for folder in (dense, path)]
    assert sizes[1] < 0.8 * sizes[0]


def test_concat_rewritten_by_zarr_and_damaged(tmp_path):
    track = stores.track(layout="concat", dim=5000)
    path, held = stores.make(tmp_path, track)
    file = path / "embedding/c/1/0"
    sound = file.read_bytes()
    file.write_bytes(sound[:70000] + bytes([sound[70000] ^ 4]) + sound[70001:])
    with pytest.raises(CacheError, match="checksum mismatch in shard 1"):
        cache.CacheReader(path).gather([4, 5, 6, 7])
    assert {problem.what for problem in cache.verify(path)} == {"damaged"}
    file.write_bytes(sound)
    rewritten(path, "embedding", chunks=(7, 5000), compressors=ZstdCodec())
    reader = cache.CacheReader(path)
    assert reader._foreign is not None
    np.testing.assert_array_equal(reader.gather(range(10), missing="nan")[0], held.data)
    np.testing.assert_array_equal(reader.gather([9], frames=(1, 7))[0][:, :4], held.data[[9], 1:])


def test_concat_grows_and_keeps_its_shards(tmp_path):
    track = stores.track(layout="concat", dim=5000)
    held = stores.contents(track, 14)
    writer = cache.StoreWriter.open_or_create(tmp_path, track, 10, 4)
    assert stores.write_pending(writer, held) == [0, 1, 2]
    assert writer.finalise({})
    writer = cache.StoreWriter.open_or_create(tmp_path, track, 14, 4)
    assert cache.verify(writer.path) == []
    assert stores.write_pending(writer, held) == [2, 3]
    assert writer.finalise({})
    assert cache.verify(writer.path) == []
    fresh, _ = stores.make(tmp_path / "b", track, 14)
    assert stores.array_files(fresh) == stores.array_files(writer.path)
    assert_same(writer.path, held, "embedding")


def test_concat_clips_that_all_failed_take_no_place(tmp_path):
    track = stores.track(layout="concat")
    held = stores.contents(track, 4)
    held.status[:], held.n_frames[:] = 2, 0
    held.data[:] = np.nan
    assert held.level_db is not None
    held.level_db[:] = np.nan
    writer = cache.StoreWriter.open_or_create(tmp_path, track, 4, 4)
    stores.write_pending(writer, held)
    assert writer.finalise({})
    assert cache.verify(writer.path) == []
    assert np.isnan(cache.CacheReader(writer.path).gather([0, 3], missing="nan")[0]).all()
    assert_same(writer.path, held, "embedding")


def rewritten(path, name, **layout):
    """Replaces an array by one with other chunks or codecs, as a user of zarr might."""
    old: Any = zarr.open_array(path / name, mode="r")
    values, names, fill = old[:], old.metadata.dimension_names, old.fill_value
    with zarr.config.set({"array.write_empty_chunks": True}):
        new = zarr.create_array(
            path / name,
            shape=values.shape,
            dtype=values.dtype,
            fill_value=fill,
            dimension_names=names,
            overwrite=True,
            **layout,
        )
        new[:] = values


@KINDS
@pytest.mark.parametrize("inner", [1, 2, None])
def test_unknown_codecs_are_read_through_zarr_with_equal_results(tmp_path, kind, inner):
    path, held = stores.make(tmp_path, stores.track(kind))
    tail = held.data.shape[1:]
    shards = {} if inner is None else {"shards": (4, *tail)}
    rewritten(
        path,
        DATA[kind],
        chunks=(inner or 4, *tail),
        compressors=ZstdCodec(),
        **shards,
    )
    rewritten(path, "status", chunks=(3,))
    reader = stores.foreign_reader(path, held)
    count = held.data.shape[1]
    part, n_frames = reader.gather([9, 5], frames=([2, count + 1], count))
    np.testing.assert_array_equal(part[0, : count - 2], held.data[9, 2:])
    fill = np.full_like(held.data[0], np.nan if kind == "embedding" else 0)
    np.testing.assert_array_equal(part[1], fill)
    assert n_frames.tolist() == [max(int(held.n_frames[9]) - 2, 0), 0]
    assert {problem.what for problem in cache.verify(path)} == {"metadata"}
    with pytest.raises(CacheError, match=f"{DATA[kind]}, status was rewritten"):
        cache.StoreWriter.open_or_create(tmp_path, stores.track(kind), 10, 4)


def test_absent_inner_chunks_read_as_silence_but_not_as_an_embedding(tmp_path):
    for kind in ("audio", "embedding"):
        track = stores.track(kind)
        path, held = stores.make(tmp_path, track, bad=False)
        blank = held.data.copy()
        blank[1] = 0 if kind == "audio" else np.nan
        with zarr.config.set({"array.write_empty_chunks": False}):
            array: Any = zarr.open_array(path / DATA[kind], mode="r+")
            array[:] = blank
        reader = cache.CacheReader(path)
        np.testing.assert_array_equal(reader.gather([0, 3])[0], held.data[[0, 3]])
        if kind == "audio":
            np.testing.assert_array_equal(reader.gather([3, 1])[0], blank[[3, 1]])
            np.testing.assert_array_equal(reader.gather([1], frames=(2, 3))[0], blank[[1], 2:5])
        else:
            with pytest.raises(CacheError, match="row 1 is ok but has no data"):
                reader.gather([3, 1])


@KINDS
def test_fill_valued_chunks_are_written(tmp_path, kind):
    path, held = stores.make(tmp_path, stores.track(kind))
    held.data[:] = 0 if kind == "audio" else np.nan
    held.n_frames[:] = 0
    held.status[:] = 2
    writer = cache.StoreWriter.open_or_create(tmp_path / "b", stores.track(kind), 10, 4)
    stores.write_pending(writer, held)
    blank, full = stores.array_files(writer.path), stores.array_files(path)
    assert {name: len(file) for name, file in blank.items()} == {
        name: len(file) for name, file in full.items()
    }


def test_unknown_attribute_is_refused(tmp_path):
    path, _ = stores.make(tmp_path, stores.track())
    zarr.open_group(path, mode="r+").attrs["colour"] = "red"
    with pytest.raises(CacheError, match="unknown attribute 'colour'"):
        cache.CacheReader(path)
    assert [problem.what for problem in cache.verify(path)] == ["metadata"]
