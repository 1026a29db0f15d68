"""Which stores there are, and which one is meant."""

from pathlib import Path

from understudy.cache.identity import file_stem
from understudy.cache.places import Place, local_copy, place
from understudy.cache.reader import CacheReader
from understudy.cache.store import INDEX, METADATA, Store
from understudy.errors import CacheError, nearest
from understudy.index import ClipIndex


def stores(dataset_dir: Place | str) -> list[Place]:
    """Stores of a dataset by name; folders without group metadata (never finished) are left out."""
    return sorted(p.parent for p in place(dataset_dir).glob(f"*.zarr/{METADATA}"))


def load_index(cache_dir: Place | str, dataset: str, root: Path | None = None) -> ClipIndex | None:
    """The index that a dataset's extraction left beside its stores; None if there is none.

    Args:
        root: Where the recordings lie now, if they are needed.

    Raises:
        CacheError: A cache that cannot be read.
        DataError: A damaged index.
    """
    with local_copy(place(cache_dir) / dataset / INDEX) as file:
        return ClipIndex.load(file, root or Path()) if file.is_file() else None


def no_index(cache_dir: Place | str, dataset: str) -> str:
    """What there is instead of a dataset's index, where `load_index` finds none."""
    there = place(cache_dir)
    if isinstance(there, Path) and not there.is_dir():
        return f"no such folder: {cache_dir}"
    held = sorted(path.parent.name for path in there.glob(f"*/{INDEX}"))
    near = nearest(dataset, held)
    hint = f"; did you mean '{near}'?" if near else ";"
    return f"{cache_dir}: no dataset '{dataset}'{hint} the cache holds {', '.join(held) or 'none'}"


def clips_per_shard(dataset_dir: Place | str) -> int | None:
    """Shard size that the dataset's stores share; None before the first extraction."""
    found = {path.name: Store.open(path).sizes["clips_per_shard"] for path in stores(dataset_dir)}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name}: {size}" for name, size in found.items())
        raise CacheError(f"{dataset_dir}: stores differ in clips per shard ({listed})")
    return next(iter(found.values()), None)


def find(cache_dir: Place | str, dataset: str, track: str, store: str | None = None) -> Place:
    """Path of a track's store.

    Args:
        cache_dir: The cache's folder, or its URL.
        dataset: Name of the dataset.
        track: A teacher's name, or "audio".
        store: Path, folder name or start of the identity, where a track has several stores.

    Raises:
        CacheError: None (what is there, and the command that makes one), or several (listed with
            what differs).
    """
    folder = place(cache_dir) / dataset
    there = stores(folder)
    if store is not None:
        if (named := place(store) / METADATA).is_file():
            return named.parent
        chosen = [
            path
            for path in there
            if store in (path.name, path.stem) or path.stem.rpartition("-")[2].startswith(store)
        ]
        if len(chosen) != 1:
            raise CacheError(
                f"{folder}: {len(chosen) or 'no'} stores answer to '{store}'. {_list(there)}"
            )
        return chosen[0]
    stem = file_stem(track)
    named = [path for path in there if path.stem.rpartition("-")[0] == stem]
    if not named:
        held = {path.stem.rpartition("-")[0] for path in there}
        near = nearest(stem, held, cutoff=0.6)
        option = "--audio" if track == "audio" else f"--teacher {'NAME' if near else track}"
        hint = f"; did you mean '{near}'?" if near else "."
        if isinstance(folder, Path) and not folder.parent.is_dir():
            hint = f", no such folder: {folder.parent}."
        raise CacheError(
            f"{folder}: no store of '{track}'{hint} {_list(there)} "
            f"To make one: understudy extract {dataset} --root FOLDER {option} --cache {cache_dir} "
            "(`understudy teachers list` shows the teachers). If these are recordings of your own, "
            f"begin it with: understudy extract folder --option name={dataset}"
        )
    if len(named) > 1:
        identities = {path: CacheReader(path).identity for path in named}
        keys = {key for identity in identities.values() for key in identity}
        differing = [
            key
            for key in sorted(keys)
            if len({repr(identity.get(key)) for identity in identities.values()}) > 1
        ]
        lines = [f"{folder} has {len(named)} stores of '{track}'; choose one with --store:"]
        for path, identity in identities.items():
            values = ", ".join(f"{key} {identity.get(key)!r}" for key in differing)
            lines.append(f"  {path.name}: {values}")
        raise CacheError("\n".join(lines))
    return named[0]


def _list(there: list[Place]) -> str:
    return f"There: {', '.join(path.name for path in there) or 'nothing'}."
