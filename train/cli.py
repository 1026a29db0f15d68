"""`understudy train`."""

import textwrap
from pathlib import Path

import click
import yaml

from understudy import cache as caches
from understudy import config, datasets, students
from understudy.errors import ConfigError, stoppable
from understudy.index import ClipIndex
from understudy.train import runlog
from understudy.train.config import STUDENT, SYSTEM, TrainSettings, read_recipe, resolve
from understudy.train.settings import SYSTEMS

_PATH = click.Path(path_type=Path)


@click.command(name="train")
@click.argument("dataset", required=False, metavar="DATASET")
@click.option("--run-dir", type=_PATH,
              help="Folder of the run; the same command goes on where it stopped.")  # fmt: skip
@click.option("--cache", type=_PATH, help="Cache that `understudy extract` made.")
@click.option("--root", type=_PATH,
              help="Folder of the dataset's files; needed without an audio track.")  # fmt: skip
@click.option("--student", help=f"{', '.join(students.names())} [default: {STUDENT}].")
@click.option("--system", help=f"{', '.join(SYSTEMS)} [default: {SYSTEM}].")
@click.option("--teacher", "teachers", multiple=True,
              help="Teacher whose embeddings are in the cache; may be repeated.")  # fmt: skip
@click.option("--fold", type=int, help="Fold to test on; default: the dataset's own split.")
@click.option("--store", multiple=True, help="Store to use where the cache has several of a track.")
@click.option("--recipe", type=_PATH, help="YAML file of settings.")
@click.option("--set", "assignments", multiple=True, metavar="A.B=C",
              help="A setting, such as optim.max_epochs=20 or student.width=64; --show-settings "
              "lists all.")  # fmt: skip
@click.option("--show-settings", is_flag=True,
              help="Show all settings and what they mean, as a recipe file, and end.")  # fmt: skip
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE",
              help="Option of the dataset, with --root.")  # fmt: skip
def command(
    dataset: str | None,
    run_dir: Path | None,
    cache: Path | None,
    root: Path | None,
    student: str | None,
    system: str | None,
    teachers: tuple[str, ...],
    fold: int | None,
    store: tuple[str, ...],
    recipe: Path | None,
    assignments: tuple[str, ...],
    show_settings: bool,
    options: tuple[str, ...],
) -> None:
    """Train a student on DATASET, with or without a teacher.

    The defaults are the published recipe. RUN_DIR gets config.json, log.jsonl, best.safetensors
    and last.safetensors; run the same command again to go on after an interruption.
    """
    settings = config.overrides(assignments)
    given = None if recipe is None else read_recipe(recipe)
    try:
        shown = resolve(settings, student=student, system=system, recipe=given)
    except ConfigError as error:
        resolve(settings, student=student, system=system)  # raises where it is not the recipe
        raise ConfigError(f"{recipe}: {error}") from None
    if show_settings:
        click.echo(_explained(shown))
        return
    if dataset is None or run_dir is None:
        missing = "argument 'DATASET'" if dataset is None else "option '--run-dir'"
        raise click.UsageError(f"Missing {missing}.")
    from understudy.train import train

    with stoppable("stopped; the same command goes on from the last checkpoint"):
        train(
            _index(dataset, root, cache, config.overrides(options)),
            student=student,
            system=system,
            teacher=teachers,
            cache=cache,
            store=store,
            run_dir=run_dir,
            fold=fold,
            settings=settings,
            recipe=given,
        )
    click.echo(summary(run_dir))


def _explained(settings: TrainSettings) -> str:
    """All settings as a recipe file, each below what it means."""
    own = config.documented(students.kind(str(settings.student["name"])).settings_class)
    texts = config.documented(TrainSettings) | {f"student.{k}": text for k, text in own.items()}
    lines, section = [], ""
    for line in yaml.safe_dump(settings.shown(), sort_keys=False).splitlines():
        indent, key = line[: -len(line.lstrip())], line.strip().partition(":")[0]
        section = section if indent else f"{key}."
        text = {"": texts.get(key), "  ": texts.get(section + key)}.get(indent) or ""
        lines += [f"{indent}# {part}" for part in textwrap.wrap(text, 96)] + [line]
    return "\n".join(lines)


def _index(dataset: str, root: Path | None, cache: Path | None, options: dict) -> ClipIndex:
    """The cache's own index if there is one, else the dataset as it lies under `root`."""
    if cache is not None and not options:
        held = caches.load_index(cache, dataset, root)
        if held is not None:
            return held
    if root is None:
        if options:
            raise ConfigError("--option wants --root: a cached index has no options")
        found = "there is no --cache" if cache is None else caches.no_index(cache, dataset)
        raise ConfigError(f"{found}; wanted a cache of {dataset} or its files with --root")
    return datasets.load(dataset, root, **options)


def summary(run_dir: Path) -> str:
    """What a finished run came to, in a few lines."""
    end = runlog.read(run_dir / "log.jsonl")[-1]
    best, timing = end["best"], end["timing"]
    left_out = f", {end['n_left_out']} clips left out" if end["n_left_out"] else ""
    return (
        f"best validation {best['metric']} {best['value']:.3f} at epoch {best['epoch']} "
        f"(step {best['step']}) of {end['epoch']}{left_out}\n"
        f"ended by {end['reason']}; {timing['steps_per_s']:.1f} steps/s, "
        f"{timing['waiting_for_data']:.0%} of the time waiting for data\n"
        f"run: {run_dir}"
    )
