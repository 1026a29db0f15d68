"""Any folder of recordings as a dataset, with and without a CSV."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sounds import sound, tree_in, write_csv

from understudy import datasets
from understudy.errors import ConfigError, DataError


@pytest.fixture
def tree(tmp_path):
    return tree_in(tmp_path)


def test_tree_without_csv(tree):
    index = datasets.load("folder", tree)
    assert list(index.clips["clip_id"]) == ["4.mp3", "a/1.wav", "a/c/3.ogg", "b/2.flac", "é 5.wav"]
    assert index.clips["duration_s"].tolist() == pytest.approx([0.4, 0.2, 0.3, 0.1, 0.5])
    assert index.labels.shape == (5, 0)
    assert index.name == "tree"
    assert set(index.clips["split"]) <= {"train", "valid", "test"}


def test_tree_does_not_depend_on_the_order_of_the_file_system(tree, monkeypatch):
    index = datasets.load("folder", tree)
    walk = os.walk

    def backwards(*args, **kwargs):
        for folder, folders, names in walk(*args, **kwargs):
            folders.reverse()
            yield folder, folders, names[::-1]

    monkeypatch.setattr("os.walk", backwards)
    assert datasets.load("folder", tree).digest == index.digest


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        datasets.load("folder", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no audio file; looked for .*\*\.flac"):
        datasets.load("folder", tmp_path / "empty")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="not a folder"):
        datasets.load("folder", tmp_path / "file")


def test_unreadable_files_stay_without_a_duration(tree):
    (tree / "empty.wav").touch()
    (tree / "text.wav").write_text("no audio at all")
    index = datasets.load("folder", tree)
    unreadable = index.clips["duration_s"].isna()
    assert list(index.clips["clip_id"][unreadable]) == ["empty.wav", "text.wav"]


def test_a_link_out_of_the_tree_is_not_read(tree, tmp_path):
    sound(tmp_path / "other.wav")
    (tree / "link.wav").symlink_to(tmp_path / "other.wav")
    clips = datasets.load("folder", tree).clips
    assert list(clips["clip_id"][clips["duration_s"].isna()]) == ["link.wav"]


def test_a_name_that_is_not_utf8_is_refused(tree):
    Path(os.fsdecode(os.fsencode(tree) + b"/\xff.wav")).write_bytes(b"x")
    with pytest.raises(DataError, match=r"'\\udcff\.wav' is not UTF-8"):
        datasets.load("folder", tree)


def test_single_label_csv(tree):
    name = write_csv(
        tree / "l.csv",
        "path,label,group,extra\nb/2.flac, dog ,g1,\n\na/1.wav,cat,g1,\n4.mp3,dog,,\n",
    )
    index = datasets.load("folder", tree, csv=name)
    assert index.label_names == ("cat", "dog")
    assert index.labels.tolist() == [1, 0, 1]
    assert list(index.clips["path"]) == ["b/2.flac", "a/1.wav", "4.mp3"]
    assert list(index.clips["group"]) == ["g1", "g1", ""]
    split = dict(zip(index.clips["path"], index.clips["split"], strict=True))
    assert split["b/2.flac"] == split["a/1.wav"]
    ordered = datasets.load("folder", tree, csv=name, classes=["wolf", "dog", "cat"])
    assert ordered.labels.tolist() == [1, 2, 1]


def test_separated_labels(tree):
    name = write_csv(
        tree / "l.csv", "path,labels,split\n4.mp3,x | y,train\na/1.wav,,\nb/2.flac,y,test"
    )
    index = datasets.load("folder", tree, csv=name)
    assert index.label_names == ("x", "y")
    assert index.labels.tolist() == [[1, 1], [0, 0], [-1, 1]]
    assert list(index.clips["split"]) == ["train", "", "test"]


def test_label_columns(tree):
    name = write_csv(
        tree / "l.csv",
        "clip_id,path,fold,x,y\nfour,4.mp3,1,1,-1\none,a/1.wav,,0,\ntwo,b/2.flac,3,-1,1",
    )
    index = datasets.load("folder", tree, csv=name)
    assert index.label_names == ("x", "y")
    assert index.labels.tolist() == [[1, -1], [0, 0], [-1, 1]]
    assert list(index.clips["clip_id"]) == ["four", "one", "two"]
    assert list(index.clips["fold"]) == [1, 0, 3]
    assert list(index.clips["split"]) == ["", "", ""]
    assert datasets.load("folder", tree, csv=name, label_columns=["y"]).label_names == ("y",)


@pytest.mark.parametrize(("zero", "wanted"), [("absent", -1), ("unknown", 0)])
def test_what_0_means_can_be_said(tree, zero, wanted):
    csv = write_csv(tree / "l.csv", "path,x,y\n4.mp3,1,0\na/1.wav,,1")
    index = datasets.load("folder", tree, csv=csv, zero=zero)
    assert index.labels.tolist() == [[1, wanted], [0, 1]]


def test_listed_files_that_are_absent_stay(tree):
    name = write_csv(tree / "l.csv", "path,label\n4.mp3,a\ngone.wav,b\n")
    assert datasets.load("folder", tree, csv=name).clips["duration_s"].isna().tolist() == [0, 1]
    name = write_csv(tree / "l.csv", "path,label\ngone.wav,b\n")
    with pytest.raises(DataError, match=r"none of the 1 files of .*l\.csv is there"):
        datasets.load("folder", tree, csv=name)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "wanted a header line"),
        ("path,label\n", {}, "a header and no rows"),
        ("file,label\n4.mp3,a\n", {}, "no column path; found file, label"),
        ("path,path\n4.mp3,a\n", {}, "wanted distinct column names"),
        ("path,label\n4.mp3\n", {}, "line 2: 1 cells, wanted 2: path, label"),
        ("path,label\n4.mp3,a,b\n", {}, "line 2: 3 cells"),
        ('path,label\n"4.mp3,a\n', {}, "not a CSV file"),
        ("path,label\n4.mp3,a\0\n\0", {}, "4.mp3|not a CSV|line 3"),
        (
            "path,label\n4.mp3,a\n4.mp3,b\n",
            {},
            "line 3: path '4.mp3'; wanted each once, but line 2",
        ),
        ("path,clip_id\n4.mp3,a\na/1.wav,a\n", {}, "line 3: clip_id 'a'; wanted each once"),
        ("path,clip_id\n4.mp3,\n", {}, "line 2: clip_id ''; wanted a name"),
        ("path,label\n../x.wav,a\n", {}, r"line 2: path '\.\./x\.wav' leaves .*; wanted a path in"),
        ("path,label\n/etc/x.wav,a\n", {}, "line 2: path '/etc/x.wav'.*is absolute"),
        ("path,label\n,a\n", {}, "line 2: path ''; wanted"),
        ("path,label\n4.mp3,\n", {}, "line 2: label ''; wanted the name of a class"),
        ("path,label\n4.mp3,d\n", {"classes": ["a"]}, "line 2: label 'd'; wanted one of 'a'"),
        ("path,labels\n4.mp3,a|d\n", {"classes": ["a"]}, "line 2: labels 'a|d'; wanted .*'d'"),
        ("path,labels\n4.mp3,a||b\n", {}, "line 2: labels 'a||b'"),
        ("path,x,y\n4.mp3,1,0\n", {}, "hold 0 but no -1; wanted .*zero=absent"),
        ("path,x\n4.mp3,2\na/1.wav,1\n", {}, "line 2: x '2'; wanted one of '', '0', '1', '-1'"),
        (
            "path,title,class\n4.mp3,u,dog\na/1.wav,v,dog\n",
            {},
            "no column label or labels; found path, title, class; .* with --option label=class$",
        ),
        ("path,class,x\n4.mp3,dog,1\n", {}, r"label=class or .* label_columns=\[x\]"),
        ("path,split\n4.mp3,dev\n", {}, "line 2: split 'dev'; wanted one of 'train', 'valid'"),
        ("path,fold\n4.mp3,-1\n", {}, "line 2: fold '-1'; wanted an integer from 0"),
        ("path,fold\n4.mp3,²\n", {}, "line 2: fold '²'"),
        ("path,label\n4.mp3,a\n", {"group": "artist"}, "no column artist"),
        ("path,label\n4.mp3,a\n", {"labels": "tags"}, "no column tags"),
    ],
)
def test_csv_errors_name_file_line_and_value(tree, text, options, message):
    with pytest.raises(DataError, match=message) as caught:
        datasets.load("folder", tree, csv=write_csv(tree / "l.csv", text), **options)
    assert str(tree / "l.csv") in str(caught.value)


def test_csv_must_be_there_and_utf8(tree):
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        datasets.load("folder", tree, csv="gone.csv")
    (tree / "l.csv").write_bytes("path,label\n4.mp3,é\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"l\.csv: not a CSV file in UTF-8"):
        datasets.load("folder", tree, csv="l.csv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sed": 1}, "did you mean 'seed'"),
        ({"seed": "x"}, "wanted int"),
        ({"fractions": [0.5, 0.5]}, "wanted three"),
        ({"fractions": [0.5, 0.1, 0.1]}, "sum to 0.7, wanted 1"),
        ({"fractions": [1.5, -0.5, 0]}, "none below 0"),
        ({"csv": "l.csv", "label": "x", "labels": "x"}, "at most one"),
        ({"csv": "l.csv"}, "say which is meant"),
        ({"csv": "l.csv", "classes_from": "folders"}, "of csv and classes_from"),
        ({"label": "x"}, "label is about a CSV; give --option csv=FILE"),
        ({"classes_from": "folder"}, "did you mean 'folders'"),
        ({"classes": ["x"]}, "give csv or classes_from, too"),
        ({"csv": "l.csv", "label": "label", "zero": "absent"}, "those of column label"),
        ({"csv": "l.csv", "labels": "labels", "zero": "absent"}, "those of column labels"),
        ({"csv": "s.csv", "seed": 3}, r"seed is about a split .*s\.csv has a column split"),
        ({"csv": "s.csv", "fractions": [0.8, 0.1, 0.1]}, "fractions is about a split"),
    ],
)
def test_impossible_options_are_refused(tree, options, message):
    write_csv(tree / "l.csv", "path,label,labels\n4.mp3,a,b\n")
    write_csv(tree / "s.csv", "path,label,split\n4.mp3,a,test\n")
    with pytest.raises(ConfigError, match=message):
        datasets.load("folder", tree, **options)


def test_classes_from_folders(tmp_path):
    for name in ("dog/1.wav", "cat/1.wav", "cat/deep/2.wav"):
        sound(tmp_path / name)
    index = datasets.load("folder", tmp_path, classes_from="folders")
    assert (index.task, index.label_names) == ("single-label", ("cat", "dog"))
    assert dict(zip(index.clips["path"], index.labels.tolist(), strict=True)) == {
        "cat/1.wav": 0,
        "cat/deep/2.wav": 0,
        "dog/1.wav": 1,
    }
    given = {"classes_from": "folders", "classes": ["wolf", "dog", "cat"]}
    assert datasets.load("folder", tmp_path, **given).labels.tolist() == [2, 2, 1]
    with pytest.raises(DataError, match="folder 'cat'; wanted one of dog"):
        datasets.load("folder", tmp_path, classes_from="folders", classes=["dog"])
    sound(tmp_path / "3.wav")
    with pytest.raises(DataError, match=r"'3\.wav' lies in no sub-folder; wanted CLASS/3\.wav"):
        datasets.load("folder", tmp_path, classes_from="folders")


@pytest.mark.parametrize("folders", [("audio",), ("train", "test")])
def test_folders_that_are_no_classes(tmp_path, folders):
    for name in folders:
        sound(tmp_path / name / "1.wav")
    with pytest.raises(DataError, match=f"{folders[0]}.*; wanted one for each class, or a CSV"):
        datasets.load("folder", tmp_path, classes_from="folders")


NAME = st.text(
    st.characters(blacklist_categories=("C", "Z"), blacklist_characters="|"), min_size=1
).filter(lambda text: text == text.strip())


@settings(max_examples=40, deadline=None)
@given(cells=st.lists(st.sets(NAME, max_size=3), min_size=1, max_size=5), data=st.data())
def test_label_forms_agree(tmp_path_factory, cells, data):
    """What is written as names separated by | or as columns is read back as what it was."""
    root = tmp_path_factory.mktemp("forms")
    sound(root / "0.wav")
    names = sorted(set().union(*cells) - {"path", "clip_id", "split", "fold", "group"})
    cells = [cell & set(names) for cell in cells]
    if not names:
        return
    paths = [f"{i}.wav" for i in range(len(cells))]
    with (root / "names.csv").open("w", newline="", encoding="utf-8") as file:
        rows = ((p, "|".join(sorted(cell))) for p, cell in zip(paths, cells, strict=True))
        csv.writer(file).writerows((("path", "labels"), *rows))
    index = datasets.load("folder", root, csv="names.csv")
    assert index.label_names == tuple(names)
    for row, cell in zip(index.labels, cells, strict=True):
        assert {name for name, value in zip(names, row, strict=True) if value == 1} == cell
        assert set(row[row != 1].tolist()) <= ({-1} if cell else {0})
    with (root / "columns.csv").open("w", newline="", encoding="utf-8") as file:
        rows = ((p, *row) for p, row in zip(paths, index.labels, strict=True))
        csv.writer(file).writerows((("path", *names), *rows))
    again = datasets.load("folder", root, csv="columns.csv", label_columns=names, zero="unknown")
    np.testing.assert_array_equal(again.labels, index.labels)
    assert again.digest == index.digest
