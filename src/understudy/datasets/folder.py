"""Any tree of audio files, with or without a CSV that lists and labels them.

The CSV has a column `path` (relative to the root, with /) and optionally `clip_id` (default: the
path), `split` (train, valid, test or empty), `fold` (from 1; 0 or empty is none), `group`, and the
labels in one of three forms:

- a column `label`: one class per clip (single-label);
- a column `labels`: names separated by |, each present and all others absent; empty is unknown;
- one column per label with 1 (present), -1 (absent), 0 or empty (unknown): all other columns.
  Columns with 0 but without any -1 are refused until `zero` says what their 0 means.

Only listed files are clips. A listed file that is missing stays, with duration NaN. Without a CSV,
every audio file is a clip, without labels or, with classes_from=folders, of the class that the
folder below the root is named after. Where there are neither splits nor folds, the split is seeded,
clips of one group stay together, and single-label clips are split class by class.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from understudy.config import from_mapping
from understudy.datasets.files import audio_files, durations, require_root
from understudy.datasets.splits import grouped_split, stratified_split
from understudy.datasets.table import Table, read_table
from understudy.errors import ConfigError, DataError
from understudy.index import SPLITS, ClipIndex

SEPARATOR = "|"
_MAX_FOLD = 1000
_SPLIT_FOLDERS = {*SPLITS, "training", "val", "validation", "dev", "testing", "eval"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `load_folder`."""

    csv: Path | None = None
    """Relative to the root, or else to the working directory."""
    name: str | None = None
    """Name of the dataset and of its folder in a cache; None is the name of the root folder."""
    label: str | None = None
    """Column of one class per clip."""
    labels: str | None = None
    """Column of names separated by |."""
    label_columns: tuple[str, ...] | None = None
    """Columns of -1, 0, 1. Of these three at most one; None of them: found by the names above."""
    zero: Literal["absent", "unknown"] | None = None
    """What 0 means in a column per label; None: unknown, where there is a -1 as well."""
    classes_from: Literal["folders"] | None = None
    """Without a CSV: the class of a clip is the folder below the root in which it lies."""
    classes: tuple[str, ...] | None = None
    """Names of the labels in order; another one is an error. None: those found, sorted."""
    group: str | None = None
    """Column of groups; None is `group`, where there is one."""
    seed: int = 0
    """Of the split."""
    fractions: tuple[float, ...] = (0.8, 0.1, 0.1)
    """Train, valid and test of the seeded split."""
    licence: str = ""
    citation: str = ""


def load_folder(root: Path, **options: Any) -> ClipIndex:
    """The clips under `root`; `options` are the fields of `Options`.

    Raises:
        ConfigError: An unknown or impossible option.
        DataError: No such folder, no audio file, or a CSV that does not hold.
    """
    settings = from_mapping(Options, options, "dataset 'folder'")
    _check_fractions(settings.fractions)
    require_root(root, "a folder of audio files")
    if settings.csv is None:
        _check_without_csv(settings)
        paths = audio_files(root)
        columns: dict[str, Any] = {"clip_id": paths, "path": paths}
        labels, names = np.zeros((len(paths), 0), np.int8), ()
        if settings.classes_from is not None:
            labels, names = _folders(root, paths, settings.classes)
        origin = str(root)
    elif settings.classes_from is not None:
        raise ConfigError("dataset 'folder': of csv and classes_from give at most one")
    else:
        inner = root / settings.csv
        table = read_table(inner if inner.is_file() else settings.csv, ["path"])
        columns = _columns(table, root, settings)
        _check_drawn(table, columns, options)
        labels, names = _labels(table, settings)
        origin = str(table.path)
    if "split" not in columns and "fold" not in columns:
        groups = columns.get("group") or [""] * len(columns["clip_id"])
        keys = [
            f"group {g}" if g else f"clip {c}"
            for g, c in zip(groups, columns["clip_id"], strict=True)
        ]
        columns["split"] = (
            stratified_split(keys, [int(n) for n in labels], settings.fractions, settings.seed)
            if labels.ndim == 1
            else grouped_split(keys, settings.fractions, settings.seed)
        )
    columns["duration_s"] = durations(root, columns["path"], origin)
    return ClipIndex(
        name=settings.name or _folder_name(root),
        clips=pd.DataFrame(columns),
        labels=labels,
        label_names=names,
        root=root,
        licence=settings.licence,
        citation=settings.citation,
    )


def _folder_name(root: Path) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", root.resolve().name).lstrip("._-")
    return name or "folder"


def _check_fractions(fractions: tuple[float, ...]) -> None:
    if len(fractions) != 3 or not all(math.isfinite(f) and f >= 0 for f in fractions):
        raise ConfigError(f"fractions {fractions}: wanted three, none below 0")
    if not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        raise ConfigError(f"fractions {fractions} sum to {sum(fractions):g}, wanted 1")


def _check_without_csv(settings: Options) -> None:
    for option in ("label", "labels", "label_columns", "group", "zero"):
        if getattr(settings, option) is not None:
            raise ConfigError(f"dataset 'folder': {option} is about a CSV; give --option csv=FILE")
    if settings.classes is not None and settings.classes_from is None:
        raise ConfigError(
            "dataset 'folder': classes are names of labels; give csv or classes_from, too"
        )


def _check_drawn(table: Table, columns: dict[str, Any], options: dict[str, Any]) -> None:
    """ConfigError for an option of a split that is drawn, where the CSV brings its own."""
    own = [name for name in ("split", "fold") if name in columns]
    given = [option for option in ("fractions", "seed") if option in options]
    if own and given:
        raise ConfigError(
            f"dataset 'folder': {given[0]} is about a split that is drawn; {table.path} has a "
            f"column {own[0]}"
        )


def _columns(table: Table, root: Path, settings: Options) -> dict[str, Any]:
    rows = table.rows
    identity = "clip_id" if "clip_id" in table.columns else "path"
    table.distinct(identity)
    columns: dict[str, Any] = {
        "clip_id": [row[identity] for row in rows],
        "path": [table.file(row, "path", root) for row in rows],
    }
    for row in rows:
        if not row[identity]:
            raise table.error(row, identity, "a name")
    if "split" in table.columns:
        columns["split"] = [table.choice(row, "split", (*SPLITS, "")) for row in rows]
    if "fold" in table.columns:
        columns["fold"] = [
            table.integer(row, "fold", 0, _MAX_FOLD) if row["fold"] else 0 for row in rows
        ]
    if settings.group is not None:
        table.require([settings.group])
    group = settings.group or "group"
    if group in table.columns:
        columns["group"] = [row[group] for row in rows]
    return columns


def _labels(table: Table, settings: Options) -> tuple[np.ndarray, tuple[str, ...]]:
    given = [settings.label, settings.labels, settings.label_columns]
    if sum(each is not None for each in given) > 1:
        raise ConfigError("dataset 'folder': of label, labels and label_columns give at most one")
    label, labels, columns = given
    if label is labels is columns is None:
        label = "label" if "label" in table.columns else None
        labels = "labels" if "labels" in table.columns else None
        if label and labels:
            raise ConfigError(f"{table.path} has columns label and labels: say which is meant")
    column = label or labels
    if column is not None and settings.zero is not None:
        raise ConfigError(
            "dataset 'folder': zero is about columns of -1, 0, 1; the labels here are those of "
            f"column {column}"
        )
    if label is not None:
        return _single(table, str(label), settings.classes)
    if labels is not None:
        return _separated(table, str(labels), settings.classes)
    known = {"path", "clip_id", "split", "fold", settings.group or "group"}
    found = tuple(c for c in table.columns if c not in known)
    if not (settings.label_columns or settings.classes):
        _check_matrix(table, found)
    return _matrix(table, settings.label_columns or settings.classes or found, settings.zero)


def _check_matrix(table: Table, columns: tuple[str, ...]) -> None:
    """DataError where one of the columns that are left holds no -1, 0 or 1, but text."""
    values = {column: {row[column] for row in table.rows} - {""} for column in columns}
    text = [c for c in columns if values[c] and not values[c] & {"-1", "0", "1"}]
    if text:
        likely = min(text, key=lambda column: len(values[column]))
        others = [column for column in columns if column not in text]
        advice = f"name the label column with --option label={likely}"
        if others:
            advice += f" or those of -1, 0, 1 with --option label_columns=[{','.join(others)}]"
        found = ", ".join(table.columns)
        raise DataError(f"{table.path}: no column label or labels; found {found}; {advice}")


def _folders(
    root: Path, paths: list[str], classes: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    found = []
    for path in paths:
        folder, slash, _ = path.partition("/")
        if not slash:
            raise DataError(f"{root}: '{path}' lies in no sub-folder; wanted CLASS/{path}")
        if classes and folder not in classes:
            raise DataError(f"{root}: folder '{folder}'; wanted one of {', '.join(classes)}")
        found.append(folder)
    names = tuple(sorted(set(found)))
    if len(names) == 1 or set(names) <= _SPLIT_FOLDERS:
        raise DataError(
            f"{root}: sub-folder{'s' * (len(names) > 1)} {', '.join(names)}; wanted one for each "
            "class, or a CSV with columns path, label and, if you like, split"
        )
    names = classes or names
    position = {name: i for i, name in enumerate(names)}
    return np.array([position[name] for name in found], np.int64), names


def _single(
    table: Table, column: str, classes: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    table.require([column])
    for row in table.rows:
        if not row[column]:
            raise table.error(row, column, "the name of a class")
    names = classes or tuple(sorted({row[column] for row in table.rows}))
    position = {name: i for i, name in enumerate(names)}
    labels = [position[table.choice(row, column, names)] for row in table.rows]
    return np.array(labels, np.int64), names


def _separated(
    table: Table, column: str, classes: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    table.require([column])
    cells = [
        {name.strip() for name in row[column].split(SEPARATOR)} if row[column] else set()
        for row in table.rows
    ]
    names = classes or tuple(sorted(set().union(*cells)))
    position = {name: i for i, name in enumerate(names)}
    labels = np.full((len(cells), len(names)), -1, np.int8)
    for i, (row, cell) in enumerate(zip(table.rows, cells, strict=True)):
        for name in sorted(cell):
            if not name or name not in position:
                raise table.error(row, column, f"names of {', '.join(names)}; '{name}' is none")
            labels[i, position[name]] = 1
        if not cell:
            labels[i] = 0
    return labels, names


def _matrix(
    table: Table, columns: tuple[str, ...], zero: str | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    table.require(columns)
    found = {row[column] for row in table.rows for column in columns}
    if zero is None and "0" in found and "-1" not in found:
        raise DataError(
            f"{table.path}: label columns ({', '.join(columns[:3])}, ...) hold 0 but no -1; wanted "
            "-1 for absent and 0 for unknown, or the option zero=absent or zero=unknown"
        )
    value = {"": 0, "0": -1 if zero == "absent" else 0, "1": 1, "-1": -1}
    labels = np.zeros((len(table.rows), len(columns)), np.int8)
    for i, row in enumerate(table.rows):
        for j, column in enumerate(columns):
            labels[i, j] = value[table.choice(row, column, value)]
    return labels, columns
