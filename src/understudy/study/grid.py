"""A study's file, and the cells of its grid.

datasets x folds x seeds x students x teachers x systems x grid, for each of `parts`. What an axis
does not change is one cell: the baseline has no teacher, teacher_lr neither student nor seed.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from understudy import config, students
from understudy.errors import ConfigError, unknown
from understudy.train.config import TrainSettings, resolve
from understudy.train.settings import SYSTEMS

TEACHER_LR = "teacher_lr"
_DISTILL = "distill."


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset of the study, as the cache or the folder `root` holds it."""

    name: str
    folds: tuple[int, ...] = ()
    """Test folds; none for the dataset's own split."""
    root: Path | None = None
    """Its recordings; needed without a cached audio track."""
    transfer: tuple[str, ...] = ()
    """Other datasets of the cache to score its runs on, without further training."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One full grid. The axes of a file's top level hold for all of its parts."""

    datasets: tuple[Dataset | str, ...]
    students: tuple[dict | str, ...] = ("sc-cnn",)
    """Names, or mappings of `name` and settings."""
    teachers: tuple[tuple[str, ...] | str, ...] = ()
    """Names; a list of names stands for several teachers at once, which teacher_lr leaves out."""
    systems: tuple[dict | str, ...] = (TEACHER_LR, *SYSTEMS)
    """Names, or mappings of `system` and changes to it, as the section `distill` has them."""
    seeds: tuple[int, ...] = (1223,)
    settings: dict[str, Any] = field(default_factory=dict)
    """Of all runs, as a recipe has them."""
    grid: dict[str, Any] = field(default_factory=dict)
    """Further axes: a setting such as "distill.distance_weight" to a list of its values."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of the study."""

    dataset: Dataset
    fold: int | None
    seed: int | None
    student: str | None
    """The student's name, with its settings where the study has several of that name."""
    teachers: tuple[str, ...]
    system: str
    """Without what the grid changes of it."""
    place: tuple[tuple[str, Any], ...]
    """Where it is on the axes of `grid`."""
    settings: TrainSettings | None
    """None: teacher_lr, which trains no student."""

    @property
    def teacher(self) -> str | None:
        """Its teachers, as one name."""
        return "+".join(self.teachers) or None

    @property
    def variant(self) -> str:
        """Its place, as text: "distill.distance_weight=0.9"."""
        return _text(self.place)

    @property
    def variant_of_baseline(self) -> str:
        """The place of the baseline that it is compared with."""
        return _text((key, value) for key, value in self.place if not key.startswith(_DISTILL))

    @property
    def name(self) -> str:
        """Name of its run directory. Other settings make another name."""
        parts = [self.dataset.name, "" if self.fold is None else f"fold{self.fold}"]
        if self.settings is None:
            parts += [self.teacher or "", TEACHER_LR]
        else:
            parts += [f"seed{self.seed}", str(self.settings.student["name"]), self.teacher or ""]
            parts += [self.settings.distill.system, config.digest(self.settings.identity())[:8]]
        return "-".join(filter(None, parts))


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study's file, expanded."""

    name: str
    cache: Path
    cells: tuple[Cell, ...]


def read_study(path: Path, cache: Path | None = None) -> Study:
    """Reads a study's file.

    Args:
        path: YAML: `cache`, the axes of `Part`, and `parts`, a list of mappings that are laid over
            the top level one by one; without it the top level is the only part.
        cache: Instead of the file's.

    Raises:
        ConfigError: An unknown key, name or value; the nearest is named.
    """
    content = config.read_yaml(path, "a mapping with datasets, systems and teachers")
    known = ["cache", "parts", *(axis.name for axis in fields(Part))]
    for key in content:
        if key not in known:
            raise ConfigError(f"{path}: {unknown('key', str(key), known)}")
    parts = content.pop("parts", None) or [{}]
    found = content.pop("cache", None)
    chosen = cache if cache is not None else found
    if not isinstance(chosen, str | Path):
        raise ConfigError(f"{path}: cache: wanted a folder, found {found!r}")
    if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
        raise ConfigError(f"{path}: parts: wanted a list of mappings, found {parts!r}")
    cells: dict[str, Cell] = {}
    places = [
        f"{path}: part {n}" if len(parts) > 1 else f"{path}" for n in range(1, 1 + len(parts))
    ]
    grids = [
        config.from_mapping(Part, config.merged(content, part), where)
        for where, part in zip(places, parts, strict=True)
    ]
    entries = [entry for grid in grids for entry in grid.students]
    for where, grid in zip(places, grids, strict=True):
        try:
            for cell in _cells(grid, entries):
                cells.setdefault(cell.name, cell)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
    return Study(name=path.stem, cache=Path(chosen), cells=tuple(cells.values()))


def _cells(part: Part, every_student: Sequence[dict | str]) -> Iterator[Cell]:
    for entry in part.datasets:
        dataset = Dataset(name=entry) if isinstance(entry, str) else entry
        for fold, system in itertools.product(dataset.folds or (None,), part.systems):
            if system == TEACHER_LR:
                for teacher in part.teachers:
                    if isinstance(teacher, str):
                        yield _teacher_lr(dataset, fold, teacher)
            else:
                yield from _trained(part, every_student, dataset, fold, system)


def _teacher_lr(dataset: Dataset, fold: int | None, teacher: str) -> Cell:
    return Cell(
        dataset=dataset,
        fold=fold,
        seed=None,
        student=None,
        teachers=(teacher,),
        system=TEACHER_LR,
        place=(),
        settings=None,
    )


def _trained(
    part: Part,
    every_student: Sequence[dict | str],
    dataset: Dataset,
    fold: int | None,
    entry: Any,
) -> Iterator[Cell]:
    distill = {"system": entry} if isinstance(entry, str) else dict(entry)
    named = str(distill.get("system"))
    if named not in SYSTEMS:
        raise ConfigError(unknown("system", named, [TEACHER_LR, *SYSTEMS]))
    axes = {key: _values(key, values) for key, values in part.grid.items()}
    threads = {"threads": torch.get_num_threads()}
    for student, seed in itertools.product(part.students, part.seeds):
        layers = [threads, part.settings, {"student": _student(student), "distill": distill}]
        settings = resolve(config.merged(*layers, {"optim": {"seed": seed}}))
        learns = settings.distill.distance != "none"
        mine = {key: v for key, v in axes.items() if learns or not key.startswith(_DISTILL)}
        if learns and not part.teachers:
            raise ConfigError(f"system {named} learns from a teacher: wanted teachers")
        for point in itertools.product(*mine.values()):
            place = tuple(zip(mine, point, strict=True))
            cell = Cell(
                dataset=dataset,
                fold=fold,
                seed=seed,
                student=_label(student, every_student),
                teachers=(),
                system=settings.distill.label,
                place=place,
                settings=resolve(
                    config.merged(*layers, {"optim": {"seed": seed}}, config.nested(dict(place)))
                ),
            )
            for teacher in part.teachers if learns else ((),):
                names = (teacher,) if isinstance(teacher, str) else teacher
                yield replace(cell, teachers=names)


def _values(key: str, values: Any) -> list[Any]:
    if not isinstance(values, list) or not values:
        raise ConfigError(f"grid: {key}: wanted a list of values, found {values!r}")
    return values


def _student(entry: dict | str) -> dict[str, Any]:
    student = {"name": entry} if isinstance(entry, str) else entry
    kind = students.kind(str(student.get("name")))
    config.from_mapping(
        kind.settings_class,
        {k: v for k, v in student.items() if k != "name"},
        f"student {kind.name}",
    )
    return student


def _label(entry: dict | str, entries: Sequence[dict | str]) -> str:
    """Its name, with its settings where `entries`, those of the whole study, have others of it."""
    student = _student(entry)
    same = [other for other in map(_student, entries) if other["name"] == student["name"]]
    if all(other == student for other in same):
        return student["name"]
    changes = ", ".join(f"{key}={value}" for key, value in student.items() if key != "name")
    return f"{student['name']} [{changes}]" if changes else student["name"]


def _text(place: Iterable[tuple[str, Any]]) -> str:
    return ", ".join(f"{key}={value}" for key, value in place)
