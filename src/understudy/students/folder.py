"""An exported student on disk: a folder in the layout of Hugging Face's hub.

    config.json         what the student is, where it comes from, and a digest of every file
    model.safetensors   its weights
    README.md           its card; the head names a licence
    model.onnx ...      the same network in other formats, as `understudy export --to` was told

Nothing in it is ever unpickled, and a folder that is not whole is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import safetensors.torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

from understudy import config, students
from understudy.errors import ConfigError, UnderstudyError, WeightsError
from understudy.students.base import Student, Task

FORMAT = 1
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
_PICKLES = {b"PK\x03\x04": "a zip file, as torch.save writes", b"\x80": "a pickle"}
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of the folder beside config.json and the card."""

    bytes: int
    sha256: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What was measured of it at its export."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Content of config.json."""

    format: int
    understudy: str
    """Version that wrote it."""
    student: Mapping[str, Any]
    """Its name and settings, as of `students.build`."""
    label_names: tuple[str, ...]
    task: Task
    sample_rate: int
    input_samples: int
    """Length of the windows it was trained on and is evaluated with."""
    trained: Mapping[str, Any]
    """Where it comes from: run, dataset, splits, system, teachers."""
    files: Mapping[str, File]


def write_config(folder: Path, exported: Exported) -> None:
    """Writes FOLDER/config.json, and in it a digest of the rest of it."""
    content = config.to_mapping(exported)
    text = json.dumps(content | {"digest": config.digest(content)}, indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def read(folder: str | PathLike[str]) -> Exported:
    """What the folder's config.json says; its card and the digests of its files are checked.

    Raises:
        WeightsError: No exported student, an altered file, a card that names no licence.
    """
    folder = Path(folder)
    exported = _config(folder)
    _require_licence(folder / CARD)
    for name in sorted(exported.files):
        if name != WEIGHTS:  # whose content says more of what is wrong with it
            _require_unaltered(folder, name, exported.files[name])
    return exported


def load(folder: str | PathLike[str]) -> Student:
    """See `students.load`."""
    folder = Path(folder)
    exported = read(folder)
    path = folder / WEIGHTS
    tensors = _tensors(path)
    settings = dict(exported.student)
    try:
        student = students.build(settings.pop("name"), len(exported.label_names), **settings)
    except (KeyError, ConfigError) as error:
        raise WeightsError(f"{folder / CONFIG}: no student that can be built ({error})") from None
    try:
        student.load_published(tensors)
    except WeightsError as error:
        raise WeightsError(f"{path} does not fit {CONFIG}: {error}") from None
    _require_unaltered(folder, WEIGHTS, exported.files[WEIGHTS])
    student.label_names, student.task = exported.label_names, exported.task
    return student.eval()


def card_head(card: Path) -> dict[str, Any]:
    """The YAML head of a card; empty where it has none.

    Raises:
        WeightsError: No card, or a head that is no YAML mapping.
    """
    try:
        text = card.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{card}: wanted the student's card, found none ({error})") from None
    if not text.startswith("---\n"):
        return {}
    try:
        head = yaml.safe_load(text[4:].split("\n---", 1)[0])
    except yaml.YAMLError as error:
        raise WeightsError(f"{card}: its head is no YAML ({error})") from None
    if not isinstance(head, dict):
        raise WeightsError(f"{card}: wanted a mapping as its head, found {type(head).__name__}")
    return head


def _require_licence(card: Path) -> None:
    head = card_head(card)
    licence = head.get("license")
    if not isinstance(licence, str) or not licence.strip():
        named = ", ".join(map(str, head)) or "no head"
        raise WeightsError(
            f"{card}: the card names no licence; wanted 'license: ...' in its head, found {named}"
        )


def _config(folder: Path) -> Exported:
    path = folder / CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"a JSON object was wanted, found {type(content).__name__}")
    except (FileNotFoundError, NotADirectoryError):
        lacks = f"it has no {CONFIG}" if folder.exists() else "no such folder"
        raise WeightsError(
            f"{folder}: not an exported student: {lacks} (wanted a folder that "
            "`understudy export` made)"
        ) from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: not the config of an exported student ({error})") from None
    if "settings" in content:
        raise WeightsError(f"{folder}: a run, not an exported student: `understudy export` it")
    version = content.get("format")
    if type(version) is not int or version > FORMAT:
        raise WeightsError(f"{path}: wanted format {FORMAT} or older, found {version!r}")
    digest = content.pop("digest", None)
    try:
        exported = config.from_mapping(Exported, content, str(path))
    except UnderstudyError as error:
        raise WeightsError(str(error)) from None
    found = config.digest(content)
    if digest != found:
        raise WeightsError(
            f"{path}: altered: its content has digest {found[:12]}, it says {str(digest)[:12]}"
        )
    if WEIGHTS not in exported.files:
        raise WeightsError(f"{path}: lists no {WEIGHTS}, found {', '.join(exported.files) or '-'}")
    return exported


def _require_unaltered(folder: Path, name: str, wanted: File) -> None:
    if Path(name).name != name:
        raise WeightsError(f"{folder / CONFIG}: '{name}' names no file of the folder")
    path = folder / name
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read, though {CONFIG} lists it ({error})") from None
    if found != wanted.sha256:
        raise WeightsError(
            f"{path}: altered: its sha256 is {found}, {CONFIG} wants {wanted.sha256}"
        )


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        data = path.read_bytes()
    except OSError:
        others = [p.name for p in path.parent.iterdir() if p.suffix in _PICKLE_SUFFIXES]
        found = f"found {', '.join(sorted(others))}, which is not opened" if others else "not found"
        raise WeightsError(f"{path}: wanted safetensors, {found}") from None
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        for start, kind in _PICKLES.items():
            if data.startswith(start):
                raise WeightsError(
                    f"{path}: wanted safetensors, found {kind}: not opened"
                ) from None
        raise WeightsError(f"{path}: not a readable safetensors file ({error})") from None
