"""`understudy export`: a trained student as a folder that runs elsewhere."""

from functools import partial
from pathlib import Path

import click

_PATH = click.Path(path_type=Path)
_FORMATS = click.Choice(["safetensors", "onnx", "torch-export"])


@click.command(name="export")
@click.argument("run", type=_PATH)
@click.argument("folder", type=_PATH)
@click.option("--to", "formats", type=_FORMATS, multiple=True, default=("safetensors",),
              show_default=True, help="Format beside the weights; may be repeated.")  # fmt: skip
@click.option("--int8", is_flag=True,
              help="8-bit ONNX models, too, with what they cost on the test split.")  # fmt: skip
@click.option("--cache", type=_PATH, help="Cache of the run's dataset, for --int8 [default: where "
              "training found it].")  # fmt: skip
@click.option("--root", type=_PATH, help="Folder of the dataset's files, for --int8.")
@click.option("--licence", default="other", show_default=True,
              help="Identifier of the student's licence, such as cc-by-4.0.")  # fmt: skip
@click.option("--push", metavar="OWNER/NAME", help="Upload the folder to Hugging Face's hub.")
@click.option("--private", is_flag=True, help="Make the hub's repository a private one.")
def command(
    run: Path,
    folder: Path,
    formats: tuple[str, ...],
    int8: bool,
    cache: Path | None,
    root: Path | None,
    licence: str,
    push: str | None,
    private: bool,
) -> None:
    """Write the best student of RUN to FOLDER, with its card.

    FOLDER has the layout of Hugging Face's hub: config.json, model.safetensors and README.md, and
    what --to names: model.onnx (waveforms to logits) and model-logmel.onnx (log-mel images to
    logits), or model.pt2 and model-logmel.pt2. Every network is compared with torch's before it
    gets its name. What an earlier export of the same weights left there in other formats stays.
    Load it with understudy.students.load(FOLDER), or predict with it.
    """
    from understudy.export import export
    from understudy.export.card import restricted
    from understudy.students import folder as layout

    path = export(
        run,
        folder,
        formats,
        with_int8=int8,
        cache=cache,
        root=root,
        licence=licence,
        say=partial(click.echo, err=True),
    )
    exported = layout.read(path)
    for name, file in exported.files.items():
        error = file.facts.get("error_over_rms")
        note = "" if error is None else f"  differs from torch by {error:.1e} of rms"
        click.echo(f"{name:<24}{file.bytes / 1e6:>9.2f} MB{note}")
    cost = exported.files.get("model-int8.onnx")
    if cost is not None:
        test = cost.facts["test"]
        click.echo(
            f"int8: test {test['metric']} {test['int8']:.4f}, float32 {test['float32']:.4f} "
            f"({test['n_clips']} clips)"
        )
    if named := restricted(exported):
        click.echo(f"note: {' and '.join(named)}: non-commercial licence, see the card", err=True)
    click.echo(f"written: {path}")
    if push is not None:
        from understudy.export.hub import push as upload

        click.echo(f"uploaded: {upload(path, push, private=private)}")
