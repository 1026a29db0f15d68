"""What holds of stores wherever they lie: on a disk, on a network file system, in a bucket."""

import json
import pickle
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from tests import stores

from understudy import cache
from understudy.cache import files, layout, places
from understudy.cache.cli import group
from understudy.cache.sources import Mapped, Ranged
from understudy.errors import CacheError


@pytest.fixture(params=["disk", "network", "bucket"])
def folder(request, tmp_path, monkeypatch) -> cache.Place:
    """An empty place."""
    if request.param == "bucket":
        return cache.place(request.getfixturevalue("bucket")) / "a"
    if request.param == "network":
        monkeypatch.setattr(places, "_filesystem", lambda path: "nfs4")
    return tmp_path / "a"


def call(*words):
    return CliRunner().invoke(group, [str(word) for word in words])


def names(found, folder):
    return [path.relative_to(folder).as_posix() for path in found]


def test_files(folder):
    assert list(folder.glob("*")) == list(folder.rglob("*")) == []
    files.write_all({folder / "x/one.json": [b"[1, ", memoryview(b"2]")], folder / "two": [b""]})
    files.write_atomic(folder / "y/z/three.json", b"123456789")
    assert (folder / "x/one.json").read_bytes() == b"[1, 2]"
    assert (folder / "two").is_file()
    assert not (folder / "x").is_file()
    assert names(sorted(folder.glob("*/*.json")), folder) == ["x/one.json"]
    assert names(sorted(folder.glob("*/z/three.json")), folder) == ["y/z/three.json"]
    assert names(sorted(folder.glob("?")), folder) == ["x", "y"]
    assert names(sorted(folder.rglob("*.json")), folder) == ["x/one.json", "y/z/three.json"]
    three = folder / "y/z/three.json"
    assert three.stat().st_size == 9
    assert abs(three.stat().st_mtime_ns / 1e9 - time.time()) < 60
    assert (three.name, three.stem, three.parent.name) == ("three.json", "three", "z")
    last, size = places.tail(three, 4)
    assert (bytes(last), size) == (b"6789", 9)
    assert bytes(places.tail(three, 100)[0]) == b"123456789"
    spans = [(three, 7, 9), (three, 0, 2), (folder / "x/one.json", 1, 2), (three, 1, 4)]
    assert [bytes(part) for part in places.fetch(spans)] == [b"89", b"12", b"1", b"234"]
    assert bytes(places.view(three)) == b"123456789"
    files.move(three, three.with_name("four"))
    assert names([p for p in folder.rglob("*") if p.is_file()], folder)[-1] == "y/z/four"
    files.remove(three, folder / "two")
    for read in (three.read_bytes, three.stat, lambda: places.tail(three, 1)):
        with pytest.raises(FileNotFoundError):
            read()
    files.remove_tree(folder / "x")
    assert names([p for p in folder.rglob("*") if p.is_file()], folder) == ["y/z/four"]


@pytest.mark.parametrize("layout", ["dense", "concat"])
def test_a_shard_of_many_megabytes(folder, layout):
    room: dict[str, Any] = {"shard_frames": 400 * 30} if layout == "concat" else {}
    track = stores.track(max_frames=30, dim=768, layout=layout, **room)
    path, held = stores.make(folder, track, n_clips=400, clips_per_shard=400, bad=False)
    assert cache.verify(path) == []
    data, _ = cache.CacheReader(path).gather(range(400), missing="nan")
    np.testing.assert_array_equal(data, held.data)


@pytest.mark.parametrize("layout", ["dense", "concat"])
@pytest.mark.parametrize("kind", ["embedding", "audio"])
def test_stores(folder, kind, layout):
    """Written, extended, read whole and in part, verified and pickled."""
    track = stores.track(kind, layout=layout)
    held = stores.contents(track, 14)
    writer = cache.StoreWriter.open_or_create(folder, track, 10, 4)
    assert stores.write_pending(writer, held) == [0, 1, 2]
    assert writer.finalise({})
    writer = pickle.loads(pickle.dumps(cache.StoreWriter.open_or_create(folder, track, 14, 4)))
    assert stores.write_pending(writer, held) == [2, 3]
    assert writer.finalise({})
    assert cache.stores(folder) == [writer.path]
    assert cache.find(folder.parent, "a", track.name) == writer.path
    assert cache.verify(writer.path) == []
    reader = cache.CacheReader(str(writer.path))
    rng = np.random.default_rng(0)
    for one in (reader, pickle.loads(pickle.dumps(reader))):
        rows = rng.integers(0, 14, 30)
        data, n_frames = one.gather(rows, missing="nan")
        np.testing.assert_array_equal(data, held.data[rows])
        np.testing.assert_array_equal(n_frames, held.n_frames[rows])
        part, _ = one.gather([9, 0, 9], frames=([1, 0, 2], 2))
        wanted = [held.data[9, 1:3], held.data[0, :2], held.data[9, 2:4]]
        np.testing.assert_array_equal(part, np.stack(wanted))
    mapped = isinstance(folder, places.Path) and places.mappable(folder)
    assert isinstance(reader._shards._source, Mapped if mapped else Ranged)


def test_damage(folder):
    path, held = stores.make(folder, stores.track())
    file = path / "embedding/c/1/0/0"
    sound = file.read_bytes()
    file.write_bytes(sound[:70] + bytes([sound[70] ^ 4]) + sound[71:])
    with pytest.raises(CacheError, match="checksum mismatch in shard 1, row 5"):
        cache.CacheReader(path).gather([4, 5])
    (problem,) = cache.verify(path)
    assert (problem.what, problem.clips) == ("damaged", ("row 5",))
    assert call("verify", path, "--repair").exit_code == 1
    assert cache.CacheReader(path).status.tolist()[4:8] == [0] * 4
    writer = cache.StoreWriter.open_or_create(folder, stores.track(), 10, 4)
    assert stores.write_pending(writer, held) == [1]
    assert writer.finalise({})
    assert call("prune", path, "--yes").exit_code == 0
    assert not list(path.rglob("*.damaged"))
    file.write_bytes(sound[: len(sound) // 2])
    with pytest.raises(CacheError, match="c/1/0/0: index"):
        cache.CacheReader(path).gather([4])
    files.remove(file)
    with pytest.raises(CacheError, match="it holds rows 4 to 7"):
        cache.CacheReader(path).gather([4])


def test_one_holds_the_lock(folder):
    with cache.lock(folder), pytest.raises(CacheError, match=r"in use by process \d+ on"):
        cache.lock(folder).__enter__()
    with cache.lock(folder):
        pass


def test_other_codecs_go_through_zarr(folder, tmp_path):
    path, held = stores.make(tmp_path / "b", stores.track())
    metadata = json.loads((path / "embedding/zarr.json").read_text())
    metadata["codecs"][0]["configuration"]["index_location"] = "start"
    for file in sorted((path / "embedding/c").rglob("0")):
        if file.is_file():
            content = file.read_bytes()
            slots = layout.footer_bytes(4)
            index = np.frombuffer(content[-slots:-4], "<u8").reshape(-1, 2).copy()
            index[index[:, 0] != layout.ABSENT, 0] += slots
            file.write_bytes(layout.with_crc(index.tobytes()) + content[:-slots])
    (path / "embedding/zarr.json").write_text(json.dumps(metadata))
    for file in path.rglob("*"):
        if file.is_file():
            place = folder / path.name / file.relative_to(path).as_posix()
            files.write_atomic(place, file.read_bytes())
    reader = cache.CacheReader(folder / path.name)
    assert reader._foreign is not None
    np.testing.assert_array_equal(reader.gather([9, 1, 5])[0], held.data[[9, 1, 5]])


@pytest.mark.parametrize("name", ["ü x#y", "q?z&b=c", "%41+[x]"])
def test_names_that_mean_something_in_urls(folder, name):
    path, held = stores.make(folder / name, stores.track(), 10)
    assert cache.stores(folder / name) == [path]
    assert cache.verify(str(path)) == []
    reader = cache.CacheReader(str(path))
    np.testing.assert_array_equal(reader.gather([9])[0], held.data[[9]])
    np.testing.assert_array_equal(reader.store.open_zarr("embedding")[9], held.data[9])


def test_up_and_down(folder, tmp_path):
    """Mirrored from a disk to the place and back: the same bytes; what is there is not copied."""
    source, _ = stores.make(tmp_path / "local/set", stores.track(), 10)
    table = pa.table({"clip_id": [str(row) for row in range(10)]})
    pq.write_table(table, source.parent / "index.parquet")
    assert call("mirror", tmp_path / "local", folder).exit_code == 0
    (folder / "set" / source.name / "embedding/c/1/0/0").write_bytes(b"torn")
    files.remove(folder / "set" / source.name / "clip_key/commit/2.json")
    result = call("mirror", tmp_path / "local", folder)
    assert (result.exit_code, result.output.split()[-2:]) == (0, ["(3", "shards)"])
    copy = folder / "set" / source.name
    assert cache.verify(copy) == []
    assert call("mirror", folder, tmp_path / "back").exit_code == 0

    def snapshot(root):
        paths = (p for p in root.rglob("*") if p.is_file() and p.name != ".lock")
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in paths}

    assert snapshot(tmp_path / "back") == snapshot(tmp_path / "local") == snapshot(folder)
    row = call("list", folder).output.splitlines()[1].split()
    assert row[:2] + row[3:6] + row[-1:] == ["set", "teacher", "9", "1", "0", "yes"]
    assert "float16" in call("show", copy).output
    assert "sound (3 shards, 10 clips)" in call("verify", copy).output
    assert call("export", copy, "--out", tmp_path / "npy").exit_code == 0
    exported = np.load(tmp_path / "npy/7.npy")
    data, n_frames = cache.CacheReader(source).gather([7])
    np.testing.assert_array_equal(exported, data[0, : n_frames[0]])


def test_spawned_processes_read(folder):
    path, held = stores.make(folder, stores.track())
    reader = cache.CacheReader(path)
    reader.gather([0])
    code = (
        "import pickle, sys; reader = pickle.load(sys.stdin.buffer); "
        "sys.stdout.buffer.write(reader.gather([8, 1])[0].tobytes())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(reader), stdout=-1, check=True, timeout=60
    )
    assert done.stdout == held.data[[8, 1]].tobytes()
