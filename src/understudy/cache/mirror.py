"""Copies stores into another cache, shard by shard, each checked against its commit record."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from understudy import schema
from understudy.cache import files, layout
from understudy.cache.checks import Problem, shard_problems
from understudy.cache.locking import lock
from understudy.cache.storage import Storage, open_storage
from understudy.cache.store import INDEX, METADATA, Store
from understudy.cache.stores import stores
from understudy.errors import CacheError

BESIDE = (INDEX, "ledger.csv")


def find_stores(source: str | Path) -> list[tuple[Storage, str, str]]:
    """Stores at `source`: a store, a dataset's folder or a whole cache, local or by URL.

    Returns:
        Storage of the dataset's folder, the dataset's name and the store's name, of each.

    Raises:
        CacheError: There is none.
    """
    root = open_storage(source)
    if root.read(METADATA) is not None:
        folder, name = root.up()
        return [(folder, folder.up()[1], name)]
    found = [
        (root, root.up()[1], name.partition("/")[0]) for name in root.glob(f"*.zarr/{METADATA}")
    ]
    for name in root.glob(f"*/*.zarr/{METADATA}"):
        dataset, store, _ = name.split("/")
        found.append((open_storage(f"{source}/{dataset}"), dataset, store))
    if not found:
        raise CacheError(f"{source}: neither a store nor a folder with stores in it")
    return found


def mirror(
    folder: Storage,
    name: str,
    dataset_dir: Path,
    started: Callable[[int], object] = lambda n: None,
    advance: Callable[[int], object] = lambda n: None,
) -> list[Problem]:
    """Copies one store and its dataset's index into `dataset_dir`.

    Shards that are there already, and agree with their commit record, are not read again: a copy
    that was interrupted continues. A shard whose bytes do not agree is not copied.

    Args:
        folder: Storage of the source's dataset folder.
        name: The store's folder in it.
        dataset_dir: Where the copy goes: CACHE/<dataset>.
        started: Is told the number of shards.
        advance: Is told how many shards more are done.

    Returns:
        What is wrong with the source; the copy is complete if the source is, and this is empty.

    Raises:
        CacheError: The source cannot be read, another store is in the copy's place, or the copy
            cannot be written.
    """
    with lock(dataset_dir):
        _check_place(folder, dataset_dir)
        group, store = _adopt(folder, name, dataset_dir / name)
        files.remove(*files.partials(store.path))
        for beside in BESIDE:
            if (content := folder.read(beside)) is not None:
                files.write_atomic(dataset_dir / beside, content)
        started(store.n_shards)
        problems = []
        for shard in range(store.n_shards):
            problems += _copy(folder, store, shard)
            advance(1)
        copied = all(store.record_path(shard).is_file() for shard in range(store.n_shards))
        if copied and group["attributes"]["complete"]:
            files.write_json(store.path / METADATA, group)
    return problems


def _check_place(folder: Storage, dataset_dir: Path) -> None:
    """Raises CacheError where the copy would take the index from under other stores."""
    if Path(folder.root).absolute() == dataset_dir.absolute():
        raise CacheError(f"{dataset_dir} is the source itself; name another cache")
    index = dataset_dir / INDEX
    others = {path.name for path in stores(dataset_dir)} - {
        name.partition("/")[0] for name in folder.glob(f"*.zarr/{METADATA}")
    }
    if others and index.is_file() and index.read_bytes() != folder.read(INDEX):
        raise CacheError(
            f"{index} differs from {folder.root}/{INDEX}, and {', '.join(sorted(others))} there "
            "belongs to it: mirror into another cache"
        )


def _adopt(folder: Storage, name: str, path: Path) -> tuple[dict[str, Any], Store]:
    """Brings the metadata over, marked incomplete; returns the source's group and the copy."""
    group = _json(folder, f"{name}/{METADATA}")
    kind = schema.load().check_attributes(group["attributes"], f"{folder.root}/{name}")
    if (path / METADATA).is_file():
        here = Store.open(path).attributes["identity_sha256"]
        if here != group["attributes"]["identity_sha256"]:
            raise CacheError(f"{path} holds a store of another identity")
    for array in kind.arrays:
        metadata = _json(folder, f"{name}/{array}/{METADATA}")
        _write_json(path / array / METADATA, metadata)
    attributes = {**group["attributes"], "complete": False}
    _write_json(path / METADATA, {**group, "attributes": attributes})
    store = Store.open(path)
    if foreign := set(kind.arrays) - store.plain:
        raise CacheError(
            f"{folder.root}/{name}: {', '.join(sorted(foreign))} was rewritten with other codecs "
            "or chunks; copy it with another tool"
        )
    return group, store


def _copy(folder: Storage, store: Store, shard: int) -> list[Problem]:
    prefix = f"{store.path.name}/"
    at = store.record_path(shard)
    encoded = folder.read(prefix + at.relative_to(store.path).as_posix())
    if encoded is None:  # not extracted yet
        return []
    record = _parse(encoded, f"{folder.root}/{prefix}{at.relative_to(store.path)}")
    schema.load().check_record(record, str(at))
    if at.is_file() and at.read_bytes() == encoded and _whole(store, shard, record):
        return []
    names = tuple(store.clip_names(list(store.rows(shard))))
    held: dict[str, layout.Buffer] = {}
    problems = []
    for name in store.kind.arrays:
        path = store.chunk_path(name, shard)
        source = prefix + path.relative_to(store.path).as_posix()
        content = folder.read(source)
        if content is None:
            problem = Problem("missing", Path(source), "it is in the commit record", names)
            problems.append(problem)
        else:
            held[name] = content
    problems += shard_problems(store, shard, held, record)
    if problems:
        return problems
    files.remove(at)
    files.remove(store.chunk_path("status", shard))
    files.write_all({store.chunk_path(name, shard): [file] for name, file in held.items()})
    files.write_atomic(at, encoded)
    return []


def _whole(store: Store, shard: int, record: dict[str, Any]) -> bool:
    def agrees(name: str) -> bool:
        try:
            size, crc = layout.tail(store.chunk_path(name, shard))
        except OSError:
            return False
        return record["files"].get(name) == {"bytes": size, "crc32c": crc}

    return all(map(agrees, store.kind.arrays))


def _json(folder: Storage, name: str) -> dict[str, Any]:
    content = folder.read(name)
    if content is None:
        raise CacheError(f"{folder.root}: there is no {name}")
    return _parse(content, f"{folder.root}/{name}")


def _parse(content: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise CacheError(f"{where}: no JSON ({error})") from None
    if not isinstance(value, dict):
        raise CacheError(f"{where}: wanted a JSON object, found {type(value).__name__}")
    return value


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes unless it says so already: nothing happens to a copy that is whole."""
    if not path.is_file() or files.read_json(path) != value:
        files.write_json(path, value)
