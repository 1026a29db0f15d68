"""Small stores with known contents, for tests of what reads and writes them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from understudy import cache, schema

EMBEDDING_IDENTITY = {
    "version": "1",
    "weights_sha256": "none",
    "front_end": "test",
    "window_s": 1.92,
    "hop_s": 0.96,
    "resampler": "soxr_hq",
    "precision": "float32",
    "sample_rate": 32000,
}
AUDIO_IDENTITY = {"sample_rate": 16000, "resampler": "soxr_hq"}


def track(kind: str = "embedding", **changes: Any) -> cache.Track:
    """A track of 5 frames x 6 channels, or of 50 samples; `changes` are fields or identity keys."""
    fields: dict[str, Any] = {"kind": kind, "name": "audio", "dtype": "int16", "max_frames": 50}
    if kind == "embedding":
        fields |= {"name": "teacher", "dtype": "float16", "max_frames": 5, "dim": 6}
    identity = dict(EMBEDDING_IDENTITY if kind == "embedding" else AUDIO_IDENTITY)
    for key, value in changes.items():
        (identity if key in identity else fields)[key] = value
    if kind == "embedding":
        identity["dim"] = fields["dim"]
    if fields.get("layout") == "concat":
        fields.setdefault("shard_frames", 16 * fields["max_frames"])
    return cache.Track(**fields, identity=identity)


@dataclass
class Contents:
    """What every row of a store holds, padding included."""

    data: np.ndarray
    n_frames: np.ndarray
    status: np.ndarray
    clip_key: np.ndarray
    level_db: np.ndarray | None

    def part(self, rows: range) -> "Contents":
        """Views of some rows."""
        part = slice(rows.start, rows.stop)
        level_db = None if self.level_db is None else self.level_db[part]
        return Contents(
            self.data[part], self.n_frames[part], self.status[part], self.clip_key[part], level_db
        )

    def payload(self, rows: range) -> cache.ShardPayload:
        """Some rows as the writer takes them."""
        return cache.ShardPayload(**vars(self.part(rows)))


def contents(track: cache.Track, n_clips: int, seed: int = 0, bad: bool = True) -> Contents:
    """Random clips of varying length; with `bad`, row 2 is undecodable."""
    rng = np.random.default_rng(seed)
    shape = (n_clips, track.max_frames, track.dim)[: 3 if track.kind == "embedding" else 2]
    if track.kind == "embedding":
        data = rng.normal(size=shape).astype(track.dtype)
    else:
        data = rng.integers(-(2**15), 2**15, shape).astype(track.dtype)
    n_frames = rng.integers(1, track.max_frames + 1, n_clips).astype(np.uint32)
    status = np.full(n_clips, schema.load().code("ok"), np.uint8)
    if bad and n_clips > 2:
        status[2], n_frames[2] = schema.load().code("undecodable"), 0
    level_db = rng.uniform(-80, 0, shape[:2]).astype(np.float16)
    fill = np.nan if track.kind == "embedding" else 0
    for row, n in enumerate(n_frames):
        data[row, n:] = fill
        level_db[row, n:] = np.nan
    return Contents(
        data=data,
        n_frames=n_frames,
        status=status,
        clip_key=np.array([cache.clip_key(f"clip-{row}") for row in range(n_clips)]),
        level_db=level_db if track.kind == "embedding" else None,
    )


def make(
    folder: cache.Place,
    track: cache.Track,
    n_clips: int = 10,
    clips_per_shard: int = 4,
    seed: int = 0,
    bad: bool = True,
) -> tuple[Any, Contents]:
    """Writes a complete store; returns its path and what it holds."""
    held = contents(track, n_clips, seed, bad)
    writer = cache.StoreWriter.open_or_create(folder, track, n_clips, clips_per_shard)
    write_pending(writer, held)
    assert writer.finalise({"run_id": "test"})
    return writer.path, held


def write_pending(writer: cache.StoreWriter, held: Contents) -> list[int]:
    """Writes the shards that are not committed, as an extraction does; returns their numbers."""
    shards = [
        shard
        for shard in range(writer.n_shards)
        if not writer.committed(shard, held.payload(writer.rows(shard)).clip_key)
    ]
    for shard in shards:
        writer.write_shard(shard, held.payload(writer.rows(shard)), {"run_id": "test"})
    return shards


def array_files(path: Any) -> dict[str, bytes]:
    """Bytes of a store's chunks by name."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.glob("*/c/**/*"))
        if file.is_file()
    }


def foreign_reader(path: Path, held: Contents) -> cache.CacheReader:
    """A reader of a store in another codec chain than ours, which it reads like our own."""
    reader = cache.CacheReader(path)
    assert reader._foreign is not None
    rows = [9, 0, 0, 5, 2]
    data, n_frames = reader.gather(rows, missing="nan")
    np.testing.assert_array_equal(data, held.data[rows])
    np.testing.assert_array_equal(n_frames, held.n_frames[rows])
    return reader
