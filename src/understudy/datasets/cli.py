"""`understudy data`: list, show and make datasets."""

from collections import Counter
from pathlib import Path

import click
import numpy as np

from understudy import datasets
from understudy.audio import AudioInfo
from understudy.config import overrides
from understudy.datasets.files import headers
from understudy.errors import AudioError, ConfigError, unknown
from understudy.index import SPLITS, ClipIndex

_SHOWN = 20


@click.group("data", context_settings={"help_option_names": ["-h", "--help"]})
def group() -> None:
    """List, make and inspect datasets."""


@group.command("list")
def list_command() -> None:
    """Names of the datasets, with a line about each."""
    names = datasets.names()
    width = max(map(len, names))
    for name in names:
        click.echo(f"{name:<{width}}  {datasets.title(name)}".rstrip())


@group.command("show")
@click.argument("name")
@click.option("--root", type=click.Path(path_type=Path), required=True, help="Folder of the data.")
@click.option("--csv", help="For 'folder': the file that lists and labels the clips.")
@click.option("--option", "--set", "assignments", multiple=True, metavar="KEY=VALUE",
              help="Option of the dataset, as `understudy extract` takes it.")  # fmt: skip
def show_command(name: str, root: Path, csv: str | None, assignments: tuple[str, ...]) -> None:
    """Splits, folds, labels, hours, sample rates and unreadable files of dataset NAME."""
    options = overrides(assignments) | ({"csv": csv} if csv else {})
    index = datasets.load(name, root, **options)
    found = headers(index.root, list(index.clips["path"]))
    for line in (*_summary(index), *_files(index, found)):
        click.echo(line)


@group.command("make")
@click.argument("name")
@click.option("--root", type=click.Path(path_type=Path), required=True, help="Folder to make.")
@click.option("--clips", "n_clips", type=click.IntRange(min=1), help="Number of clips.")
@click.option("--seed", type=int, help="Another seed, other sounds.")
def make_command(name: str, root: Path, n_clips: int | None, seed: int | None) -> None:
    """Make the toy dataset NAME (toy-studio or toy-field)."""
    toys = [each for each in datasets.names() if each.startswith("toy-")]
    if name not in toys:
        raise ConfigError(unknown("dataset to make", name, toys))
    given = {"n_clips": n_clips, "seed": seed}
    index = datasets.load(name, root, **{k: v for k, v in given.items() if v is not None})
    for line in _summary(index):
        click.echo(line)


def _summary(index: ClipIndex) -> list[str]:
    clips = index.clips
    duration_s = clips["duration_s"].to_numpy()
    lines = [
        f"dataset   {index.name} ({index.task}, {index.n_labels} labels)",
        f"root      {index.root}",
        f"clips     {len(index)}, {np.nansum(duration_s) / 3600:.2f} hours"
        + (
            f", {np.nanmin(duration_s):.2f} to {np.nanmax(duration_s):.2f} s"
            if np.isfinite(duration_s).any()
            else ""
        ),
        f"licence   {index.licence or 'not stated'}",
        f"digest    {index.digest}",
    ]
    splits = Counter(clips["split"])
    if set(splits) != {""}:
        parts = [f"{part} {splits[part]}" for part in SPLITS]
        lines.append("splits    " + ", ".join(parts + [f"none {splits['']}"] * ("" in splits)))
    folds = Counter(clips["fold"].tolist())
    if set(folds) != {0}:
        lines.append("folds     " + ", ".join(f"{k or 'none'}: {folds[k]}" for k in sorted(folds)))
    pairs = {(g, s) for g, s in zip(clips["group"], clips["split"], strict=True) if g and s}
    torn = sum(count > 1 for count in Counter(group for group, _ in pairs).values())
    if torn:
        lines.append(f"warning   {torn} groups lie in more than one split")
    if index.task == "single-label":
        counts = np.bincount(index.labels, minlength=index.n_labels)
        cells = [f"{count}" for count in counts]
    else:
        cells = [
            f"{(column == 1).sum()} present, {(column == -1).sum()} absent, "
            f"{(column == 0).sum()} unknown"
            for column in index.labels.T
        ]
    width = max(map(len, index.label_names), default=0)
    lines += ["labels"] * bool(cells)
    lines += [f"  {n:<{width}}  {cell}" for n, cell in zip(index.label_names, cells, strict=True)]
    return lines


def _files(index: ClipIndex, found: list[AudioInfo | AudioError]) -> list[str]:
    good = [each for each in found if isinstance(each, AudioInfo)]
    bad = [each for each in found if isinstance(each, AudioError)]
    kinds = Counter((each.container, each.rate_hz, each.channels) for each in good)
    lines = ["files"]
    for (container, rate_hz, channels), count in kinds.most_common(_SHOWN):
        lines.append(f"  {count} {container}, {rate_hz} Hz, {channels} channel(s)")
    if len(kinds) > _SHOWN:
        lines.append(f"  and {len(kinds) - _SHOWN} more kinds")
    lines.append(f"unreadable {len(bad)} of {len(index)}")
    lines += [f"  {each}" for each in bad[:_SHOWN]]
    if len(bad) > _SHOWN:
        lines.append(f"  and {len(bad) - _SHOWN} more")
    return lines
