"""Exported folders: what is written, what is loaded again, and what is refused."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
import yaml
from click.testing import CliRunner
from tests import exported, tiny

from understudy import checkpoint, config, students
from understudy.errors import ConfigError, UnderstudyError, WeightsError
from understudy.evaluate.score import score
from understudy.export import card, export, hub
from understudy.export.cli import command

WEIGHTS = "model.safetensors"
EMPTY = {"bytes": 0, "sha256": ""}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported.make_run(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def made(run: Path) -> Path:
    return export(run, run.parent / "student")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "student"))


def test_what_was_trained_is_loaded(run: Path, made: Path):
    assert sorted(p.name for p in made.iterdir()) == ["README.md", "config.json", WEIGHTS]
    student = students.load(made)
    wanted, _ = checkpoint.load_student(run)
    assert not student.training
    assert (student.label_names, student.task) == (tiny.LABELS, "single-label")
    sound = 0.1 * torch.randn(2, 20_000)
    assert torch.equal(student(sound).logits, wanted(sound).logits)
    assert list(run.parent.glob(".student-*")) == []


def test_config_says_where_it_comes_from(made: Path):
    content = json.loads((made / "config.json").read_text())
    assert content["student"]["width"] == 4
    assert content["trained"]["run"] == "d" * 64
    assert content["trained"]["split_digest"] == tiny.index(task="single-label").split_digest
    assert content["trained"]["teachers"][0]["non_commercial"] is True
    data = (made / WEIGHTS).read_bytes()
    assert content["files"][WEIGHTS]["sha256"] == hashlib.sha256(data).hexdigest()


def rewrite(folder: Path, **changes) -> None:
    """Changes config.json and signs it again."""
    content = json.loads((folder / "config.json").read_text()) | changes
    content.pop("digest")
    (folder / "config.json").write_text(json.dumps(content | {"digest": config.digest(content)}))


def change_tensors(folder: Path, change: Callable[[dict], object]) -> None:
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    change(tensors)
    safetensors.torch.save_file(tensors, folder / WEIGHTS)


def pickled(folder: Path, legacy: bool = False) -> None:
    torch.save({}, folder / WEIGHTS, _use_new_zipfile_serialization=not legacy)


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


SPOILT = {
    "no config": (lambda f: (f / "config.json").unlink(), r"not an exported student.*config\.json"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "not the config of an exported"),
    "other label": (
        lambda f: edit(f / "config.json", '"middle"', '"centre"'),
        r"altered: its content has digest \w{12}, it says \w{12}",
    ),
    "newer format": (lambda f: rewrite(f, format=2), r"wanted format 1 or older, found 2"),
    "unknown key": (lambda f: rewrite(f, lable_names=[]), "did you mean 'label_names'"),
    "no such student": (lambda f: rewrite(f, student={"name": "sc-cnm"}), "did you mean 'sc-cnn'"),
    "other width": (
        lambda f: rewrite(f, student={"name": "sc-cnn", "width": 8}),
        r"does not fit config\.json: .* is \(4,.*wanted \(8,",
    ),
    "unlisted weights": (lambda f: rewrite(f, files={}), r"lists no model\.safetensors"),
    "a file outside": (
        lambda f: rewrite(f, files={"../x": EMPTY, WEIGHTS: EMPTY}),
        r"'\.\./x' names no file of the folder",
    ),
    "a listed file absent": (
        lambda f: rewrite(f, files={"model.onnx": EMPTY, WEIGHTS: EMPTY}),
        r"model\.onnx: cannot be read, though config\.json lists it",
    ),
    "missing key": (
        lambda f: change_tensors(f, lambda t: t.pop("dense1.weight")),
        "no tensor dense1.weight",
    ),
    "extra key": (
        lambda f: change_tensors(f, lambda t: t.update(extra=torch.zeros(1))),
        "has no tensor extra",
    ),
    "other shape": (
        lambda f: change_tensors(f, lambda t: t.update({"dense2.bias": torch.zeros(7)})),
        r"dense2\.bias is \(7,\), wanted \(3,\)",
    ),
    "other values": (
        lambda f: change_tensors(f, lambda t: t["dense2.bias"].add_(1)),
        "altered: its sha256 is",
    ),
    "pickle": (pickled, "found a zip file, as torch.save writes: not opened"),
    "old pickle": (lambda f: pickled(f, legacy=True), "found a pickle: not opened"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "wanted safetensors, not found"),
    "cut off": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:1000]),
        "not a readable safetensors file",
    ),
    "pickle beside": (
        lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin"),
        r"found pytorch_model\.bin, which is not opened",
    ),
    "bit flipped": (lambda f: flip(f / WEIGHTS, -1), "altered"),
    "no card": (lambda f: (f / "README.md").unlink(), "wanted the student's card"),
    "no licence": (
        lambda f: edit(f / "README.md", "license: other\n", ""),
        r"names no licence; wanted 'license: \.\.\.'.*found license_name",
    ),
    "empty licence": (lambda f: edit(f / "README.md", ": other\n", ":\n"), "names no licence"),
    "no head": (lambda f: (f / "README.md").write_text("# A student"), "found no head"),
    "broken head": (lambda f: edit(f / "README.md", "license: other", "license: ["), "no YAML"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_folder_is_refused_with_what_was_found(folder: Path, kind: str):
    spoil, message = SPOILT[kind]
    spoil(folder)
    with pytest.raises(WeightsError, match=message):
        students.load(folder)


def test_a_run_is_no_exported_student(run: Path):
    with pytest.raises(WeightsError, match="a run, not an exported student: `understudy export`"):
        students.load(run)


def test_card(run: Path, made: Path):
    text = (made / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "other"
    assert "model-index" not in head
    assert "Not evaluated" in text
    assert "| teacher: discogs | CC BY-NC-SA 4.0 (MTG" in text
    assert "non-commercial use only, under the same terms" in text
    assert "**discogs may not be used commercially" in text
    assert "low, middle, high" in text
    assert "times real time" in text


def test_card_of_a_scored_run_has_its_numbers(tmp_path: Path):
    names = ["<b>|x", "middle", "[high](evil)"]
    run = exported.make_run(tmp_path, label_names=names)
    path = score(run)
    content = json.loads(path.read_text())
    content["interval"] = {"level": 0.95, "value": [0.125, 0.875], "also": {}, "per_class": {}}
    path.write_text(json.dumps(content))
    text = (export(run, tmp_path / "out") / "README.md").read_text()
    assert f"**accuracy {content['value']:.3f}** [0.125, 0.875]" in text
    head = yaml.safe_load(text.split("---\n")[1])
    metric = head["model-index"][0]["results"][0]["metrics"][0]
    assert metric["value"] == round(content["value"], 4)
    assert "<b>" not in text
    assert r"&lt;b&gt;\|x, middle, \[high\](evil)" in text


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("CC BY-NC-SA 4.0 (MTG)", "non-commercial use only, under the same terms"),
        ("CC BY-NC 3.0", "non-commercial use only"),
        ("CC BY 4.0", "commercial use not excluded; keep the notices"),
        ("not stated (published beside code)", "nothing stated: ask its authors"),
        ("", "nothing stated: ask its authors"),
        ("none (no weights)", "no weights, no terms"),
    ],
)
def test_what_licences_allow(licence: str, allowed: str):
    assert card.allows(licence) == allowed


def test_another_students_folder_is_not_overwritten(run: Path, folder: Path, tmp_path: Path):
    (folder / "mine.txt").write_text("kept")
    export(run, folder)
    assert (folder / "mine.txt").read_text() == "kept"
    other = exported.make_run(tmp_path, digest="e" * 64)
    with pytest.raises(
        ConfigError, match="holds the export of run dddddddddddd, wanted one of eee"
    ):
        export(other, folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(ConfigError, match="wanted a new folder or an export of this run"):
        export(run, tmp_path / "full")


def test_unfinished_and_studentless_runs_are_refused(tmp_path: Path):
    run = exported.make_run(tmp_path)
    with pytest.raises(ConfigError, match="int8 is a kind of ONNX"):
        export(run, tmp_path / "out", with_int8=True)
    with pytest.raises(ConfigError, match="did you mean 'onnx'"):
        export(run, tmp_path / "out", ["onx"])
    (run / "log.jsonl").write_text("")
    for _ in range(2):  # with a best checkpoint, and before there is one
        with pytest.raises(
            UnderstudyError, match=r"has not ended; run the same `understudy train` command again"
        ):
            export(run, tmp_path / "out")
        (run / "best.safetensors").unlink(missing_ok=True)
    assert not (tmp_path / "out").exists()


def test_upload(run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """The listed files go up, others stay; nothing of an altered folder does."""
    calls = []

    class Api:
        def create_repo(self, repo_id, *, private, exist_ok):
            calls.append((repo_id, private, exist_ok))
            return f"address of {repo_id}"

        def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
            calls.append((repo_id, folder_path, sorted(allow_patterns), commit_message))

    monkeypatch.setattr(hub, "require", lambda module, extra: SimpleNamespace(HfApi=Api))
    (folder / "secret.txt").touch()
    arguments = [str(run), str(folder), "--push", "me/student", "--private"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert "uploaded: address of me/student" in result.output
    assert "discogs: non-commercial licence" in result.output
    assert calls[0] == ("me/student", True, True)
    assert calls[1][:3] == ("me/student", folder, ["README.md", "config.json", WEIGHTS])
    assert "dddddddddddd" in calls[1][3]
    flip(folder / WEIGHTS, -1)
    with pytest.raises(WeightsError, match="altered"):
        hub.push(folder, "me/student")
    assert len(calls) == 2


def test_the_hubs_refusal_is_told(made: Path, monkeypatch: pytest.MonkeyPatch):
    class Api:
        def create_repo(self, *_, **__):
            raise OSError("offline")

    monkeypatch.setattr(hub, "require", lambda module, extra: SimpleNamespace(HfApi=Api))
    with pytest.raises(UnderstudyError, match="me/student: the hub takes nothing: offline"):
        hub.push(made, "me/student")
