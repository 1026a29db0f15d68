"""ESC-50, datasets by name, and the command `understudy data`."""

import numpy as np
import pytest
from click.testing import CliRunner
from tests.sounds import sound, tree_in, write_csv

from understudy import datasets
from understudy.datasets.cli import group as data_command
from understudy.datasets.esc50 import CLASSES, ESC10_TARGETS
from understudy.errors import ConfigError, DataError

HEADER = "filename,fold,target,category,esc10,src_file,take\n"


@pytest.fixture
def tree(tmp_path):
    return tree_in(tmp_path)


def esc(root, rows, files=None):
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "esc50.csv").write_text(HEADER + "".join(f"{row}\n" for row in rows))
    for name in [row.split(",")[0] for row in rows] if files is None else files:
        sound(root / "audio" / name)
    return root


def test_esc_release_with_wav_listed_and_ogg_there(tmp_path):
    rows = [
        "1-7-A-0.wav,1,0,dog,True,7,A",
        "2-8-A-2.wav,2,2,pig,False,8,A",
        "3-9-B-41.wav,3,41,chainsaw,True,9,B",
    ]
    root = esc(tmp_path / "esc", rows, ["1-7-A-0.ogg", "2-8-A-2.wav"])
    fifty, ten = datasets.load("esc50", root), datasets.load("esc10", root)
    assert fifty.n_labels == 50
    assert fifty.labels.tolist() == [0, 2, 41]
    assert list(fifty.clips["path"]) == [
        "audio/1-7-A-0.ogg",
        "audio/2-8-A-2.wav",
        "audio/3-9-B-41.wav",
    ]
    assert fifty.clips["duration_s"].isna().tolist() == [False, False, True]
    assert ten.label_names[-1] == "chainsaw"
    assert ten.labels.tolist() == [0, 9]
    assert list(ten.clips["clip_id"]) == ["1-7-A-0", "3-9-B-41"]
    assert (fifty.licence, ten.licence) == ("CC BY-NC 3.0", "CC BY 3.0")
    assert "Piczak" in fifty.citation


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.wav,1,0,wolf,True,7,A", "line 2: category 'wolf'; wanted one of 'dog'"),
        ("a.wav,1,2,pig,True,8,A", "line 2: category 'pig'"),
        ("a.wav,1,1,dog,True,8,A", "line 2: target '1'; wanted 0, the target of 'dog'"),
        ("a.wav,6,0,dog,True,8,A", "line 2: fold '6'; wanted an integer from 1 to 5"),
        ("a.wav,1,0,dog,yes,8,A", "line 2: esc10 'yes'; wanted one of 'True', 'False'"),
        (
            "../a.wav,1,0,dog,True,8,A",
            r"line 2: path 'audio/\.\./a\.wav' leaves .*; wanted a path in",
        ),
        ("a.wav,1,0,dog,True,8,A\na.wav,1,0,dog,True,8,A", "line 3: filename 'a.wav'"),
    ],
)
def test_esc_csv_errors_name_line_and_value(tmp_path, row, message):
    root = esc(tmp_path / "esc", [row], ["a.wav"])
    with pytest.raises(DataError, match=message):
        datasets.load("esc10", root)


def test_esc_root_without_a_release(tmp_path):
    with pytest.raises(DataError, match=r"wanted an ESC-50 release \(https://github\.com"):
        datasets.load("esc50", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"esc50\.csv: no such file"):
        datasets.load("esc50", tmp_path)
    esc(tmp_path / "esc", ["a.wav,1,0,dog,True,7,A"], [])
    with pytest.raises(DataError, match=r"none of the 1 files of .*esc50\.csv"):
        datasets.load("esc50", tmp_path / "esc")


def test_real_esc10(shared):
    root = shared / "data" / "esc10"
    index = datasets.load("esc10", root)
    assert len(index) == 400
    assert index.label_names == tuple(CLASSES[target] for target in ESC10_TARGETS)
    assert np.bincount(index.labels).tolist() == [40] * 10
    assert 0.55 < np.sum(index.clips["duration_s"]) / 3600 < 0.57
    for fold in range(1, 6):
        split = index.split(fold)
        assert [len(part) for part in (split.train, split.valid, split.test)] == [240, 80, 80]
        groups = [set(index.clips["group"].iloc[rows]) for rows in (split.train, split.test)]
        assert not groups[0] & groups[1]
    assert datasets.load("esc50", root).n_labels == 50


def test_unknown_names_and_options(tmp_path):
    assert {"esc50", "esc10", "folder", "toy-studio", "toy-field"} <= set(datasets.names())
    with pytest.raises(ConfigError, match="did you mean 'esc50'"):
        datasets.load("esc-50", tmp_path)
    with pytest.raises(ConfigError, match="unknown option 'csv'"):
        datasets.load("esc50", tmp_path, csv="x")
    with pytest.raises(ConfigError, match=f"'mysounds'.*here: folder --root {tmp_path}"):
        datasets.load("mysounds", tmp_path)


def run(*args):
    return CliRunner().invoke(data_command, [str(arg) for arg in args])


def test_list_names_every_dataset():
    result = run("list")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines()] == datasets.names()


def test_show_counts_and_names_unreadable_files(tree):
    (tree / "empty.wav").touch()
    write_csv(
        tree / "l.csv",
        "path,labels,split,fold,group\n4.mp3,x|y,train,1,g\na/1.wav,,,2,g\nb/2.flac,y,test,2,g\n"
        "empty.wav,x,valid,3,\ngone.wav,x,valid,3,\n",
    )
    result = run("show", "folder", "--root", tree, "--csv", "l.csv", "--set", "name=mine")
    assert result.exit_code == 0, result.output
    for line in (
        "dataset   mine (multi-label, 2 labels)",
        "clips     5, 0.00 hours, 0.10 to 0.40 s",
        "splits    train 1, valid 2, test 1, none 1",
        "folds     1: 1, 2: 2, 3: 2",
        "warning   1 groups lie in more than one split",
        "  x  3 present, 1 absent, 1 unknown",
        "  1 MP3, 8000 Hz, 1 channel(s)",
        "unreadable 2 of 5",
        "  empty.wav: empty file (0 bytes)",
        "  gone.wav: missing file",
    ):
        assert line in result.output.splitlines()


def test_show_single_label(tree):
    write_csv(tree / "l.csv", "path,label\n4.mp3,a\na/1.wav,b\nb/2.flac,a\n")
    result = run("show", "folder", "--root", tree, "--csv", tree / "l.csv")
    assert "  a  2" in result.output.splitlines()
    assert "unreadable 0 of 3" in result.output
    table = [line.split() for line in result.output.splitlines()]
    assert ["clips", "1", "1", "1"] in table
    assert sum(int(n) for n in next(row[1:] for row in table if row[0] == "a" and row[3:])) == 2
    assert "1 clips to test on, fewer than 30" in result.output
    assert "no labels" not in result.output


def test_show_says_that_there_are_no_labels(tree):
    result = run("show", "folder", "--root", tree)
    assert "warning   no labels. Give --option csv=FILE" in result.output
    assert "classes_from=folders" in result.output


def test_show_without_a_root_says_what_is_known_of_a_published_dataset():
    shown = run("show", "esc50").output
    release = datasets.release("esc50")
    assert release is not None
    assert all(text in shown for text in (release.homepage, release.licence, release.citation))
    assert "about 0.7 GB: understudy data fetch esc50" in shown
    for arguments in (["folder"], ["toy-studio"], ["esc50", "--option", "a=1"]):
        result = run("show", *arguments)
        assert (result.exit_code, "Missing option '--root'" in result.output) == (2, True)


def test_make_makes_toys_only(tmp_path):
    result = run("make", "esc50", "--root", tmp_path)
    assert isinstance(result.exception, ConfigError)
    assert "toy-field, toy-studio" in str(result.exception)
