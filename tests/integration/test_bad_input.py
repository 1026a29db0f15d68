"""Bad input by the command line: one clear line and exit code 2, or a line of the ledger."""

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tests import tiny

from understudy import audio, cache
from understudy.cache.store import Store
from understudy.cli import main

RATE_HZ = 16_000
N_GOOD = 4
REASONS = {
    "nan.wav": audio.NON_FINITE,
    "text.wav": audio.NOT_AUDIO,
    "truncated.ogg": audio.TRUNCATED,
    "zero.mp3": audio.EMPTY,
}


@pytest.fixture
def understudy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], tuple[int, str, str]]:
    """Runs a command line in `tmp_path`; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["understudy", *line.split()])
        with pytest.raises(SystemExit) as end:
            main()
        told = capsys.readouterr()
        return int(end.value.code or 0), told.out, told.err

    return run


def make_folder(root: Path) -> None:
    """A few seconds of good audio."""
    root.mkdir()
    rng = np.random.default_rng(0)
    for i in range(N_GOOD):
        audio.write(root / f"{i}.wav", rng.normal(0, 0.1, RATE_HZ).astype(np.float32), RATE_HZ)


def write_csv(*lines: str) -> Callable[[Path], None]:
    """Makes a folder with `labels.csv` in it."""

    def make(here: Path) -> None:
        make_folder(here / "good")
        (here / "good" / "labels.csv").write_text("\n".join(lines) + "\n")

    return make


def linked(here: Path) -> None:
    (here / "secret.wav").write_bytes(b"")
    write_csv("path,label", "0.wav,dog", "link.wav,dog")(here)
    (here / "good" / "link.wav").symlink_to(here / "secret.wav")


def other_weights(here: Path) -> None:
    make_folder(here / "good")
    torch.save({"head": torch.zeros(3)}, here / "other.pt")


def no_weights(here: Path) -> None:
    make_folder(here / "good")
    (here / "other.pt").write_text("no weights at all")


def cached(here: Path) -> Path:
    """cache/tiny, ready to train on."""
    return tiny.make_cache(here / "cache", tiny.index()) / "tiny"


def unlabelled(here: Path) -> None:
    """cache/tiny without its labels."""
    index = tiny.index()
    none = replace(index, labels=np.zeros((len(index), 0), np.int8), label_names=())
    none.save(cached(here) / "index.parquet")


def two_stores(here: Path) -> None:
    """Two teachers of one name that differ in their weights."""
    (store,) = cached(here).glob("framewise-*.zarr")
    found = Store.open(store)
    track = cache.Track(
        kind="embedding",
        name="framewise",
        dtype="float16",
        max_frames=found.sizes["max_frames"],
        dim=tiny.DIM,
        identity={
            key: value
            for key, value in cache.CacheReader(store).identity.items()
            if key not in ("schema_version", "kind", "layout", "name", "dtype")
        }
        | {"weights_sha256": "0" * 64},
    )
    cache.StoreWriter.open_or_create(here / "cache" / "tiny", track, 18, 7)


def two_datasets(here: Path) -> None:
    """cache/tiny, and elsewhere/other of the same clips in another order."""
    cached(here)
    clips = replace(tiny.index().subset(range(17, -1, -1)), name="other")
    folder = tiny.make_cache(here / "elsewhere", clips) / "other"
    for name in ("audio", "framewise"):
        (store,) = folder.glob(f"{name}-*.zarr")
        store.rename(here / f"{name}.zarr")


def attribute(key: str, value: object) -> Callable[[Path], None]:
    """A cache with one attribute of its audio track altered."""

    def make(here: Path) -> None:
        make_folder(here / "good")
        (store,) = cached(here).glob("audio-*.zarr")
        group = json.loads((store / "zarr.json").read_text())
        group["attributes"][key] = value
        (store / "zarr.json").write_text(json.dumps(group))

    return make


def file_at(name: str, content: str = "") -> Callable[[Path], None]:
    """cache/tiny and good audio, but for a file of that name."""

    def make(here: Path) -> None:
        if name != "cache":
            cached(here)
        if name != "good":
            make_folder(here / "good")
        (here / name).write_text(content)

    return make


def without_folds(here: Path) -> None:
    """cache/tiny that has a split alone."""
    index = tiny.index()
    replace(index, clips=index.clips.drop(columns=["fold"])).save(cached(here) / "index.parquet")


def good(here: Path) -> None:
    make_folder(here / "good")


EXTRACT = "extract folder --root good --teacher spectral --cache cache"
LABELLED = f"{EXTRACT} --option csv=labels.csv"
TRAIN = "train tiny --cache cache --teacher framewise --run-dir run"
TEACHER_LR = TRAIN.replace("train", "evaluate teacher-lr")
BAD = {
    "missing root": (
        lambda here: None,
        EXTRACT,
        ["good: no such folder", "wanted a folder of audio files"],
    ),
    "empty folder": (lambda here: (here / "good").mkdir(), EXTRACT, ["good: no audio file", "wav"]),
    "duplicate clip ids": (
        write_csv("clip_id,path,label", "a,0.wav,dog", "a,1.wav,cat"),
        LABELLED,
        ["labels.csv, line 3", "clip_id 'a'", "line 2 has it too"],
    ),
    "unknown class": (
        write_csv("path,label", "0.wav,dog", "1.wav,kat"),
        f"{LABELLED} --option classes=[dog,cat]",
        ["labels.csv, line 3", "label 'kat'", "'dog', 'cat'"],
    ),
    "0 that may mean absent or unknown": (
        write_csv("path,dog,cat", "0.wav,1,0", "1.wav,0,1"),
        LABELLED,
        ["labels.csv", "hold 0 but no -1", "zero=absent"],
    ),
    "path with ..": (
        write_csv("path,label", "0.wav,dog", "../1.wav,dog"),
        LABELLED,
        ["labels.csv, line 3", "'../1.wav' leaves the root", "wanted a path inside"],
    ),
    "absolute path": (
        write_csv("path,label", "/etc/passwd,dog"),
        LABELLED,
        ["labels.csv, line 2", "'/etc/passwd' is absolute", "wanted a path inside"],
    ),
    "link out of the root": (linked, LABELLED, ["labels.csv, line 3", "'link.wav' leads to"]),
    "weights of another network": (
        other_weights,
        "extract folder --root good --teacher mn04 --weights mn04=other.pt --cache cache",
        ["other.pt", "another network", "not wanted (head)"],
    ),
    "no weights": (
        no_weights,
        "extract folder --root good --teacher mn04 --weights mn04=other.pt --cache cache",
        ["other.pt", "wanted a PyTorch file"],
    ),
    "missing weights": (
        good,
        "extract folder --root good --teacher mn04 --weights mn04=no.pt --cache cache",
        ["no.pt", "No such file"],
    ),
    "unknown teacher": (
        good,
        "extract folder --root good --teacher spectrall --cache cache",
        ["unknown teacher 'spectrall'", "did you mean 'spectral'"],
    ),
    "unknown teacher in training": (
        cached,
        "train tiny --cache cache --teacher framewize --run-dir run",
        ["no store of 'framewize'", "did you mean 'framewise'"],
    ),
    "a folder that the cache knows by its name": (
        cached,
        TRAIN.replace("tiny", "folder"),
        ["cache: no dataset 'folder'; the cache holds tiny", "--root"],
    ),
    "no such cache": (
        cached,
        TRAIN.replace("--cache cache", "--cache cachx"),
        ["no such folder: cachx"],
    ),
    "training without labels": (
        unlabelled,
        TRAIN,
        ["dataset tiny has no labels", "--option csv=FILE", "classes_from=folders"],
    ),
    "teacher-lr without labels": (
        unlabelled,
        TEACHER_LR,
        ["dataset tiny has no labels", "--option csv=FILE", "classes_from=folders"],
    ),
    "a fold of a dataset without folds": (
        without_folds,
        f"{TRAIN} --fold 1",
        ["'tiny': has no folds, wanted fold 1"],
    ),
    "a fold that is not there, for teacher-lr": (
        cached,
        f"{TEACHER_LR} --fold 9",
        ["has folds 1, 2, 3, 4, 5, wanted fold 9"],
    ),
    "a root that is a file": (
        file_at("good"),
        EXTRACT,
        ["good: not a folder; wanted a folder of audio files"],
    ),
    "a cache that is a file, mirrored to": (
        file_at("file"),
        "cache mirror cache file",
        ["file: a file, wanted a folder"],
    ),
    "a run directory that is a file": (
        file_at("file"),
        TRAIN.replace("--run-dir run", "--run-dir file"),
        ["file: a file, wanted a folder"],
    ),
    "a job with a typo": (
        file_at("job.yaml", "cache: cache\nteachrs: {}\ndatasets: []\n"),
        "extract job.yaml",
        ["job.yaml: unknown key 'teachrs'", "did you mean 'teachers'"],
    ),
    "a job that is no YAML": (
        file_at("job.yaml", "datasets: [a\n"),
        "extract job.yaml",
        ["job.yaml: no YAML", "line 1"],
    ),
    "a study that is a list": (
        file_at("study.yaml", "- baseline\n"),
        "study study.yaml --cache cache",
        ["study.yaml: wanted a mapping with datasets, systems and teachers"],
    ),
    "a recipe with a typo": (
        file_at("recipe.yaml", "optim: {max_epoch: 3}\n"),
        f"{TRAIN} --recipe recipe.yaml",
        ["recipe.yaml: settings: optim: unknown key 'max_epoch'", "did you mean 'max_epochs'"],
    ),
    "a typo beside a sound recipe": (
        file_at("recipe.yaml", "optim: {max_epochs: 3}\n"),
        f"{TRAIN} --recipe recipe.yaml --set optim.max_epoch=3",
        ["error: settings: optim: unknown key 'max_epoch'"],
    ),
    "unknown dataset": (
        good,
        "extract foldr --root good --teacher spectral --cache cache",
        ["unknown dataset 'foldr'", "did you mean 'folder'"],
    ),
    "mistyped setting of training": (
        cached,
        f"{TRAIN} --set optim.max_epoch=1",
        ["unknown key 'max_epoch'", "did you mean 'max_epochs'"],
    ),
    "mistyped setting of the student": (
        cached,
        f"{TRAIN} --set student.widht=4",
        ["unknown key 'widht'", "did you mean 'width'"],
    ),
    "mistyped setting of the teacher": (
        good,
        f"{EXTRACT} --set spectral.windw_s=2",
        ["unknown key 'windw_s'", "did you mean 'window_s'"],
    ),
    "mistyped option of the dataset": (
        good,
        f"{EXTRACT} --option cvs=labels.csv",
        ["unknown key 'cvs'", "did you mean 'csv'"],
    ),
    "stores of two weights": (
        two_stores,
        TRAIN,
        ["2 stores of 'framewise'", "--store", "weights_sha256 'none'", "000000"],
    ),
    "a store of another dataset": (
        two_datasets,
        f"{TRAIN} --store framewise.zarr",
        ["framewise.zarr", "are not those of index tiny", "clip000"],
    ),
    "a store of another dataset for teacher-lr": (
        two_datasets,
        f"{TEACHER_LR} --store framewise.zarr",
        ["framewise.zarr", "are not those of index tiny", "clip000"],
    ),
    "a store that says it is of another dataset": (
        attribute("dataset", "esc10"),
        TRAIN,
        ["audio-", "a store of dataset esc10", "wanted one of tiny"],
    ),
    "schema of the future, trained on": (
        attribute("schema_version", 99),
        TRAIN,
        ["schema version 99 is newer"],
    ),
    "schema of the future, extracted to": (
        attribute("schema_version", 99),
        f"{EXTRACT} --option name=tiny",
        ["schema version 99 is newer"],
    ),
    "layout of the future": (
        attribute("layout", "dence"),
        TRAIN,
        ["unknown layout 'dence'", "did you mean 'dense'"],
    ),
    "another collection of the same name": (
        lambda here: (good(here), cached(here)),
        f"{EXTRACT} --option name=tiny",
        ["tiny/index.parquet", "another collection", "'clip000'", "'0.wav'"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_one_clear_line(case: str, tmp_path: Path, understudy):
    make, line, wanted = BAD[case]
    make(tmp_path)
    before = snapshot(tmp_path / "cache")
    code, output, errors = understudy(line)
    assert code == 2, (output, errors)
    assert errors.startswith("error: ")
    assert "Traceback" not in errors
    assert len(errors.splitlines()) == (3 if case == "stores of two weights" else 1), errors
    for part in wanted:
        assert part in errors, errors
    assert snapshot(tmp_path / "cache") == before, "a refused command changed the cache"


@pytest.mark.parametrize(
    ("key", "value", "words", "wanted"),
    [
        ("schema_version", 99, "show", ["schema version 99 is newer than the 1", "upgrade"]),
        ("schema_version", 99, "verify", ["schema version 99 is newer"]),
        ("licenze", "MIT", "show", ["unknown attribute 'licenze'", "did you mean 'licence'"]),
    ],
)
def test_a_store_that_cannot_be_read_beside_others(key, value, words, wanted, tmp_path, understudy):
    """The others are told of, too."""
    attribute(key, value)(tmp_path)
    code, output, errors = understudy(f"cache {words} cache")
    assert code == 1, (output, errors)
    assert "audio-" in output
    assert "framewise-" in output
    for part in wanted:
        assert part in output


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_bad_recordings_go_to_the_ledger(tmp_path: Path, understudy):
    root = tmp_path / "good"
    make_folder(root)
    noise = np.random.default_rng(0).normal(0, 0.1, 4 * RATE_HZ).astype(np.float32)
    (root / "zero.mp3").write_bytes(b"")
    (root / "text.wav").write_text("this is no audio")
    audio.write(root / "whole.ogg", noise, RATE_HZ)
    whole = (root / "whole.ogg").read_bytes()
    (root / "truncated.ogg").write_bytes(whole[: len(whole) // 2])
    noise[100] = np.nan
    soundfile.write(root / "nan.wav", noise, RATE_HZ, subtype="FLOAT")
    code, output, errors = understudy(f"{EXTRACT} --audio")
    assert code == 0
    assert "warning: good has no labels. Give --option csv=FILE" in errors
    assert f"{N_GOOD + 5} clips: {N_GOOD + 1} ok, 4 failed" in output
    with (tmp_path / "cache" / "good" / "ledger.csv").open() as file:
        rows = list(csv.DictReader(file))
    for track in ("spectral", "audio"):
        assert {row["path"]: row["reason"] for row in rows if row["track"] == track} == REASONS
        reader = cache.CacheReader(cache.find(tmp_path / "cache", "good", track))
        assert (reader.status == 1).sum() == N_GOOD + 1
