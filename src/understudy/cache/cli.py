"""`understudy cache show|verify PATH`: PATH is a store, or a folder that holds some."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from understudy import schema
from understudy.cache.checks import pending, verify
from understudy.cache.reader import CacheReader
from understudy.cache.store import METADATA
from understudy.errors import CacheError

PATH = click.argument("path", type=click.Path(path_type=Path))


@click.group()
def group() -> None:
    """Show and verify cached stores."""


@group.command()
@PATH
def show(path: Path) -> None:
    """Print what a store holds: attributes with units, clips by status, size, completeness."""
    for number, store in enumerate(_stores(path)):
        click.echo("\n" * bool(number) + summary(store))


@group.command("verify")
@PATH
def verify_command(path: Path) -> None:
    """Check every byte of a store; exit code 1 if anything is wrong."""
    damaged = False
    for store in _stores(path):
        problems = verify(store)
        damaged |= bool(problems)
        for problem in problems:
            click.echo(str(problem))
        click.echo(f"{store}: {_verdict(store, len(problems))}")
    sys.exit(int(damaged))


def _verdict(path: Path, n_problems: int) -> str:
    if n_problems:
        return f"{n_problems} problem{'s' * (n_problems > 1)}; extracting again mends shards"
    store = CacheReader(path).store
    left = pending(store)
    if left or not store.attributes["complete"]:
        return f"sound so far; {len(left)} of {store.n_shards} shards not written yet"
    return f"sound ({store.n_shards} shards, {store.sizes['n_clips']} clips)"


def summary(path: Path) -> str:
    """The text of `show` for one store."""
    reader = CacheReader(path)
    contract, store = schema.load(), reader.store
    left = pending(store)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    codes, counts = np.unique(reader.status, return_counts=True)
    statuses = [
        f"{contract.status_name(code)} {n}"
        for code, n in zip(codes.tolist(), counts.tolist(), strict=True)
    ]
    facts = [
        ("clips", f"{reader.n_clips}", ""),
        ("status", ", ".join(statuses), ""),
        ("longest clip", f"{reader.max_frames}", store.kind.arrays["n_frames"].unit),
        ("shards", f"{store.n_shards} of {store.sizes['clips_per_shard']} clips", ""),
        ("size", f"{size / 1e6:.1f}", "MB"),
        ("complete", f"no, {len(left)} shards to go" if left else _yes(store.attributes), ""),
    ]
    named = [
        (name, _text(value), contract.attributes[name].unit)
        for name, value in reader.attributes.items()
        if name != "complete"
    ]
    return "\n".join([str(path), *_table(facts), "attributes", *_table(named)])


def _yes(attributes: dict[str, object]) -> str:
    return "yes" if attributes["complete"] else "no, to be finalised"


def _text(value: object) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key}={_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def _table(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    width = max(len(name) for name, _, _ in rows)
    return [f"  {name:<{width}}  {value} {unit}".rstrip() for name, value, unit in rows]


def _stores(path: Path) -> list[Path]:
    if (path / METADATA).is_file():
        return [path]
    found = sorted(
        file.parent
        for pattern in ("*.zarr", "*/*.zarr")
        for file in path.glob(f"{pattern}/{METADATA}")
    )
    if not found:
        raise CacheError(f"{path}: neither a store nor a folder with stores in it")
    return found
