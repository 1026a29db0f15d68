"""Removing what a cache no longer needs, and marking damaged shards to be written again."""

import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from understudy import schema
from understudy.cache import files
from understudy.cache.checks import Problem, pending, strays
from understudy.cache.places import Place
from understudy.cache.store import METADATA, Store
from understudy.cache.stores import stores
from understudy.errors import CacheError

SET_ASIDE = ".damaged"
# What a user chooses. Stores that differ in any of it serve different ends; of stores that agree
# in all of it, a newer one takes the place of an older.
CHOICES = (
    *("kind", "name", "weights_sha256", "window_s", "hop_s", "grid"),
    *("precision", "dtype", "settings"),
)


@dataclass(frozen=True)
class Leftover:
    """A file or a store that may go.

    Attributes:
        path: Of the file or the store's folder.
        bytes: Its size.
        why: What makes it superfluous.
        is_store: Whether it holds embeddings or audio of its own.
    """

    path: Place
    bytes: int
    why: str
    is_store: bool = False


def leftovers(dataset_dir: Place) -> list[Leftover]:
    """What may be removed from a dataset's folder; the caller holds its lock.

    Never the only store of a track, nor one that differs from the others in what its user chose.
    """
    found = [Leftover(p, p.stat().st_size, "half-written") for p in files.partials(dataset_dir)]
    for path in stores(dataset_dir):
        try:
            store = Store.open(path)
        except CacheError:  # not one to touch
            continue
        found += _beyond(store) + _replaced(store)
    found += _superseded(dataset_dir)
    whole = [item.path for item in found if item.is_store]
    return [i for i in found if i.is_store or not set(whole).intersection(i.path.parents)]


def remove(items: Iterable[Leftover]) -> None:
    """Removes leftovers; a store stops being one before its files go.

    Raises:
        CacheError: The system refuses.
    """
    for item in items:
        try:
            if item.is_store:
                files.remove(item.path / METADATA)
                files.remove_tree(item.path)
            else:
                files.remove(item.path)
        except OSError as error:
            raise CacheError(f"cannot remove {item.path}: {error.strerror or error}") from error


def _beyond(store: Store) -> list[Leftover]:
    """Shards beyond the end of a store that is neither growing nor shrinking."""
    if len(set(store.lengths.values())) > 1:
        return []
    return [
        Leftover(problem.file, problem.file.stat().st_size, problem.detail)
        for problem in strays(store)
        if not problem.file.name.endswith(files.PARTIAL)
    ]


def _replaced(store: Store) -> list[Leftover]:
    """What `repair` set aside of shards that have been written again since."""
    left = set(pending(store))
    folder = store.record_path(0).parent
    return [
        Leftover(file, file.stat().st_size, "set aside by a repair that has been made good")
        for file in sorted(folder.glob(f"*{SET_ASIDE}"))
        if not file.name.split(".")[0].isdigit() or int(file.name.split(".")[0]) not in left
    ]


def _superseded(dataset_dir: Place) -> Iterator[Leftover]:
    alike: dict[str, list[Store]] = defaultdict(list)
    for path in stores(dataset_dir):
        try:
            store = Store.open(path)
        except CacheError:
            continue
        alike[repr([store.attributes.get(key) for key in CHOICES])].append(store)
    for group in alike.values():
        done = [store for store in group if store.attributes["complete"] and not pending(store)]
        newest = max(done, key=_age, default=None)
        for store in group:
            if newest is None or store is newest or _age(store) >= _age(newest):
                continue
            if store.sizes["n_clips"] <= newest.sizes["n_clips"]:
                changed = ", ".join(_differing(store.attributes, newest.attributes))
                why = f"{newest.path.name} is newer and complete; they differ in {changed}"
                yield Leftover(store.path, folder_bytes(store.path), why, is_store=True)


def _age(store: Store) -> int:
    """When the store was last written to, in ns: its newest commit record, or its metadata."""
    records = store.record_path(0).parent.glob("*.json")
    return max(p.stat().st_mtime_ns for p in [store.path / METADATA, *records])


def _differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    names = schema.load().identity_names(one["kind"])
    return [name for name in names if one.get(name) != other.get(name)]


def folder_bytes(path: Place) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def repair(path: Place, problems: Iterable[Problem]) -> list[int]:
    """Marks damaged shards of a store as not written yet; the caller holds the dataset's lock.

    Their commit records and `status` chunks are set aside, so that their rows read as missing and
    the next extraction writes them. Nothing else is touched.

    Args:
        problems: From `verify`.

    Returns:
        The shards marked.
    """
    shards = sorted({problem.shard for problem in problems if problem.shard is not None})
    if not shards:
        return []
    store = Store.open(path)
    group = files.read_json(path / METADATA)
    if group["attributes"]["complete"]:
        group["attributes"]["complete"] = False
        files.write_json(path / METADATA, group)
    folder = store.record_path(0).parent
    for shard in shards:
        record, status = store.record_path(shard), store.chunk_path("status", shard)
        for file, what in ((record, "record"), (status, "status")):
            if file.is_file():
                files.move(file, folder / f"{shard}.{what}{SET_ASIDE}")
    return shards


def extract_command(path: Place) -> str:
    """The command that writes the pending shards of a store, but for the recordings' folder."""
    store = Store.open(path)
    facts, name = store.attributes, store.attributes["name"]
    words = ["understudy", "extract", str(facts.get("dataset", path.parent.name))]
    words += ["--root", "FOLDER"]
    if store.kind.name == "audio":
        words.append("--audio")
    else:
        words += ["--teacher", name]
        if facts["weights_sha256"].startswith("random"):
            words += ["--weights", f"{name}=random"]
        settings = {key: facts[key] for key in ("window_s", "hop_s", "precision")}
        if settings["window_s"] == "clip":
            del settings["hop_s"]
        if settings["precision"] == "float32":
            del settings["precision"]
        settings |= facts.get("settings", {})
        for key, value in settings.items():
            words += ["--set", f"{name}.{key}={value}"]
        words += ["--dtype", facts["dtype"]]
    return shlex.join([*words, "--cache", str(path.parent.parent)])
