"""THE path of a study: file -> plan -> tasks -> table and report.

Resuming and extending are one case: what has no score is trained, from where it stopped.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from understudy import checkpoint
from understudy.cache import place
from understudy.errors import ConfigError, UnderstudyError
from understudy.evaluate.report import Published, report
from understudy.study import summary
from understudy.study.grid import read_study
from understudy.study.plan import Group, Plan, make_plan
from understudy.study.task import run_group


def study(
    file: str | Path,
    out: str | Path,
    *,
    cache: str | Path | None = None,
    scheduler: str | None = None,
    workers: int = 1,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Runs a study, or goes on where an earlier call stopped; what is done is kept.

    Args:
        file: See `grid.read_study`.
        out: Folder for the runs, summary.json, summary.csv and the report.
        cache: Instead of the file's.
        scheduler: Address of a dask scheduler whose workers see the same paths; a GPU's worker
            wants one thread, so that it has one task at a time.
        workers: Local processes; 1 is this very process.
        progress: Show on stderr how it goes; see `train`.
        say: Is told the plan, and after every group how far it is.

    Returns:
        Path of summary.json.

    Raises:
        UnderstudyError: A file or cache that cannot be used. Runs that fail (diverge) are named
            after all others have ended and the table is written.
    """
    out = Path(out)
    plan = make_plan(read_study(Path(file), None if cache is None else Path(cache)), out)
    say(plan.describe())
    if plan.problems:
        raise ConfigError("the study cannot be run yet:\n  " + "\n  ".join(plan.problems))
    failures = run(plan, scheduler=scheduler, workers=workers, progress=progress, say=say)
    path = finish(plan, failures)
    if failures:
        lines = [f"{name}: {reason}" for name, reason in failures.items()]
        raise UnderstudyError(f"{len(failures)} runs failed:\n  " + "\n  ".join(lines))
    return path


def run(
    plan: Plan,
    *,
    scheduler: str | None = None,
    workers: int = 1,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, str]:
    """Computes what is pending; returns the names of runs that failed, and why."""
    groups = [group for group in plan.groups if group.pending]
    if scheduler is None and workers == 1:
        results = _here(plan, groups, progress)
    else:
        results = _cluster(plan, groups, scheduler, workers)
    failures: dict[str, str] = {}
    began, done, total = time.monotonic(), 0, sum(group.cost for group in groups)
    for number, (group, failed) in enumerate(results, 1):
        failures |= failed
        done += group.cost
        elapsed_s = time.monotonic() - began
        left_s = elapsed_s * (total - done) / max(1, done)
        left = f", about {_minutes(left_s)} left" if 0 < done < total else ""
        say(f"{number} of {len(groups)} groups in {_minutes(elapsed_s)}{left}: {group.name}")
    return failures


def finish(
    plan: Plan,
    failures: dict[str, str],
    title: str | None = None,
    published: Published | None = None,
) -> Path:
    """Writes summary.json, summary.csv and the report of all runs that did not fail.

    Args:
        plan: Whose runs.
        failures: Names of runs that failed, and why.
        title, published: As of `report`.
    """
    runs = {path: cell for path, cell in plan.run_dirs.items() if cell.name not in failures}
    content: dict[str, Any] = summary.summarise(plan.study.name, runs, failures)
    path = plan.out / "summary.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_json(path, content)
    checkpoint.write_bytes(plan.out / "summary.csv", summary.csv_table(content).encode())
    if runs or published:
        title = title or f"Study {plan.study.name}"
        report(list(runs), plan.out / "report", title, published)
    return path


def _here(
    plan: Plan, groups: Sequence[Group], progress: bool
) -> Iterator[tuple[Group, dict[str, str]]]:
    for group in groups:
        yield group, run_group(group, plan.study.cache, plan.out, progress=progress)


def _cluster(
    plan: Plan, groups: Sequence[Group], scheduler: str | None, workers: int
) -> Iterator[tuple[Group, dict[str, str]]]:
    """One dask task a group; on an error or Ctrl-C the others are asked to stop."""
    from understudy.extract.cluster import connect
    from understudy.extract.pool import Pool

    cache, out = place(plan.study.cache).absolute(), plan.out.absolute()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with (
        connect(scheduler, workers, 1, device=device) as client,
        Pool(client, f"understudy-study-{time.time_ns()}") as pool,
    ):
        for group in groups:
            pool.submit(group, _task, group, cache, out, pool.name)
        for group, result in pool.results():
            if isinstance(result, Exception):
                raise result
            yield group, result


def _task(group: Group, cache: Path, out: Path, topic: str) -> dict[str, str]:
    from understudy.extract.pool import stop_requested

    return run_group(group, cache, out, progress=False, stop=stop_requested(topic))


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
