"""`understudy extract`: a thin layer over `understudy.extract.extract`."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from understudy import config
from understudy.errors import ConfigError

if TYPE_CHECKING:
    from understudy.extract.prepare import Extraction

EPILOG = """
\b
Examples:
  understudy extract esc50 --root ESC-50 --teacher mn04 --audio --cache cache
  understudy extract folder --root recordings --teacher spectral --cache cache --dry-run
  understudy extract folder --root recordings --option csv=labels.csv --teacher mn04 \\
      --weights mn04=mn04_as_mAP_432.pt --set mn04.window_s=clip --cache cache

Stopped by Ctrl-C, by a kill or by a crash, the same command continues: shards that were committed
are kept, and so are the stores of other teachers. Clips that cannot be used are listed, with the
reason, in CACHE/<dataset>/ledger.csv; they never stop the run. Adding clips to the dataset, or a
teacher, and running again computes what is new.
"""


@click.command(epilog=EPILOG)
@click.argument("dataset")
@click.option(
    "--root",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of the dataset's recordings.",
)
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    metavar="NAME",
    help="Teacher to run; may be repeated. `understudy teachers list` shows them; besides, "
    "onnx:FILE and hear:MODULE.",
)
@click.option(
    "--weights",
    multiple=True,
    metavar="NAME=PATH",
    help="Weights file of a teacher, or 'random'. Default: the published file, downloaded once.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME.KEY=VALUE",
    help="Setting of a teacher, e.g. mn04.window_s=2, mn04.hop_s=1 or mn04.window_s=clip.",
)
@click.option("--audio", is_flag=True, help="Also store the recordings: 16 kHz mono int16.")
@click.option(
    "--cache",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of caches; stores land in CACHE/<dataset>/.",
)
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of the dataset, e.g. csv=labels.csv for `folder`.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32"]),
    help="How embeddings are stored. Default: what the teacher's card says (float16).",
)
@click.option(
    "--clips-per-shard",
    type=click.IntRange(min=1),
    metavar="S",
    help="Clips of one file, for all stores of the dataset. Default: up to 128 MB, 64 shards.",
)
@click.option(
    "--device", help="Where teachers compute: cpu, cuda, cuda:1. Default: cuda where there is one."
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Local worker processes; 1 works inside this process.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Run on this dask cluster instead; its workers must see the same paths.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done and stop.")
def command(
    dataset: str,
    root: Path,
    teachers: tuple[str, ...],
    weights: tuple[str, ...],
    settings: tuple[str, ...],
    audio: bool,
    cache: Path,
    options: tuple[str, ...],
    dtype: str | None,
    clips_per_shard: int | None,
    device: str | None,
    workers: int,
    scheduler: str | None,
    dry_run: bool,
) -> None:
    """Run teachers once over DATASET, into a cache.

    Every recording is decoded once for all teachers and for --audio. The cache is a folder of
    standard Zarr v3 stores; `understudy cache show` describes one.
    """
    try:
        from understudy import datasets
        from understudy.extract import prepare, run

        built = prepare.build(teachers, _paths(weights), _settings(settings, teachers), device)
        planned = prepare.prepare(
            datasets.load(dataset, root, **_options(options)),
            built,
            cache,
            audio=audio,
            clips_per_shard=clips_per_shard,
            dtype=dtype,
            workers=workers,
        )
        if dry_run:
            for line in _forecast(planned):
                click.echo(line)
            return
        report = run.run(planned, scheduler=scheduler, workers=workers, say=click.echo)
    except KeyboardInterrupt:
        click.echo("stopped; the same command continues from the committed shards", err=True)
        sys.exit(130)
    for line in report.lines():
        click.echo(line)
    if (name := planned.index.name) != dataset:
        click.echo(f"the commands that read this cache call the dataset {name}")


def _paths(assignments: Iterable[str]) -> dict[str, str]:
    result = {}
    for text in assignments:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise ConfigError(f"--weights wants NAME=PATH, found '{text}'")
        result[name] = path
    return result


def _options(assignments: Iterable[str]) -> dict[str, object]:
    for text in assignments:
        if "=" not in text:
            raise ConfigError(f"--option wants KEY=VALUE, found '{text}'")
    return config.overrides(assignments)


def _settings(assignments: Iterable[str], teachers: Iterable[str]) -> dict[str, dict[str, object]]:
    """Settings by teacher; the names of some hold dots ("hear:package.module")."""
    by_teacher: dict[str, list[str]] = {}
    for text in assignments:
        names = [name for name in teachers if text.startswith(f"{name}.")]
        name = max(names, key=len) if names else text.partition("=")[0].partition(".")[0]
        if not text[len(name) :].startswith("."):
            raise ConfigError(f"--set wants TEACHER.KEY=VALUE, found '{text}'")
        by_teacher.setdefault(name, []).append(text[len(name) + 1 :])
    return {name: config.overrides(texts) for name, texts in by_teacher.items()}


def _forecast(planned: "Extraction") -> Iterable[str]:
    from understudy.extract.pending import pending
    from understudy.extract.prepare import forecast
    from understudy.extract.progress import size

    found = forecast(planned, pending(planned))
    yield (
        f"{found.n_clips} clips, {found.hours:.2f} h of audio, "
        f"{found.n_shards} shards of {found.clips_per_shard} clips"
    )
    width = max(map(len, planned.stores))
    for name, path in planned.stores.items():
        yield (
            f"{name:<{width}}  {size(found.bytes[name]):>9}  "
            f"{found.pending[name]} of {found.n_shards} shards to do  {path}"
        )
    yield f"{size(found.needed_bytes)} to write, {size(found.free_bytes)} free"
    if found.needed_bytes > found.free_bytes:
        yield "the disk lacks the space: a real run would refuse"
