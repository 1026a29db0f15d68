"""`understudy teachers`: what teachers there are, what is known of each, and their weights."""

import sys
from collections.abc import Iterable
from pathlib import Path

import click

from understudy import teachers
from understudy.errors import WeightsError
from understudy.teachers import library
from understudy.teachers.card import TeacherCard
from understudy.teachers.library import published

ACCEPT = click.option(
    "--accept-licence",
    is_flag=True,
    help="Agree to licences that forbid commercial use; asked for once.",
)
COLUMNS = ("name", "dim", "rate", "window/hop", "parameters", "weights", "licence", "trained on")


@click.group()
def group() -> None:
    """List teachers, show their cards, get and check their weights.

    Weights are kept in UNDERSTUDY_HOME/weights (by default ~/.cache/understudy). UNDERSTUDY_MIRROR
    names a folder to fetch them from, over http, before their authors' own address is tried.
    """


@group.command("list")
def list_() -> None:
    """Print all teachers, one a line."""
    rows = [COLUMNS, *(_row(teachers.card(name)) for name in teachers.names())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


@group.command()
@click.argument("name")
def show(name: str) -> None:
    """Print the card of teacher NAME."""
    card = teachers.card(name)
    agreement = "" if library.consented(card) else "; not agreed to yet (fetch --accept-licence)"
    size = "" if card.weights_bytes is None else f" ({card.weights_bytes:,} bytes)"
    lines = {
        "name": card.name,
        "title": card.title,
        "version": card.version,
        "sample rate": f"{card.sample_rate} Hz, mono",
        "embedding": f"{card.dim} values, stored as {card.storage_dtype}",
        "window/hop": _timing(card),
        "shortest": f"{card.min_samples / card.sample_rate:.3f} s ({card.min_samples} samples)",
        "longest pass": f"{card.whole_s:g} s",
        "parameters": f"{card.parameters:,}",
        "operations": f"{card.macs_per_s / 1e6:,.2f} M multiply-accumulates per second of audio, "
        "front end not counted",
        "resampler": card.resampler,
        "front end": card.front_end,
        "policy": card.policy,
        "trained on": _training_data(card),
        "code licence": card.licence_code,
        "weights licence": card.licence_weights + agreement,
        "weights file": f"{card.weights_file}{size}" if card.weights_file else "none",
        "weights here": _weights(card),
        "weights sha256": library.digest(card) or "not published; recorded at the first use",
        "weights url": card.url or "none",
        "citation": card.citation,
    }
    if card.weights_file is None:
        del lines["weights sha256"], lines["weights url"]
    width = max(map(len, lines)) + 2
    for label, text in lines.items():
        wrapped = click.wrap_text(text, 100, label.ljust(width), " " * width)
        click.echo(wrapped if " " in text else label.ljust(width) + text)


@group.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--mirror", metavar="URL", help="Folder to fetch from first.")
@ACCEPT
def fetch(names: tuple[str, ...], mirror: str | None, accept_licence: bool) -> None:
    """Download the published weights of teachers.

    A broken download continues where it stopped, files are verified, and one that is here already
    is not fetched again.
    """
    for card in _with_weights(names):
        if accept_licence:
            library.consent(card)
        path = library.obtain(card, mirror)
        click.echo(f"{card.name}: {path} ({path.stat().st_size:,} bytes, {card.licence_weights})")


@group.command(short_help="Test a weights file of a teacher.")
@click.argument("name")
@click.option(
    "--weights", metavar="PATH", help="A file; by default the published one, fetched if need be."
)
@click.option("--device", default="cpu", show_default=True, help="Where to compute.")
def check(name: str, weights: str | None, device: str) -> None:
    """Test whether a file holds the weights of teacher NAME: exit code 1 if it does not.

    It must load into the network strictly, and its embedding of a known signal must have the
    values recorded for the published file, where they are.
    """
    from understudy.teachers import sanity

    try:
        verdict = sanity.check(name, weights, device)
    except WeightsError as error:
        click.echo(f"{name}: {error}")
        sys.exit(1)
    click.echo(f"{name}: loads; sha256 {verdict.sha256}")
    for key, value in verdict.values.items():
        click.echo(f"  {key:<10}{value:.7g}")
    for problem in verdict.problems:
        click.echo(f"{name}: {problem}")
    if verdict.problems:
        sys.exit(1)
    click.echo(
        f"{name}: no sanity values are recorded; the values above were compared with nothing"
        if verdict.recorded is None
        else f"{name}: as recorded"
    )


@group.command(short_help="Put published weights into one file, to carry elsewhere.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The bundle to write.")
def pack(names: tuple[str, ...], out: Path) -> None:
    """Put the published weights of teachers into one file, for machines without a network."""
    from understudy.teachers import bundle

    for entry in bundle.pack(_with_weights(names), out):
        click.echo(f"{entry.teacher}: {entry.file} ({entry.bytes:,} bytes, {entry.licence})")
    click.echo(f"wrote {out}; there: understudy teachers unpack {out.name}")


@group.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@ACCEPT
def unpack(bundle: Path, accept_licence: bool) -> None:
    """Put the weights of BUNDLE where teachers look for them."""
    from understudy.teachers import bundle as bundles

    for entry in bundles.unpack(bundle, accept_licence):
        path = library.folder() / entry.file
        click.echo(f"{entry.teacher}: {path} ({entry.bytes:,} bytes, {entry.licence})")


def _with_weights(names: Iterable[str]) -> list[TeacherCard]:
    cards = [teachers.card(name) for name in names]
    for card in cards:
        if card.weights_file is None:
            raise WeightsError(f"teacher {card.name} has no published weights")
    return cards


def _row(card: TeacherCard) -> tuple[str, ...]:
    return (
        card.name,
        str(card.dim),
        f"{card.sample_rate / 1000:g} kHz",
        _timing(card),
        f"{card.parameters:,}",
        _weights(card),
        card.licence_weights.partition(" (")[0],
        _training_data(card),
    )


def _timing(card: TeacherCard) -> str:
    whole_clip = card.window_s == "clip"
    return "whole clip" if whole_clip else f"{card.window_s:g}/{card.hop_s:g} s"


def _weights(card: TeacherCard) -> str:
    path = published(card)
    return "not needed" if path is None else "present" if path.is_file() else "to be fetched"


def _training_data(card: TeacherCard) -> str:
    return ", ".join(card.training_data) or "nothing"
