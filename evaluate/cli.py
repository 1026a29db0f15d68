"""`understudy evaluate`: a thin layer over `understudy.evaluate`'s functions."""

import json
import math
from pathlib import Path

import click

from understudy.errors import ConfigError

_PATH = click.Path(path_type=Path)
_CACHE = click.option("--cache", type=_PATH, help="Cache that `understudy extract` made.")
_ROOT = click.option(
    "--root", type=_PATH, help="Folder of the dataset's files; needed only without an audio track."
)
_DEVICE = click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 ...")


@click.group(name="evaluate")
def group() -> None:
    """Score, transfer, compare and report.

    Each command writes RUN/evaluation/<name>.json; `report` reads those files alone.
    """


@group.command()
@click.argument("run", type=_PATH)
@click.option("--split", type=click.Choice(["test", "valid", "train"]), default="test",
              show_default=True)  # fmt: skip
@_CACHE
@_ROOT
@_DEVICE
def score(run: Path, split: str, cache: Path | None, root: Path | None, device: str) -> None:
    """Score RUN on the test split of the dataset it was trained on."""
    from understudy.evaluate.score import score as run_score

    path = run_score(run, split=split, cache=cache, root=root, device=device)  # type: ignore[arg-type]
    content = json.loads(path.read_text(encoding="utf-8"))
    click.echo(_summary(content, f"{content['split']} of {content['dataset']}"))
    click.echo(f"written: {path}")


@group.command(short_help="Score RUN on another DATASET, as it is.")
@click.argument("run", type=_PATH)
@click.argument("dataset")
@_CACHE
@_ROOT
@click.option("--map", "label_map", metavar="NAME|FILE",
              help="Main label map: nine, eight, same-names or a YAML file [default: the first "
              "that fits].")  # fmt: skip
@click.option("--aggregate", type=click.Choice(["max", "mean"]), default="max", show_default=True,
              help="How several source labels of one target label become one score.")  # fmt: skip
@click.option("--split", type=click.Choice(["test", "all"]),
              help="Clips to score [default: test where there is one, else all].")  # fmt: skip
@_DEVICE
def transfer(
    run: Path,
    dataset: str,
    cache: Path | None,
    root: Path | None,
    label_map: str | None,
    aggregate: str,
    split: str | None,
    device: str,
) -> None:
    """Score RUN on another DATASET through a label map, without further training."""
    from understudy.evaluate.transfer import transfer as run_transfer

    path = run_transfer(
        run,
        dataset,
        cache=cache,
        root=root,
        label_map=label_map,
        aggregate=aggregate,  # type: ignore[arg-type]
        split=split,  # type: ignore[arg-type]
        device=device,
    )
    target = json.loads(path.read_text(encoding="utf-8"))["targets"][dataset]
    for name, result in target["maps"].items():
        click.echo(_summary(result, f"{dataset}, map {name}"))
    click.echo(_classes(next(iter(target["maps"].values()))))
    click.echo(f"written: {path}")


@group.command("teacher-lr", short_help="Fit and score regression on a teacher's clip means.")
@click.argument("dataset")
@click.option("--teacher", required=True, help="Teacher whose embeddings are in the cache.")
@click.option("--cache", type=_PATH, required=True, help="Cache that `understudy extract` made.")
@click.option("--run-dir", type=_PATH, required=True, help="Folder of the run.")
@click.option("--fold", type=int, help="Fold to test on; default: the dataset's own split.")
@click.option("--store", help="Store to use where the cache has several of the teacher.")
@click.option("--silence-db", type=float, default=-70.0, show_default=True,
              help="Frames below this level (dBFS) are left out of clip means.")  # fmt: skip
def teacher_lr(
    dataset: str,
    teacher: str,
    cache: Path,
    run_dir: Path,
    fold: int | None,
    store: str | None,
    silence_db: float,
) -> None:
    """Fit and score logistic regression on the teacher's clip means."""
    from understudy.evaluate import teacher_lr as module
    from understudy.evaluate.predictions import Place
    from understudy.evaluate.runs import Run
    from understudy.evaluate.score import score_on

    place = Place(cache)
    index = place.index(dataset)
    module.train(
        index,
        teacher=teacher,
        cache=cache,
        run_dir=run_dir,
        fold=fold,
        store=store,
        silence_db=silence_db,
    )
    path = score_on(Run.read(run_dir), index, place)
    best = json.loads((run_dir / "best.json").read_text(encoding="utf-8"))
    click.echo(f"C {best['c']:g} by validation {best['metric']} {best['value']:.3f}")
    click.echo(_summary(json.loads(path.read_text(encoding="utf-8")), f"test of {dataset}"))
    click.echo(f"written: {path}")


@group.command(short_help="Count and time students and teachers.")
@click.argument("runs", nargs=-1, type=_PATH, metavar="[RUN...]")
@click.option("--teacher", "teachers", multiple=True, metavar="NAME[=WEIGHTS]",
              help="Teacher to measure beside the students; random weights unless a file is "
              "named.")  # fmt: skip
@click.option("--student", "students", multiple=True, metavar="NAME",
              help="Student to measure as published, without a run; wants --out.")  # fmt: skip
@click.option("--out", type=_PATH, metavar="FILE", help="JSON file, instead of the RUNs'.")
@click.option("--rounds", type=click.IntRange(1), default=20, show_default=True,
              help="Timed iterations of each model.")  # fmt: skip
@click.option("--budget", "budget_s", type=click.FloatRange(0), default=math.inf, metavar="SECONDS",
              help="Time for each device, after which there are at least three rounds, but no "
              "more.")  # fmt: skip
@click.option("--batch-clips", type=click.IntRange(1), default=4, show_default=True,
              help="Clips of 10 s in a batch, for clips/s.")  # fmt: skip
@click.option("--device", "devices", multiple=True, metavar="NAME",
              help="cpu, cuda, cuda:1 ...; may be repeated [default: the CPU and, if there is one, "
              "a GPU].")  # fmt: skip
def complexity(
    runs: tuple[Path, ...],
    teachers: tuple[str, ...],
    students: tuple[str, ...],
    out: Path | None,
    rounds: int,
    budget_s: float,
    batch_clips: int,
    devices: tuple[str, ...],
) -> None:
    """Count parameters and operations and time students and teachers, in turn.

    \b
    understudy evaluate complexity runs/dc_linear --teacher mn04
    understudy evaluate complexity --student sc-cnn --teacher passt --out complexity.json
    """
    from understudy.checkpoint import write_json
    from understudy.evaluate import complexity as module
    from understudy.evaluate import costs

    how = {
        "devices": devices or module.here(),
        "rounds": rounds,
        "batch_clips": batch_clips,
        "budget_s": budget_s,
    }
    if students or out:
        if runs or not out:
            raise ConfigError("wanted RUNs, or --student and --teacher with --out FILE")
        tables = module.compare([{"name": name} for name in students], teachers, **how)
        write_json(out, {"tables": tables})
        paths = [out]
    else:
        paths = module.complexity(runs, teachers, **how)
        tables = [t for path in paths for t in json.loads(path.read_text("utf-8"))["tables"]]
    for line in costs.lines(tables):
        click.echo(line)
    for path in paths:
        click.echo(f"written: {path}")


@group.command(short_help="Say what the compressions of RUNs keep.")
@click.argument("runs", nargs=-1, required=True, type=_PATH, metavar="RUN...")
@_CACHE
def compression(runs: tuple[Path, ...], cache: Path | None) -> None:
    """Say what the compressions of RUNs keep: spectrum, variance, scores before and after."""
    from understudy.evaluate.compression import compression as measure

    for run in runs:
        path = measure(run, cache=cache)
        for one in json.loads(path.read_text(encoding="utf-8"))["teachers"]:
            click.echo(
                f"{one['teacher']}: {one['dim_before']} to {one['dim_after']} channels keep "
                f"{one['variance_kept']:.1%} of the variance (PCA would keep "
                f"{one['variance_kept_by_pca']:.1%}); probe {one['probe']['before']:.4f} before, "
                f"{one['probe']['after']:.4f} after"
            )
        click.echo(f"written: {path}")


@group.command(short_help="Write one page about any number of runs.")
@click.argument("runs", nargs=-1, required=True, type=_PATH, metavar="RUN...")
@click.option("--out", type=_PATH, required=True, help="Folder for index.html and report.json.")
@click.option("--title", help="Heading of the page.")
def report(runs: tuple[Path, ...], out: Path, title: str | None) -> None:
    """Write one self-contained page, and the same numbers as JSON, about any number of runs."""
    from understudy.evaluate.report import report as write_report
    from understudy.evaluate.runs import is_bare

    bare = [run for run in runs if is_bare(run)]
    for run in bare:
        click.echo(f"{run}: left out: nothing was trained there", err=True)
    begun = [run for run in runs if run not in bare]
    click.echo(f"written: {write_report(begun, out, title)}")


def _summary(content: dict, where: str) -> str:
    value = "undefined" if content["value"] is None else f"{content['value']:.4f}"
    left_out = content.get("left_out_clips") or []
    lines = [f"{content['metric']} {value} on {where}, {content['n_clips']} clips"]
    if content["left_out"]:
        lines.append(f"  left out, no positive clip: {', '.join(content['left_out'])}")
    if left_out:
        lines.append(
            f"  left out, not usable: {len(left_out)} clips ({', '.join(left_out[:3])} ...)"
        )
    return "\n".join(lines)


def _classes(content: dict) -> str:
    width = max(map(len, content["per_class"]))
    lines = [f"  {'':<{width}}  value  chance  positive/negative  from"]
    for label, value in content["per_class"].items():
        shown, chance = (
            "    –" if number is None else f"{number:5.3f}"
            for number in (value, content["chance"][label])
        )
        counts = f"{content['n_positive'][label]}/{content['n_negative'][label]}"
        sources = ", ".join(content["sources"][label])
        lines.append(f"  {label:<{width}}  {shown}   {chance}  {counts:>17}  {sources}")
    return "\n".join(lines)
