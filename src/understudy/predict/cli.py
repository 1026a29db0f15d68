"""`understudy predict`: labels for audio files."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

_PATH = click.Path(path_type=Path)


@click.command(name="predict")
@click.argument("model", type=_PATH)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True,
              help="Labels per file or window.")  # fmt: skip
@click.option("--threshold", type=click.FloatRange(0, 1), default=0.0, show_default=True,
              help="Show labels of at least this probability.")  # fmt: skip
@click.option("--timeline", is_flag=True, help="Labels of every window, not of the whole file.")
@click.option("--hop", "hop_s", type=float, metavar="SECONDS",
              help="Distance of windows [default: the fewest that cover a file].")  # fmt: skip
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table",
              show_default=True)  # fmt: skip
@click.option("--engine", type=click.Choice(["torch", "onnx", "int8"]), default="torch",
              show_default=True, help="What computes; ONNX wants an exported MODEL.")  # fmt: skip
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 ...")
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True,
              help="Windows in one forward pass.")  # fmt: skip
def command(
    model: Path,
    inputs: tuple[str, ...],
    top: int,
    threshold: float,
    timeline: bool,
    hop_s: float | None,
    form: str,
    engine: str,
    device: str,
    batch: int,
) -> None:
    """Label audio with MODEL: a run, or a folder that `understudy export` made.

    INPUT is a file of any length, a folder (every audio file below it), or - for a list of paths on
    standard input, one a line. A file that cannot be decoded is reported and the others are still
    labelled; the exit code is then 2. The speed is told on standard error.
    """
    from tqdm import tqdm

    from understudy.predict import output
    from understudy.predict.tagger import Tagger

    tagger = Tagger.load(model, engine, device)  # type: ignore[arg-type]
    shown = output.KINDS[form](click.echo, tagger.label_names, top, threshold, timeline)
    n_files, n_failed, audio_s, begun = 0, 0, 0.0, time.perf_counter()
    shown.begin()
    results = tagger.tag_files(_files(inputs), hop_s, batch)
    for result in tqdm(results, unit="file", disable=None, leave=False):
        n_files += 1
        audio_s += result.duration_s
        if result.error is not None:
            n_failed += 1
            click.echo(f"error: {result.path}: {result.error}", err=True)
        shown.show(result)
    shown.end()
    click.echo(_summary(n_files, n_failed, audio_s, time.perf_counter() - begun), err=True)
    if n_failed:
        sys.exit(2)


def _summary(n_files: int, n_failed: int, audio_s: float, spent_s: float) -> str:
    """What was labelled and, if anything was, how fast."""
    files = f"{n_files} file" if n_files == 1 else f"{n_files} files"
    if n_failed:
        files = f"{n_files - n_failed} of {files}"
    if n_failed == n_files:
        return f"{files} labelled"
    speed = f"{audio_s / spent_s:.0f}"
    hours = "audio-hour" if speed == "1" else "audio-hours"
    audio = f"{audio_s:.1f} s" if audio_s < 3600 else f"{audio_s / 3600:.3g} h"
    return f"{files}, {audio} of audio in {spent_s:.2f} s: {speed} {hours} per hour"


def _files(inputs: tuple[str, ...]) -> Iterator[str]:
    """Paths of the files that INPUTs name, in order; those of a folder sorted."""
    from understudy.audio import SUFFIXES
    from understudy.errors import DataError

    for text in inputs:
        if text == "-":
            yield from (line.rstrip("\r\n") for line in sys.stdin if line.strip())
        elif Path(text).is_dir():
            found = sorted(p for p in Path(text).rglob("*") if p.suffix.lower() in SUFFIXES)
            if not found:
                raise DataError(f"{text}: no audio file below it (wanted {', '.join(SUFFIXES)})")
            yield from map(str, found)
        else:
            yield text
