"""The cache contract, parsed from `cache_schema.yaml`; that file is the only definition.

Axis sizes are passed as a mapping from the names under `sizes` there to numbers.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from understudy.config import from_mapping
from understudy.errors import CacheError, ConfigError, unknown

Sizes = Mapping[str, int]
DENSE, CONCAT = "dense", "concat"


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


TYPES = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: type(value) is int,
    "number": lambda value: type(value) in (int, float) and math.isfinite(value),
    "boolean": lambda value: isinstance(value, bool),
    "strings": _is_strings,
    "object": lambda value: isinstance(value, dict),
    "objects": _is_objects,
}


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """One named value of a group, an array or a commit record."""

    name: str
    type: str
    meaning: str
    unit: str = ""
    required: bool = False
    identity: bool = False
    kinds: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()

    def check(self, value: Any, where: str) -> None:
        """Raises CacheError unless `value` has the attribute's type and can be stored as JSON."""
        if not TYPES[self.type](value) and value not in self.alternatives:
            wanted = " or ".join([self.type, *(repr(a) for a in self.alternatives)])
            raise CacheError(f"{where}: '{self.name}' wants {wanted}, found {value!r}")
        if self.one_of and value not in self.one_of:
            raise CacheError(f"{where}: {unknown(self.name, str(value), self.one_of)}")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise CacheError(f"{where}: '{self.name}' cannot be stored as JSON: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Array:
    """One array of a store. `shape`, `chunk` and `inner` hold names of sizes, or numbers.

    With a `grid`, only stores whose attribute of that name has this value have the array.
    """

    name: str
    axes: tuple[str, ...]
    dtype: str
    shape: tuple[Any, ...]
    chunk: tuple[Any, ...]
    inner: tuple[Any, ...] = ()
    grid: str = ""
    codecs: tuple[Any, ...]
    fill: int | str
    unit: str
    meaning: str

    @property
    def fill_value(self) -> float:
        """The fill value as a number (NaN for arrays of floating point)."""
        return float(self.fill)

    def chunk_shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Shape of what one file holds."""
        return _resolve(self.chunk, sizes)

    def metadata(self, sizes: Sizes, dtype: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """The array's zarr.json. `dtype` is the store's; it stands in for dtype `storage`."""
        codecs: list[Any] = list(self.codecs)
        if self.inner:
            configuration = {
                "chunk_shape": list(_resolve(self.inner, sizes)),
                "codecs": codecs,
                "index_codecs": codecs,
                "index_location": "end",
            }
            codecs = [{"name": "sharding_indexed", "configuration": configuration}]
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(_resolve(self.shape, sizes)),
            "data_type": dtype if self.dtype == "storage" else self.dtype,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": list(self.chunk_shape(sizes))},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": self.fill,
            "codecs": codecs,
            "attributes": dict(attributes),
            "dimension_names": list(self.axes),
            "storage_transformers": [],
        }


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of track. `data` names the array that holds its frames or samples."""

    name: str
    meaning: str
    data: str
    dtypes: tuple[str, ...]
    check_parts: bool
    arrays: dict[str, Array]
    concat: dict[str, Array]

    def of(self, attributes: Mapping[str, Any]) -> "Kind":
        """This kind with the arrays of stores that have these attributes."""
        arrays = self.arrays
        if attributes.get("layout") == CONCAT:
            own = {name: array for name, array in self.concat.items() if name not in arrays}
            arrays = own | {name: self.concat.get(name, array) for name, array in arrays.items()}
        there = {
            name: array
            for name, array in arrays.items()
            if array.grid in ("", attributes.get("grid"))
        }
        return replace(self, arrays=there)


@dataclass(frozen=True, kw_only=True)
class Status:
    """What became of a clip."""

    code: int
    name: str
    meaning: str
    advice: str = ""


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The whole contract."""

    version: int
    sizes: dict[str, str]
    max_shard_bytes: int
    min_shards: int
    most_padding: float
    chunk_bytes: int
    kinds: dict[str, Kind]
    statuses: dict[int, Status]
    attributes: dict[str, Attribute]
    array_attributes: dict[str, Attribute]
    record_path: str
    record_fields: dict[str, Attribute]

    def kind(self, name: str) -> Kind:
        """The kind called `name`; CacheError naming the known ones."""
        if name not in self.kinds:
            raise CacheError(unknown("kind of track", name, self.kinds))
        return self.kinds[name]

    def code(self, name: str) -> int:
        """Status code of a status name, e.g. "ok"."""
        for status in self.statuses.values():
            if status.name == name:
                return status.code
        raise CacheError(unknown("status", name, (s.name for s in self.statuses.values())))

    def status_name(self, code: int) -> str:
        """Name of a status code; codes outside the schema read "unknown (CODE)"."""
        return self.statuses[code].name if code in self.statuses else f"unknown ({code})"

    def identity_names(self, kind: str) -> list[str]:
        """Attributes that enter the identity of a track of this kind."""
        return [a.name for a in self.attributes.values() if a.identity and _stands_in(a, kind)]

    def check_version(self, attributes: Mapping[str, Any], where: str) -> None:
        """Raises CacheError for a store without a version, or of a version yet to come."""
        version = attributes.get("schema_version")
        if type(version) is not int or version < 1:
            raise CacheError(f"{where}: not an understudy store (schema_version is {version!r})")
        if version > self.version:
            raise CacheError(
                f"{where}: schema version {version} is newer than the {self.version} "
                "this understudy knows: upgrade"
            )

    def check_attributes(self, attributes: Mapping[str, Any], where: str) -> Kind:
        """Checks a group's attributes and returns its kind, with the arrays of such a store.

        Raises:
            CacheError: A newer version, a name the schema lacks, a missing or mistyped value.
        """
        self.check_version(attributes, where)
        kind = self.kind(str(attributes.get("kind")))
        known = {a.name: a for a in self.attributes.values() if _stands_in(a, kind.name)}
        check_values(attributes, known, where)
        if attributes["dtype"] not in kind.dtypes:
            raise CacheError(f"{where}: {unknown('dtype', attributes['dtype'], kind.dtypes)}")
        return kind.of(attributes)

    def check_record(self, record: Mapping[str, Any], where: str) -> None:
        """Raises CacheError unless `record` is a commit record of this schema."""
        check_values(record, self.record_fields, where, noun="field")

    def array_attribute_values(self, array: Array) -> dict[str, Any]:
        """Attributes written beside an array, for readers that do not know understudy."""
        values: dict[str, Any] = {"meaning": array.meaning, "unit": array.unit}
        if array.name == "status":
            values["status_codes"] = {
                str(s.code): f"{s.name}: {s.meaning}" for s in self.statuses.values()
            }
        check_values(values, self.array_attributes, array.name)
        return values

    def clips_per_shard(self, n_clips: int, clip_bytes: int) -> int:
        """Clips of one shard by the shard rule; `clip_bytes` is the largest track's clip."""
        fitting = self.max_shard_bytes // max(clip_bytes, 1)
        return max(1, min(fitting, math.ceil(n_clips / self.min_shards)))

    def chunk_frames(self, frame_bytes: int) -> int:
        """Frames of one inner chunk in the layout concat."""
        return max(1, self.chunk_bytes // frame_bytes)


def check_values(
    values: Mapping[str, Any], known: Mapping[str, Attribute], where: str, noun: str = "attribute"
) -> None:
    """Raises CacheError for an unknown name (naming the nearest), a missing or mistyped value."""
    for name, value in values.items():
        if name not in known:
            raise CacheError(f"{where}: {unknown(noun, str(name), known)}")
        known[name].check(value, where)
    missing = [a.name for a in known.values() if a.required and a.name not in values]
    if missing:
        raise CacheError(f"{where}: missing {noun} {', '.join(missing)}")


def _stands_in(attribute: Attribute, kind: str) -> bool:
    return not attribute.kinds or kind in attribute.kinds


def _resolve(shape: Iterable[Any], sizes: Sizes) -> tuple[int, ...]:
    return tuple(
        n_slots(sizes) if part == "n_slots" else sizes[part] if isinstance(part, str) else part
        for part in shape
    )


def n_slots(sizes: Sizes) -> int:
    """Frames that all shards of a concat store have room for."""
    return -(-sizes["n_clips"] // sizes["clips_per_shard"]) * sizes["shard_frames"]


@cache
def load() -> Schema:
    """The schema this understudy knows."""
    return parse(Path(__file__).with_name("cache_schema.yaml").read_text(encoding="utf-8"))


def parse(text: str) -> Schema:
    """Parses the text of a `cache_schema.yaml`.

    Raises:
        ConfigError: No YAML, an unknown or missing key, or a size that is not named.
    """
    try:
        raw = yaml.safe_load(text)
        schema = Schema(
            version=raw["schema_version"],
            sizes=raw["sizes"],
            max_shard_bytes=raw["shard_rule"]["max_shard_bytes"],
            min_shards=raw["shard_rule"]["shards"],
            most_padding=raw["concat_rule"]["most_padding"],
            chunk_bytes=raw["concat_rule"]["chunk_bytes"],
            kinds={name: _kind(name, value) for name, value in raw["kinds"].items()},
            statuses={
                code: from_mapping(Status, {"code": code, **value}, f"status {code}")
                for code, value in raw["status_codes"].items()
            },
            attributes=_attributes(raw["attributes"]),
            array_attributes=_attributes(raw["array_attributes"]),
            record_path=raw["commit_record"]["path"],
            record_fields=_attributes(raw["commit_record"]["fields"]),
        )
    except yaml.YAMLError as error:
        raise ConfigError(f"cache schema: no YAML: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"cache schema: missing or malformed: {error}") from None
    _check_sizes(schema)
    return schema


def _kind(name: str, raw: Mapping[str, Any]) -> Kind:
    arrays = {
        key: from_mapping(Array, {"name": key, **value}, f"array {key}")
        for key, value in raw["arrays"].items()
    }
    concat = {
        key: from_mapping(
            Array, {"name": key, **raw["arrays"].get(key, {}), **value}, f"array {key}"
        )
        for key, value in raw["concat"].items()
    }
    fields = {**raw, "name": name, "arrays": arrays, "concat": concat}
    return from_mapping(Kind, fields, f"kind {name}")


def _attributes(raw: Mapping[str, Any]) -> dict[str, Attribute]:
    result = {}
    for name, value in raw.items():
        fields = {"alternatives" if key == "or" else key: item for key, item in value.items()}
        result[name] = from_mapping(Attribute, {"name": name, **fields}, f"attribute {name}")
        if result[name].type not in TYPES:
            raise ConfigError(f"attribute {name}: {unknown('type', result[name].type, TYPES)}")
    return result


def _check_sizes(schema: Schema) -> None:
    for kind in schema.kinds.values():
        for array in [*kind.arrays.values(), *kind.concat.values()]:
            for part in (*array.shape, *array.chunk, *array.inner):
                if isinstance(part, str) and part not in schema.sizes:
                    where = f"array {array.name} of kind {kind.name}"
                    raise ConfigError(f"{where}: {unknown('size', part, schema.sizes)}")
