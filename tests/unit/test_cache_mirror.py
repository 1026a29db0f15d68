import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from tests import stores

from understudy import cache
from understudy.cache import mirror
from understudy.cache.cli import group
from understudy.errors import CacheError


def call(*words):
    return CliRunner().invoke(group, [str(word) for word in words])


def snapshot(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != ".lock"
    }


def assert_refused(why, *words):
    error = call("mirror", *words).exception
    assert isinstance(error, CacheError)
    assert why in str(error)


@pytest.fixture
def source(tmp_path):
    path, _ = stores.make(tmp_path / "a/set", stores.track())
    stores.make(tmp_path / "a/set", stores.track("audio"))
    ids = pa.table({"clip_id": [str(row) for row in range(10)]})
    pq.write_table(ids, path.parent / "index.parquet")
    return path


@pytest.mark.parametrize("how", ["path", "file"])
@pytest.mark.parametrize("what", ["cache", "dataset", "store"])
def test_a_mirror_holds_the_same_bytes(source, tmp_path, how, what):
    place = {"cache": "", "dataset": "/set", "store": f"/set/{source.name}"}[what]
    root = str(tmp_path / "a")
    if how == "file":
        root = f"file://{root}"
    result = call("mirror", root + place, tmp_path / "b")
    assert result.exit_code == 0, (result.output, result.exception)
    wanted = snapshot(tmp_path / "a")
    if what == "store":
        wanted = {k: v for k, v in wanted.items() if source.name in k or "index" in k}
    assert snapshot(tmp_path / "b") == wanted
    assert cache.verify(tmp_path / "b/set" / source.name) == []


def test_an_unreadable_store_keeps_no_other_from_being_copied(source, tmp_path):
    (audio,) = (tmp_path / "a/set").glob("audio-*.zarr")
    (audio / "pcm/zarr.json").unlink()
    result = call("mirror", tmp_path / "a", tmp_path / "b")
    assert result.exit_code == 1
    assert f"not copied: {audio}: cannot read" in result.output
    assert cache.verify(tmp_path / "b/set" / source.name) == []


def test_an_interrupted_copy_continues(source, tmp_path, monkeypatch):
    assert call("mirror", source, tmp_path / "b").exit_code == 0
    copy = tmp_path / "b/set" / source.name
    before = snapshot(copy)
    (copy / "clip_key/commit/2.json").unlink()
    (copy / "embedding/c/1/0/0").write_bytes(b"torn")
    (copy / "embedding/c/0/0/.0.abc.partial").write_bytes(b"half")
    read = []
    whole = mirror._read

    def noted(path):
        if not path.is_relative_to(copy):
            read.append(path.as_posix())
        return whole(path)

    monkeypatch.setattr(mirror, "_read", noted)
    assert call("mirror", source, tmp_path / "b").exit_code == 0
    assert snapshot(copy) == before
    assert {name.split("/c/")[1][0] for name in read if "embedding/c/" in name} == {"1", "2"}


def test_damage_is_named_and_not_copied(source, tmp_path):
    file = source / "embedding/c/1/0/0"
    flipped = bytearray(file.read_bytes())
    flipped[9] ^= 1
    file.write_bytes(flipped)
    (source / "status/c/2").unlink()
    result = call("mirror", source, tmp_path / "b")
    assert result.exit_code == 1
    assert "not copied: damaged" in result.output
    assert "row 4 ('4')" in result.output
    assert "not copied: missing" in result.output
    copy = tmp_path / "b/set" / source.name
    reader = cache.CacheReader(copy)
    assert not reader.attributes["complete"]
    assert reader.status.tolist()[4:] == [0] * 6
    assert cache.verify(copy) == []


def test_an_unfinished_store_is_copied_as_far_as_it_is(tmp_path):
    track = stores.track()
    held = stores.contents(track, 10)
    writer = cache.StoreWriter.open_or_create(tmp_path / "a/set", track, 10, 4)
    writer.write_shard(1, held.payload(writer.rows(1)), {})
    result = call("mirror", tmp_path / "a", tmp_path / "b")
    assert (result.exit_code, "1 of 3 shards copied" in result.output) == (0, True)
    stores.write_pending(writer, held)
    writer.finalise({})
    assert call("mirror", tmp_path / "a", tmp_path / "b").exit_code == 0
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def test_places_that_will_not_do(source, tmp_path):
    assert_refused("neither a store nor", tmp_path / "none", tmp_path / "b")
    assert_refused("wanted a folder, file://FOLDER or s3://", "nosuch://bucket", tmp_path / "b")
    before = snapshot(tmp_path / "a")
    assert_refused("the source itself", source, tmp_path / "a")
    assert snapshot(tmp_path / "a") == before
    stores.make(tmp_path / "c/set", stores.track(hop_s=0.5))
    shutil.copy(source / "zarr.json", tmp_path / "c/set/index.parquet")
    assert_refused("mirror into another cache", source, tmp_path / "c")
