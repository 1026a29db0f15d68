"""A run directory as evaluation sees it: config.json, log.jsonl and evaluation/*.json."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from understudy import __version__, checkpoint
from understudy.cache.locking import LOCK_FILE
from understudy.errors import UnderstudyError

T = TypeVar("T")
EVALUATIONS = ("score", "transfer", "complexity", "compression")


@dataclass(frozen=True)
class Run:
    """One trained system, read from its files alone.

    Attributes:
        path: The run directory.
        config: config.json, as training or teacher-lr resolved it.
        label: What to call it where the directory's name is not enough.
    """

    path: Path
    config: dict[str, Any]
    label: str = ""

    @classmethod
    def read(cls, path: str | Path) -> "Run":
        """Reads a run directory's config.json; UnderstudyError where there is none."""
        return cls(Path(path), checkpoint.read_config(path))

    @cached_property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """Name ("score") to the content of evaluation/<name>.json, for those that are there.

        Raises:
            UnderstudyError: An unreadable file, or one that belongs to another run.
        """
        found = {}
        for name in EVALUATIONS:
            file = evaluation_path(self.path, name)
            if not file.exists():
                continue
            found[name] = _json(file)
            if found[name].get("run_digest") != self.digest:
                raise UnderstudyError(
                    f"{file}: belongs to another run than {self.path / 'config.json'}; "
                    f"run `understudy evaluate {name} {self.path}` again"
                )
        return found

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """Lines of log.jsonl, empty where nothing was trained step by step."""
        path = self.path / "log.jsonl"
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
            return [json.loads(line) for line in text.splitlines()]
        except (OSError, ValueError) as error:
            raise UnderstudyError(f"{path}: not a log of JSON lines ({error})") from None

    @property
    def name(self) -> str:
        """Its label, else the name of its directory."""
        return self.label or self.path.resolve().name

    @property
    def digest(self) -> str:
        """Identity of the run."""
        return self.config["digest"]

    @property
    def system(self) -> str:
        """The system, e.g. "dc_linear" or, with changes to the preset, "dc [alignment=mean]"."""
        return self.config["system"]

    @property
    def preset(self) -> str:
        """The preset the system was made from, e.g. "dc"."""
        return self.system.partition(" [")[0]

    @property
    def dataset(self) -> str:
        """Name of the dataset it was trained on."""
        return self.config["dataset"]

    @property
    def teacher(self) -> str | None:
        """Name of the teacher, None for a system without one."""
        return self.config.get("teacher")

    @property
    def student(self) -> str | None:
        """Name of the student, None for teacher_lr."""
        return self.config.get("student")

    @property
    def fold(self) -> int | None:
        """Test fold, None where the dataset has one fixed split."""
        return self.config.get("fold")

    @property
    def seed(self) -> int | None:
        """Seed of the training, None where nothing is random."""
        return self.config.get("seed")

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the columns of its predictions."""
        return tuple(self.config["label_names"])

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """The log's lines of one kind: "step", "epoch" or "end"."""
        return [line for line in self.log if line.get("kind") == kind]

    @property
    def ended(self) -> bool:
        """Whether training came to its end; what is not trained step by step writes best.json
        last."""
        return (
            (self.path / "best.json").exists() if self.student is None else bool(self.lines("end"))
        )

    def require_ended(self) -> None:
        """Raises UnderstudyError, naming what to do, where training has not come to its end."""
        if not self.ended:
            raise UnderstudyError(
                f"{self.path / 'log.jsonl'}: training has not ended; run the same "
                "`understudy train` command again, it goes on where it stopped"
            )

    def score(self) -> dict[str, Any]:
        """evaluation/score.json; UnderstudyError naming the command where it is absent."""
        if "score" not in self.evaluations:
            raise UnderstudyError(
                f"{evaluation_path(self.path, 'score')}: no such file: "
                f"run `understudy evaluate score {self.path}` first"
            )
        return self.evaluations["score"]

    def write(self, name: str, content: dict[str, Any]) -> Path:
        """Writes evaluation/<name>.json, atomically, with what it belongs to."""
        path = evaluation_path(self.path, name)
        path.parent.mkdir(exist_ok=True)
        head = {"name": name, "understudy": __version__, "run_digest": self.digest}
        checkpoint.write_json(path, head | content)
        return path


def read_all(paths: Iterable[str | Path]) -> list[Run]:
    """Reads runs; those of equal directory names are called by parent and name.

    Raises:
        UnderstudyError: All the directories that are none.
    """
    runs = every(Run.read, paths)
    count = Counter(run.name for run in runs)
    return [
        replace(run, label="/".join(run.path.resolve().parts[-2:])) if count[run.name] > 1 else run
        for run in runs
    ]


def every(read: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
    """`read` of each item; one UnderstudyError with the messages of all that fail."""
    results: list[T] = []
    failures: list[UnderstudyError] = []
    for item in items:
        try:
            results.append(read(item))
        except UnderstudyError as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise UnderstudyError("\n  ".join(map(str, failures)))
    return results


def is_bare(path: Path) -> bool:
    """Whether a directory holds nothing, or nothing but the lock of a run that never began."""
    try:
        return {each.name for each in path.iterdir()} <= {LOCK_FILE}
    except OSError:
        return False


def grouped(runs: Iterable[Run], key: Callable[[Run], Any]) -> dict[Any, list[Run]]:
    """Runs by `key`, in the order given."""
    result: dict[Any, list[Run]] = {}
    for run in runs:
        result.setdefault(key(run), []).append(run)
    return result


def evaluation_path(run_dir: Path, name: str) -> Path:
    """RUN/evaluation/<name>.json."""
    return run_dir / "evaluation" / f"{name}.json"


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnderstudyError(f"{path}: not readable ({error})") from None
    if not isinstance(content, dict):
        raise UnderstudyError(f"{path}: wanted a JSON object, found {type(content).__name__}")
    return content
