"""`understudy study`."""

import json
from collections.abc import Callable
from pathlib import Path

import click

from understudy.errors import stoppable

EPILOG = """
\b
FILE is a grid, datasets x folds x seeds x students x teachers x systems:
  cache: cache
  datasets: [{name: esc10, folds: [1, 2]}]
  students: [{name: sc-cnn, width: 16}]
  teachers: [mn04]
  systems: [teacher_lr, baseline, dc_linear]
  seeds: [1, 2]
  settings:
    optim: {lr: 3e-3, max_epochs: 40}

Besides, if you like: grid, from settings such as distill.distance_weight to lists of their values;
parts, a list of such grids, laid over the top level one by one; of a dataset its root, and
transfer, a list of datasets to score its runs on, too. Settings are those of `understudy train
--show-settings`; a dataset without folds has its own split. More such files lie in studies/.
"""
_PATH = click.Path(path_type=Path)


def cluster_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of a command that trains groups of students: `workers` and `scheduler`."""
    for option in (
        click.option("--scheduler", metavar="ADDRESS", help="Dask cluster to train on."),
        click.option("--workers", type=click.IntRange(1), default=1, show_default=True,
                     help="Local processes; each trains one group of students."),
    ):  # fmt: skip
        command = option(command)
    return command


@click.command(name="study", epilog=EPILOG)
@click.argument("file", type=_PATH)
@click.option("--out", type=_PATH, help="Folder of runs, table and report [default: runs/NAME].")
@click.option("--cache", type=_PATH, help="Cache that `understudy extract` made; instead of the "
              "file's.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show the plan and its cost, and end.")
@cluster_options
def command(
    file: Path,
    out: Path | None,
    cache: Path | None,
    dry_run: bool,
    workers: int,
    scheduler: str | None,
) -> None:
    """Train and score every run of the grid in FILE, and compare them.

    Students that share dataset, fold, seed and crops are trained over one stream. The same command
    goes on where it stopped; what is done is kept.
    """
    from understudy.study.grid import read_study
    from understudy.study.plan import make_plan
    from understudy.study.run import study
    from understudy.study.summary import table

    folder = out or Path("runs") / file.stem
    if dry_run:
        click.echo(make_plan(read_study(file, cache), folder).describe())
        return
    with stoppable("stopped; the same command goes on from the last checkpoints"):
        path = study(
            file, folder, cache=cache, scheduler=scheduler, workers=workers, say=click.echo
        )
    click.echo(table(json.loads(path.read_text(encoding="utf-8"))))
    click.echo(f"written: {path}, {path.with_suffix('.csv')}, {folder / 'report' / 'index.html'}")
