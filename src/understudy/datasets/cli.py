"""`understudy data`: list, fetch, verify, show and make datasets."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click
import numpy as np

from understudy import datasets
from understudy.audio import AudioInfo
from understudy.config import overrides
from understudy.datasets.files import headers
from understudy.datasets.obtain import forecast, obtain
from understudy.datasets.release import DAMAGED, Release
from understudy.datasets.verify import KINDS, verify
from understudy.errors import AudioError, ConfigError, unknown
from understudy.index import SPLITS, ClipIndex

_SHOWN = 20
_FEW_TEST_CLIPS = 30


@click.group("data", context_settings={"help_option_names": ["-h", "--help"]})
def group() -> None:
    """List, fetch, check, inspect and make datasets."""


@group.command("list")
def list_command() -> None:
    """Names of the datasets, with a line about each."""
    names = datasets.names()
    width = max(map(len, names))
    for name in names:
        click.echo(f"{name:<{width}}  {datasets.title(name)}".rstrip())


_ROOT = click.option(
    "--root", type=click.Path(path_type=Path), required=True, help="Folder of the data."
)
_CSV = click.option("--csv", help="For 'folder': the file that lists and labels the clips.")
_OPTIONS = click.option(
    "--option",
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of the dataset, as `understudy extract` takes it.",
)


@group.command("fetch", short_help="Bring a published dataset to a folder.")
@click.argument("name")
@_ROOT
@click.option("--from", "local", type=click.Path(path_type=Path, exists=True, file_okay=False),
              multiple=True, help="Folder with published files, looked in first.")  # fmt: skip
@click.option("--mirror", "mirrors", multiple=True, metavar="URL", envvar="UNDERSTUDY_MIRROR",
              help="Folder to fetch published files from first.")  # fmt: skip
@click.option("--keep", is_flag=True, help="Keep the archives that were fetched.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def fetch_command(
    name: str,
    root: Path,
    local: tuple[Path, ...],
    mirrors: tuple[str, ...],
    keep: bool,
    dry_run: bool,
) -> None:
    """Bring dataset NAME to a folder; run again, it goes on where it stopped."""
    release = _release(name)
    ahead = forecast(release, root, local)
    click.echo(f"licence   {release.licence}\ncite      {release.citation}")
    for title, names in (("local", ahead.local), ("fetch", ahead.fetched)):
        for each in names:
            click.echo(f"{title:<9} {each}")
    click.echo(
        f"forecast  about {ahead.download_bytes / 1e9:.1f} GB to download, "
        f"{ahead.disk_bytes / 1e9:.1f} GB on disk; {ahead.free_bytes / 1e9:.1f} GB free"
    )
    if not dry_run:
        obtain(release, root, local=local, mirrors=mirrors, keep=keep)
        click.echo(f"complete  {root}; next: understudy data verify {name} --root {root}")


@group.command("verify", short_help="Find missing, corrupt and short files.")
@click.argument("name")
@_ROOT
@_CSV
@_OPTIONS
@click.option("--quick", is_flag=True, help="Read headers only.")
def verify_command(
    name: str, root: Path, csv: str | None, assignments: tuple[str, ...], quick: bool
) -> None:
    """Missing, corrupt and short files of dataset NAME; exit code 1 for any not known to be so.

    Files of which the decoder complains while it decodes them in full are listed as damaged, and
    do not count.
    """
    index = datasets.load(name, root, **_options(csv, assignments))
    release = datasets.release(name)
    shortest_s, known_bad = (release.shortest_s, release.known_bad) if release else (0.0, {})
    problems = verify(index, shortest_s, known_bad, quick=quick)
    for kind in KINDS:
        for each in problems:
            if each.kind == kind:
                mark = " (known, as released)" if each.known else ""
                click.echo(f"{kind:<8} {each.clip_id}  {each.path}: {each.reason}{mark}")
    damaged = sum(each.kind == DAMAGED for each in problems)
    problems = [each for each in problems if each.kind != DAMAGED]
    n_known = sum(each.known for each in problems)
    wanted = release.n_clips[name] if release else len(index)
    count = f"{len(index)} clips" + (f", wanted {wanted}" if wanted != len(index) else "")
    click.echo(
        f"{count}: {len(problems) - n_known} not as they should be, "
        f"{n_known} known to be bad as released" + f", {damaged} damaged" * (damaged > 0)
    )
    sys.exit(int(len(problems) > n_known or wanted != len(index)))


@group.command("show", short_help="Splits, folds, labels, hours, rates, unreadable files.")
@click.argument("name")
@click.option("--root", type=click.Path(path_type=Path), help="Folder of the data. Without it, "
              "what is known of a published dataset.")  # fmt: skip
@_CSV
@_OPTIONS
def show_command(
    name: str, root: Path | None, csv: str | None, assignments: tuple[str, ...]
) -> None:
    """Splits, folds, labels, hours, sample rates and unreadable files of dataset NAME.

    Without --root: licence, citation, size and homepage of a published one.
    """
    if root is None:
        if datasets.release(name) is None or csv or assignments:
            raise click.UsageError("Missing option '--root'.")
        for line in _facts(name, _release(name)):
            click.echo(line)
        return
    index = datasets.load(name, root, **_options(csv, assignments))
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


def _options(csv: str | None, assignments: tuple[str, ...]) -> dict[str, Any]:
    return overrides(assignments) | ({"csv": csv} if csv else {})


def _release(name: str) -> Release:
    release = datasets.release(name)
    if release is None:
        known = [each for each in datasets.names() if datasets.release(each)]
        raise ConfigError(f"dataset '{name}' is not published; those are {', '.join(known)}")
    return release


def _facts(name: str, release: Release) -> list[str]:
    size = sum(file.about_bytes for source in release.sources for file in source.files)
    return [
        f"dataset   {name}: {datasets.title(name)}",
        f"homepage  {release.homepage}",
        f"licence   {release.licence}",
        f"cite      {release.citation}",
        f"download  about {size / 1e9:.1f} GB: understudy data fetch {name} --root FOLDER",
    ]


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
        f"cite      {index.citation or 'not stated'}",
        f"digest    {index.digest}, of the split {index.split_digest}",
    ]
    splits = Counter(clips["split"])
    has_split = set(splits) != {""}
    if has_split:
        parts = [f"{part} {splits[part]}" for part in SPLITS]
        lines.append("splits    " + ", ".join(parts + [f"none {splits['']}"] * ("" in splits)))
    folds = Counter(clips["fold"].tolist())
    if set(folds) != {0}:
        lines.append("folds     " + ", ".join(f"{k or 'none'}: {folds[k]}" for k in sorted(folds)))
    pairs = {(g, s) for g, s in zip(clips["group"], clips["split"], strict=True) if g and s}
    torn = sum(count > 1 for count in Counter(group for group, _ in pairs).values())
    if torn:
        lines.append(f"warning   {torn} groups lie in more than one split")
    if has_split and splits["test"] < _FEW_TEST_CLIPS:
        lines.append(
            f"warning   {splits['test']} clips to test on, fewer than {_FEW_TEST_CLIPS}: "
            "scores will be uncertain"
        )
    if not index.n_labels:
        lines.append(f"warning   no labels. {datasets.NO_LABELS}")
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
    return lines + (_by_split(index) if has_split else [])


def _by_split(index: ClipIndex) -> list[str]:
    """Table of clips and, where they are few enough to show, of each label's positive clips."""
    rows = {"clips": np.ones(len(index), bool)}
    if index.n_labels <= _SHOWN:
        for i, name in enumerate(index.label_names):
            of_label = index.labels == i if index.task == "single-label" else index.labels[:, i] > 0
            rows[f"  {name}"] = of_label
    split = index.clips["split"].to_numpy()
    width = max(map(len, rows))
    lines = [f"{'by split':<{width}}" + "".join(f"{part:>8}" for part in SPLITS)]
    for name, chosen in rows.items():
        counts = (int((chosen & (split == part)).sum()) for part in SPLITS)
        lines.append(f"{name:<{width}}" + "".join(f"{count:>8}" for count in counts))
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
