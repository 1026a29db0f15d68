"""`understudy predict`: labels for audio files."""

import json
import sys
from pathlib import Path

import click
import numpy as np

from understudy import audio, checkpoint, predict
from understudy.errors import AudioError

_PATH = click.Path(path_type=Path)


@click.command(name="predict")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path)
)
@click.option(
    "--top", type=click.IntRange(1), default=5, show_default=True, help="Labels per file."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list instead of a table.")
def command(run: Path, files: tuple[Path, ...], top: int, as_json: bool) -> None:
    """Label audio FILEs of any length with the best student of RUN.

    A file that cannot be decoded is reported and the others are still labelled; the exit code is
    then 2.
    """
    student, config = checkpoint.load_student(run)
    names = config["label_names"]
    results: list[dict] = []
    failed = 0
    for path in files:
        try:
            decoded = audio.decode(path)
            samples = audio.resample(decoded.samples, decoded.rate_hz, predict.RATE_HZ)
        except AudioError as error:
            failed += 1
            click.echo(f"error: {error}", err=True)
            results.append({"path": str(path), "error": error.reason})
            continue
        scores = predict.predict_clips(student, [samples], config["task"])[0]
        best = np.argsort(-scores, kind="stable")[:top]
        labels = {names[i]: round(float(scores[i]), 6) for i in best}
        results.append({"path": str(path), "labels": labels})
        if not as_json:
            click.echo(_table(path, labels))
    if as_json:
        click.echo(json.dumps(results, indent=2, ensure_ascii=False))
    if failed:
        sys.exit(2)


def _table(path: Path, labels: dict[str, float]) -> str:
    width = max(map(len, labels))
    lines = [
        f"  {name:<{width}}  {probability:.3f}  {'█' * round(20 * probability)}".rstrip()
        for name, probability in labels.items()
    ]
    return "\n".join([str(path), *lines])
