"""Which stores there are, and which one is meant."""

import difflib
from pathlib import Path

from understudy.cache.identity import file_stem
from understudy.cache.reader import CacheReader
from understudy.cache.store import METADATA, Store
from understudy.errors import CacheError


def stores(dataset_dir: Path | str) -> list[Path]:
    """Stores of a dataset by name; folders without group metadata (never finished) are left out."""
    return sorted(p.parent for p in Path(dataset_dir).glob(f"*.zarr/{METADATA}"))


def clips_per_shard(dataset_dir: Path | str) -> int | None:
    """Shard size that the dataset's stores share; None before the first extraction."""
    found = {path.name: Store.open(path).sizes["clips_per_shard"] for path in stores(dataset_dir)}
    if len(set(found.values())) > 1:
        listed = ", ".join(f"{name}: {size}" for name, size in found.items())
        raise CacheError(f"{dataset_dir}: stores differ in clips per shard ({listed})")
    return next(iter(found.values()), None)


def find(cache_dir: Path | str, dataset: str, track: str, store: str | None = None) -> Path:
    """Path of a track's store.

    Args:
        cache_dir: The cache's folder.
        dataset: Name of the dataset.
        track: A teacher's name, or "audio".
        store: Path, folder name or start of the identity, where a track has several stores.

    Raises:
        CacheError: None (what is there, and the command that makes one), or several (listed with
            what differs).
    """
    folder = Path(cache_dir) / dataset
    there = stores(folder)
    if store is not None:
        if (Path(store) / METADATA).is_file():
            return Path(store)
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
        option = "--audio" if track == "audio" else f"--teacher {track}"
        held = {path.stem.rpartition("-")[0] for path in there}
        near = difflib.get_close_matches(stem, held, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        raise CacheError(
            f"{folder}: no store of '{track}'{hint} {_list(there)} "
            f"Make one: understudy extract {dataset} --root FOLDER {option} --cache {cache_dir} "
            f"(recordings of your own: 'folder --option name={dataset}' for '{dataset}')"
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


def _list(there: list[Path]) -> str:
    return f"There: {', '.join(path.name for path in there) or 'nothing'}."
