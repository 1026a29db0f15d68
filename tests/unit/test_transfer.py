"""Label maps, and scores of a run on a dataset with other labels."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from tests import tiny

from understudy import metrics
from understudy.errors import CacheError, ConfigError
from understudy.evaluate import teacher_lr
from understudy.evaluate.audit import audit, sentences
from understudy.evaluate.cli import group
from understudy.evaluate.overlap import overlaps
from understudy.evaluate.predictions import Place
from understudy.evaluate.runs import Run
from understudy.evaluate.transfer import (
    BUILT_IN,
    SAME,
    LabelMap,
    choose,
    mapped,
    same_names,
    transfer,
    transfer_to,
)
from understudy.index import ClipIndex

OPENMIC = (
    *("accordion", "banjo", "bass", "cello", "clarinet", "cymbals", "drums", "flute", "guitar"),
    *("mallet_percussion", "mandolin", "organ", "piano", "saxophone", "synthesizer", "trombone"),
    *("trumpet", "ukulele", "violin", "voice"),
)
MAP = {
    "name": "mine",
    "version": 3,
    "source": "tiny",
    "target": "other",
    "map": {"bass": ["low"], "treble": ["middle", "high"]},
}


def labelled(names: tuple[str, ...] | list[str], n_clips: int = 18) -> ClipIndex:
    """The tiny clips under other label names: column k means what `names` say."""
    clips = tiny.index(n_clips)
    labels = np.resize(clips.labels, (n_clips, len(names)))
    return replace(clips, name="other", label_names=tuple(names), labels=labels)


def tags(shared: Path) -> list[str]:
    """The 50 tags as annotations_final.csv has them: the list at hand joins words ("maleVocal")."""
    joined = (shared / "data" / "mtat" / "top50_tags.txt").read_text().split()
    return [re.sub("([A-Z])", r" \1", name).lower() for name in joined]


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_maps_fit_the_published_labels(shared: Path, name: str) -> None:
    original = LabelMap.load(name)
    fitted = original.fitted("mtat", tags(shared), labelled(OPENMIC))
    assert fitted == original  # nothing was wanting
    assert len(fitted.map) == {"nine": 9, "eight": 8}[name]
    voice = set(fitted.map["voice"])
    assert len(voice) == 8
    assert not voice & {"no vocal", "no vocals", "no voice", "choir", "choral", "opera", "male"}


def test_nine_is_eight_and_cymbals_from_drums() -> None:
    nine, eight = (LabelMap.load(name).map for name in BUILT_IN)
    assert nine == eight | {"cymbals": ["drums"]}


def test_synonyms_may_be_wanting_on_a_relative_only() -> None:
    tags = ["cello", "drums", "flute", "guitar", "piano", "synth", "violin", "male vocal"]
    fitted = LabelMap.load("nine").fitted("toy-studio", tags, labelled(OPENMIC))
    assert fitted.map["voice"] == ["male vocal"]
    with pytest.raises(ConfigError, match="unknown label of mtat 'vocal'"):
        LabelMap.load("nine").fitted("mtat", tags, labelled(OPENMIC))
    with pytest.raises(ConfigError, match="unknown label of toy-studio 'vocal'"):
        LabelMap.load("nine").fitted("toy-studio", tags[:-1], labelled(OPENMIC))
    with pytest.raises(ConfigError, match="unknown label of other 'cymbals'; did you mean 'cymbal"):
        LabelMap.load("nine").fitted("toy-studio", tags, labelled(["cello", "cymbal"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"map": {}}, "maps nothing"),
        ({"map": {"bass": "low"}}, "bass: wanted a list of labels, found 'low'"),
        ({"map": {"bass": []}}, "wanted a list"),
        ({"map": {"bass": ["low", "low"]}}, "listed twice"),
        ({"map": {"bass": ["lo"]}}, "unknown label of tiny 'lo'; did you mean 'low'"),
        ({"map": {"tremble": ["low"]}}, "unknown label of other 'tremble'; did you mean 'treble'"),
        ({"mapp": {}}, "unknown key 'mapp'; did you mean 'map'"),
        ({"version": "one"}, "version: wanted int"),
    ],
)
def test_bad_maps_are_explained(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(yaml.safe_dump(MAP | change))
    with pytest.raises(ConfigError, match=message):
        LabelMap.load(path).fitted("tiny", tiny.LABELS, labelled(["bass", "treble"]))


def test_maps_that_are_no_maps(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown label map 'nin'; did you mean 'nine'"):
        LabelMap.load("nin")
    with pytest.raises(ConfigError, match=r"absent\.yaml: not readable"):
        LabelMap.load(tmp_path / "absent.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ConfigError, match="wanted a mapping, found list"):
        LabelMap.load(tmp_path / "list.yaml")
    with pytest.raises(ConfigError, match="no label in common"):
        same_names("tiny", tiny.LABELS, labelled(["bass", "treble"]))


def test_scores_are_joined_by_maximum_or_mean() -> None:
    scores = np.array([[0.1, 0.2, 0.6], [0.9, 0.8, 0.0]])
    label_map = LabelMap(**MAP)
    assert mapped(scores, tiny.LABELS, label_map.map, "max").tolist() == [[0.1, 0.6], [0.9, 0.8]]
    assert mapped(scores, tiny.LABELS, label_map.map, "mean") == pytest.approx(
        np.array([[0.1, 0.4], [0.9, 0.4]])
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """teacher_lr trained on "tiny", and a dataset "other" with labels of its own."""
    folder = tmp_path_factory.mktemp("transfer")
    clips = tiny.index(18)
    cache = tiny.make_cache(folder / "cache", clips)
    tiny.make_cache(folder / "cache", other())
    (folder / "map.yaml").write_text(yaml.safe_dump(MAP))
    teacher_lr.train(clips, teacher="framewise", cache=cache, run_dir=folder / "run")
    return folder


def other() -> ClipIndex:
    """ "bass" is "low"; "treble" is the rest, often unknown; "never" has no positive."""
    clips = tiny.index(18)
    low = clips.labels[:, 0]
    treble = np.where(np.arange(18) % 4 == 0, 0, -low)
    labels = np.stack([low, treble, np.full(18, -1)], axis=1)
    return replace(clips, name="other", labels=labels, label_names=("bass", "treble", "never"))


def test_scored_clips_that_were_trained_on_are_found(place: Path, tmp_path: Path) -> None:
    path = transfer(place / "run", "other", label_map=place / "map.yaml", split="all")
    found = json.loads(path.read_text())["targets"]["other"]["overlap"]
    split = tiny.index(18).split()
    met = len(split.train) + len(split.valid)  # "other" has the very clips of "tiny"
    assert found["ids"] is None  # no collection is known that both are drawn from
    assert found["embeddings"]["n_suspected"] >= met
    assert all(pair["target"] == pair["source"] for pair in found["embeddings"]["closest"])
    assert found["embeddings"]["closest"][0]["cosine"] == pytest.approx(1, abs=1e-5)
    (told,) = sentences("tiny", "other", found)
    assert "sound like clips trained on" in told
    assert "framewise" in told

    without = audit(tiny.index(18), None, None, other(), None, np.arange(18))
    assert without["embeddings"] is None
    assert "no embeddings of one teacher" in without["reason"]
    fma = replace(tiny.index(18), name="fma-small")
    clips = other().clips.assign(
        clip_id=[f"track{k}_0" for k in range(18)], group=fma.clips["clip_id"]
    )
    openmic = replace(other(), name="openmic", clips=clips)
    by_group = audit(fma, None, None, openmic, None, np.arange(18))
    assert by_group["ids"]["n_shared"] == met
    assert "have the id of a recording" in sentences("fma-small", "openmic", by_group)[0]


def test_transfer_is_the_score_of_mapped_predictions(place: Path) -> None:
    path = transfer(place / "run", "other", label_map=place / "map.yaml", split="all")
    content = json.loads(path.read_text())
    entry = content["targets"]["other"]["maps"]["mine"]
    with np.load(path.with_name("transfer-other.npz"), allow_pickle=False) as stored:
        score, label = stored["score"], stored["label"]
    assert np.array_equal(label, other().labels)
    joined = mapped(score, tiny.LABELS, MAP["map"], "max")
    per_class, mean = metrics.average_precision(joined, label[:, :2])
    assert list(entry["per_class"].values()) == pytest.approx(per_class.tolist())
    assert (content["value"], content["map"]) == (pytest.approx(mean), "mine")
    assert content["value"] > 0.8
    assert entry["n_positive"] == {"bass": 6, "treble": int((label[:, 1] == 1).sum())}
    known = label[:, 1] != 0
    assert entry["chance"]["treble"] == pytest.approx((label[known, 1] == 1).mean())
    assert entry["sources"] == MAP["map"]
    assert entry["map_version"] == 3


def test_a_wrong_map_falls_to_chance_or_below(place: Path) -> None:
    wrong = place / "wrong.yaml"
    crossed = {"bass": ["high"], "treble": ["low"]}
    wrong.write_text(yaml.safe_dump(MAP | {"name": "wrong", "map": crossed}))
    path = transfer(place / "run", "other", label_map=wrong, split="all")
    result = json.loads(path.read_text())["targets"]["other"]["maps"]["wrong"]
    assert all(result["per_class"][k] < result["chance"][k] + 0.1 for k in crossed)


def test_the_test_split_is_the_default_and_earlier_targets_are_kept(place: Path) -> None:
    path = transfer(place / "run", "other", label_map=place / "map.yaml")
    content = json.loads(path.read_text())
    assert content["targets"]["other"]["split"] == "test"
    assert content["targets"]["other"]["maps"]["mine"]["n_clips"] == 3
    path = transfer(place / "run", "tiny")
    content = json.loads(path.read_text())
    assert list(content["targets"]) == ["other", "tiny"]
    assert (content["dataset"], content["map"]) == ("tiny", SAME)
    without = replace(other(), clips=other().clips.assign(split="valid"))
    run, where = Run.read(place / "run"), Place(place / "cache")
    path = transfer_to(run, without, where, place / "map.yaml")
    assert json.loads(path.read_text())["targets"]["other"]["split"] == "all"


def test_single_label_targets_are_scored_one_against_the_rest(place: Path) -> None:
    clips = tiny.index(18, "single-label")
    path = transfer_to(Run.read(place / "run"), clips, Place(place / "cache"), SAME, split="all")
    result = json.loads(path.read_text())["targets"]["tiny"]["maps"][SAME]
    assert result["metric"] == "mAP"
    assert result["n_positive"] == dict.fromkeys(tiny.LABELS, 6)
    assert result["n_negative"] == dict.fromkeys(tiny.LABELS, 12)


def test_every_map_that_fits_is_scored(place: Path) -> None:
    run = Run.read(place / "run")
    names = ["cello", "drums", "flute", "guitar", "piano", "synth", "violin", "vocal"]
    config = run.config | {"label_names": names, "dataset": "toy-studio"}
    maps = choose(replace(run, config=config), labelled(OPENMIC), None)
    assert [one.name for one in maps] == ["nine", "eight"]
    maps = choose(replace(run, config=config), labelled(OPENMIC), "eight")
    assert [one.name for one in maps] == ["eight", "nine"]


def test_a_store_of_another_identity_is_refused(place: Path, tmp_path: Path) -> None:
    run = Run.read(place / "run")
    stores = {"framewise": run.config["stores"]["framewise"] | {"hop_s": 0.25}}
    moved = replace(run, config=run.config | {"stores": stores})
    with pytest.raises(CacheError, match=r"other lacks them.*Extract it with the same"):
        transfer_to(moved, other(), Place(place / "cache"), place / "map.yaml")


def test_command_line(place: Path) -> None:
    arguments = ["transfer", str(place / "run"), "other", "--map", str(place / "map.yaml")]
    result = CliRunner().invoke(group, arguments, catch_exceptions=False)
    assert "mAP" in result.output
    assert "middle, high" in result.output
    result = CliRunner().invoke(group, [*arguments[:3], "--map", "nin"])
    assert isinstance(result.exception, ConfigError)


@pytest.mark.parametrize(
    ("evaluated", "trained_on", "sentence"),
    [
        ("openmic", "OpenMIC (fine-tuned)", "openmic itself"),
        ("openmic", "FMA-large", "both drawn from Free Music Archive"),
        ("fma-small", "openmic", "both drawn from Free Music Archive"),
        ("mtat", "MagnaTagATune", "both drawn from Magnatune"),
        ("esc10", "FSD50K", "both drawn from Freesound"),
        ("esc50", "AudioSet", None),
        ("toy-field", "toy-studio", None),
        ("mtat", "", None),
    ],
)
def test_overlaps(evaluated: str, trained_on: str, sentence: str | None) -> None:
    found = overlaps(evaluated, [trained_on])
    assert len(found) == (sentence is not None)
    assert all(sentence in text for text in found if sentence)
