"""list, prune and verify --repair."""

import os

import pytest
from click.testing import CliRunner
from tests import stores

from understudy import cache
from understudy.cache import upkeep
from understudy.cache.cli import group
from understudy.errors import CacheError


def call(*words, answers=""):
    return CliRunner().invoke(group, [str(word) for word in words], input=answers)


def snapshot(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def aged(path, seconds):
    """Sets the store's files back in time."""
    for file in path.rglob("*"):
        os.utime(file, (1e9 - seconds, 1e9 - seconds))


def test_list_names_every_store(tmp_path):
    stores.make(tmp_path / "one", stores.track())
    stores.make(tmp_path / "two", stores.track("audio"), bad=False)
    cache.StoreWriter.open_or_create(tmp_path / "two", stores.track(), 10, 4)
    broken = stores.make(tmp_path / "two", stores.track(name="broken"))[0]
    (broken / "status/zarr.json").unlink()
    lines = call("list", tmp_path).output.splitlines()
    found = {tuple(line.split()[:2]): line.split()[3:] for line in lines[1:]}
    assert found["one", "teacher"][:3] == ["9", "1", "0"]
    assert found["one", "teacher"][-1] == "yes"
    assert found["two", "audio"][:3] == ["10", "0", "0"]
    assert found["two", "teacher"][:3] == ["0", "0", "10"]
    assert found["two", "teacher"][-5:] == ["no,", "3", "shards", "to", "go"]
    assert "unreadable:" in found["two", "broken"]


def test_prune_asks_and_removes_leftovers_only(tmp_path):
    path, _ = stores.make(tmp_path / "set", stores.track())
    before = snapshot(tmp_path)
    extra = [
        path / "embedding/c/1/0/.0.abc.partial",
        tmp_path / "set/.index.parquet.abc.partial",
        path / "status/c/7",
        path / "clip_key/commit/7.json",
        path / "clip_key/commit/1.record.damaged",
    ]
    for file in extra:
        file.write_bytes(b"12")
    result = call("prune", tmp_path, answers="n\n")
    assert result.exit_code == 0, result.output
    assert "Remove 5 files" in result.output
    assert all(str(file) in result.output and file.exists() for file in extra)
    assert call("prune", tmp_path, answers="y\n").exit_code == 0
    assert snapshot(tmp_path) == before
    assert "nothing to remove" in call("prune", tmp_path).output


def test_prune_without_an_answer_removes_nothing(tmp_path):
    path, _ = stores.make(tmp_path / "set", stores.track())
    (path / "status/c/7").write_bytes(b"x")
    before = snapshot(tmp_path)
    assert call("prune", tmp_path).exit_code == 1
    assert snapshot(tmp_path) == before


def test_prune_removes_what_a_newer_version_replaces(tmp_path):
    old, _ = stores.make(tmp_path / "set", stores.track(version="1"))
    new, _ = stores.make(tmp_path / "set", stores.track(version="2"))
    audio, _ = stores.make(tmp_path / "set", stores.track("audio"))
    aged(old, 10)
    result = call("prune", tmp_path, "--yes")
    assert f"{old}: {new.name} is newer and complete; they differ in version" in result.output
    assert cache.stores(tmp_path / "set") == sorted([new, audio])
    assert not old.exists()


@pytest.mark.parametrize("choice", [{"hop_s": 0.5}, {"dtype": "float32"}, {"weights_sha256": "1"}])
def test_prune_keeps_what_was_asked_for_differently(tmp_path, choice):
    old, _ = stores.make(tmp_path / "set", stores.track())
    stores.make(tmp_path / "set", stores.track(**choice))
    aged(old, 10)
    assert upkeep.leftovers(tmp_path / "set") == []


def test_prune_keeps_the_old_store_while_the_new_one_is_not_complete_or_smaller(tmp_path):
    old, _ = stores.make(tmp_path / "set", stores.track(version="1"))
    cache.StoreWriter.open_or_create(tmp_path / "set", stores.track(version="2"), 10, 4)
    stores.make(tmp_path / "set", stores.track(version="3"), n_clips=9)
    aged(old, 10)
    assert not [item for item in upkeep.leftovers(tmp_path / "set") if item.path == old]


def test_prune_waits_for_no_writer(tmp_path):
    stores.make(tmp_path / "set", stores.track())
    with cache.lock(tmp_path / "set"):
        assert isinstance(call("prune", tmp_path).exception, CacheError)


def test_repair_marks_the_damaged_shards_alone(tmp_path):
    path, held = stores.make(tmp_path / "set", stores.track())
    sound = stores.array_files(path)
    before = snapshot(tmp_path)
    file = path / "embedding/c/1/0/0"
    flipped = bytearray(file.read_bytes())
    flipped[9] ^= 1
    file.write_bytes(flipped)
    result = call("verify", path, "--repair")
    assert result.exit_code == 1
    assert "shard 1." in result.output
    assert "understudy extract set --root FOLDER --teacher teacher" in result.output
    assert "--set teacher.window_s=1.92 --set teacher.hop_s=0.96" in result.output
    moved = {path / "clip_key/commit/1.json", path / "status/c/1"}
    kept = {p: b for p, b in before.items() if p not in {*moved, file, path / "zarr.json"}}
    assert kept.items() <= snapshot(tmp_path).items()
    contents = set(snapshot(tmp_path).values())
    assert all(before[p] in contents for p in moved)
    reader = cache.CacheReader(path)
    assert reader.status[4:8].tolist() == [0] * 4
    assert not reader.attributes["complete"]
    result = call("verify", path)
    assert (result.exit_code, "1 of 3 shards not written yet" in result.output) == (0, True)
    writer = cache.StoreWriter.open_or_create(path.parent, stores.track(), 10, 4)
    assert stores.write_pending(writer, held) == [1]
    assert writer.finalise({})
    assert stores.array_files(path) == sound
    assert cache.verify(path) == []


def test_repair_of_a_missing_record_and_of_a_sound_store(tmp_path):
    path, _ = stores.make(tmp_path / "set", stores.track())
    before = snapshot(tmp_path)
    assert call("verify", tmp_path, "--repair").exit_code == 0
    assert snapshot(tmp_path) == before
    (path / "clip_key/commit/0.json").unlink()
    assert call("verify", tmp_path, "--repair").exit_code == 1
    assert call("verify", tmp_path).exit_code == 0
    assert cache.CacheReader(path).status[:4].tolist() == [0] * 4


def test_the_command_that_redoes_names_what_is_known(tmp_path):
    path, _ = stores.make(tmp_path / "set", stores.track("audio"))
    assert upkeep.extract_command(path) == (
        f"understudy extract set --root FOLDER --audio --cache {tmp_path}"
    )
    clip = stores.track(window_s="clip", weights_sha256="random:0", precision="bfloat16")
    path, _ = stores.make(tmp_path / "set", clip)
    command = upkeep.extract_command(path)
    assert "--weights teacher=random" in command
    assert "--set teacher.window_s=clip --set teacher.precision=bfloat16" in command
    assert "hop_s" not in command
