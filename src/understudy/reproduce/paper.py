"""The paper's numbers, and what stands in for its datasets and teachers at a smaller scale."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from understudy import config
from understudy.errors import ConfigError, unknown

HERE = Path(__file__).parent
COMPLEXITY = "2"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Systems of one training set and one test set."""

    trained_on: str
    tested_on: str
    metric: str
    students: tuple[str, ...]
    teachers: tuple[str, ...]
    systems: tuple[str, ...]
    values: dict[str, Any] = field(default_factory=dict)
    """System -> number, or teacher -> number; empty where the paper prints none."""

    def cells(self) -> Iterator[tuple[str | None, str, str | None, float | None]]:
        """Student, system, teacher and the paper's number, row by row."""
        for system in self.systems:
            for student in self.students if system != "teacher_lr" else (None,):
                for teacher in self.teachers if system != "baseline" else (None,):
                    printed = self.values.get(system)
                    if isinstance(printed, Mapping):
                        printed = printed.get(teacher)
                    yield student, system, teacher, printed


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table or figure of scores."""

    title: str
    source: str
    """Where in the paper."""
    parts: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A line of the paper's table of complexity."""

    role: str
    parameters_m: float
    iterations_per_s: float


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """The paper's table of complexity."""

    title: str
    source: str
    reference: str
    """Model whose speed others are compared with: the paper names no device."""
    models: dict[str, Cost]

    def names(self, role: str) -> list[str]:
        """Its teachers or students."""
        return [name for name, cost in self.models.items() if cost.role == role]


@dataclass(frozen=True, kw_only=True)
class Paper:
    """What a paper prints."""

    title: str
    citation: str
    tables: dict[str, Table]
    complexity: Complexity

    @property
    def names(self) -> list[str]:
        """What `choose` takes, in the paper's order."""
        return sorted([*self.tables, COMPLEXITY])

    def choose(self, wanted: Sequence[str]) -> list[str]:
        """Names of tables; "all" stands for every one, and so does nothing."""
        for name in wanted:
            if name not in (*self.names, "all"):
                raise ConfigError(unknown("table", name, [*self.names, "all"]))
        return [name for name in self.names if not wanted or "all" in wanted or name in wanted]


@cache
def read(name: str) -> Paper:
    """The paper of a data file beside this one."""
    content = yaml.safe_load((HERE / f"{name}.yaml").read_text(encoding="utf-8"))
    return config.from_mapping(Paper, content, f"{name}.yaml")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large, and with what in the place of the paper's datasets and teachers.

    Attributes:
        study: File of the grid.
        datasets, teachers: The paper's name -> what takes its place; what is not there stays empty.
        options: Of those datasets' loaders.
        weights: Of those teachers.
        comparable: Whether a difference to the paper's numbers means anything.
        caution: Said wherever its numbers are shown.
    """

    name: str
    study: Path
    datasets: Mapping[str, str]
    teachers: Mapping[str, str]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    comparable: bool = True
    caution: str = ""


_DATASETS = ("mtat", "openmic", "esc50", "fma-small")
_TEACHERS = ("passt", "panns", "mule", "discogs")
SCALES = {
    "full": Scale(
        name="full",
        study=HERE / "studies" / "ding2024.yaml",
        datasets={name: name for name in _DATASETS},
        teachers={name: name for name in _TEACHERS},
    ),
    "toy": Scale(
        name="toy",
        study=HERE / "studies" / "ding2024-toy.yaml",
        datasets={"mtat": "toy-studio", "openmic": "toy-field", "esc50": "toy-field"},
        teachers={"passt": "spectral", "mule": "mn04"},
        options={"toy-studio": {"n_clips": 150}, "toy-field": {"n_clips": 100}},
        weights={"mn04": "random"},
        comparable=False,
        caution=(
            "Toy scale: synthetic clips, narrow students, a few training steps, hand-made features "
            "in PaSST's place and a network of random weights in MULE's. These numbers show that "
            "every stage works. They are no results, and no difference to the paper's is formed."
        ),
    ),
}
