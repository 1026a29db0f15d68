"""What of a planned extraction is yet to be computed: shards that are not committed as planned."""

import hashlib
import os
from collections.abc import Mapping
from functools import cached_property
from itertools import repeat
from pathlib import Path

import numpy as np

from understudy import cache as stores
from understudy.cache import StoreWriter
from understudy.cache.places import Listing, listing, spread
from understudy.extract.plan import file_stamp
from understudy.extract.prepare import Extraction
from understudy.index import ClipIndex

# What needs no word: it is new, or `changes` tells of it.
EXPECTED = ("not written yet", "its clips changed", "clips moved")
MOST_TOLD = 5  # shards


def pending(planned: Extraction, *, remember: bool = False) -> dict[str, dict[int, str]]:
    """Why which shards are to be computed: track -> shard number -> reason.

    Args:
        planned: The extraction.
        remember: Write down the new time of files that were touched, or copied, and turned out to
            hold the same bytes, so that they are not read again. The caller holds the lock.
    """
    tracks = planned.job.tracks
    there = {item.track.name: listing(item.writer.path) for item in tracks}

    def shard_reasons(number: int) -> dict[str, str]:
        clips = _ShardClips(planned.index, tracks[0].writer.rows(number))
        found = {
            name: _reason(item.writer, number, clips, remember, there[name], planned.retry_failed)
            for name, item in zip(there, tracks, strict=True)
        }
        return {name: reason for name, reason in found.items() if reason is not None}

    reasons: dict[str, dict[int, str]] = {name: {} for name in there}
    shards = range(planned.n_shards)
    for number, found in enumerate(spread(planned.dataset_dir, shard_reasons, shards)):
        for name, reason in found.items():
            reasons[name][number] = reason
    return reasons


def again(missing: Mapping[str, Mapping[int, str]]) -> list[str]:
    """Why shards that were written before are `pending`, as far as the index does not say."""
    reasons: dict[int, str] = {}
    for found in missing.values():
        for number, reason in found.items():
            if not reason.startswith(EXPECTED):
                reasons.setdefault(number, reason)
    told = sorted(reasons.items())[:MOST_TOLD]
    lines = [f"shard {number} is extracted again: {reason}" for number, reason in told]
    if more := len(reasons) - len(told):
        lines.append(f"... and {more} more for reasons like these")
    return lines


class _ShardClips:
    """What is asked about a shard's clips, found out once for all tracks."""

    def __init__(self, index: ClipIndex, rows: range) -> None:
        self._index, self._rows = index, slice(rows.start, rows.stop)
        self._sha256: dict[int, str] = {}

    @cached_property
    def keys(self) -> np.ndarray:
        """uint64 (clip,)."""
        clips = self._index.clips.iloc[self._rows]
        return stores.clip_keys(*(clips[name] for name in ("clip_id", "start_s", "duration_s")))

    @cached_property
    def paths(self) -> list[str]:
        """Relative to the root."""
        return self._index.clips["path"].iloc[self._rows].tolist()

    @cached_property
    def stamps(self) -> list[tuple[int, int]]:
        """`file_stamp` of each file now."""
        return [file_stamp(self._absolute(path)) for path in self.paths]

    def sha256(self, row: int) -> str:
        """Of a file's bytes as they are now; empty where they cannot be read."""
        if row not in self._sha256:
            try:
                with Path(self._absolute(self.paths[row])).open("rb") as file:
                    self._sha256[row] = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError:
                self._sha256[row] = ""
        return self._sha256[row]

    def _absolute(self, path: str) -> str:
        return os.path.join(self._index.root, path)  # noqa: PTH118  (a Path takes 5 times as long)


def _reason(
    writer: StoreWriter,
    number: int,
    clips: _ShardClips,
    remember: bool,
    there: Listing,
    retry_failed: bool,
) -> str | None:
    record = writer.record(number, there)
    if record is None:
        return "not written yet"
    reason = writer.pending(number, clips.keys, record, there)
    if reason is not None:
        return reason
    if retry_failed and (failures := record.get("failures")):
        return f"of its clips, {len(failures)} failed"
    notes = record.get("notes", {})
    sizes, times = notes.get("file_bytes", ()), notes.get("file_mtime_ns", repeat(None))
    seen = []
    for row, ((size, time), size_then, time_then, sha256_then) in enumerate(
        zip(clips.stamps, sizes, times, record.get("audio_sha256", ()), strict=False)
    ):
        if size not in (size_then, -1):
            was = "missing" if size_then == -1 else f"{size_then} bytes"
            return f"{clips.paths[row]} was {was} and has {size} bytes now"
        if size != -1 and time != time_then and clips.sha256(row) != sha256_then:
            return f"{clips.paths[row]} has other content now"
        seen.append(time_then if size == -1 else time)
    if remember and seen and seen != notes.get("file_mtime_ns"):
        writer.annotate(number, record, {"file_mtime_ns": seen})
    return None
