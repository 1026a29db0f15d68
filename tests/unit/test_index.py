import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.errors import DataError
from understudy.index import ClipIndex

TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0/"), min_size=1)


def make(n=6, *, labels=None, names=("a", "b"), root="/data", name="set", **columns):
    base = {
        "clip_id": [f"c{i}" for i in range(n)],
        "path": [f"audio/c{i}.wav" for i in range(n)],
        "duration_s": np.linspace(1, 2, n),
    }
    labels = np.arange(n) % 2 if labels is None else labels
    return ClipIndex(name, pd.DataFrame(base | columns), labels, names, Path(root))


@st.composite
def indexes(draw):
    ids = draw(st.lists(TEXT, unique=True, max_size=8))
    n = len(ids)
    n_labels = draw(st.integers(1, 4))

    def column(values):
        return draw(st.lists(values, min_size=n, max_size=n))

    if draw(st.booleans()):
        cells = column(st.lists(st.sampled_from([-1, 0, 1]), min_size=n_labels, max_size=n_labels))
        labels = np.array(cells, np.int8).reshape(n, n_labels)
    else:
        labels = np.array(column(st.integers(0, n_labels - 1)), np.int64)
    clips = pd.DataFrame(
        {
            "clip_id": ids,
            "path": [f"{name}.wav" for name in ids],
            "start_s": column(st.floats(0, 1e4)),
            "duration_s": column(st.floats(1e-3, 1e4) | st.just(np.nan)),
            "split": column(st.sampled_from(["train", "valid", "test", ""])),
            "fold": column(st.integers(0, 5)),
            "group": column(st.just("") | TEXT),
        }
    )
    names = tuple(f"label {i}" for i in range(n_labels))
    return ClipIndex("any-set", clips, labels, names, Path("/data"), "CC BY", "A. Uthor, 2020")


@settings(max_examples=60, deadline=None)
@given(index=indexes())
def test_saved_index_comes_back_equal(tmp_path_factory, index):
    path = tmp_path_factory.mktemp("index") / "x=1" / "index.parquet"
    index.save(path)
    again = ClipIndex.load(path, "/elsewhere")
    pd.testing.assert_frame_equal(again.clips, index.clips)
    np.testing.assert_array_equal(again.labels, index.labels)
    assert again.labels.dtype == index.labels.dtype
    assert (again.digest, again.split_digest) == (index.digest, index.split_digest)
    for field in ("name", "label_names", "licence", "citation", "task"):
        assert getattr(again, field) == getattr(index, field)
    assert str(again.root) == "/elsewhere"
    assert [p.name for p in path.parent.iterdir()] == ["index.parquet"]


def test_defaults_and_types():
    index = make()
    row = index.clips.iloc[0].to_dict()
    assert (row["start_s"], row["split"], row["fold"], row["group"]) == (0.0, "", 0, "")
    assert index.task == "single-label"
    assert index.labels.dtype == np.int64
    multi = make(labels=np.ones((6, 2)))
    assert multi.task == "multi-label"
    assert multi.labels.dtype == np.int8
    assert (len(multi), multi.n_clips, multi.n_labels) == (6, 6, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_id": list("aabbcd")}, "duplicate clip_id a, b;"),
        ({"clip_id": ["", *"abcde"]}, "clip_id of clip 0"),
        ({"clip_id": pd.Series([*"abcde", "\udc80"], dtype=object)}, "wanted UTF-8 text"),
        ({"clip_id": [*"abcde", None]}, "wanted UTF-8 text"),
        ({"path": ["../x"] * 6}, "leaves the root"),
        ({"path": ["a/../../x"] * 6}, "leaves the root"),
        ({"path": ["/etc/passwd"] * 6}, "is absolute"),
        ({"path": [""] * 6}, "is empty"),
        ({"path": [*"abcde", "f/.."]}, r"path 'f/\.\.' leaves the root"),
        ({"path": ["a\0b"] * 6}, "is empty or holds a NUL"),
        ({"group": pd.Series([*"abcde", b"f"], dtype=object)}, "group b'f': wanted UTF-8 text"),
        ({"split": pd.Series([1] * 6)}, "split 1: wanted UTF-8 text"),
        ({"duration_s": [0.0] * 6}, "duration_s of clip 0"),
        ({"duration_s": [1.0] * 5 + [np.inf]}, "duration_s of clip 5"),
        ({"duration_s": ["long"] * 6}, "wanted numbers"),
        ({"start_s": [-1.0] * 6}, "start_s of clip 0"),
        ({"split": ["dev"] * 6}, "split of clip 0 is 'dev'"),
        ({"fold": [-1] * 6}, "fold of clip 0"),
        ({"artist": ["x"] * 6}, "unknown artist"),
        ({"labels": np.array([0, 1, 2, 0, 1, 0])}, r"label \(2,\) is 2, wanted 0 to 1"),
        ({"labels": np.full((6, 2), 2)}, r"label \(0, 0\) is 2, wanted -1 to 1"),
        ({"labels": np.full((6, 2), np.nan)}, "is nan"),
        ({"labels": np.full((6, 2), 0.5)}, r"is 0\.5"),
        ({"labels": np.array(["a"] * 6)}, "wanted numbers"),
        ({"labels": np.zeros((6, 3))}, r"shape \(6, 3\), wanted \(6,\) or \(6, 2\)"),
        ({"names": ("a", "a")}, "wanted distinct"),
        ({"name": "a/b"}, "dataset name 'a/b'"),
        ({"name": ".."}, r"dataset name '\.\.'"),
    ],
)
def test_what_does_not_hold_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        make(**change)


def test_missing_column_is_named():
    with pytest.raises(DataError, match="missing path"):
        ClipIndex("set", pd.DataFrame({"clip_id": ["a"]}), np.zeros(1), ("x",), Path())


def test_names_that_only_look_like_a_way_out_are_fine():
    paths = ["..a", "a..", "a/..b/c", "...", "a/...", "b\\..\\c"]
    assert make(path=paths).clips["path"].tolist() == paths


def test_digest_of_many_rows_is_that_of_one_json_list():
    ids = [f"ключ {i}" for i in range(70_000)]
    index = make(70_000, clip_id=ids)
    parts = (ids, [""] * 70_000)
    wanted = hashlib.sha256("".join(map(json.dumps, parts)).encode() + b"<i8(70000,)")
    wanted.update(np.zeros(70_000, np.int64).tobytes())
    assert index.split_digest == wanted.hexdigest()


def test_absolute_follows_links_and_stays_inside(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "audio", outside):
        folder.mkdir(parents=True)
    (outside / "x.wav").touch()
    (root / "audio" / "c0.wav").touch()
    (root / "audio" / "c1.wav").symlink_to(outside / "x.wav")
    (root / "audio" / "c2.wav").symlink_to(root / "audio" / "c0.wav")
    (root / "linked").symlink_to(outside)
    (tmp_path / "root2").mkdir()
    (root / "audio" / "c5.wav").symlink_to(tmp_path / "root2")
    paths = [f"audio/c{i}.wav" for i in range(6)]
    paths[4] = "linked/x.wav"
    link = tmp_path / "alias"
    link.symlink_to(root)
    index = make(path=paths, root=link)
    assert index.absolute(0) == index.absolute(2) == root / "audio" / "c0.wav"
    assert index.absolute(3) == root / "audio" / "c3.wav"  # need not exist
    for row in (1, 4, 5):
        with pytest.raises(DataError, match="out of the root"):
            index.absolute(row)


def test_digests_see_what_they_cover():
    index = make(split=["train"] * 6, fold=[1, 2, 3, 1, 2, 3])
    same = make(split=["train"] * 6, fold=[1, 2, 3, 1, 2, 3], root="/elsewhere", group=["g"] * 6)
    assert (same.digest, same.split_digest) == (index.digest, index.split_digest)
    for change, in_split in (
        ({"clip_id": list("abcdef")}, True),
        ({"split": ["test"] * 6}, True),
        ({"fold": [1] * 6}, True),
        ({"duration_s": [1.0] * 6}, False),
    ):
        other = dataclasses.replace(index, clips=index.clips.assign(**change))
        assert other.digest != index.digest
        assert (other.split_digest != index.split_digest) == in_split
    for change in ({"labels": 1 - index.labels}, {"label_names": ("b", "a")}):
        other = dataclasses.replace(index, **change)
        assert other.digest != index.digest
        assert other.split_digest == index.split_digest
    assert index.subset([1, 0, 2, 3, 4, 5]).digest != index.digest


def test_digest_does_not_move():
    """Caches and checkpoints hold it: a change here must be deliberate."""
    assert make().digest.startswith("a052d1385d30e011")
    assert make().split_digest.startswith("6e2126a12f4cbb48")


@given(folds=st.lists(st.integers(0, 5), min_size=20, max_size=60), k=st.integers(1, 5))
def test_folds_are_nested(folds, k):
    folds = [1, 2, 3, 4, 5, *folds]
    n = len(folds)
    split = make(n, fold=folds).split(k)
    wanted = {"test": {k}, "valid": {k % 5 + 1}, "train": {1, 2, 3, 4, 5} - {k, k % 5 + 1}}
    rows = np.concatenate([getattr(split, part) for part in wanted])
    assert len(rows) == len(set(rows.tolist())) == sum(fold > 0 for fold in folds)
    for part, values in wanted.items():
        assert {folds[row] for row in getattr(split, part)} == values


def test_split_column_gives_the_parts():
    split = make(split=["test", "train", "", "train", "test", "test"]).split()
    assert split.train.tolist() == [1, 3]
    assert split.valid.tolist() == []
    assert split.test.tolist() == [0, 4, 5]


@pytest.mark.parametrize(
    ("folds", "fold", "message"),
    [
        ([0] * 6, None, "no split and no folds"),
        ([1, 2, 3] * 2, None, "folds 1, 2, 3; name a fold"),
        ([0] * 6, 1, "has no folds, wanted fold 1"),
        ([1, 2, 3] * 2, 4, "has folds 1, 2, 3, wanted fold 4"),
        ([1, 2] * 3, 1, "wanted three or more"),
    ],
)
def test_impossible_splits_are_refused(folds, fold, message):
    with pytest.raises(DataError, match=message):
        make(fold=folds).split(fold)


def test_subset_keeps_rows_together():
    part = make(labels=np.eye(6, 2)).subset([4, 0])
    assert list(part.clips["clip_id"]) == ["c4", "c0"]
    assert list(part.clips.index) == [0, 1]
    np.testing.assert_array_equal(part.labels, np.eye(6, 2)[[4, 0]])


def test_load_refuses_what_is_no_index(tmp_path):
    path = tmp_path / "index.parquet"
    with pytest.raises(DataError, match="no such index"):
        ClipIndex.load(path, "/data")
    path.write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(DataError, match="not a clip index"):
        ClipIndex.load(path, "/data")
    pd.DataFrame({"clip_id": ["a"]}).to_parquet(path)
    with pytest.raises(DataError, match="not a clip index"):
        ClipIndex.load(path, "/data")
    make().save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="not a clip index"):
        ClipIndex.load(path, "/data")


def test_a_failed_save_leaves_the_old_index(tmp_path, monkeypatch):
    path = tmp_path / "index.parquet"
    make().save(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match="No space left"):
        make(5).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
