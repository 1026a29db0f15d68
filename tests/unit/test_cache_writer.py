import errno
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from tests import stores

from understudy import cache
from understudy.cache import files
from understudy.errors import CacheError


class Killed(BaseException):
    """Stands for the end of the process."""


def renames(monkeypatch, folder, limit=None):
    """Counts renames; the one after `limit` does not happen, and nothing is tidied after it."""
    count = 0
    rename, unlink = Path.replace, Path.unlink

    def replace(self, target):
        nonlocal count
        if count == limit:
            monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
            raise Killed
        count += 1
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    killed = False
    try:
        stores.make(folder, stores.track())
    except Killed:
        killed = True
    monkeypatch.setattr(Path, "replace", rename)
    monkeypatch.setattr(Path, "unlink", unlink)
    return count, killed


def test_a_kill_before_any_rename_loses_no_committed_shard_and_resumes_to_the_same_bytes(
    tmp_path, monkeypatch
):
    track, folder = stores.track(), tmp_path / "whole"
    total, killed = renames(monkeypatch, folder)
    assert not killed
    wanted = stores.array_files(folder / track.store_name)
    assert len(wanted) == 3 * 5
    for limit in range(total):
        folder = tmp_path / str(limit)
        path = folder / track.store_name
        assert renames(monkeypatch, folder, limit) == (limit, True)
        if (path / "zarr.json").is_file():
            assert {problem.what for problem in cache.verify(path)} <= {"orphan"}
            reader = cache.CacheReader(path)
            ok = np.flatnonzero(reader.status == 1)
            assert np.isfinite(reader.gather(ok)[0]).any(axis=(1, 2)).all()
        committed = {record: record.read_bytes() for record in path.glob("clip_key/commit/*.json")}
        writer = cache.StoreWriter.open_or_create(folder, track, 10, 4)
        assert not files.partials(path)
        assert len(stores.write_pending(writer, stores.contents(track, 10))) == 3 - len(committed)
        assert all(record.read_bytes() == text for record, text in committed.items())
        assert writer.finalise({})
        assert stores.array_files(path) == wanted
        assert cache.verify(path) == []


def test_a_kill_while_a_shard_is_replaced_never_passes_old_rows_for_new(tmp_path, monkeypatch):
    track = stores.track()
    new = stores.contents(track, 10, seed=1, bad=False)
    new.clip_key += np.uint64(1)
    rename = Path.replace
    for limit in range(6):
        path, _ = stores.make(tmp_path / str(limit), track, bad=False)
        writer = cache.StoreWriter.open_or_create(path.parent, track, 10, 4)
        left = limit + 1  # the group's metadata, marked incomplete, come first

        def replace(self, target):
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return rename(self, target)

        monkeypatch.setattr(Path, "replace", replace)
        with pytest.raises(Killed):
            writer.write_shard(1, new.payload(writer.rows(1)), {})
        monkeypatch.setattr(Path, "replace", rename)
        assert left == 0
        assert not writer.committed(1)
        reader = cache.CacheReader(path)
        rows = [row for row in writer.rows(1) if reader.status[row] == 1]
        assert len(rows) == (4 if limit == 5 else 0)
        np.testing.assert_array_equal(reader.gather(rows)[0], new.data[rows])
        assert stores.write_pending(writer, new) == [0, 1, 2]


def test_an_error_while_writing_is_reported_and_tidied(tmp_path, monkeypatch):
    track = stores.track()
    writer = cache.StoreWriter.open_or_create(tmp_path, track, 10, 4)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CacheError, match=r"cannot write .*No space left"):
        writer.write_shard(0, stores.contents(track, 10).payload(writer.rows(0)), {})
    assert files.partials(tmp_path) == []
    assert not writer.committed(0)


def test_writing_again_gives_the_same_bytes_whatever_lies_in_the_padding(tmp_path):
    path, held = stores.make(tmp_path / "a", stores.track())
    for row, n in enumerate(held.n_frames):
        held.data[row, n:] = 7
        assert held.level_db is not None
        held.level_db[row, n:] = 7
    held.n_frames[2] = 3  # of a clip that is not ok
    writer = cache.StoreWriter.open_or_create(tmp_path / "b", stores.track(), 10, 4)
    stores.write_pending(writer, held)
    assert stores.array_files(writer.path) == stores.array_files(path)


@pytest.mark.parametrize("kind", ["embedding", "audio"])
def test_concat_takes_payloads_without_the_padding_of_longer_clips_elsewhere(tmp_path, kind):
    track = stores.track(kind, layout="concat")
    held = stores.contents(track, 10)
    held.n_frames[:] = np.minimum(held.n_frames, 3)
    writers = [
        cache.StoreWriter.open_or_create(tmp_path / name, track, 10, 4) for name in ("b", "c")
    ]
    stores.write_pending(writers[0], held)
    held.data = held.data[:, :3]
    held.level_db = None if held.level_db is None else held.level_db[:, :3]
    stores.write_pending(writers[1], held)
    narrow, wide = (stores.array_files(writer.path) for writer in reversed(writers))
    assert narrow == wide


def stamps(folder):
    """What changes when anything below is written; not the time of the last look."""
    found = {file: file.stat() for file in folder.rglob("*")}
    return {file: (at.st_ino, at.st_size, at.st_mtime_ns) for file, at in found.items()}


def test_opening_a_complete_store_changes_nothing(tmp_path):
    path, held = stores.make(tmp_path, stores.track())
    before = stamps(path)
    writer = cache.StoreWriter.open_or_create(tmp_path, stores.track(), 10, 4)
    assert stores.write_pending(writer, held) == []
    assert writer.finalise({"other": "run"})
    assert stamps(path) == before


@pytest.mark.parametrize("added", [1, 2, 3, 8])
def test_adding_clips_keeps_full_shards_and_reads_as_if_written_at_once(tmp_path, added):
    track = stores.track()
    path, _ = stores.make(tmp_path / "grown", track, 6, 4)
    whole, held = stores.make(tmp_path / "whole", track, 6 + added, 4)
    # Rows 0 to 5 hold other numbers than before; only shard 0 is kept, so give it the old ones.
    old = stores.contents(track, 6)
    for name, former in vars(old).items():
        getattr(held, name)[:6] = former
    writer = cache.StoreWriter.open_or_create(tmp_path / "grown", track, 6 + added, 4)
    reader = cache.CacheReader(path)
    assert reader.n_clips == 6 + added
    assert not reader.attributes["complete"]
    np.testing.assert_array_equal(reader.gather([5])[0], old.data[[5]])
    assert (reader.status[6:] == 0).all()
    assert cache.verify(path) == []
    assert not writer.finalise({})
    assert "clips" in str(writer.pending(1, held.payload(writer.rows(1)).clip_key))
    assert stores.write_pending(writer, held) == list(range(1, writer.n_shards))
    assert writer.finalise({})
    assert cache.verify(path) == []
    other = cache.StoreWriter.open_or_create(tmp_path / "other", track, 6 + added, 4)
    stores.write_pending(other, held)
    assert stores.array_files(path) == stores.array_files(other.path)
    assert whole.name == path.name


@pytest.mark.parametrize("left", [9, 8, 5, 4, 1])
def test_removed_clips_go_when_the_rest_is_complete(tmp_path, left):
    track = stores.track()
    path, held = stores.make(tmp_path / "a", track, 10, 4)
    writer = cache.StoreWriter.open_or_create(tmp_path / "a", track, left, 4)
    np.testing.assert_array_equal(cache.CacheReader(path).gather([9])[0], held.data[[9]])
    kept = held.part(range(left))
    stores.write_pending(writer, kept)
    assert writer.finalise({})
    assert cache.CacheReader(path).n_clips == left
    assert cache.verify(path) == []
    fresh = cache.StoreWriter.open_or_create(tmp_path / "b", track, left, 4)
    stores.write_pending(fresh, kept)
    assert stores.array_files(path) == stores.array_files(fresh.path)


def test_changed_clip_makes_its_shard_pending_alone_and_says_so(tmp_path):
    path, held = stores.make(tmp_path, stores.track())
    held.clip_key[5] = cache.clip_key("clip-5", 0.0, 3.25)
    writer = cache.StoreWriter.open_or_create(tmp_path, stores.track(), 10, 4)
    keys = [held.payload(writer.rows(k)).clip_key for k in range(3)]
    assert [writer.pending(k, keys[k]) for k in range(3)] == [
        None,
        "its clips changed (1 new, 1 gone)",
        None,
    ]
    assert "moved" in str(writer.pending(0, keys[0][::-1]))
    writer.write_shard(1, held.payload(writer.rows(1)), {})
    assert not cache.CacheReader(path).attributes["complete"]
    assert writer.committed(1, keys[1])


@pytest.mark.parametrize(
    ("changes", "sizes", "message"),
    [
        ({}, (10, 5), "clips_per_shard: 4 there, 5 wanted"),
        ({"max_frames": 7}, (10, 4), "max_frames: 5 there, 7 wanted"),
    ],
)
def test_another_layout_is_refused_with_the_difference(tmp_path, changes, sizes, message):
    path, _ = stores.make(tmp_path, stores.track())
    before = stores.array_files(path)
    with pytest.raises(CacheError, match=message):
        cache.StoreWriter.open_or_create(tmp_path, stores.track(**changes), *sizes)
    assert stores.array_files(path) == before


@pytest.mark.parametrize("changes", [{"dtype": "float32"}, {"hop_s": 1.0}, {"dim": 7}])
def test_another_identity_is_another_store_and_refused_under_a_false_name(tmp_path, changes):
    path, _ = stores.make(tmp_path, stores.track())
    other = stores.track(**changes)
    assert other.store_name != path.name
    path.rename(tmp_path / other.store_name)
    with pytest.raises(CacheError, match=f"{next(iter(changes))}: .* there, .* wanted"):
        cache.StoreWriter.open_or_create(tmp_path, other, 10, 4)


def test_store_of_the_future_is_refused(tmp_path):
    path, _ = stores.make(tmp_path, stores.track())
    group = json.loads((path / "zarr.json").read_text())
    group["attributes"]["schema_version"] = 9
    (path / "zarr.json").write_text(json.dumps(group))
    before = stores.array_files(path)
    for use in (
        lambda: cache.StoreWriter.open_or_create(tmp_path, stores.track(), 10, 4),
        lambda: cache.CacheReader(path),
        lambda: cache.verify(path),
    ):
        with pytest.raises(CacheError, match="schema version 9 is newer than the 1"):
            use()
    assert stores.array_files(path) == before


def test_unknown_record_field_is_refused_before_anything_is_written(tmp_path):
    path, held = stores.make(tmp_path, stores.track())
    writer = cache.StoreWriter.open_or_create(tmp_path, stores.track(), 10, 4)
    with pytest.raises(CacheError, match=r"unknown field 'run'.*'run_id'"):
        writer.write_shard(0, held.payload(writer.rows(0)), {"run": "x"})
    assert writer.committed(0)
    assert cache.verify(path) == []


@pytest.mark.parametrize("change", ["shape", "dtype"])
def test_wrong_payload_is_a_defect_of_the_caller(tmp_path, change):
    track = stores.track()
    writer = cache.StoreWriter.open_or_create(tmp_path, track, 10, 4)
    payload = stores.contents(track, 10).payload(writer.rows(0))
    payload.data = payload.data[:3] if change == "shape" else payload.data.astype(np.float32)
    with pytest.raises(AssertionError):
        writer.write_shard(0, payload, {})


def test_writers_travel_to_workers(tmp_path):
    writer = cache.StoreWriter.open_or_create(tmp_path, stores.track(), 10, 4)
    held = stores.contents(stores.track(), 10)
    stores.write_pending(pickle.loads(pickle.dumps(writer)), held)
    assert writer.finalise({})


def test_identity_ignores_int_or_float_but_no_value():
    assert stores.track(hop_s=1).identity_digest == stores.track(hop_s=1.0).identity_digest
    assert stores.track(hop_s=1).identity_digest != stores.track(hop_s=2).identity_digest
    assert stores.track(max_frames=9).identity_digest == stores.track().identity_digest


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"identity": {"hops": 1}}, "unknown identity key 'hops'"),
        ({"attributes": {"hop_s": 1}}, "part of the identity"),
        ({"attributes": {"licence_cod": "MIT"}}, "unknown attribute 'licence_cod'"),
        ({"dim": 3}, "dim is 3 but its identity says 6"),
        ({"max_frames": 0}, "max_frames 0"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"kind": "video"}, "unknown kind"),
    ],
)
def test_track_refuses_what_the_schema_lacks(fields, message):
    track = stores.track()
    with pytest.raises(CacheError, match=message):
        cache.Track(**{**vars(track), **fields})


def test_clip_keys_tell_clips_apart():
    keys = [
        cache.clip_key("a"),
        cache.clip_key("b"),
        cache.clip_key("a", 1.0),
        cache.clip_key("a", 0.0, 1.0),
        cache.clip_key("a\n0.0"),
    ]
    assert len(set(keys)) == len(keys)
    assert keys[0] == cache.clip_key("a", 0, float("nan"))
    assert keys[0].dtype == np.uint64
