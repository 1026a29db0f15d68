"""One task of a study: the runs of a group, trained and scored. It may run in another process."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from understudy.evaluate import teacher_lr
from understudy.evaluate.predictions import Place
from understudy.evaluate.runs import Run
from understudy.evaluate.score import score_on
from understudy.evaluate.transfer import transfer_to
from understudy.index import ClipIndex
from understudy.study.grid import Cell
from understudy.study.plan import Group, has_ended, is_done, run_dir
from understudy.train import train_group
from understudy.train.feed import RunPlan


def run_group(
    group: Group,
    cache: Path,
    out: Path,
    *,
    progress: bool = True,
    stop: Callable[[], bool] = bool,
) -> dict[str, str]:
    """Trains and scores what is pending of a group; what has been trained is only scored.

    Returns:
        Names of the runs that failed, and why.

    Raises:
        UnderstudyError: What keeps the whole group from being trained.
    """
    place = Place(cache, group.dataset.root)
    index = place.index(group.dataset.name)
    failures = {}
    if group.untrained:
        trained = [cell for cell in group.cells if cell.settings is not None]
        failures = _train(index, trained, cache, out, group.fold, progress, stop)
    targets = {name: place.index(name) for name in group.dataset.transfer}
    for cell in group.pending:
        path = run_dir(out, cell)
        if stop() or cell.name in failures or is_done(path, cell, index):
            continue
        if cell.settings is None and not has_ended(path):
            teacher_lr.train(
                index, teacher=cell.teacher or "", cache=cache, run_dir=path, fold=cell.fold
            )
        device = "cpu" if cell.settings is None else _device(cell.settings.run.device)
        run = Run.read(path)
        score_on(run, index, place, device=device)
        for target in targets.values():
            # Read anew: the scores of earlier targets are kept beside the new ones.
            transfer_to(Run.read(path), target, place, device=device)
    return failures


def _train(
    index: ClipIndex,
    cells: Sequence[Cell],
    cache: Path,
    out: Path,
    fold: int | None,
    progress: bool,
    stop: Callable[[], bool],
) -> dict[str, str]:
    """All students of the group, those that are done too: which clips can be used is a matter of
    the whole group."""
    plans = [
        RunPlan(run_dir=run_dir(out, cell), settings=cell.settings, teachers=cell.teachers)
        for cell in cells
        if cell.settings is not None
    ]
    if not plans:
        return {}
    errors = train_group(index, plans, cache=cache, fold=fold, progress=progress, stop=stop)
    return {path.name: str(error) for path, error in errors.items()}


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
