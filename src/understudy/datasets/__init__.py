"""Released datasets and folders of audio, each as a ClipIndex.

One file per dataset: its facts first (labels, licence, citation, addresses, known defects), then
`load...(root, **options)`.
"""

import importlib
import inspect
import os
from pathlib import Path
from typing import Any

from understudy.datasets.release import Release
from understudy.errors import ConfigError, DataError, unknown
from understudy.index import ClipIndex
from understudy.registry import Registry

# name -> (module:loader, one line about it)
_ENTRIES = {
    "esc50": ("understudy.datasets.esc50:load_esc50", "ESC-50: 2,000 sounds, 50 classes, 5 folds"),
    "esc10": ("understudy.datasets.esc50:load_esc10", "ESC-10: the 400 of ESC-50 under CC BY"),
    "mtat": (
        "understudy.datasets.mtat:load_mtat",
        "MagnaTagATune: 25,863 clips of music, 50 tags",
    ),
    "fma-small": (
        "understudy.datasets.fma:load_fma_small",
        "FMA-small: 8,000 clips of music, 8 genres",
    ),
    "openmic": (
        "understudy.datasets.openmic:load_openmic",
        "OpenMIC-2018: 20,000 clips of music, 20 instruments",
    ),
    "folder": ("understudy.datasets.folder:load_folder", "any tree of audio files, optional CSV"),
    "toy-studio": ("understudy.datasets.toy:load_studio", "made here: synthetic, clean"),
    "toy-field": ("understudy.datasets.toy:load_field", "made here: the same sounds in the field"),
}
NO_LABELS = "Give --option csv=FILE (with labels) or --option classes_from=folders"
registry = Registry("dataset", {name: target for name, (target, _) in _ENTRIES.items()})


def names() -> list[str]:
    """Names that `load` knows."""
    return registry.names()


def title(name: str) -> str:
    """One line about dataset `name`; empty for one registered elsewhere."""
    return _ENTRIES.get(name, ("", ""))[1]


def release(name: str) -> Release | None:
    """What is known about dataset `name` before it is here; None where nothing is published."""
    loader = registry.get(name)
    return getattr(importlib.import_module(loader.__module__), "RELEASE", None)


def require_labels(index: ClipIndex) -> None:
    """Raises DataError, saying how labels are given, for a dataset without any."""
    if not index.n_labels:
        raise DataError(
            f"dataset {index.name} has no labels to train on. {NO_LABELS} to `understudy extract` "
            "and run it again: embeddings stay"
        )


def load(name: str, /, root: str | os.PathLike[str], **options: Any) -> ClipIndex:
    """The clips of dataset `name` that lies at `root`.

    Args:
        name: One of `names()`.
        root: Folder of the release; the toy datasets are made there if it is empty.
        options: The loader's own, for example `csv` of "folder".

    Raises:
        ConfigError: Unknown name or option.
        DataError: The folder does not hold the dataset.
    """
    if name not in registry.names() and Path(root).is_dir():
        raise ConfigError(
            f"{unknown('dataset', name, registry.names())}. "
            f"Recordings of your own are the dataset 'folder', here: folder --root {root}"
        )
    loader = registry.get(name)
    parameters = list(inspect.signature(loader).parameters.values())[1:]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for option in options:
            if option not in {p.name for p in parameters}:
                known = [p.name for p in parameters]
                raise ConfigError(f"dataset '{name}': {unknown('option', option, known)}")
    return loader(Path(root), **options)
