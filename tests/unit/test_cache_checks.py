import json

import pytest
from click.testing import CliRunner
from tests import stores

from understudy import cache
from understudy.cache.cli import group
from understudy.errors import CacheError


@pytest.fixture
def path(tmp_path):
    return stores.make(tmp_path, stores.track())[0]


def only(path):
    (problem,) = cache.verify(path)
    return problem


def rows(*numbers):
    return tuple(f"row {row}" for row in numbers)


FILES = ["embedding/c/1/0/0", "level_db/c/1/0", "n_frames/c/1", "clip_key/c/1", "status/c/1"]


def test_sound_store_has_no_problems(path):
    assert cache.verify(path) == []


@pytest.mark.parametrize("name", FILES)
def test_missing_file(path, name):
    (path / name).unlink()
    assert (only(path).what, only(path).clips) == ("missing", rows(4, 5, 6, 7))


@pytest.mark.parametrize("name", FILES)
def test_torn_file(path, name):
    file = path / name
    file.write_bytes(file.read_bytes()[:-3])
    assert (only(path).what, only(path).clips) == ("torn", rows(4, 5, 6, 7))


@pytest.mark.parametrize("name", FILES[1:])
def test_every_flipped_bit_of_a_small_file(path, name):
    file = path / name
    sound = file.read_bytes()
    for at in range(len(sound)):
        file.write_bytes(sound[:at] + bytes([sound[at] ^ 4]) + sound[at + 1 :])
        assert only(path).what == "damaged"
        assert only(path).file == file


def test_every_flipped_bit_of_a_shard_names_the_clip_it_hits(path):
    file = path / "embedding/c/1/0/0"
    sound = file.read_bytes()
    for at in range(0, len(sound), 7):
        file.write_bytes(sound[:at] + bytes([sound[at] ^ 4]) + sound[at + 1 :])
        problem = only(path)
        assert problem.what == "damaged"
        clip = at // (5 * 6 * 2 + 4)
        assert problem.clips == (rows(4 + clip) if clip < 4 else rows(4, 5, 6, 7))


@pytest.mark.parametrize("name", FILES)
def test_swapped_files(path, name):
    one, other = path / name, path / name.replace("c/1", "c/0")
    one_bytes, other_bytes = one.read_bytes(), other.read_bytes()
    assert one_bytes != other_bytes
    one.write_bytes(other_bytes)
    other.write_bytes(one_bytes)
    found = cache.verify(path)
    assert {problem.file for problem in found} == {one, other}
    assert {problem.what for problem in found} <= {"swapped", "damaged"}


def test_shard_of_a_rerun_with_other_clips_is_not_the_committed_one(path, tmp_path):
    other, _ = stores.make(tmp_path / "b", stores.track(), seed=1)
    name = "embedding/c/1/0/0"
    (path / name).write_bytes((other / name).read_bytes())
    assert (only(path).what, only(path).clips) == ("swapped", rows(4, 5, 6, 7))


def test_orphans_of_killed_writers(path):
    ours = path / "embedding/c/1/0/.0.abc.partial"
    zarrs = path / "status/c/1.abc.partial"
    for file in (ours, zarrs):
        file.write_bytes(b"half")
    assert {p.file for p in cache.verify(path)} == {ours, zarrs}
    assert {p.what for p in cache.verify(path)} == {"orphan"}
    cache.StoreWriter.open_or_create(path.parent, stores.track(), 10, 4)
    assert cache.verify(path) == []


def test_files_beyond_the_last_clip(path):
    for name in ("status/c/7", "clip_key/commit/7.json"):
        (path / name).write_bytes(b"x")
    assert {p.what for p in cache.verify(path)} == {"orphan"}
    assert len(cache.verify(path)) == 2


def test_missing_record_of_a_complete_store(path):
    (path / "clip_key/commit/1.json").unlink()
    assert (only(path).what, only(path).clips) == ("record", rows(4, 5, 6, 7))


@pytest.mark.parametrize(
    "change",
    [
        {"shard": 2},
        {"identity_sha256": "0" * 64},
        {"clip_keys": ["0" * 16] * 4},
        {"clip_keys": ["0" * 16] * 3},
        {"clip_crc32c": ["0" * 8] * 4},
        {"clip_crc32c": ["0" * 8] * 3},
        {"files": {}},
        {"shard": "1"},
        {"colour": "red"},
    ],
)
def test_record_that_does_not_agree(path, change):
    file = path / "clip_key/commit/1.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    problems = cache.verify(path)
    assert problems
    assert all(clip in rows(4, 5, 6, 7) for problem in problems for clip in problem.clips)


def test_record_that_is_no_json(path):
    (path / "clip_key/commit/1.json").write_text("{")
    assert only(path).what == "record"


def test_damaged_shards_are_mended_by_extracting_again(path):
    held = stores.contents(stores.track(), 10)
    before = stores.array_files(path)
    (path / "embedding/c/1/0/0").unlink()
    (path / "status/c/2").write_bytes(b"")
    writer = cache.StoreWriter.open_or_create(path.parent, stores.track(), 10, 4)
    assert stores.write_pending(writer, held) == [1, 2]
    assert writer.finalise({})
    assert stores.array_files(path) == before
    assert cache.verify(path) == []


def test_unfinished_store_is_no_damaged_one(tmp_path):
    writer = cache.StoreWriter.open_or_create(tmp_path, stores.track(), 10, 4)
    assert cache.verify(writer.path) == []
    result = CliRunner().invoke(group, ["verify", str(writer.path)])
    assert result.exit_code == 0
    assert "3 of 3 shards not written yet" in result.output


def test_command_line_exit_codes(path):
    result = CliRunner().invoke(group, ["verify", str(path)])
    assert (result.exit_code, "sound (3 shards, 10 clips)" in result.output) == (0, True)
    (path / "embedding/c/1/0/0").unlink()
    result = CliRunner().invoke(group, ["verify", str(path.parent)])
    assert result.exit_code == 1
    assert "missing" in result.output
    assert "row 4" in result.output


def test_show_prints_attributes_with_units_and_counts(path):
    output = CliRunner().invoke(group, ["show", str(path)], catch_exceptions=False).output
    lines = {
        line.split()[0]: line.split(maxsplit=1)[1]
        for line in output.splitlines()[1:]
        if " " in line.strip()
    }
    assert lines["hop_s"] == "0.96 s"
    assert lines["sample_rate"] == "32000 Hz"
    assert lines["status"] == "ok 9, undecodable 1"
    assert lines["complete"] == "yes"
    assert lines["shards"] == "3, of 4 clips each"
    assert lines["run_id"] == "test"


def test_an_attribute_of_the_identity_that_was_changed(path):
    group = json.loads((path / "zarr.json").read_text())
    group["attributes"]["window_s"] = 7.0
    (path / "zarr.json").write_text(json.dumps(group))
    problem = only(path)
    assert (problem.what, problem.file) == ("metadata", path / "zarr.json")
    assert "identity_sha256" in problem.detail


@pytest.mark.parametrize("content", [b"no JSON", None], ids=["garbage", "none"])
def test_a_store_of_unreadable_metadata_hides_no_other(path, content):
    """And its own shards are kept when it is written anew."""
    other, held = stores.make(path.parent, stores.track(name="another"))
    before = stores.array_files(other)
    (path / "embedding/c/1/0/0").unlink()
    (other / "zarr.json").unlink()
    if content is not None:
        (other / "zarr.json").write_bytes(content)

    found = CliRunner().invoke(group, ["verify", str(path.parent)])
    assert found.exit_code == 1
    assert f"metadata: {other / 'zarr.json'}: no" in found.output
    assert f"missing: {path / 'embedding/c/1/0/0'}" in found.output
    assert "remove the store's own zarr.json and extract again" in found.output
    repaired = CliRunner().invoke(group, ["verify", "--repair", str(path.parent)])
    assert repaired.exit_code == 1
    assert "marked as not written yet: shard 1. To write it again:" in repaired.output
    assert f"`extract folder --option name={path.parent.name}`" in repaired.output
    listed = CliRunner().invoke(group, ["list", str(path.parent)])
    assert listed.exit_code == 0
    assert any("another" in line and "unreadable" in line for line in listed.output.splitlines())
    if content is not None:
        shown = CliRunner().invoke(group, ["show", str(path.parent)])
        assert (shown.exit_code, "unreadable" in shown.output) == (1, True)
        assert "hop_s" in shown.output
        (other / "zarr.json").unlink()

    (other / "status/zarr.json").write_bytes(b"no JSON")
    writer = cache.StoreWriter.open_or_create(path.parent, stores.track(name="another"), 10, 4)
    assert stores.write_pending(writer, held) == []
    assert writer.finalise({})
    assert stores.array_files(other) == before
    assert cache.verify(other) == []


@pytest.mark.parametrize("command", ["show", "verify"])
def test_folder_without_stores(tmp_path, command):
    result = CliRunner().invoke(group, [command, str(tmp_path)])
    assert isinstance(result.exception, CacheError)
    assert "neither a store nor" in str(result.exception)
