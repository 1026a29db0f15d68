import csv

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tests import stores

from understudy.cache import CacheReader, export
from understudy.cache.cli import group
from understudy.cache.export import file_names

IDS = ["plain", "a/b.wav", "../x", "Plain2", "plain2", "é", "", "index", "c.d", "tail"]


def call(*words, answers=""):
    return CliRunner().invoke(group, [str(word) for word in words], input=answers)


@pytest.fixture(params=["embedding", "audio"])
def made(request, tmp_path):
    path, held = stores.make(tmp_path / "set", stores.track(request.param))
    pq.write_table(pa.table({"clip_id": IDS}), path.parent / "index.parquet")
    return path, held


def test_every_clip_that_is_ok_is_a_file(made, tmp_path):
    path, held = made
    out = tmp_path / "out"
    result = call("export", path.parent, "--out", out)
    assert result.exit_code == 0, result.output
    assert "9 clips" in result.output
    with (out / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["clip_id"] for row in rows] == IDS
    for number, row in enumerate(rows):
        if number == 2:
            assert (row["file"], row["status"]) == ("", "undecodable")
            continue
        clip = np.load(out / row["file"])
        assert clip.dtype == held.data.dtype
        np.testing.assert_array_equal(clip, held.data[number, : held.n_frames[number]])
    assert {p.name for p in out.iterdir()} == {row["file"] for row in rows if row["file"]} | {
        "index.csv"
    }
    assert {"plain.npy", "c.d.npy", "tail.npy"} <= {row["file"] for row in rows}


def test_long_clips_come_few_at_a_time(made, tmp_path, monkeypatch):
    path, held = made
    asked = []
    gather = CacheReader.gather
    monkeypatch.setattr(
        CacheReader, "gather", lambda *a, **k: asked.append(len(a[1])) or gather(*a, **k)
    )
    monkeypatch.setattr(export, "BATCH_BYTES", 3 * held.data[0].nbytes)
    assert call("export", path, "--out", tmp_path / "out").exit_code == 0
    assert asked == [3, 3, 3, 1]
    clip = np.load(tmp_path / "out/tail.npy")
    np.testing.assert_array_equal(clip, held.data[9, : held.n_frames[9]])


def test_what_is_there_is_replaced_only_after_asking(made, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "tail.npy").write_bytes(b"mine")
    (out / "other.txt").write_bytes(b"mine")
    for answers in ("", "n\n"):
        result = call("export", made[0], "--out", out, answers=answers)
        assert result.exit_code == 1
        assert "holds 1 of these files" in result.output
        assert {p.name: p.read_bytes() for p in out.iterdir()} == {
            "tail.npy": b"mine",
            "other.txt": b"mine",
        }
    assert call("export", made[0], "--out", out, "--yes").exit_code == 0
    assert np.load(out / "tail.npy").size
    assert (out / "other.txt").read_bytes() == b"mine"


def test_a_store_without_an_index_cannot_name_its_clips(made, tmp_path):
    (made[0].parent / "index.parquet").unlink()
    result = call("export", made[0], "--out", tmp_path / "out")
    assert "no index.parquet" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_one_of_several_stores_must_be_named(made, tmp_path):
    stores.make(tmp_path / "set", stores.track(hop_s=0.5))
    result = call("export", tmp_path, "--out", tmp_path / "out")
    assert "export one of them" in str(result.exception)


@given(st.lists(st.text(max_size=200), unique=True, max_size=30))
def test_file_names_are_safe_and_distinct(clip_ids):
    names = file_names(clip_ids)
    assert len({name.lower() for name in names}) == len(clip_ids)
    for name in names:
        assert not set(name) & set('/\\:*?"<>|\0')
        assert name.isascii()
        assert not name.startswith((".", "-")) or name[1].isdigit()
        assert len(name) <= 150
