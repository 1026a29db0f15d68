"""What a study has to do: groups of runs, what each costs, what is done already."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from understudy import cache as caches
from understudy import config, predict
from understudy.errors import UnderstudyError
from understudy.evaluate.predictions import Place
from understudy.evaluate.runs import Run
from understudy.index import ClipIndex
from understudy.study.grid import Cell, Dataset, Study


@dataclass(frozen=True, kw_only=True)
class Group:
    """Cells that one task trains: over one stream, or regressions of one dataset and fold."""

    dataset: Dataset
    fold: int | None
    cells: tuple[Cell, ...]
    steps: int
    """Steps of its longest run unless that stops early."""
    pending: tuple[Cell, ...]
    """Cells without a score."""
    untrained: tuple[Cell, ...]
    """Those of them whose training has not ended."""

    @property
    def name(self) -> str:
        """What it is, for people."""
        settings = self.cells[0].settings
        parts = [self.dataset.name, "" if self.fold is None else f"fold {self.fold}"]
        if settings is None:
            parts.append("teacher_lr")
        else:
            parts.append(f"seed {settings.optim.seed}, crops of {settings.crop_samples:,} samples")
        return ", ".join(filter(None, parts))

    @property
    def cost(self) -> int:
        """Steps left, over all of its students."""
        return self.steps * len(self.untrained)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study as it stands."""

    study: Study
    out: Path
    groups: tuple[Group, ...]
    problems: tuple[str, ...]
    """What keeps it from being run."""

    @property
    def run_dirs(self) -> dict[Path, Cell]:
        """Run directory of every cell."""
        return {run_dir(self.out, cell): cell for cell in self.study.cells}

    def describe(self) -> str:
        """The plan and its cost, as text."""
        cells = self.study.cells
        n_left = sum(len(group.pending) for group in self.groups)
        n_scored = n_left - sum(len(group.untrained) for group in self.groups)
        width = max(len(group.name) for group in self.groups)
        head = (
            f"study {self.study.name}: {len(cells)} runs in {len(self.groups)} groups, "
            f"{len(cells) - n_left} runs done, "
            f"{f'{n_scored} trained but not scored, ' if n_scored else ''}at most "
            f"{sum(group.cost for group in self.groups):,} steps left"
        )
        lines = [head, f"  {'group':<{width}}  runs  done  steps each"]
        for group in self.groups:
            n_done = len(group.cells) - len(group.pending)
            steps = f"{group.steps:,}" if group.steps else "–"
            lines.append(
                f"  {group.name:<{width}}  {len(group.cells):>4}  {n_done:>4}  {steps:>10}"
            )
        lines += [f"missing: {problem}" for problem in self.problems]
        return "\n".join(lines)


def run_dir(out: Path, cell: Cell) -> Path:
    """OUT/runs/<name of the cell>."""
    return out / "runs" / cell.name


def make_plan(study: Study, out: Path) -> Plan:
    """Looks at cache and run directories; nothing is built, read or written."""
    indices: dict[Dataset, ClipIndex | None] = {}
    problems: dict[str, None] = {}
    for dataset in dict.fromkeys(cell.dataset for cell in study.cells):
        try:
            indices[dataset] = Place(study.cache, dataset.root).index(dataset.name)
        except UnderstudyError as error:
            indices[dataset] = None
            problems[f"{dataset.name}: {error}"] = None
    groups = []
    for (dataset, fold, _), cells in _grouped(study.cells).items():
        index = indices[dataset]
        if index is not None:
            problems |= dict.fromkeys(_missing(study.cache, index, cells))
        pending = [cell for cell in cells if not is_done(run_dir(out, cell), cell, index)]
        groups.append(
            Group(
                dataset=dataset,
                fold=fold,
                cells=tuple(cells),
                steps=_steps(index, fold, cells),
                pending=tuple(pending),
                untrained=tuple(cell for cell in pending if not has_ended(run_dir(out, cell))),
            )
        )
    return Plan(study=study, out=out, groups=tuple(groups), problems=tuple(problems))


def has_ended(path: Path) -> bool:
    """Whether a run has been trained to its end."""
    try:
        return Run.read(path).ended
    except UnderstudyError:
        return False


def is_done(path: Path, cell: Cell, index: ClipIndex | None) -> bool:
    """Whether a run has all its scores, with intervals and the predictions behind them, and they
    are of the clips that the dataset holds now."""
    try:
        run = Run.read(path)
        score, transfer = (run.evaluations.get(name, {}) for name in ("score", "transfer"))
        targets = transfer.get("targets", {})
        wanted = None if index is None else index.digest
        return (
            run.ended
            and score.get("index_digest") == run.config["index_digest"]
            and wanted in (None, score.get("index_digest"))
            and _is_kept(path, score, score)
            and all(
                name in targets and _is_kept(path, targets[name], *targets[name]["maps"].values())
                for name in cell.dataset.transfer
            )
        )
    except UnderstudyError:
        return False


def _is_kept(path: Path, entry: Mapping[str, Any], *results: Mapping[str, Any]) -> bool:
    """Whether results have intervals, which earlier versions lack, and their predictions exist."""
    file = path / "evaluation" / Path(entry.get("predictions") or "").name
    return file.is_file() and all("interval" in result for result in results)


def _grouped(cells: Iterable[Cell]) -> dict[tuple[Dataset, int | None, str], list[Cell]]:
    result: dict[tuple[Dataset, int | None, str], list[Cell]] = {}
    for cell in cells:
        shared: Any = None if cell.settings is None else cell.settings.shared()
        result.setdefault((cell.dataset, cell.fold, config.digest(shared)), []).append(cell)
    return result


def _steps(index: ClipIndex | None, fold: int | None, cells: Sequence[Cell]) -> int:
    """Without the dataset: as many as the settings allow."""
    trained = [cell.settings for cell in cells if cell.settings is not None]
    n_clips = np.inf if index is None else len(index.split(fold).train)
    return max(
        (
            settings.optim.total_steps(
                settings.optim.max_steps
                if n_clips == np.inf
                else max(1, int(n_clips) // settings.optim.batch)
            )
            for settings in trained
        ),
        default=0,
    )


def _missing(cache: Path, index: ClipIndex, cells: Sequence[Cell]) -> Iterable[str]:
    for cell in cells:
        for teacher in cell.teachers:
            if not predict.has_track(cache, index.name, teacher):
                try:
                    caches.find(cache, index.name, teacher)
                except UnderstudyError as error:
                    yield str(error)
        if (
            cell.settings is not None
            and cell.dataset.root is None
            and not predict.has_track(cache, index.name, "audio")
        ):
            yield (
                f"{index.name}: wanted an audio track in {cache} (understudy extract --audio) or "
                "the recordings' folder as the dataset's root"
            )
