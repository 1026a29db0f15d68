import os
import subprocess
import sys

import pytest
from tests import stores

from understudy import cache
from understudy.errors import CacheError


def test_the_only_store_of_a_track_is_found(tmp_path):
    path, _ = stores.make(tmp_path / "set", stores.track())
    audio, _ = stores.make(tmp_path / "set", stores.track("audio"))
    assert cache.find(tmp_path, "set", "teacher") == path
    assert cache.find(tmp_path, "set", "audio") == audio
    assert cache.stores(tmp_path / "set") == [audio, path]


def test_track_names_that_share_a_start_are_told_apart(tmp_path):
    stores.make(tmp_path / "set", stores.track(name="mn04-long"))
    path, _ = stores.make(tmp_path / "set", stores.track(name="mn04"))
    assert cache.find(tmp_path, "set", "mn04") == path


def test_names_that_are_no_file_names(tmp_path):
    path, _ = stores.make(tmp_path / "set", stores.track(name="onnx:models/a b.onnx"))
    assert path.parent == tmp_path / "set"
    assert cache.find(tmp_path, "set", "onnx:models/a b.onnx") == path


def test_two_stores_of_one_teacher_are_listed_with_what_differs(tmp_path):
    one, _ = stores.make(tmp_path / "set", stores.track())
    other, _ = stores.make(tmp_path / "set", stores.track(hop_s=0.5))
    with pytest.raises(CacheError) as caught:
        cache.find(tmp_path, "set", "teacher")
    assert f"{one.name}: hop_s 0.96" in str(caught.value)
    assert f"{other.name}: hop_s 0.5" in str(caught.value)
    assert "--store" in str(caught.value)
    assert "sample_rate" not in str(caught.value)
    digits = other.stem.rpartition("-")[2]
    for choice in (digits[:5], digits, other.name, str(other)):
        assert cache.find(tmp_path, "set", "teacher", choice) == other


def test_unknown_choice_lists_what_is_there(tmp_path):
    path, _ = stores.make(tmp_path / "set", stores.track())
    with pytest.raises(CacheError, match=f"no stores answer to 'zzz'.*{path.name}"):
        cache.find(tmp_path, "set", "teacher", "zzz")


def test_no_store_says_what_is_there_and_how_to_make_one(tmp_path):
    with pytest.raises(
        CacheError,
        match=r"There: nothing.*understudy extract set .*--teacher mn04.*folder --option name=set",
    ):
        cache.find(tmp_path, "set", "mn04")
    path, _ = stores.make(tmp_path / "set", stores.track())
    with pytest.raises(CacheError, match=rf"{path.name}.*--audio"):
        cache.find(tmp_path, "set", "audio")
    with pytest.raises(CacheError, match=r"no store of 'mn04', no such folder: .*cachx\."):
        cache.find(tmp_path / "cachx", "set", "mn04")


def test_no_index_says_what_the_cache_holds(tmp_path):
    assert cache.no_index(tmp_path / "cachx", "x") == f"no such folder: {tmp_path / 'cachx'}"
    (tmp_path / "mysounds").mkdir()
    (tmp_path / "mysounds" / "index.parquet").touch()
    told = cache.no_index(tmp_path, "folder")
    assert told == f"{tmp_path}: no dataset 'folder'; the cache holds mysounds"
    assert "did you mean 'mysounds'?" in cache.no_index(tmp_path, "my-sounds")


def test_shard_size_is_the_datasets(tmp_path):
    assert cache.clips_per_shard(tmp_path) is None
    stores.make(tmp_path, stores.track())
    stores.make(tmp_path, stores.track("audio"))
    assert cache.clips_per_shard(tmp_path) == 4
    stores.make(tmp_path, stores.track(hop_s=0.5), clips_per_shard=3)
    with pytest.raises(CacheError, match="differ in clips per shard"):
        cache.clips_per_shard(tmp_path)


def test_lock_names_its_holder_and_is_freed(tmp_path):
    with (
        cache.lock(tmp_path),
        pytest.raises(CacheError, match=rf"in use by process {os.getpid()} on .+ since 20"),
        cache.lock(tmp_path),
    ):
        pass
    with cache.lock(tmp_path):
        pass


def test_lock_of_a_killed_process_is_free(tmp_path):
    code = (
        "import sys, time; from understudy import cache\n"
        f"with cache.lock({str(tmp_path)!r}): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(CacheError, match=f"process {process.pid} "), cache.lock(tmp_path):
            pass
        process.kill()
    with cache.lock(tmp_path):
        pass


def test_lock_survives_an_unreadable_note(tmp_path):
    with cache.lock(tmp_path):
        (tmp_path / ".lock").write_text("{")
        with pytest.raises(CacheError, match="another process"), cache.lock(tmp_path):
            pass
