"""`understudy reproduce`."""

import os
from pathlib import Path

import click

from understudy import config
from understudy.errors import stoppable
from understudy.study.cli import cluster_options

_PATH = click.Path(path_type=Path)


@click.command(name="reproduce")
@click.argument("paper", metavar="PAPER")
@click.option("--table", "tables", multiple=True, metavar="1|2|3|fig3|all",
              help="What to fill; may be repeated [default: all].")  # fmt: skip
@click.option("--scale", type=click.Choice(["full", "toy"]), default="full", show_default=True,
              help="toy: the same on synthetic clips, nothing to download.")  # fmt: skip
@click.option("--out", type=_PATH, help="Folder of runs and report [default: reproduce/PAPER, "
              "at toy scale reproduce/PAPER-toy].")  # fmt: skip
@click.option("--data", type=_PATH, help="Folder with a folder for each dataset [default: data; at "
              "toy scale OUT/data].")  # fmt: skip
@click.option("--cache", type=_PATH, help="Cache of embeddings [default: cache; at toy scale "
              "OUT/cache].")  # fmt: skip
@click.option("--weights", multiple=True, metavar="NAME=FILE",
              help="Weights of a teacher, where they are not in UNDERSTUDY_HOME.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what is here and what is missing, and end.")
@cluster_options
def command(
    paper: str,
    tables: tuple[str, ...],
    scale: str,
    out: Path | None,
    data: Path | None,
    cache: Path | None,
    weights: tuple[str, ...],
    dry_run: bool,
    workers: int,
    scheduler: str | None,
) -> None:
    """Fill the tables of PAPER (ding2024) with what can be measured here, beside its own numbers.

    Says which recordings and weights are missing and how to get them, extracts what is not in the
    cache yet, trains what can be trained, and writes a report. What is done is kept: the same
    command goes on where it stopped, and fills more when more has come in.

    \b
    understudy reproduce ding2024 --table 2
    understudy reproduce ding2024 --table all --scale toy
    understudy reproduce ding2024 --dry-run
    """
    if scale == "toy":
        # Before torch computes. Students this narrow gain nothing from a second thread, and on a
        # machine that others use too it makes them slower; so it does large teachers.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    with stoppable("stopped; the same command goes on from what is done"):
        from understudy.reproduce.run import reproduce

        page = reproduce(
            paper,
            out or Path("reproduce") / (paper if scale == "full" else f"{paper}-{scale}"),
            chosen=tables,
            scale=scale,
            data=data,
            cache=cache,
            weights=config.assigned(weights, "--weights wants NAME=FILE"),
            dry_run=dry_run,
            workers=workers,
            scheduler=scheduler,
            say=click.echo,
        )
    if page is not None:
        click.echo(f"written: {page}")
