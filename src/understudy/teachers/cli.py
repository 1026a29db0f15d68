"""`understudy teachers`: what teachers there are, and what is known of each."""

import click

from understudy import teachers
from understudy.teachers.card import TeacherCard
from understudy.teachers.library import published

COLUMNS = ("name", "dim", "rate", "window/hop", "parameters", "weights", "licence", "trained on")


@click.group()
def group() -> None:
    """List teachers and show their cards."""


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
        "weights licence": card.licence_weights,
        "weights file": f"{card.weights_file}{size}" if card.weights_file else "none",
        "weights here": _weights(card),
        "weights sha256": card.weights_sha256 or "not known",
        "weights url": card.url or "none",
        "citation": card.citation,
    }
    if card.weights_file is None:
        del lines["weights sha256"], lines["weights url"]
    width = max(map(len, lines)) + 2
    for label, text in lines.items():
        wrapped = click.wrap_text(text, 100, label.ljust(width), " " * width)
        click.echo(wrapped if " " in text else label.ljust(width) + text)


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
