"""Copies stores into another cache, shard by shard, each checked against its commit record."""

from collections.abc import Callable
from typing import Any

from understudy import schema
from understudy.cache import files, layout
from understudy.cache.checks import Problem, pending, shard_problems
from understudy.cache.locking import lock
from understudy.cache.places import Place, spread
from understudy.cache.store import INDEX, METADATA, Store
from understudy.cache.stores import stores
from understudy.errors import CacheError

BESIDE = (INDEX, "ledger.csv")


def mirror(
    source: Place,
    dataset_dir: Place,
    started: Callable[[int], object] = lambda n: None,
    advance: Callable[[int], object] = lambda n: None,
) -> list[Problem]:
    """Copies one store and its dataset's index into `dataset_dir`.

    Both may be folders or lie in object stores. Shards that are there already, and agree with
    their commit record by size and checksum, are not read again: a copy that was interrupted
    continues. A shard whose bytes do not agree is not copied.

    Args:
        source: The store.
        dataset_dir: Where the copy goes: CACHE/<dataset>.
        started: Is told the number of shards.
        advance: Is told how many shards more are done.

    Returns:
        What is wrong with the source; the copy is complete if the source is, and this is empty.

    Raises:
        CacheError: The source cannot be read, another store is in the copy's place, or the copy
            cannot be written.
    """
    if source.parent.absolute() == dataset_dir.absolute():
        raise CacheError(f"{dataset_dir} is the source itself; name another cache")
    with lock(dataset_dir) as check:
        _check_place(source.parent, dataset_dir)
        group, copy = _adopt(source, dataset_dir / source.name)
        files.remove(*files.partials(copy.path))
        for name in BESIDE:
            content = _read(source.parent / name)
            if content is not None and content != _read(dataset_dir / name):
                files.write_atomic(dataset_dir / name, content)
        started(copy.n_shards)
        original, problems = Store.open(source), []
        for shard in range(copy.n_shards):
            problems += _copy(original, copy, shard)
            check()
            advance(1)
        if not pending(copy) and group["attributes"]["complete"]:
            files.write_json(copy.path / METADATA, group)
    return problems


def _check_place(source_dir: Place, dataset_dir: Place) -> None:
    """Raises CacheError where the copy would take the index from under other stores."""
    here, index = stores(dataset_dir), dataset_dir / INDEX
    others = {path.name for path in here} - {path.name for path in stores(source_dir)}
    wanted = _read(index)
    if others and wanted is not None and wanted != _read(source_dir / INDEX):
        raise CacheError(
            f"{index} differs from {source_dir / INDEX}, and {', '.join(sorted(others))} there "
            "belongs to it: mirror into another cache"
        )


def _adopt(source: Place, path: Place) -> tuple[dict[str, Any], Store]:
    """Brings the metadata over, marked incomplete; returns the source's group and the copy."""
    group = files.read_json(source / METADATA)
    kind = schema.load().check_attributes(group["attributes"], str(source))
    if (path / METADATA).is_file():
        here = Store.open(path).attributes["identity_sha256"]
        if here != group["attributes"]["identity_sha256"]:
            raise CacheError(f"{path} holds a store of another identity")
    for array in kind.arrays:
        _write_json(path / array / METADATA, files.read_json(source / array / METADATA))
    attributes = {**group["attributes"], "complete": False}
    _write_json(path / METADATA, {**group, "attributes": attributes})
    store = Store.open(path)
    if foreign := set(kind.arrays) - store.plain:
        raise CacheError(
            f"{source}: {', '.join(sorted(foreign))} was rewritten with other codecs or chunks; "
            "copy it with another tool"
        )
    return group, store


def _copy(source: Store, copy: Store, shard: int) -> list[Problem]:
    """Copies one shard, or returns what is wrong with it."""
    at, encoded = copy.record_path(shard), _read(source.record_path(shard))
    if encoded is None:  # not extracted yet
        return []
    record = files.parse_json(encoded, source.record_path(shard))
    schema.load().check_record(record, str(source.record_path(shard)))
    if _read(at) == encoded and _whole(copy, shard, record):
        return []
    clips = tuple(copy.clip_names(list(copy.rows(shard))))
    held: dict[str, layout.Buffer] = {}
    problems = []
    names = list(source.kind.arrays)
    read = spread(source.path, lambda name: _read(source.chunk_path(name, shard)), names)
    for name, content in zip(names, read, strict=True):
        if content is None:
            file = source.chunk_path(name, shard)
            problems.append(Problem("missing", file, "it is in the commit record", clips))
        else:
            held[name] = content
    problems += shard_problems(source, shard, held, record)
    if problems:
        return problems
    files.remove(at, copy.chunk_path("status", shard))
    files.write_all({copy.chunk_path(name, shard): [file] for name, file in held.items()})
    if not _whole(copy, shard, record):
        raise CacheError(f"{copy.path}: shard {shard} is not there as it was written")
    files.write_atomic(at, encoded)
    return []


def _whole(copy: Store, shard: int, record: dict[str, Any]) -> bool:
    """Whether the copy has every file of the shard, by size and checksum."""

    def agrees(name: str) -> bool:
        try:
            size, crc = layout.tail(copy.chunk_path(name, shard))
        except OSError:
            return False
        return record["files"].get(name) == {"bytes": size, "crc32c": crc}

    return all(spread(copy.path, agrees, copy.kind.arrays))


def _read(path: Place) -> bytes | None:
    """Bytes of a file; None if there is none."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CacheError(f"cannot read {path}: {error.strerror or error}") from error


def _write_json(path: Place, value: dict[str, Any]) -> None:
    """Writes unless it says so already: nothing happens to a copy that is whole."""
    if not path.is_file() or files.read_json(path) != value:
        files.write_json(path, value)
