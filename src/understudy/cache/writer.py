"""Writes stores: whole shards, each made final by its commit record.

No mode of opening removes data. Rows that a smaller index no longer has go at `finalise`, when
their successors are complete.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from understudy import schema
from understudy.cache import files, layout, places
from understudy.cache.identity import Track, differences
from understudy.cache.places import Listing, Place, place
from understudy.cache.store import METADATA, Store
from understudy.errors import CacheError
from understudy.schema import Kind


@dataclass(kw_only=True)
class ShardPayload:
    """One shard of one track, rows in the order of the index.

    Attributes:
        data: (clip, frame, channel), or (clip, sample) for audio, in the storage dtype. In the
            layout concat, frames may end with those of the payload's own longest clip.
        n_frames: (clip,) valid frames or samples; what lies beyond is replaced by the fill value.
        status: (clip,) codes of the schema; rows that are not ok are replaced by the fill value.
        clip_key: (clip,) uint64, from `clip_key`.
        level_db: (clip, frame) dBFS; None for audio.
        centre_s: (clip, frame) float64 seconds, where the store keeps them.
    """

    data: np.ndarray
    n_frames: np.ndarray
    status: np.ndarray
    clip_key: np.ndarray
    level_db: np.ndarray | None = None
    centre_s: np.ndarray | None = None


@dataclass(frozen=True)
class StoreWriter:
    """A store open for writing; picklable, so that workers can each write shards of their own.

    Attributes:
        path: The store's folder.
        kind: The schema's definition of such a store.
        dtype: Storage dtype.
        identity_sha256: The store's identity.
        sizes: The schema's sizes, n_clips as the index has it.
    """

    path: Place
    kind: Kind
    dtype: str
    identity_sha256: str
    sizes: dict[str, int]

    @classmethod
    def open_or_create(
        cls, dataset_dir: Place | str, track: Track, n_clips: int, clips_per_shard: int
    ) -> "StoreWriter":
        """Opens the track's store below `dataset_dir`, or makes it; the caller holds the lock.

        A store with fewer clips is extended: its committed shards stay, but its last one, if not
        full, becomes pending because its clips differ. Partial files of killed writers are removed.

        Raises:
            CacheError: The store there has another identity, shard size, frame count or dtype
                (the message says which), a newer schema, or cannot be written.
        """
        if n_clips < 1 or clips_per_shard < 1:
            raise CacheError(
                f"{track.name}: {n_clips} clips in shards of {clips_per_shard}; wanted 1 or more"
            )
        writer = cls.plan(dataset_dir, track, n_clips, clips_per_shard)
        path = writer.path
        if (path / METADATA).is_file():
            writer._adopt(track)
        else:
            writer._write_arrays(n_clips)
            writer._write_group(track.store_attributes(complete=False))
        files.remove(*files.partials(path))
        return writer

    @classmethod
    def plan(
        cls, dataset_dir: Place | str, track: Track, n_clips: int, clips_per_shard: int
    ) -> "StoreWriter":
        """The writer that `open_or_create` returns, touching nothing."""
        path = place(dataset_dir) / track.store_name
        sizes = track.sizes(n_clips, clips_per_shard)
        return cls(path, track.array_kind, track.dtype, track.identity_digest, sizes)

    @property
    def n_shards(self) -> int:
        """Shards that the clips fill."""
        return self._store.n_shards

    def rows(self, shard: int) -> range:
        """Rows of one shard."""
        return self._store.rows(shard)

    def write_shard(self, shard: int, payload: ShardPayload, record: Mapping[str, Any]) -> None:
        """Writes one shard of every array, then its commit record.

        Args:
            shard: Its number.
            payload: Its rows, all of them.
            record: Fields of the commit record that the caller knows (run_id, audio_sha256,
                failures, notes); the writer adds the others.

        Raises:
            CacheError: An unknown field, or the system refuses to write. A payload of a wrong
                shape or dtype is a defect of the caller's and raises AssertionError.
        """
        contents = self._contents(shard, payload)
        store, slots = self._store, self.sizes["clips_per_shard"]
        encoded: dict[str, Iterable[layout.Buffer]] = {}
        committed: dict[str, dict[str, int]] = {}
        clips: Sequence[np.ndarray] = []  # where a chunk is not a clip
        if self._concat:
            slots = self.sizes["shard_frames"] // self.sizes["chunk_frames"]
            clips = np.split(contents[self.kind.data], np.cumsum(contents["n_frames"])[:-1])
            contents[self.kind.data] = self._chunks(contents[self.kind.data])
        crcs = np.zeros(len(contents[self.kind.data]), "<u4")  # known once the chunks are written
        for name, array in self.kind.arrays.items():
            rows = contents[name]
            if array.inner:
                last = layout.shard_index(len(rows), rows[:1].nbytes, slots)
                encoded[name] = layout.shard_parts(rows, crcs, last)
                size = rows.nbytes + crcs.nbytes + len(last)
            else:
                last = layout.encode_chunk(rows, array.chunk_shape(self.sizes), array.fill_value)
                encoded[name], size = [last], len(last)
            crc = int.from_bytes(last[-layout.CRC_BYTES :], "little")
            committed[name] = {"bytes": size, "crc32c": crc}
        full = {
            **record,
            "shard": shard,
            "identity_sha256": self.identity_sha256,
            "clip_keys": _hex(payload.clip_key),
            "files": committed,
            "clip_crc32c": [],
        }
        schema.load().check_record(full, f"{self.path}: commit record {shard}")
        self._mark_incomplete()
        # What the shard held before ends here: first its record, then its rows' status, which is
        # also written last, so that no reader takes old rows for new ones.
        files.remove(store.record_path(shard))
        files.remove(store.chunk_path("status", shard))
        files.write_all({store.chunk_path(name, shard): pieces for name, pieces in encoded.items()})
        clip_crcs = layout.row_crcs(clips) if self._concat else crcs
        full["clip_crc32c"] = [f"{crc:08x}" for crc in clip_crcs.tolist()]
        files.write_json(store.record_path(shard), full)

    def record(self, shard: int, listing: Listing = None) -> dict[str, Any] | None:
        """The shard's commit record; None if there is none or it cannot be read.

        Args:
            shard: Its number.
            listing: Of the store, see `pending`.
        """
        path = self._store.record_path(shard)
        if listing is not None and path not in listing:
            return None
        try:
            record = files.read_json(path)
            schema.load().check_record(record, str(path))
        except CacheError:
            return None
        return record

    def annotate(self, shard: int, record: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
        """Writes a shard's commit record again, with some of its notes replaced."""
        notes = {**record.get("notes", {}), **notes}
        files.write_json(self._store.record_path(shard), {**record, "notes": notes})

    def pending(
        self,
        shard: int,
        clip_keys: np.ndarray | None = None,
        record: Mapping[str, Any] | None = None,
        listing: Listing = None,
    ) -> str | None:
        """Why a shard must be written (again); None if it is committed.

        Args:
            shard: Its number.
            clip_keys: uint64 (clip,) of its rows by the index; None compares the files alone.
            record: Its commit record, if it was read already.
            listing: `places.listing` of the store's place: an object that is not newer than the
                record, and of its size, is taken for the one committed without being read.
        """
        record = record or self.record(shard, listing)
        if record is None:
            return "not written yet"
        if record["shard"] != shard or record["identity_sha256"] != self.identity_sha256:
            return "its commit record belongs to another shard or store"
        if clip_keys is None and len(record["clip_keys"]) != len(self.rows(shard)):
            return "its number of clips changed"
        if clip_keys is not None and record["clip_keys"] != (wanted := _hex(clip_keys)):
            old = set(record["clip_keys"])
            new = sum(key not in old for key in wanted)
            gone = len(old - set(wanted))
            return f"its clips changed ({new} new, {gone} gone)" if new or gone else "clips moved"
        for name in self.kind.arrays:
            path, wanted = self._store.chunk_path(name, shard), record["files"].get(name)
            if wanted and self._as_committed(path, wanted["bytes"], shard, listing):
                continue
            try:
                size, crc = layout.tail(path)
            except OSError:
                return f"{path} is missing"
            if wanted != {"bytes": size, "crc32c": crc}:
                return f"{path} is not the file that was committed"
        return None

    def _as_committed(self, path: Place, n_bytes: int, shard: int, listing: Listing) -> bool:
        """Whether a listing says enough of a file: its size, and that the record came after it."""
        if listing is None or path not in listing:
            return False
        record = listing.get(self._store.record_path(shard))
        found = listing[path]
        in_time = record is not None and found.st_mtime_ns <= record.st_mtime_ns
        return found.st_size == n_bytes and in_time

    def committed(self, shard: int, clip_keys: np.ndarray | None = None) -> bool:
        """Whether the shard is written, of these clips, and whole."""
        return self.pending(shard, clip_keys) is None

    def finalise(self, provenance: Mapping[str, Any], **attributes: Any) -> bool:
        """Marks the store complete if every shard is committed; returns whether it is.

        A store that is complete already is left as it is, provenance included.

        Args:
            provenance: How the extraction ran; JSON values.
            **attributes: Attributes of the schema to set anew, e.g. index_sha256.
        """
        current = Store.open(self.path)
        if current.attributes["complete"] and current.sizes == self._store.sizes:
            return True
        listing = places.listing(self.path)
        reasons = places.spread(
            self.path, lambda shard: self.pending(shard, listing=listing), range(self.n_shards)
        )
        if any(reasons):
            return False
        if current.sizes["n_clips"] > self.sizes["n_clips"]:
            self._mark_incomplete()
            for shard in range(self.n_shards, current.n_shards):
                files.remove(current.record_path(shard))
                files.remove(*(current.chunk_path(name, shard) for name in self.kind.arrays))
            self._write_arrays(self.sizes["n_clips"])
        values = {**current.attributes, **attributes, "provenance": dict(provenance)}
        self._write_group({**values, "complete": True})
        return True

    @property
    def _store(self) -> Store:
        return Store(self.path, self.kind, {"dtype": self.dtype}, {}, self.sizes)

    def _adopt(self, track: Track) -> None:
        """Checks the store that is there, and extends it where the index has grown."""
        found = Store.open(self.path)
        identity = schema.load().identity_names(track.kind)
        here = {key: found.attributes[key] for key in identity if key in found.attributes}
        differing = differences(here, track.full_identity)
        if found.attributes["identity_sha256"] != self.identity_sha256 or differing:
            raise CacheError(f"{self.path} is another track's store: {differing or 'its digest'}")
        fixed = {key: value for key, value in self.sizes.items() if key != "n_clips"}
        if differing := differences({key: found.sizes[key] for key in fixed}, fixed):
            raise CacheError(
                f"{self.path} has another layout ({differing}); "
                "use another cache folder, or remove the store to extract it anew"
            )
        if foreign := set(self.kind.arrays) - found.plain:
            raise CacheError(
                f"{self.path}: {', '.join(sorted(foreign))} was rewritten with other codecs or "
                "chunks; it can be read but not extended"
            )
        shapes = set(found.lengths.values())
        if max(shapes) < self.sizes["n_clips"] or len(shapes) > 1:
            self._mark_incomplete()
            self._write_arrays(max(*shapes, self.sizes["n_clips"]))

    def _write_arrays(self, n_clips: int) -> None:
        contract = schema.load()
        for name, array in self.kind.arrays.items():
            values = contract.array_attribute_values(array)
            metadata = array.metadata({**self.sizes, "n_clips": n_clips}, self.dtype, values)
            files.write_json(self.path / name / METADATA, metadata)

    def _write_group(self, attributes: Mapping[str, Any]) -> None:
        schema.load().check_attributes(attributes, str(self.path))
        group = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
        files.write_json(self.path / METADATA, group)

    def _mark_incomplete(self) -> None:
        # Workers may do this at the same time: each writes the same bytes.
        attributes = files.read_json(self.path / METADATA)["attributes"]
        if attributes["complete"]:
            self._write_group({**attributes, "complete": False})

    def _contents(self, shard: int, payload: ShardPayload) -> dict[str, np.ndarray]:
        """The payload by array name, with padding and failed rows set to the fill value."""
        n_rows = len(self.rows(shard))
        contract = schema.load()
        bad = payload.status != contract.code("ok")
        n_frames = np.where(bad, 0, payload.n_frames)
        sizes = {**self.sizes, "n_clips": n_rows}
        if self._concat:  # stores no padding
            sizes["max_frames"] = payload.data.shape[1]
        padded = np.arange(sizes["max_frames"]) >= n_frames[:, None]
        contents = {}
        for name, array in self.kind.arrays.items():
            if name == "offset":
                first = shard * self.sizes["shard_frames"]
                contents[name] = (first + np.cumsum(n_frames) - n_frames).astype(np.uint64)
                continue
            values = payload.data if array.inner else getattr(payload, name)
            dense = self._dense.arrays[name]
            meta = dense.metadata(sizes, self.dtype, {})
            assert values.shape == tuple(meta["shape"]), (name, values.shape, meta["shape"])
            assert values.dtype == meta["data_type"], (name, values.dtype, meta["data_type"])
            if name != "n_frames" and values.ndim > 1 and self._concat:
                values = values[~padded]
            elif name == "n_frames":
                values = n_frames.astype(values.dtype)
            elif values.ndim > 1 and padded.any():
                values = values.copy()
                values[padded] = array.fill_value
            contents[name] = np.ascontiguousarray(values)
        room = min(sizes["max_frames"], self.sizes["max_frames"])
        assert n_frames.max(initial=0) <= room, n_frames.max()
        if self._concat:
            assert n_frames.sum() <= self.sizes["shard_frames"], n_frames.sum()
        return contents

    @property
    def _concat(self) -> bool:
        return "shard_frames" in self.sizes

    @property
    def _dense(self) -> Kind:
        """The kind in the layout of payloads."""
        return schema.load().kind(self.kind.name)

    def _chunks(self, frames: np.ndarray) -> np.ndarray:
        """(frame, ...) of a shard as (chunk, frame, ...), the last chunk filled up."""
        size = self.sizes["chunk_frames"]
        n_chunks = -(-len(frames) // size)
        fill = self.kind.arrays[self.kind.data].fill_value
        chunks = np.full((n_chunks * size, *frames.shape[1:]), fill, frames.dtype)
        chunks[: len(frames)] = frames
        return chunks.reshape(n_chunks, size, *frames.shape[1:])


def _hex(keys: np.ndarray) -> list[str]:
    return [f"{key:016x}" for key in keys.tolist()]
