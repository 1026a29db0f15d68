"""What makes two tracks the same: the attributes that the schema marks `identity`."""

import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from understudy import schema
from understudy.config import digest
from understudy.errors import CacheError, unknown

DIGITS = 12


@dataclass(frozen=True, kw_only=True)
class Track:
    """What is to be stored: a teacher's timeline, or the audio.

    Attributes:
        kind: "embedding" or "audio".
        name: The teacher's name, or "audio".
        dtype: Storage dtype, one of the kind's.
        max_frames: Frames (embedding) or samples (audio) of the longest clip.
        dim: Channels of one vector; 1 for audio.
        layout: "dense" or "concat", see cache_schema.yaml.
        shard_frames: Layout concat: frames that the fullest shard holds; rounded up to whole inner
            chunks.
        identity: Attributes that tell this track from others (`Teacher.identity()`).
        attributes: Further attributes of the store, see cache_schema.yaml.

    Raises:
        CacheError: A name that the schema lacks, or that belongs into the other mapping.
    """

    kind: str
    name: str
    dtype: str
    max_frames: int
    dim: int = 1
    layout: str = schema.DENSE
    shard_frames: int = 0
    identity: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        contract = schema.load()
        identity = contract.identity_names(contract.kind(self.kind).name)
        for key in self.identity:
            if key not in identity:
                raise CacheError(f"track {self.name}: {unknown('identity key', key, identity)}")
        for key in self.attributes:
            if key in identity:
                raise CacheError(f"track {self.name}: '{key}' is part of the identity")
        for key in ("name", "dtype", "dim"):
            if self.identity.get(key, getattr(self, key)) != getattr(self, key):
                raise CacheError(
                    f"track {self.name}: {key} is {getattr(self, key)!r} "
                    f"but its identity says {self.identity[key]!r}"
                )
        if self.max_frames < 1 or self.dim < 1:
            raise CacheError(
                f"track {self.name}: max_frames {self.max_frames}, dim {self.dim}; wanted 1 or more"
            )
        if self.layout == schema.CONCAT and self.shard_frames < 1:
            raise CacheError(f"track {self.name}: layout concat wants shard_frames of 1 or more")
        contract.check_attributes(self.store_attributes(complete=False), f"track {self.name}")

    @property
    def full_identity(self) -> dict[str, Any]:
        """All identity attributes, the schema's version and the layout among them."""
        contract = schema.load()
        own = {
            "schema_version": contract.version,
            "kind": self.kind,
            "layout": self.layout,
            "name": self.name,
            "dtype": self.dtype,
        }
        values = own | self.identity | own
        return {
            key: float(value)
            if contract.attributes[key].type == "number" and type(value) is int
            else value
            for key, value in values.items()
        }

    @property
    def array_kind(self) -> schema.Kind:
        """The arrays of such a store."""
        return schema.load().kind(self.kind).of(self.full_identity)

    def sizes(self, n_clips: int, clips_per_shard: int) -> dict[str, int]:
        """The schema's sizes of the store."""
        sizes = {
            "n_clips": n_clips,
            "clips_per_shard": clips_per_shard,
            "max_frames": self.max_frames,
            "dim": self.dim,
        }
        if self.layout == schema.CONCAT:
            frame_bytes = self.dim * np.dtype(self.dtype).itemsize
            chunk = schema.load().chunk_frames(frame_bytes)
            sizes |= {
                "shard_frames": -(-self.shard_frames // chunk) * chunk,
                "chunk_frames": chunk,
            }
        return sizes

    @property
    def identity_digest(self) -> str:
        """sha256 (hex) of the identity."""
        return digest(self.full_identity)

    @property
    def store_name(self) -> str:
        """Folder of the store, below the dataset's."""
        return f"{file_stem(self.name)}-{self.identity_digest[:DIGITS]}.zarr"

    def store_attributes(self, *, complete: bool) -> dict[str, Any]:
        """Attributes of the store's group."""
        return {
            **self.full_identity,
            "identity_sha256": self.identity_digest,
            "complete": complete,
            **({"max_frames": self.max_frames} if self.layout == schema.CONCAT else {}),
            **self.attributes,
        }


def file_stem(name: str) -> str:
    """A track's name as it stands in a file name ("hear:pkg.mod" -> "hear_pkg.mod")."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Keys in which two mappings differ, with both values; empty if they do not."""
    return "; ".join(
        f"{key}: {found.get(key)!r} there, {wanted.get(key)!r} wanted"
        for key in sorted({*found, *wanted})
        if found.get(key) != wanted.get(key)
    )


def clip_key(clip_id: str, start_s: float = 0.0, duration_s: float = math.nan) -> np.uint64:
    """Fingerprint of a clip as the index names it: id, start and duration in seconds.

    The file's place does not enter, so a collection may be moved; a changed length does.
    """
    return clip_keys([clip_id], [start_s], [duration_s])[0]


def clip_keys(
    clip_ids: Iterable[str], starts_s: Iterable[float], durations_s: Iterable[float]
) -> np.ndarray:
    """`clip_key` of each clip, uint64 (clip,)."""
    digests = [
        hashlib.blake2b(
            f"{clip_id}\n{float(start_s)!r}\n{float(duration_s)!r}".encode(), digest_size=8
        ).digest()
        for clip_id, start_s, duration_s in zip(clip_ids, starts_s, durations_s, strict=True)
    ]
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)
