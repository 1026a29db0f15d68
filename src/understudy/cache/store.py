"""A store as its metadata describe it: what reader, writer and checks have in common."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from understudy import schema
from understudy.cache import layout, places
from understudy.cache.files import parse_json, read_json
from understudy.cache.objects import ObjectPath
from understudy.cache.places import Place
from understudy.errors import CacheError
from understudy.schema import Array, Kind

METADATA = "zarr.json"
INDEX = "index.parquet"


@dataclass(frozen=True)
class Store:
    """Parsed metadata of a store on disk; picklable.

    Attributes:
        path: The store's folder.
        kind: The schema's definition of such a store.
        attributes: Of the group, checked against the schema.
        arrays: Array name to its zarr.json.
        sizes: The schema's sizes. n_clips is what all arrays have (they may differ while the
            store is being extended).
    """

    path: Place
    kind: Kind
    attributes: dict[str, Any]
    arrays: dict[str, dict[str, Any]]
    sizes: dict[str, int]

    @classmethod
    def open(cls, path: Place | str) -> "Store":
        """Reads and checks the metadata; touches no data and changes nothing.

        Raises:
            CacheError: No store, one of a newer schema, or metadata that break the schema.
        """
        path = places.place(path)
        try:
            group = parse_json((path / METADATA).read_bytes(), path / METADATA)
        except (FileNotFoundError, NotADirectoryError):
            raise CacheError(f"{path}: no store (there is no {METADATA})") from None
        except OSError as error:
            raise CacheError(f"cannot read {path / METADATA}: {error.strerror}") from None
        attributes = group.get("attributes")
        if group.get("node_type") != "group" or not isinstance(attributes, dict):
            raise CacheError(f"{path}: not a Zarr v3 group with attributes")
        kind = schema.load().check_attributes(attributes, str(path))
        read = places.spread(path, lambda name: read_json(path / name / METADATA), kind.arrays)
        arrays = dict(zip(kind.arrays, read, strict=True))
        try:
            sizes = _sizes(kind, arrays, attributes)
            for name, array in kind.arrays.items():
                _check_array(array, arrays[name], sizes, attributes["dtype"], path)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            if isinstance(error, CacheError):
                raise
            raise CacheError(f"{path}: malformed array metadata ({error!r})") from None
        return cls(path, kind, attributes, arrays, sizes)

    @property
    def concat(self) -> bool:
        """Whether the clips of a shard lie one after the other."""
        return self.attributes["layout"] == schema.CONCAT

    @property
    def lengths(self) -> dict[str, int]:
        """Clips that each array has room for: equal, unless the store is being extended."""
        clips, size = self.sizes["n_clips"], self.sizes["clips_per_shard"]
        lengths = {}
        for name, array in self.kind.arrays.items():
            lengths[name] = self.arrays[name]["shape"][0]
            if array.shape[0] == "n_slots":
                shards = lengths[name] // self.sizes["shard_frames"]
                lengths[name] = clips if shards == -(-clips // size) else shards * size
        return lengths

    @property
    def n_shards(self) -> int:
        """Shards that the clips fill."""
        return -(-self.sizes["n_clips"] // self.sizes["clips_per_shard"])

    def rows(self, shard: int) -> range:
        """Rows of one shard; the last shard may have fewer than the others."""
        size = self.sizes["clips_per_shard"]
        return range(shard * size, min((shard + 1) * size, self.sizes["n_clips"]))

    @property
    def data(self) -> Array:
        """Definition of the array that holds frames or samples."""
        return self.kind.arrays[self.kind.data]

    def dtype(self, name: str) -> np.dtype:
        """Stored dtype of an array."""
        return np.dtype(self.arrays[name]["data_type"])

    def chunk_path(self, name: str, shard: int) -> Place:
        """The file that holds one shard's rows of an array."""
        return chunk_path(self.path, self.kind.arrays[name], shard)

    def record_path(self, shard: int) -> Place:
        """The shard's commit record."""
        return self.path / schema.load().record_path.format(shard=shard)

    @cached_property
    def plain(self) -> frozenset[str]:
        """Arrays laid out as the schema says; others need zarr-python to read."""
        return frozenset(
            name
            for name, array in self.kind.arrays.items()
            if layout.same_layout(self.arrays[name], self._wanted(array))
            and _chunk_shape(self.arrays[name]) == array.chunk_shape(self.sizes)
        )

    def _wanted(self, array: Array) -> dict[str, Any]:
        return array.metadata(self.sizes, self.attributes["dtype"], {})

    def read(self, name: str) -> np.ndarray:
        """A small array as a whole: (clip, ...); rows not written yet hold the fill value.

        Raises:
            CacheError: A damaged file.
        """
        array = self.kind.arrays[name]
        if name not in self.plain or array.inner:
            values = self.open_zarr(name)[:]
            return values[: self.sizes["n_clips"]] if array.shape[0] == "n_clips" else values
        step = array.chunk_shape(self.sizes)[0]
        shape = (self.n_shards * step, *self.arrays[name]["shape"][1:])
        if array.shape[0] == "n_clips":
            shape = (self.sizes["n_clips"], *shape[1:])
        values = np.full(shape, array.fill_value, self.dtype(name))
        chunks = places.spread(
            self.path, lambda shard: self.read_chunk(name, shard), range(self.n_shards)
        )
        for shard, chunk in enumerate(chunks):
            if chunk is not None:
                values[shard * step : shard * step + len(chunk)] = chunk
        return values

    def read_chunk(self, name: str, shard: int) -> np.ndarray | None:
        """One shard's rows of a small array, None if there is no file; CacheError if damaged."""
        path = self.chunk_path(name, shard)
        shape = self.kind.arrays[name].chunk_shape(self.sizes)
        try:
            file = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CacheError(f"cannot read {path}: {error.strerror or error}") from None
        chunk = layout.decode_chunk(file, shape, self.arrays[name]["data_type"], path)
        in_rows = self.kind.arrays[name].shape[0] == "n_clips"
        return chunk[: len(self.rows(shard))] if in_rows else chunk

    def open_zarr(self, name: str) -> Any:
        """The array through zarr-python, read-only: for layouts this package does not know."""
        import zarr

        path = self.path / name
        where = path.zarr_store() if isinstance(path, ObjectPath) else path
        return zarr.open_array(where, mode="r")

    def clip_ids(self) -> list[str]:
        """clip_id of the rows by the index beside the store; empty without a readable one."""
        index = self.path.parent / INDEX
        try:
            return _clip_ids(index, index.stat().st_mtime_ns)
        except FileNotFoundError:
            return []

    def clip_names(self, rows: list[int]) -> list[str]:
        """Names of clips for messages: "row 7 ('id')", or the bare row without an index."""
        ids = self.clip_ids()
        return [f"row {row} ('{ids[row]}')" if row < len(ids) else f"row {row}" for row in rows]


@lru_cache(maxsize=1)
def _clip_ids(index: Place, changed: int) -> list[str]:
    """Column clip_id; `changed` is the file's time, so that it is read once as long as it stays."""
    import pyarrow.parquet

    try:
        with places.local_copy(index) as file:
            return pyarrow.parquet.read_table(file, columns=["clip_id"])[0].to_pylist()
    except (OSError, ValueError, KeyError):  # the index is not ours to judge here
        return []


def chunk_path(store: Place, array: Array, shard: int) -> Place:
    """Path of a chunk by Zarr's default key encoding: only the clip axis has several chunks."""
    return store.joinpath(array.name, "c", str(shard), *["0"] * (len(array.axes) - 1))


def _chunk_shape(metadata: dict[str, Any]) -> tuple[int, ...]:
    return tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"])


def _sizes(
    kind: Kind, arrays: dict[str, dict[str, Any]], attributes: dict[str, Any]
) -> dict[str, int]:
    sizes = {"dim": 1}
    for name in ("n_frames", kind.data):
        array, metadata = kind.arrays[name], arrays[name]
        for names, numbers in (
            (array.shape, metadata["shape"]),
            (array.chunk, _chunk_shape(metadata)),
        ):
            sizes |= dict(zip(names, numbers, strict=True))
    if attributes["layout"] == schema.CONCAT:
        codec = arrays[kind.data]["codecs"][0]
        inner = codec.get("configuration", {}).get("chunk_shape", [0])
        sizes |= {"chunk_frames": inner[0], "max_frames": attributes["max_frames"]}
        del sizes["n_slots"]
    sizes["n_clips"] = min(
        arrays[name]["shape"][0]
        for name, array in kind.arrays.items()
        if array.shape[0] == "n_clips"
    )
    return sizes


def _check_array(
    array: Array, found: dict[str, Any], sizes: dict[str, int], dtype: str, path: Place
) -> None:
    """What every reader relies on: the values' meaning. How they are encoded is zarr's matter."""
    wanted = array.metadata(sizes, dtype, {})
    pairs = {key: (found[key], wanted[key]) for key in ("zarr_format", "data_type", "fill_value")}
    pairs["shape beyond the clips"] = (found["shape"][1:], wanted["shape"][1:])
    pairs["dimension_names"] = (found.get("dimension_names"), wanted["dimension_names"])
    for key, (here, there) in pairs.items():
        if here != there:
            raise CacheError(f"{path}: array {array.name}: {key} is {here!r}, wanted {there!r}")
