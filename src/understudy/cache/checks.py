"""Finds damage in a store: reads every byte and compares it with its checksum and its record."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from understudy import schema
from understudy.cache import files, layout, places
from understudy.cache.places import Place
from understudy.cache.store import METADATA, Store
from understudy.config import digest
from understudy.errors import CacheError


@dataclass(frozen=True)
class Problem:
    """One finding.

    Attributes:
        what: "missing", "torn", "damaged", "swapped", "orphan", "record" or "metadata".
        file: The file it is about.
        detail: What was found and what was wanted.
        clips: Names of the clips that the finding makes unreadable or doubtful.
        shard: The shard to be written again; None where that does not help.
    """

    what: str
    file: Place
    detail: str
    clips: tuple[str, ...] = ()
    shard: int | None = None

    def __str__(self) -> str:
        shown = ", ".join(self.clips[:3]) + (", ..." if len(self.clips) > 3 else "")
        held = f" [{len(self.clips)} clip{'s' * (len(self.clips) > 1)}: {shown}]"
        detail = self.detail.removeprefix(f"{self.file}: ") + held * bool(self.clips)
        return f"{self.what}: {self.file}: {detail}"


def verify(
    path: Place | str,
    started: Callable[[int], object] = lambda n: None,
    advance: Callable[[int], object] = lambda n: None,
) -> list[Problem]:
    """Checks a store's metadata, shards, commit records and leftovers; changes nothing.

    Shards that an unfinished extraction has yet to write are no problem.

    Args:
        path: Of the store.
        started: Is told how many shards there are.
        advance: Is told how many more are done.

    Returns:
        Findings; empty for a sound store.

    Raises:
        CacheError: There is no store, or its schema is newer than this understudy's.
    """
    path = places.place(path)
    if not (path / METADATA).is_file():
        raise CacheError(f"{path}: no store (there is no {METADATA})")
    group = files.read_json(path / METADATA)
    schema.load().check_version(group.get("attributes") or {}, str(path))
    try:
        store = Store.open(path)
    except CacheError as error:
        return [Problem("metadata", path / METADATA, str(error))]
    problems = [
        Problem("metadata", path / name / METADATA, "codecs or chunks are not the schema's")
        for name in sorted(set(store.kind.arrays) - store.plain)
    ]
    problems += [*_identity(store), *_lengths(store)]
    if not problems:
        started(store.n_shards)
        for shard in range(store.n_shards):
            problems += [replace(problem, shard=shard) for problem in _shard(store, shard)]
            advance(1)
    return problems + list(strays(store))


def pending(store: Store) -> list[int]:
    """Shards without a commit record: those that an extraction has yet to write."""
    there = {file.name for file in store.record_path(0).parent.glob("*.json")}
    return [k for k in range(store.n_shards) if store.record_path(k).name not in there]


def _identity(store: Store) -> Iterator[Problem]:
    names = schema.load().identity_names(store.kind.name)
    attributes = {name: store.attributes[name] for name in names if name in store.attributes}
    if digest(attributes) != store.attributes["identity_sha256"]:
        detail = "attributes of the identity are not those that identity_sha256 was made of"
        yield Problem("metadata", store.path / METADATA, detail)


def _lengths(store: Store) -> Iterator[Problem]:
    lengths = store.lengths
    if len(set(lengths.values())) > 1:
        detail = f"arrays differ in clips ({lengths}); run the extraction again"
        yield Problem("metadata", store.path, detail)


def _shard(store: Store, shard: int) -> list[Problem]:
    path = store.record_path(shard)
    names = tuple(store.clip_names(list(store.rows(shard))))
    if not path.is_file():
        if store.attributes["complete"]:
            detail = f"no commit record of shard {shard}, though the store is complete"
            return [Problem("record", path, detail, names)]
        return []
    try:
        record = files.read_json(path)
        schema.load().check_record(record, str(path))
    except CacheError as error:
        return [Problem("record", path, str(error), names)]
    problems = [
        Problem("record", path, f"{key} is {record[key]!r}, wanted {wanted!r}", names)
        for key, wanted in (
            ("shard", shard),
            ("identity_sha256", store.attributes["identity_sha256"]),
        )
        if record[key] != wanted
    ]
    # An edge shard of an extended store still holds fewer clips than the index now gives it.
    n_rows = len(record["clip_keys"])
    extended = not store.attributes["complete"] and n_rows < len(names)
    if len(record["clip_crc32c"]) != n_rows or (n_rows != len(names) and not extended):
        detail = f"names {n_rows} clips, the shard has {len(names)}"
        return [*problems, Problem("record", path, detail, names)]
    held: dict[str, layout.Buffer] = {}
    for name in store.kind.arrays:
        file = store.chunk_path(name, shard)
        try:
            held[name] = places.view(file)
        except OSError as error:
            problems.append(Problem("missing", file, error.strerror or str(error), names))
    return problems + shard_problems(store, shard, held, record)


def shard_problems(
    store: Store, shard: int, held: Mapping[str, layout.Buffer], record: dict[str, Any]
) -> list[Problem]:
    """Compares the files of a shard, whose bytes are `held` by array, with checksums and record."""
    names = tuple(store.clip_names(list(store.rows(shard))))
    problems = [
        problem
        for name, content in held.items()
        for problem in _file(store, name, shard, content, record, names)
    ]
    spans = {"offset", "n_frames", store.kind.data}
    if store.concat and not problems and spans <= held.keys():
        problems += _spans(store, shard, held, record, names)
    return problems


def _file(
    store: Store,
    name: str,
    shard: int,
    held: layout.Buffer,
    record: dict[str, Any],
    names: tuple[str, ...],
) -> list[Problem]:
    file = store.chunk_path(name, shard)
    wanted = record["files"].get(name, {})
    if len(held) != wanted.get("bytes"):
        detail = f"{len(held)} bytes, {wanted.get('bytes')} were committed"
        return [Problem("torn", file, detail, names)]
    try:
        check = _clips if store.kind.arrays[name].inner else _chunk
        problems = check(store, name, file, memoryview(held), record, names)
    except CacheError as error:
        return [Problem("damaged", file, str(error), names)]
    if int.from_bytes(held[-layout.CRC_BYTES :], "little") != wanted.get("crc32c"):
        problems.append(Problem("swapped", file, "not the file that was committed", names))
    return problems


def _clips(
    store: Store,
    name: str,
    file: Place,
    data: memoryview,
    record: dict[str, Any],
    names: tuple[str, ...],
) -> list[Problem]:
    """Checks each clip of a shard against its own checksum, and that against the record."""
    if store.concat:
        slots = store.sizes["shard_frames"] // store.sizes["chunk_frames"]
        for offset, length in zip(*layout.decode_footer(data, slots, file), strict=True):
            if offset >= 0:
                layout.without_crc(data[offset : offset + length], file)
        return []
    offset, length = layout.decode_footer(data, store.sizes["clips_per_shard"], file)
    damaged, swapped = [], []
    for row, wanted in enumerate(record["clip_crc32c"]):
        chunk = data[offset[row] : offset[row] + length[row]] if offset[row] >= 0 else data[:0]
        try:
            layout.without_crc(chunk, file)
        except CacheError:
            damaged.append(names[row])
            continue
        if f"{int.from_bytes(chunk[-layout.CRC_BYTES :], 'little'):08x}" != wanted:
            swapped.append(names[row])
    problems = []
    if damaged:
        problems.append(Problem("damaged", file, "checksum mismatch", tuple(damaged)))
    if swapped:
        detail = "sound, but not the clips that were committed"
        problems.append(Problem("swapped", file, detail, tuple(swapped)))
    return problems


def _spans(
    store: Store,
    shard: int,
    held: Mapping[str, layout.Buffer],
    record: dict[str, Any],
    names: tuple[str, ...],
) -> list[Problem]:
    """Checks the clips of a concat shard, whose files are sound, against the record."""
    sizes, data = store.sizes, memoryview(held[store.kind.data])
    file = store.chunk_path(store.kind.data, shard)
    slots = sizes["shard_frames"] // sizes["chunk_frames"]
    offset, length = layout.decode_footer(data, slots, file)
    there = [
        data[at : at + n - layout.CRC_BYTES]
        for at, n in zip(offset, length, strict=True)
        if at >= 0
    ]
    frames = np.frombuffer(b"".join(there), np.uint8)
    frame_bytes = sizes["dim"] * store.dtype(store.kind.data).itemsize
    first, n_frames = (
        layout.decode_chunk(
            memoryview(held[name]),
            (sizes["clips_per_shard"],),
            store.arrays[name]["data_type"],
            store.chunk_path(name, shard),
        ).astype(np.int64)
        for name in ("offset", "n_frames")
    )
    first = (first - shard * sizes["shard_frames"]) * frame_bytes
    swapped = []
    for row, wanted in enumerate(record["clip_crc32c"]):
        size = int(n_frames[row]) * frame_bytes
        clip = frames[first[row] : first[row] + size] if first[row] >= 0 else frames[:0]
        if len(clip) != size or f"{layout.crc32c(clip):08x}" != wanted:
            swapped.append(names[row])
    detail = "sound, but not the clips that were committed"
    return [Problem("swapped", file, detail, tuple(swapped))] if swapped else []


def _chunk(
    store: Store,
    name: str,
    file: Place,
    data: memoryview,
    record: dict[str, Any],
    names: tuple[str, ...],
) -> list[Problem]:
    shape = store.kind.arrays[name].chunk_shape(store.sizes)
    values = layout.decode_chunk(data, shape, store.arrays[name]["data_type"], file)[: len(names)]
    wrong: np.ndarray | list[bool] = []
    detail = ""
    if name == "status":
        wrong = ~np.isin(values, list(schema.load().statuses))
        detail = "codes that the schema lacks"
    elif name == "clip_key":
        keys = [f"{key:016x}" for key in values[: len(record["clip_keys"])].tolist()]
        wrong = [here != there for here, there in zip(keys, record["clip_keys"], strict=True)]
        detail = "keys other than the record's"
    elif name == "n_frames":
        wrong = values > store.sizes["max_frames"]
        detail = f"more than {store.sizes['max_frames']} frames"
    clips = tuple(clip for clip, bad in zip(names, wrong, strict=False) if bad)
    return [Problem("damaged", file, detail, clips)] if clips else []


def strays(store: Store) -> Iterator[Problem]:
    """What killed writers left, and shards beyond the last clip."""
    for partial in files.partials(store.path):
        yield Problem("orphan", partial, "left by a writer that was killed; extracting removes it")
    expected = {store.record_path(k) for k in range(store.n_shards)}
    for name in store.plain:
        expected |= {store.chunk_path(name, k) for k in range(store.n_shards)}
        for file in sorted((store.path / name / "c").rglob("*")):
            if file.is_file() and file not in expected and not file.name.endswith(files.PARTIAL):
                yield Problem("orphan", file, "beyond the store's last clip")
    for file in sorted(store.record_path(0).parent.glob("*.json")):
        if file not in expected and re.fullmatch(r"\d+", file.stem):
            yield Problem("orphan", file, "commit record beyond the store's last shard")
