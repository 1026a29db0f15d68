"""`understudy extract`: a thin layer over `understudy.extract.extract`."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from understudy import config
from understudy.errors import ConfigError, stoppable

if TYPE_CHECKING:
    from understudy.extract.jobfile import TeacherEntry

EPILOG = """
\b
Examples:
  understudy extract esc50 --root ESC-50 --teacher mn04 --audio --cache cache
  understudy extract folder --root recordings --teacher spectral --cache cache --dry-run
  understudy extract folder --root recordings --option csv=labels.csv --teacher mn04 \\
      --weights mn04=mn04_as_mAP_432.pt --set mn04.window_s=clip --cache cache
  understudy extract job.yaml --workers 4

\b
A job file runs several teachers over several datasets:
  cache: cache
  audio: true
  teachers:
    - spectral
    - {name: mn04, weights: mn04_as_mAP_432.pt, settings: {window_s: 2, hop_s: 1}}
  datasets:
    - {name: esc50, root: ESC-50}
    - {name: folder, root: recordings, options: {csv: labels.csv}}
and, if you like, dtype, clips_per_shard, device, workers, scheduler, max_failures, time_limit_s,
retry_failed, drop_removed.

Stopped by Ctrl-C, by a kill or by a crash, the same command continues: shards that were committed
are kept, and so are the stores of other teachers. Clips that cannot be used are listed, with the
reason, in CACHE/<dataset>/ledger.csv; they do not stop the run. Adding clips to the dataset, or a
teacher, and running again computes what is new. What was extracted of a file that is missing now
stays; what was extracted of clips that the dataset does not have any more goes.

A teacher that hangs on a clip, or a clip that kills the worker, is found and left out. A crash
inside this very process (--workers 1) ends it: the same command finds the clip and goes on.
"""


@click.command(epilog=EPILOG)
@click.argument("dataset", metavar="DATASET|JOB.yaml")
@click.option("--root", type=click.Path(path_type=Path), help="Folder of the dataset's recordings.")
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
    type=click.Path(path_type=Path),
    help="Folder of caches, or its URL (s3://, gs://); stores land in CACHE/<dataset>/.",
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
    metavar="N",
    help="Local worker processes; 1, the default, works inside this process, without a GPU on all "
    "cores. With GPUs, each process gets one, in turn.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Run on this dask cluster instead; its workers must see the same paths.",
)
@click.option(
    "--max-failures",
    metavar="N|P%",
    help="End the run when more clips of a dataset fail. Default: never.",
)
@click.option(
    "--time-limit",
    "time_limit_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Longest time a worker may show no sign of life. Default: 600.",
)
@click.option(
    "--retry-failed",
    is_flag=True,
    default=None,
    help="Compute the shards again that hold clips in the ledger. Files that changed need no word.",
)
@click.option(
    "--drop-removed",
    is_flag=True,
    default=None,
    help="Go on where more than a fifth of the clips in the cache is not in the dataset any more, "
    "and drop what was extracted of them.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Say what would be done and, from 20 s of work on a sample, how long it takes; "
    "shards like those of the run are written to the cache's disk, and removed.",
)
def command(
    dataset: str,
    root: Path | None,
    teachers: tuple[str, ...],
    weights: tuple[str, ...],
    settings: tuple[str, ...],
    audio: bool,
    options: tuple[str, ...],
    dry_run: bool,
    **given: Any,
) -> None:
    """Run teachers once over DATASET, or all that JOB.yaml names, into a cache.

    Every recording is decoded once for all teachers and for --audio. The cache is a folder of
    standard Zarr v3 stores; `understudy cache show` describes one.
    """
    changes = {key: value for key, value in given.items() if value is not None}
    with stoppable("stopped; the same command continues from the committed shards"):
        from understudy import audio as codecs
        from understudy import datasets
        from understudy.extract import forecast, jobfile, run

        if Path(dataset).suffix in (".yaml", ".yml"):
            named = {"--root": root, "--teacher": teachers, "--weights": weights}
            named |= {"--set": settings, "--audio": audio, "--option": options}
            for option, value in named.items():
                if value:
                    raise ConfigError(f"{option} and a job file: {dataset} is to say that itself")
            job = jobfile.read_job(Path(dataset), changes)
        else:
            if root is None or "cache" not in changes:
                missing = "--root" if root is None else "--cache"
                raise click.UsageError(f"Missing option '{missing}'.")
            job = jobfile.ExtractJob(
                datasets=(
                    jobfile.DatasetEntry(name=dataset, root=root, options=_options(options)),
                ),
                teachers=_teachers(
                    teachers,
                    config.assigned(weights, "--weights wants NAME=PATH"),
                    _settings(settings, teachers),
                ),
                audio=audio,
                **changes,
            )
        with codecs.set_aside() as noise:
            plans = jobfile.plan_job(job)
            for planned in plans:
                if not planned.index.n_labels:
                    name = planned.index.name
                    click.echo(f"warning: {name} has no labels. {datasets.NO_LABELS}", err=True)
            if dry_run:
                for planned in plans:
                    for line in forecast.lines(planned):
                        click.echo(line)
                return
            reports = run.run_all(plans, job.runtime, say=click.echo)
    if noise:
        click.echo(
            f"warning: the decoder complained {len(noise)} times ({noise}): parts of damaged "
            "recordings may be missing or garbled; `understudy data verify` names them",
            err=True,
        )
    for planned, report in zip(plans, reports, strict=True):
        if len(plans) > 1:
            click.secho(planned.index.name, bold=True)
        for line in report.lines():
            click.echo(line)
    if len(plans) == 1 and (name := plans[0].index.name) != dataset:
        click.echo(f"the commands that read this cache call the dataset {name}")


def _teachers(
    names: Iterable[str], weights: Mapping[str, str], settings: Mapping[str, dict[str, object]]
) -> "tuple[TeacherEntry | str, ...]":
    from understudy.extract.jobfile import TeacherEntry

    for what, mapping in (("weights", weights), ("settings", settings)):
        for name in mapping:
            if name not in names:
                raise ConfigError(f"{what} for a teacher that was not asked for: {name}")
    return tuple(
        TeacherEntry(name=name, weights=weights.get(name), settings=settings.get(name, {}))
        for name in names
    )


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
