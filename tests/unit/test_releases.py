import hashlib
import json
import shutil
from collections import Counter

import numpy as np
import pytest
from tests import releases

from understudy import datasets
from understudy.datasets import fma, mtat, openmic
from understudy.datasets.verify import verify
from understudy.errors import ConfigError, DataError
from understudy.evaluate.transfer import BUILT_IN, LabelMap
from understudy.index import ClipIndex


def sizes(index: ClipIndex) -> dict[str, int]:
    return dict(Counter(index.clips["split"]))


def load_again(index: ClipIndex, name: str, **options: object) -> ClipIndex:
    """Another load of the same files, without reading all their headers again."""
    known = dict(zip(index.clips["path"], index.clips["duration_s"], strict=True))
    with pytest.MonkeyPatch.context() as patch:
        module = f"understudy.datasets.{name}.durations"
        patch.setattr(module, lambda root, paths, wanted: np.array([known[p] for p in paths]))
        return datasets.load(name, index.root, **options)


# MagnaTagATune


@pytest.fixture(scope="module")
def mtat_root(shared, tmp_path_factory):
    return releases.mtat(tmp_path_factory.mktemp("mtat") / "mtat", shared)


@pytest.fixture(scope="module")
def mtat_folders(mtat_root):
    return datasets.load("mtat", mtat_root)


@pytest.fixture(scope="module")
def mtat_clean(mtat_root, mtat_folders):
    return load_again(mtat_folders, "mtat", split="clean")


def test_mtat_splits_have_the_published_sizes(mtat_folders, mtat_clean):
    assert len(mtat_folders) == len(mtat_clean) == 25_863
    assert sizes(mtat_folders) == {"train": 18_709, "valid": 1_825, "test": 5_329}
    assert sizes(mtat_clean) == {"train": 15_244, "valid": 1_529, "test": 4_332, "": 4_758}
    kept = mtat_clean.clips["split"] != ""
    assert mtat_clean.clips["split"][kept].equals(mtat_folders.clips["split"][kept])


def test_mtat_splits_are_the_published_ones(shared, mtat_folders, mtat_clean):
    for column, index in ((2, mtat_folders), (3, mtat_clean)):
        lines = (shared / "data" / "mtat" / "splits.csv").read_text().splitlines()[1:]
        wanted = {line.split(",")[0]: line.split(",")[column] for line in lines}
        found = zip(index.clips["clip_id"], index.clips["split"], strict=True)
        assert dict(found) == wanted


FOLDERS = "c02bd8666ca1d089bf212a2a6816d9e876b4a7f05db4edad4422f8f9b56d05ca"
CLEAN = "4e97851705abb8cc4f2b6ec54ab723fb8d3f58ae127380a0c8bf4814938c84dd"


def test_mtat_splits_are_frozen(mtat_folders, mtat_clean):
    lines = "".join(f"{i},{part}\n" for i, part in mtat.clean_split().items())
    digest = hashlib.sha256(lines.encode()).hexdigest()
    assert digest == "2eaf6490fb23b2962a2df6778031cfadc24d648d89d0e11c4fa9363f44785566"
    assert mtat_folders.split_digest == FOLDERS
    assert mtat_clean.split_digest == CLEAN


def test_mtat_empty_files_stay_without_a_duration(mtat_folders):
    clips = mtat_folders.clips.set_index("clip_id")
    assert set(mtat.RELEASE.known_bad) == set(releases.MTAT_EMPTY)
    for clip_id in releases.MTAT_EMPTY:
        assert np.isnan(clips.at[clip_id, "duration_s"])
        assert clips.at[clip_id, "split"] == "train"
    assert mtat_folders.clips["duration_s"].iat[0] == pytest.approx(29.1, abs=0.1)


def test_mtat_labels_are_the_fifty_in_order(shared, mtat_folders):
    listed = (shared / "data" / "mtat" / "top50_tags.txt").read_text().split()
    assert {tag.replace(" ", "").lower() for tag in mtat.TAGS} == {tag.lower() for tag in listed}
    assert mtat_folders.label_names == mtat.TAGS
    assert mtat.TAGS[:3] + mtat.TAGS[-2:] == (
        "guitar",
        "classical",
        "slow",
        "female voice",
        "choral",
    )
    wanted = np.where(np.arange(50) == np.arange(25_863)[:, None] % 50, 1, -1)
    np.testing.assert_array_equal(mtat_folders.labels, wanted)


def test_mtat_clips_are_grouped_by_artist(mtat_folders):
    assert mtat_folders.clips["group"].nunique() == 230
    assert mtat_folders.clips["group"].iat[0] == "american_bach_soloists"


def test_built_in_label_maps_name_tags_and_instruments():
    for name in BUILT_IN:
        label_map = LabelMap.load(name)
        assert set(label_map.map) <= set(openmic.INSTRUMENTS)
        assert {tag for tags in label_map.map.values() for tag in tags} <= set(mtat.TAGS)


@pytest.fixture
def small_mtat(shared, tmp_path):
    return releases.mtat(tmp_path / "small", shared, only=("2", "6", "10"))


def test_mtat_folders_may_lie_at_the_root(small_mtat):
    (small_mtat / "mp3" / "f").rename(small_mtat / "f")
    (small_mtat / "mp3").rmdir()
    index = datasets.load("mtat", small_mtat)
    assert index.clips["path"].iat[0].startswith("f/american")
    assert np.isfinite(index.clips["duration_s"].iat[0])


@pytest.mark.parametrize(
    ("found", "other", "message"),
    [
        ('"guitar"', '"guitars"', "no column guitar; found clip_id"),
        ('"6"', '"2"', "line 3: clip_id '2'; wanted each once"),
        ('"6"', '"7"', "line 3: clip_id '7'; wanted one of those that the clean split"),
        ('"f/', '"g/', "line 2: mp3_path 'g/.*wanted a folder 0 to f"),
        ('"f/', '"../f/', "line 2: mp3_path"),
        ('"1"', '"2"', "wanted 0 or 1"),
        ('"10"\t', "", "line 4: 189 cells, wanted 190"),
    ],
)
def test_mtat_csv_errors_name_line_and_value(small_mtat, found, other, message):
    path = small_mtat / "annotations_final.csv"
    path.write_text(path.read_text().replace(found, other, 10 if found == '"f/' else 1))
    with pytest.raises(DataError, match=message):
        datasets.load("mtat", small_mtat, split="clean")


def test_mtat_unknown_split(small_mtat):
    with pytest.raises(ConfigError, match="did you mean 'folders'"):
        datasets.load("mtat", small_mtat, split="folder")


# FMA


@pytest.fixture(scope="module")
def fma_root(tmp_path_factory):
    return releases.fma(tmp_path_factory.mktemp("fma") / "fma")


@pytest.fixture(scope="module")
def fma_index(fma_root):
    return datasets.load("fma-small", fma_root)


def test_fma_has_the_published_sizes(fma_index):
    index = fma_index
    assert len(index) == 8_000
    assert sizes(index) == {"train": 6_400, "valid": 800, "test": 800}
    assert (index.task, index.label_names) == ("single-label", fma.GENRES)
    assert np.bincount(index.labels).tolist() == [1_000] * 8
    clips = index.clips.set_index("clip_id")
    assert clips.at["000002", "path"] == "fma_small/000/000002.mp3"
    assert clips.at["000002", "duration_s"] == pytest.approx(30, abs=0.1)
    assert clips.at["001000", "group"] == "0"
    assert clips.at["001002", "group"] == "1"


def test_fma_known_defects_are_in_the_index(fma_index):
    clips = fma_index.clips.set_index("clip_id")
    assert len(fma.RELEASE.known_bad) == 6
    for track in fma.NO_AUDIO:
        assert np.isnan(clips.at[f"{track:06d}", "duration_s"])
    short_s = [clips.at[f"{track:06d}", "duration_s"] for track in fma.TOO_SHORT]
    assert short_s == pytest.approx([1.6, 0.5, 1.5], abs=0.1)


def test_fma_known_defects_are_verified_as_such(fma_index):
    there = [
        i for i, path in enumerate(fma_index.clips["path"]) if (fma_index.root / path).exists()
    ]
    problems = verify(fma_index.subset(there), fma.RELEASE.shortest_s, fma.RELEASE.known_bad)
    assert {each.clip_id: (each.kind, each.known) for each in problems} == {
        "098565": ("short", True),
        "098567": ("short", True),
        "098569": ("short", True),
        "099134": ("corrupt", True),
    }


@pytest.mark.parametrize(
    ("found", "other", "message"),
    [
        ("set,set", "set,sets", "no column set/subset; found track_id, album/information"),
        ("small,Pop", "small,Jazz", "track/genre_top 'Jazz'; wanted one of 'Hip-Hop', 'Pop'"),
        ("test,small", "tests,small", "set/split 'tests'; wanted one of 'training'"),
        (",small,", ",tiny,", "set/subset 'tiny'; wanted one of 'small'"),
        (",small,", ",large,", "no track in the subset small"),
    ],
)
def test_fma_csv_errors_name_the_value(fma_root, tmp_path, found, other, message):
    text = (fma_root / "fma_metadata" / "tracks.csv").read_text()
    head = "".join(line + "\n" for line in text.splitlines()[:40])
    path = tmp_path / "fma" / "fma_metadata" / "tracks.csv"
    path.parent.mkdir(parents=True)
    releases.empty(tmp_path / "fma" / "fma_small" / "000" / "000002.mp3")
    path.write_text(head.replace(found, other))
    with pytest.raises(DataError, match=message):
        datasets.load("fma-small", tmp_path / "fma")


# OpenMIC


@pytest.fixture(scope="module")
def openmic_root(shared, tmp_path_factory):
    return releases.openmic(tmp_path_factory.mktemp("openmic") / "openmic", shared)


@pytest.fixture(scope="module")
def openmic_index(openmic_root):
    return datasets.load("openmic", openmic_root)


def test_openmic_has_the_published_sizes(openmic_index):
    assert len(openmic_index) == 20_000
    found = sizes(openmic_index)
    assert found["test"] == 5_085
    assert found["train"] + found["valid"] == 14_915
    assert found["valid"] == round(0.15 * 14_915)
    assert list(openmic_index.clips["clip_id"]) == sorted(openmic_index.clips["clip_id"])


def test_openmic_test_clips_are_those_of_split01(openmic_root, openmic_index):
    listed = (openmic_root / "partitions" / "split01_test.csv").read_text().split()
    clips = openmic_index.clips
    assert set(clips["clip_id"][clips["split"] == "test"]) == set(listed)


def test_openmic_split_is_frozen_and_seeded(openmic_index):
    assert (
        openmic_index.split_digest
        == "9cc8330dd518e53bc17e4ed751331fd891fa784f51b003286d23611e2402fbb3"
    )
    other = load_again(openmic_index, "openmic", seed=1)
    assert other.split_digest != openmic_index.split_digest
    assert sizes(other) == sizes(openmic_index)


def small_openmic(root, openmic_root, train):
    (root / "partitions").mkdir(parents=True)
    shutil.copy(openmic_root / "class-map.json", root)
    (root / "partitions" / "split01_train.csv").write_text("".join(f"{key}\n" for key in train))
    (root / "partitions" / "split01_test.csv").write_text("000178_3840\n")
    (root / openmic.LABELS).write_text(f"{HEADER}000178_3840,voice,1\n")
    releases.empty(root / "audio" / "000" / "000178_3840.ogg")
    return root


HEADER = "sample_key,instrument,relevance\n"


def test_openmic_tracks_stay_together(openmic_root, tmp_path):
    """In the release every clip is of another track; the rule is kept for one that is not."""
    keys = [f"{i // 4:06d}_{i}" for i in range(400)]
    clips = datasets.load("openmic", small_openmic(tmp_path / "o", openmic_root, keys)).clips
    assert list(clips["split"]).count("valid") == 60
    assert set(clips.groupby("group")["split"].nunique()) == {1}
    without = datasets.load("openmic", tmp_path / "o", valid_fraction=0)
    assert sizes(without) == {"train": 400, "test": 1}
    with pytest.raises(ConfigError, match="valid_fraction 1: wanted 0 to below 1"):
        datasets.load("openmic", tmp_path / "o", valid_fraction=1)


def test_openmic_labels(openmic_index):
    i, labels = np.arange(20_000), np.zeros((20_000, 20))
    labels[i, i % 20] = np.where(i % 41 == 0, 0, 1)
    labels[i, (i + 1) % 20] = -1
    np.testing.assert_array_equal(openmic_index.labels, labels)
    assert openmic_index.label_names == openmic.INSTRUMENTS


def test_openmic_cut_and_empty_files(openmic_index):
    duration_s = openmic_index.clips["duration_s"]
    assert duration_s.iat[0] == pytest.approx(10)
    assert duration_s[2:].isna().all()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (openmic.LABELS, "000046_3840,voice,0.7", ""),
        (openmic.LABELS, "000046_3840,kazoo,0.7", "line 2: instrument 'kazoo'; wanted one of"),
        (openmic.LABELS, "000001_1,voice,0.7", "sample_key '000001_1'; wanted one of split01"),
        (openmic.LABELS, "000046_3840,voice,1.2", "relevance '1.2'; wanted a number from 0 to 1"),
        (openmic.LABELS, "000046_3840,voice,nan", "relevance 'nan'; wanted a number"),
        (openmic.LABELS, "000046_3840,voice,1\n000046_3840,voice,1", ""),
        (openmic.LABELS, "000046_3840,voice,1\n000046_3840,voice,0", "line 3: relevance '0'"),
        ("partitions/split01_test.csv", "000046_3840", "000046_3840 is in the train partition"),
        ("partitions/split01_test.csv", "sample_key", "line 1: 'sample_key'; wanted a sample key"),
        ("class-map.json", json.dumps({"voice": 0}), "wanted {'accordion': 0"),
        ("class-map.json", "{", "not JSON"),
    ],
)
def test_openmic_errors_name_file_and_value(openmic_root, tmp_path, file, content, message):
    root = small_openmic(tmp_path / "o", openmic_root, ["000046_3840"])
    (root / file).write_text((HEADER if file == openmic.LABELS else "") + content + "\n")
    if message:
        with pytest.raises(DataError, match=message):
            datasets.load("openmic", root)
    else:
        assert datasets.load("openmic", root).labels[0, -1] == 1


# all of them


@pytest.mark.parametrize("name", ["esc50", "esc10", "mtat", "fma-small", "openmic"])
def test_facts_of_releases(name):
    release = datasets.release(name)
    assert release
    assert release.licence
    assert release.citation
    assert release.n_clips[name]
    for remote in (remote for source in release.sources for remote in source.files):
        assert all(url.startswith(("https://", "http://")) for url in remote.urls)
        digest = remote.sha1 or remote.md5
        assert name.startswith("esc") or (digest and set(digest) <= set("0123456789abcdef"))


@pytest.mark.parametrize("name", ["folder", "toy-studio"])
def test_what_is_not_published_has_no_release(name):
    assert datasets.release(name) is None
