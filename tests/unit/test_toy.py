"""The toy collections on disk: complete, repeatable, resumed, refused."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from understudy import audio
from understudy.datasets import toy
from understudy.datasets.synth import RATE_HZ, plan
from understudy.errors import ConfigError, DataError

LOADERS = {"toy-studio": toy.load_studio, "toy-field": toy.load_field}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished toy-studio of 12 clips; copy it before changing it."""
    root = tmp_path_factory.mktemp("toy") / "studio"
    toy.load_studio(root, n_clips=12, seed=1)
    return root


@pytest.fixture
def root(made, tmp_path):
    shutil.copytree(made, tmp_path / "studio")
    return tmp_path / "studio"


def contents(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.*")}


def test_the_index_is_what_the_files_hold(made):
    index = toy.load_studio(made)
    assert (index.name, index.task, index.n_clips) == ("toy-studio", "multi-label", 12)
    assert index.label_names == toy.STUDIO_LABELS
    for row in range(index.n_clips):
        facts = audio.info(index.absolute(row))
        assert (facts.rate_hz, facts.channels) == (RATE_HZ, 1)
        assert facts.n_samples / RATE_HZ == index.clips["duration_s"][row]
        assert index.labels[row].tolist() == toy.studio_labels(plan("studio", 1, row))
        first = plan("studio", 1, row).instruments[0]
        assert str(index.clips["path"][row]).startswith(f"audio/{row:04d}_{first}")
    parts = index.split()
    assert min(len(parts.train), len(parts.valid), len(parts.test)) > 0
    pairs = set(zip(index.clips["group"], index.clips["split"], strict=True))
    assert len(pairs) == len(set(index.clips["group"]))


def test_the_label_file_reads_without_understudy(made):
    table = pd.read_csv(made / "labels.csv")
    assert set(table["guitar"]) <= {0, 1}
    assert (table["vocal"] + table["no vocals"]).tolist() == [1] * len(table)
    assert table["file"].str.contains("_piano").tolist() == (table["piano"] == 1).tolist()


def test_a_finished_folder_is_left_alone(root):
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    first, second = toy.load_studio(root), toy.load_studio(root, n_clips=12, seed=1)
    assert first.digest == second.digest
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


def test_an_interrupted_folder_is_continued(root, made):
    files = sorted((root / "audio").iterdir())
    (root / "labels.csv").unlink()
    for file in files[7:]:
        file.unlink()
    kept = {p: p.stat().st_mtime_ns for p in files[:7]}
    toy.load_studio(root)
    assert {p: p.stat().st_mtime_ns for p in files[:7]} == kept
    assert contents(root) == contents(made)


def test_an_interruption_leaves_no_half_file_and_no_mark(tmp_path, monkeypatch):
    written = []

    def write_half(path, samples, rate_hz):
        if len(written) == 2:
            path.write_bytes(b"fLaC")
            raise KeyboardInterrupt
        written.append(path)
        audio_write(path, samples, rate_hz)

    audio_write = audio.write
    monkeypatch.setattr(audio, "write", write_half)
    with pytest.raises(KeyboardInterrupt):
        toy.load_field(tmp_path / "field", n_clips=3)
    assert not (tmp_path / "field" / "labels.csv").exists()
    left = list((tmp_path / "field" / "audio").iterdir())
    assert len(left) == 2
    assert all(audio.info(path).n_samples > 0 for path in left)
    monkeypatch.undo()
    assert toy.load_field(tmp_path / "field").n_clips == 3


def test_a_clip_does_not_depend_on_how_many_there_are(made, tmp_path):
    few = toy.load_studio(tmp_path / "few", n_clips=2, seed=1)
    many = toy.load_studio(made)
    for row in range(2):
        assert few.absolute(row).read_bytes() == many.absolute(row).read_bytes()
    assert few.clips.equals(many.clips[:2])


def test_another_seed_sounds_different(made, tmp_path):
    other = toy.load_studio(tmp_path / "other", n_clips=1, seed=2)
    first = audio.decode(other.absolute(0)).samples[:50_000]
    assert not np.array_equal(
        first, audio.decode(toy.load_studio(made).absolute(0)).samples[:50_000]
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"n_clips": 13}, "n_clips is 12, asked for 13"),
        ({"seed": 0}, "seed is 1, asked for 0"),
    ],
)
def test_a_folder_made_otherwise_is_refused_by_the_difference(made, asked, message):
    with pytest.raises(DataError, match=message):
        toy.load_studio(made, **asked)


def test_another_collection_or_version_is_refused(root):
    with pytest.raises(DataError, match=r"collection is 'toy-studio', asked for 'toy-field'"):
        toy.load_field(root)
    request = json.loads((root / "toy.json").read_text()) | {"version": 0}
    (root / "toy.json").write_text(json.dumps(request))
    with pytest.raises(DataError, match="version is 0, asked for"):
        toy.load_studio(root)


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize(
    "bad", [{"n_clips": 0}, {"n_clips": 2.5}, {"n_clips": "3"}, {"seed": -1}, {"n_clips": True}]
)
def test_a_number_that_cannot_be_used_is_refused(load, bad, tmp_path):
    with pytest.raises(ConfigError, match=f"{next(iter(bad))}: wanted a whole number"):
        load(tmp_path / "toy", **bad)
    assert not (tmp_path / "toy").exists()


def test_a_folder_of_something_else_is_refused_and_untouched(tmp_path):
    (tmp_path / "holiday.txt").write_text("photos")
    with pytest.raises(DataError, match="holds something other than toy-studio"):
        toy.load_studio(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["holiday.txt"]
    with pytest.raises(DataError, match="something other"):
        toy.load_studio(tmp_path / "holiday.txt")


@pytest.mark.parametrize("text", ["", "[]", "[[1]]", "{}", '{"n_clips": 3', '{"n_clips": "many"}'])
def test_a_damaged_request_is_named(root, text):
    (root / "toy.json").write_text(text)
    with pytest.raises(DataError, match=r"toy\.json: damaged"):
        toy.load_studio(root)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text.replace("guitar", "banjo"),
        lambda text: text.replace(",1\n", ",maybe\n").replace(",0\n", ",maybe\n"),
        lambda text: text[: text.rindex("\n", 0, -1) + 1],
        lambda text: text.replace("audio/0003", "audio/9993"),
    ],
    ids=["empty", "column", "value", "row", "file"],
)
def test_a_damaged_label_file_is_named(root, spoil):
    path = root / "labels.csv"
    path.write_text(spoil(path.read_text()))
    with pytest.raises(DataError, match=r"labels\.csv"):
        toy.load_studio(root)


def test_a_place_that_cannot_be_written_is_an_error_for_people(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be made here"):
        toy.load_studio(tmp_path / "file" / "toy", n_clips=1)


def test_studio_tags_follow_from_who_plays():
    clips = [plan("studio", 0, number) for number in range(toy.STUDIO.n_clips)]
    for clip in clips:
        tags = dict(zip(toy.STUDIO_LABELS, toy.studio_labels(clip), strict=True))
        assert set(tags.values()) <= {-1, 1}
        assert tags["vocal"] == max(tags["male vocal"], tags["female vocal"]) == -tags["no vocals"]
        assert tags["strings"] == max(tags["violin"], tags["cello"])
        assert tags["drums"] >= tags["beat"]
        assert (tags["drums"] == 1) or "cymbals" not in clip.instruments
        assert (tags["solo"] == 1) == (len(set(clip.instruments) - {"cymbals"}) == 1)
        assert tags["slow"] + tags["fast"] <= 0
        assert tags["loud"] + tags["quiet"] <= 0


@pytest.mark.parametrize("collection", [toy.STUDIO, toy.FIELD], ids=lambda c: c.name)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_label_can_be_learned_and_tested_at_the_default_size(collection, seed):
    clips = [plan(collection.style, seed, number) for number in range(collection.n_clips)]
    labels = np.array([collection.labels(clip) for clip in clips])
    splits = np.array([collection.splits[c.session % len(collection.splits)] for c in clips])
    for split, least in (("train", 3), ("test", 4)):
        of_split = labels[splits == split]
        assert ((of_split == 1).sum(axis=0) >= least).all()
        assert ((of_split == -1).sum(axis=0) >= least).all()


def test_field_labels_are_true_sparse_and_never_all_unknown():
    clips = [plan("field", 0, number) for number in range(toy.FIELD.n_clips)]
    labels = np.array([toy.field_labels(clip) for clip in clips])
    assert 0.7 < (labels == 0).mean() < 0.8
    assert (labels != 0).any(axis=1).all()
    for clip, row in zip(clips, labels, strict=True):
        heard = " ".join(clip.instruments).replace("synth", "synthesizer")
        for name, value in zip(toy.FIELD_LABELS, row, strict=True):
            assert value in (0, 1 if name in heard else -1)


@pytest.mark.soak
def test_tags_are_learnable_but_not_trivial(tmp_path):
    """Mean and spread of band levels, logistic regression: well above chance, well below 1."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score

    index = toy.load_studio(tmp_path / "studio")
    features = []
    for row in range(index.n_clips):
        x = audio.decode(index.absolute(row)).samples
        frames = np.lib.stride_tricks.sliding_window_view(x, 1024)[::512] * np.hanning(1024)
        bands = np.add.reduceat(
            np.abs(np.fft.rfft(frames)) ** 2, np.unique(np.geomspace(1, 400, 48).astype(int)), 1
        )
        level = np.log10(bands + 1e-8)
        features.append(np.r_[level.mean(0), level.std(0), np.abs(np.diff(level, axis=0)).mean(0)])
    parts = index.split()
    fitted = np.r_[parts.train, parts.valid]
    x = (np.array(features) - np.mean(features, 0)) / np.std(features, 0)
    scores = []
    for label in (index.labels == 1).T:
        model = LogisticRegression(C=0.02, max_iter=2000).fit(x[fitted], label[fitted])
        found = model.decision_function(x[parts.test])
        scores.append(average_precision_score(label[parts.test], found))
    assert 0.6 < np.mean(scores) < 0.95
