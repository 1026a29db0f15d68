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

KINDS = pytest.mark.parametrize("kind", ["embedding", "audio"])
DATA = {"embedding": "embedding", "audio": "pcm"}
UNHURRIED = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def assert_same(path, held, kind):
    """Warnings are errors here."""
    group: Any = zarr.open_group(path, mode="r")
    np.testing.assert_array_equal(group[DATA[kind]][:], held.data)
    for name in ("n_frames", "status", "clip_key", "level_db"):
        if getattr(held, name) is not None:
            np.testing.assert_array_equal(group[name][:], getattr(held, name))


@KINDS
def test_zarr_reads_the_same_numbers(tmp_path, kind):
    path, held = stores.make(tmp_path, stores.track(kind))
    assert_same(path, held, kind)
    rows = [9, 0, 5]
    array: Any = zarr.open_array(path / DATA[kind], mode="r")
    np.testing.assert_array_equal(array.oindex[rows], cache.CacheReader(path).gather(rows)[0])


@UNHURRIED
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))
def test_zarr_reads_any_shape(tmp_path_factory, n_clips, clips_per_shard, max_frames, dim):
    track = stores.track(max_frames=max_frames, dim=dim)
    path, held = stores.make(tmp_path_factory.mktemp("c"), track, n_clips, clips_per_shard)
    assert_same(path, held, "embedding")


@KINDS
def test_zarr_lists_arrays_and_nothing_else(tmp_path, kind):
    path, _ = stores.make(tmp_path, stores.track(kind))
    group: Any = zarr.open_group(path, mode="r")
    wanted = {DATA[kind], "n_frames", "status", "clip_key"}
    wanted |= {"level_db"} if kind == "embedding" else set()
    assert {name for name, _ in group.members(max_depth=None)} == wanted
    assert group.attrs["complete"]
    assert group["status"].attrs["status_codes"]["1"].startswith("ok")
    assert {name: array.metadata.dimension_names[0] for name, array in group.arrays()} == (
        dict.fromkeys(wanted, "clip")
    )


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
    reader = cache.CacheReader(path)
    assert reader._foreign is not None
    rows = [9, 0, 0, 5, 2]
    data, n_frames = reader.gather(rows, missing="nan")
    np.testing.assert_array_equal(data, held.data[rows])
    np.testing.assert_array_equal(n_frames, held.n_frames[rows])
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
