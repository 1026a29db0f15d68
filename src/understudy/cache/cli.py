"""`understudy cache`: what stores there are, whether they are sound, copies and upkeep."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from understudy import schema
from understudy.cache import upkeep
from understudy.cache.checks import Problem, pending, verify
from understudy.cache.locking import lock
from understudy.cache.places import Place, place
from understudy.cache.reader import CacheReader
from understudy.cache.store import METADATA, Store
from understudy.errors import CacheError


class PlaceType(click.ParamType):
    """A folder or a URL."""

    name = "place"

    def convert(self, value: str | Place, param: object, ctx: object) -> Place:
        """See click."""
        return place(value)


PATH = click.argument("path", type=PlaceType())
YES = click.option("--yes", is_flag=True, help="Ask nothing.")
COLUMNS = ("dataset", "track", "store", "ok", "failed", "missing", "size", "complete")
NUMBERS = ("ok", "failed", "missing", "size")


@click.group()
def group() -> None:
    """List, show, verify, copy, export and tidy cached stores.

    PATH is a store, or a folder that holds some: a dataset's or a whole cache. It may be a URL:
    s3://BUCKET/..., gs://BUCKET/..., file:///... Object stores
    take pip install 'understudy[remote]' and credentials from the environment.
    """


@group.command("list", short_help="Print all stores of a cache, one a line.")
@click.argument("cache", type=PlaceType())
def list_(cache: Place) -> None:
    """Print all stores of CACHE, one a line: clips by outcome, size, completeness."""
    rows = [COLUMNS, *(_row(store) for store in _stores(cache, damaged=True))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        cells = [
            cell.rjust(width) if name in NUMBERS else cell.ljust(width)
            for name, cell, width in zip(COLUMNS, row, widths, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def _row(path: Place) -> tuple[str, ...]:
    stem, _, digits = path.stem.rpartition("-")
    size = _size(upkeep.folder_bytes(path))
    try:
        reader = CacheReader(path)
        status, contract = reader.status, schema.load()
    except CacheError as error:
        return path.parent.name, stem, digits, "?", "?", "?", size, f"unreadable: {error}"
    ok, missing = ((status == contract.code(name)).sum() for name in ("ok", "missing"))
    left = len(pending(reader.store))
    return (
        *(path.parent.name, reader.name, digits),
        *(str(count) for count in (ok, len(status) - ok - missing, missing)),
        size,
        f"no, {_shards(left)} to go" if left else _yes(reader.attributes),
    )


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e5 else f"{n_bytes / 1e3:.1f} kB"


def _shards(count: int) -> str:
    return f"{count} shard{'s' * (count != 1)}"


@group.command(short_help="Print what a store holds.")
@PATH
def show(path: Place) -> None:
    """Print what a store holds: attributes with units, clips by status, size, completeness."""
    unreadable = False
    for number, store in enumerate(_stores(path, damaged=True)):
        try:
            text = summary(store)
        except CacheError as error:
            unreadable, text = True, f"{store}\n  unreadable: {error}"
        click.echo("\n" * bool(number) + text)
    sys.exit(int(unreadable))


@group.command("verify", short_help="Check every byte of a store, and repair it.")
@PATH
@click.option(
    "--repair",
    is_flag=True,
    help="Mark damaged shards as not written yet, and print the command that writes them.",
)
def verify_command(path: Place, repair: bool) -> None:
    """Check every byte of a store; exit code 1 if anything is wrong.

    --repair sets the damaged shards' commit records aside, so that the extraction it prints writes
    those shards alone; it deletes nothing.
    """
    found: list[Problem] = []
    for store in _stores(path, damaged=True):
        with ExitStack() as stack:
            if repair:
                stack.enter_context(lock(store.parent))
            problems = _verified(store)
            found += problems
            for problem in problems:
                click.echo(str(problem))
            marked = upkeep.repair(store, problems) if repair else []
        click.echo(f"{store}: {_verdict(store, problems)}")
        if marked:
            numbers = ", ".join(map(str, marked))
            one = len(marked) == 1
            click.echo(
                f"marked as not written yet: {'shard' if one else 'shards'} {numbers}. "
                f"To write {'it' if one else 'them'} again:"
            )
            click.echo(f"  {upkeep.extract_command(store)}")
            click.echo("with the recordings' folder and the options of the first extraction (for")
            name = store.parent.absolute().name
            click.echo(f"a folder of your own: `extract folder --option name={name}`, and so on).")
    if not repair and any(problem.shard is not None for problem in found):
        click.echo(f"To mark damaged shards: understudy cache verify --repair {path}")
    if any(problem.what == "orphan" for problem in found):
        click.echo(f"What is an orphan goes with: understudy cache prune {path}")
    if any(problem.what == "metadata" for problem in found):
        click.echo(
            f"Where metadata is damaged, remove the store's own {METADATA} and extract again as "
            "before: metadata is written anew, sound shards are kept."
        )
    sys.exit(int(bool(found)))


def _verified(store: Place) -> list[Problem]:
    with tqdm(desc=store.name, unit="shard", disable=None, leave=False) as bar:
        try:
            return verify(store, bar.reset, bar.update)
        except CacheError as error:
            detail = str(error).removeprefix(f"{store}: ")
            return [Problem("metadata", store / METADATA, detail)]


@group.command(short_help="Write a store as one .npy file per clip.")
@PATH
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the files.")
@YES
def export(path: Place, out: Path, yes: bool) -> None:
    """Write a store as one .npy per clip, named by clip id, with an index.csv.

    PATH is a store, or a folder with a single one. Files that are there already are replaced only
    when you agree.
    """
    from understudy.cache import export as exporting

    found = _stores(path)
    if len(found) > 1:
        listed = "".join(f"\n  {store}" for store in found)
        raise CacheError(f"{path} holds {len(found)} stores; export one of them:{listed}")
    targets = [*exporting.destinations(found[0], out)[1], out / exporting.INDEX_NAME]
    there = sum(target.exists() for target in targets)
    if there and not yes:
        click.confirm(f"{out} holds {there} of these files already. Replace them?", abort=True)
    with tqdm(total=len(targets) - 1, unit="clip", disable=None) as bar:
        written = exporting.export(found[0], out, bar.update)
    failed = len(targets) - 1 - written
    click.echo(f"{written} clips in {out}, {failed} without data; see {exporting.INDEX_NAME}")


@group.command(short_help="Remove leftovers and superseded stores.")
@PATH
@YES
def prune(path: Place, yes: bool) -> None:
    """Remove half-written files, shards beyond the end and superseded stores, after asking.

    A store is superseded by a newer, complete one of the same track that differs in nothing you
    chose (weights, window, hop, precision, dtype, settings). The only store of a track stays.
    """
    nothing = True
    for folder in sorted({store.parent for store in _stores(path)}):
        with lock(folder):
            found = upkeep.leftovers(folder)
            if (path / METADATA).is_file():
                found = [i for i in found if path in (i.path, *i.path.parents)]
            for item in found:
                click.echo(f"{_size(item.bytes):>12}  {item.path}: {item.why}")
            loose = [item for item in found if not item.is_store]
            for batch in [loose, *([item] for item in found if item.is_store)]:
                if not batch:
                    continue
                nothing = False
                size = _size(sum(item.bytes for item in batch))
                what = f"store {batch[0].path.name}" if batch != loose else f"{len(loose)} files"
                if yes or click.confirm(f"Remove {what} ({size}) of {folder}?"):
                    upkeep.remove(batch)
                    click.echo(f"removed {what}, {size}")
                else:
                    click.echo(f"kept {what}")
    if nothing:
        click.echo("nothing to remove")


@group.command(short_help="Copy stores into another cache, checked on the way.")
@click.argument("source", type=PlaceType())
@click.argument("dest", type=PlaceType())
def mirror(source: Place, dest: Place) -> None:
    """Copy stores into the cache DEST, shard by shard, each checked against its commit record.

    SOURCE is a store, a dataset's folder or a whole cache. Either may be a URL (s3://, gs://,
    file://): down, to train from a local disk; up, to share what was extracted. The copies lie in
    DEST/<dataset>/, ready for --cache DEST. An interrupted copy continues with the same command.
    """
    from understudy.cache import mirror as mirroring

    damaged = False
    for store in _stores(source):
        try:
            Store.open(store)
        except CacheError as error:
            damaged = True
            click.echo(f"not copied: {store}: {str(error).removeprefix(f'{store}: ')}")
            continue
        with tqdm(desc=store.name, unit="shard", disable=None) as bar:

            def started(n_shards: int, bar: tqdm = bar) -> None:
                bar.reset(n_shards)

            folder = dest / store.parent.absolute().name
            problems = mirroring.mirror(store, folder, started, bar.update)
        damaged |= bool(problems)
        for problem in problems:
            click.echo(f"not copied: {problem}")
        click.echo(f"{folder / store.name}: {_copied(folder / store.name)}")
    sys.exit(int(damaged))


def _copied(path: Place) -> str:
    store = CacheReader(path).store
    left = len(pending(store))
    if left:
        return f"{store.n_shards - left} of {store.n_shards} shards copied, the others are missing"
    return f"copied ({_shards(store.n_shards)})"


def _verdict(path: Place, problems: Sequence[Problem]) -> str:
    if problems:
        shards = len({problem.shard for problem in problems} - {None})
        among = f" in {_shards(shards)}" if shards else ""
        return f"{len(problems)} problem{'s' * (len(problems) > 1)}{among}"
    store = CacheReader(path).store
    left = pending(store)
    if left or not store.attributes["complete"]:
        return f"sound so far; {len(left)} of {store.n_shards} shards not written yet"
    return f"sound ({_shards(store.n_shards)}, {store.sizes['n_clips']} clips)"


def summary(path: Place) -> str:
    """The text of `show` for one store."""
    reader = CacheReader(path)
    contract, store = schema.load(), reader.store
    left = pending(store)
    codes, counts = np.unique(reader.status, return_counts=True)
    statuses = [
        f"{contract.status_name(code)} {n}"
        for code, n in zip(codes.tolist(), counts.tolist(), strict=True)
    ]
    facts = [
        ("clips", f"{reader.n_clips}", ""),
        ("status", ", ".join(statuses), ""),
        ("longest clip", f"{reader.max_frames}", store.kind.arrays["n_frames"].unit),
        ("shards", f"{store.n_shards}, of {store.sizes['clips_per_shard']} clips each", ""),
        ("size", _size(upkeep.folder_bytes(path)), ""),
        ("complete", f"no, {len(left)} shards to go" if left else _yes(store.attributes), ""),
    ]
    named = [
        (name, _text(value), contract.attributes[name].unit)
        for name, value in reader.attributes.items()
        if name not in ("complete", "provenance")
    ]
    lines = [str(path), *_table(facts), "attributes", *_table(named)]
    if how := reader.attributes.get("provenance"):
        rows = [(name, _text(value), "") for name, value in how.items()]
        lines += ["provenance", *_table(rows)]
    return "\n".join(lines)


def _yes(attributes: dict[str, object]) -> str:
    return "yes" if attributes["complete"] else "no, to be finalised"


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def _table(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    width = max(len(name) for name, _, _ in rows)
    return [f"  {name:<{width}}  {value} {unit}".rstrip() for name, value, unit in rows]


def _stores(path: Place, *, damaged: bool = False) -> list[Place]:
    """Stores at or below a path; `damaged` adds those without group metadata."""
    if (path / METADATA).is_file():
        return [path]
    tail = "" if damaged else f"/{METADATA}"
    found = sorted(file for pattern in ("*.zarr", "*/*.zarr") for file in path.glob(pattern + tail))
    if not found:
        raise CacheError(f"{path}: neither a store nor a folder with stores in it")
    return found if damaged else [file.parent for file in found]
