"""Writes stores: whole shards, each made final by its commit record.

No mode of opening removes data. Rows that a smaller index no longer has go at `finalise`, when
their successors are complete.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from understudy import schema
from understudy.cache import files, layout, places
from understudy.cache.identity import Track, differences
from understudy.cache.payload import ShardPayload, encode
from understudy.cache.places import Listing, Place, place
from understudy.cache.store import METADATA, Store
from understudy.errors import CacheError
from understudy.schema import Kind


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
        store = self._store
        encoded = encode(store, shard, payload)
        full = {
            **record,
            "shard": shard,
            "identity_sha256": self.identity_sha256,
            "clip_keys": _hex(payload.clip_key),
            "files": encoded.files,
            "clip_crc32c": [],
        }
        schema.load().check_record(full, f"{self.path}: commit record {shard}")
        self._mark_incomplete()
        # What the shard held before ends here: first its record, then its rows' status, which is
        # also written last, so that no reader takes old rows for new ones.
        files.remove(store.record_path(shard))
        files.remove(store.chunk_path("status", shard))
        files.write_all(
            {store.chunk_path(name, shard): pieces for name, pieces in encoded.pieces.items()}
        )
        full["clip_crc32c"] = [f"{crc:08x}" for crc in encoded.clip_crcs().tolist()]
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


def _hex(keys: np.ndarray) -> list[str]:
    return [f"{key:016x}" for key in keys.tolist()]
