"""One track of one shard while it fills up: clips to windows, windows to batches, batches to rows.

Batches hold windows of one length, of many clips, but never cross a shard, and clips come in row
order, so that the bytes of a shard depend on its clips and on the batch size alone. On a GPU one
batch is computed while the next one is gathered.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from understudy import audio, schema
from understudy.cache import ShardPayload
from understudy.errors import AudioError, DataError
from understudy.extract.plan import Clip, TrackJob, file_stamp, samples_at
from understudy.extract.spool import BLOCK_SAMPLES, LONG_S, Samples, Spool, resampled
from understudy.index import inside
from understudy.teachers.base import Teacher
from understudy.timing import WindowPlan

LEVEL_FLOOR_DB = -120.0  # digital silence; minus infinity does not survive arithmetic
WAITING_S = 1200.0  # most audio of windows that wait for their batch, to bound memory


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a clip has no row in a track: a status name of the schema and the ledger's reason."""

    status: str
    reason: str


@dataclass(kw_only=True)
class Loaded:
    """A decoded clip: mono float32 samples by (rate in Hz, resampler), or a failure."""

    clip: Clip
    file_stamp: tuple[int, int] = (-1, -1)
    sha256: str = ""
    failure: Failure | None = None
    duration_s: float = 0.0
    samples: dict[tuple[int, str], Samples] = field(default_factory=dict)
    read_s: float = 0.0


def load(clip: Clip, wanted: Iterable[tuple[int, str]], root: str, scratch: str) -> Loaded:
    """Decodes a clip once and resamples it once per (rate, resampler).

    A file that cannot be decoded, or that lies outside `root`, is a `failure`, not an exception.
    Clips beyond `LONG_S` are kept in nameless files in the folder `scratch`.

    Raises:
        DataError: The file is missing because the whole dataset's folder is.
        CacheError: `scratch` cannot be written.
    """
    began = time.perf_counter()
    loaded = Loaded(clip=clip, file_stamp=file_stamp(Path(root, clip.path)))
    try:
        path = inside(Path(root), clip.path)
        if (clip.duration_s or 0.0) > LONG_S:
            _load_long(loaded, path, wanted, scratch)
        else:
            decoded = audio.decode(path, clip.start_s, clip.duration_s, digest=True)
            loaded.sha256 = decoded.sha256 or ""
            loaded.duration_s = len(decoded.samples) / decoded.rate_hz
            for rate_hz, resampler in wanted:
                loaded.samples[rate_hz, resampler] = audio.resample(
                    decoded.samples, decoded.rate_hz, rate_hz, resampler
                )
    except AudioError as error:
        if not Path(root).is_dir():
            raise DataError(f"{root}: the dataset's folder went away during extraction") from None
        status = "audio_not_finite" if error.reason == audio.NON_FINITE else "undecodable"
        loaded.failure = Failure(status=status, reason=error.reason)
    except DataError as error:  # a link out of the root
        loaded.failure = Failure(status="undecodable", reason=str(error))
    loaded.read_s = time.perf_counter() - began
    return loaded


def _load_long(loaded: Loaded, path: Path, wanted: Iterable[tuple[int, str]], scratch: str) -> None:
    clip = loaded.clip
    decoded = Spool(scratch)
    with audio.stream(path, clip.start_s, clip.duration_s) as (from_hz, blocks):
        for block in blocks:
            decoded.append(block)
    loaded.sha256 = audio.sha256(path)
    loaded.duration_s = len(decoded) / from_hz
    for rate_hz, resampler in wanted:
        loaded.samples[rate_hz, resampler] = resampled(
            decoded, from_hz, rate_hz, resampler, scratch
        )


def window_levels(samples: Samples, start: np.ndarray, length: int) -> np.ndarray:
    """RMS of every window in dBFS, float16 (time,): over the samples it holds, not its padding."""
    stop = np.clip(start + length, 0, len(samples))
    start = np.clip(start, 0, len(samples))
    energy, at_stop = np.split(energy_until(samples, np.concatenate([start, stop])), 2)
    mean = (at_stop - energy) / np.maximum(stop - start, 1)
    floor = 10.0 ** (LEVEL_FLOOR_DB / 10)
    return (10.0 * np.log10(np.maximum(mean, floor))).astype(np.float16)


def energy_until(samples: Samples, points: np.ndarray) -> np.ndarray:
    """Sum of squares of samples[:point], float64, of every point from 0 to len(samples)."""
    energy, total = np.zeros(len(points)), 0.0
    for first in range(0, len(samples), BLOCK_SAMPLES):
        block = samples[first : first + BLOCK_SAMPLES]
        sums = total + np.cumsum(np.square(block, dtype=np.float64))
        here = (points > first) & (points <= first + len(block))
        energy[here] = sums[points[here] - first - 1]
        total = float(sums[-1])
    return energy


def cut(samples: Samples, plan: WindowPlan, first: int, length: int) -> np.ndarray:
    """Samples from `first` of the plan's count on: `length`, or fewer where the clip ends.

    What the plan puts before the clip, or mirrors at its ends, is there.
    """
    first -= plan.mirrored + plan.silent
    stop = first + length
    part = samples[max(0, first) : max(0, min(stop, len(samples)))]
    before, behind = max(0, -first), max(0, stop - len(samples))
    if plan.mirrored and (before or behind):
        return np.pad(part, (before, behind), "reflect")
    return np.pad(part, (before, 0)) if before else part


def strict_cuda() -> AbstractContextManager[None]:
    """Keeps cuDNN from rounding float32 to TF32, and from choosing algorithms by a race."""
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )


_MOST_WINDOWS: WeakKeyDictionary[Teacher, int] = WeakKeyDictionary()
"""Largest batch of each teacher that memory held, of those for which it ran out."""


def forward(teacher: Teacher, windows: np.ndarray) -> tuple[torch.Tensor, int]:
    """Embeddings of windows, (batch, channel) on the teacher's device, perhaps still computed.

    Where memory runs out, batches of this teacher are halved from then on, down to one window.

    Returns:
        The embeddings, and by how many passes more than one they were made.
    """
    batch = torch.from_numpy(windows)
    if teacher.device.type == "cuda":
        batch = batch.pin_memory().to(teacher.device, non_blocking=True)
    while True:
        most = _MOST_WINDOWS.get(teacher, len(batch))
        try:
            with strict_cuda() if teacher.device.type == "cuda" else nullcontext():
                parts = [teacher.forward(part) for part in batch.split(most)]
        except torch.OutOfMemoryError:
            most = min(most, len(batch))
            if most == 1:
                raise
            _MOST_WINDOWS[teacher] = most // 2
        else:
            return torch.cat(parts), len(parts) - 1


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One pass over a window, or over a part of one that is too long to pass whole."""

    row: int
    frame: int
    pieces: int  # of its window
    samples: np.ndarray


class ShardTrack:
    """Rows of one shard of one track, held in memory until they are written whole.

    Args:
        job: The track.
        teacher: What computes it; None for the audio track.
        clips: The shard's clips.
        batch_windows: Most windows of a batch.
    """

    def __init__(
        self, job: TrackJob, teacher: Teacher | None, clips: Sequence[Clip], batch_windows: int
    ) -> None:
        track = job.track
        self.job, self.teacher, self.clips = job, teacher, clips
        self.batch_windows = batch_windows
        self.fill = 0 if teacher is None else np.nan
        shape = (len(clips), track.max_frames) + (() if teacher is None else (track.dim,))
        self.data = np.full(shape, self.fill, track.dtype)
        self.n_frames = np.zeros(len(clips), np.uint32)
        self.levels = None if teacher is None else np.full(shape[:2], np.nan, np.float16)
        keeps = teacher is not None and teacher.keeps_times
        self.centres = np.full(shape[:2], np.nan) if keeps else None
        self.failures: dict[int, Failure] = {}
        self.clipped: dict[int, int] = {}
        self.back_offs = 0
        self.infer_s = 0.0
        self._waiting: dict[int, list[Piece]] = defaultdict(list)
        self._waiting_samples = 0
        self._computing: tuple[list[Piece], torch.Tensor] | None = None
        self._vectors: dict[tuple[int, int], list[np.ndarray]] = defaultdict(list)

    def add(self, row: int, loaded: Loaded) -> None:
        """Takes the clip of shard row `row`; computes whenever a batch is full."""
        if loaded.failure is not None:
            self.failures[row] = loaded.failure
            return
        samples = loaded.samples[self.job.rate_hz, self.job.resampler]
        if self.teacher is None:
            if self._fits(row, len(samples)):
                for first in range(0, len(samples), BLOCK_SAMPLES):
                    block, clipped = audio.to_int16(samples[first : first + BLOCK_SAMPLES])
                    self.data[row, first : first + len(block)] = block
                    if clipped:
                        self.clipped[row] = self.clipped.get(row, 0) + clipped
            return
        if self.teacher.own_times:
            return self._add_timeline(row, samples, self.teacher)
        plan = self.teacher.plan(len(samples))
        if not self._fits(row, plan.n):
            return
        assert self.levels is not None
        if self.centres is not None:
            self.centres[row, : plan.n] = plan.centre_s
        first = plan.start - plan.mirrored - plan.silent
        self.levels[row, : plan.n] = window_levels(samples, first, plan.length)
        starts, length = self.teacher.passes(plan.length)
        for frame, start in enumerate(plan.start.tolist()):
            for offset in starts.tolist():
                part = cut(samples, plan, start + offset, length)
                piece = Piece(row=row, frame=frame, pieces=len(starts), samples=part)
                self._waiting[length].append(piece)
                self._waiting_samples += length
                if len(self._waiting[length]) == self.batch_windows:
                    self._infer(length)
        while self._waiting_samples > WAITING_S * self.job.rate_hz:
            self._infer(next(iter(self._waiting)))

    def _add_timeline(self, row: int, samples: Samples, teacher: Teacher) -> None:
        """Embeds a whole clip; a frame's level is that of the hop about it."""
        began = time.perf_counter()
        with strict_cuda() if teacher.device.type == "cuda" else nullcontext():
            timeline = teacher.embed(torch.from_numpy(samples[:]))
        embedding = timeline.embedding[0].cpu().numpy()
        if self._fits(row, len(embedding)):
            assert self.levels is not None
            assert self.centres is not None
            hop = max(1, round(teacher.hop_s * self.job.rate_hz))
            start = np.rint(timeline.centre_s * self.job.rate_hz).astype(np.int64) - hop // 2
            self.levels[row, : len(start)] = window_levels(samples, start, hop)
            self.centres[row, : len(start)] = timeline.centre_s
            for frame, vector in enumerate(embedding):
                self._keep(row, frame, vector)
        self.infer_s += time.perf_counter() - began

    def _fits(self, row: int, frames: int) -> bool:
        capacity = self.job.track.max_frames
        if frames > capacity:
            reason = f"decodes to {frames} frames, its header promised at most {capacity}"
            self.failures[row] = Failure(status="undecodable", reason=reason)
            return False
        self.n_frames[row] = frames
        return True

    def _infer(self, length: int) -> None:
        """Has the windows of one length computed; keeps what was computed before them."""
        began = time.perf_counter()
        waiting = self._waiting.pop(length)
        self._waiting_samples -= length * len(waiting)
        windows = np.zeros((len(waiting), length), np.float32)
        for position, piece in enumerate(waiting):
            windows[position, : len(piece.samples)] = piece.samples
        assert self.teacher is not None
        embedding, back_offs = forward(self.teacher, windows)
        self.back_offs += back_offs
        before, self._computing = self._computing, (waiting, embedding)
        self._collect(before)
        self.infer_s += time.perf_counter() - began

    def _collect(self, computed: tuple[list[Piece], torch.Tensor] | None) -> None:
        for piece, vector in (
            zip(computed[0], computed[1].cpu().numpy(), strict=True) if computed else ()
        ):
            if piece.pieces == 1:
                self._keep(piece.row, piece.frame, vector)
                continue
            vectors = self._vectors[piece.row, piece.frame]
            vectors.append(vector)
            if len(vectors) == piece.pieces:
                self._keep(piece.row, piece.frame, np.mean(vectors, axis=0))
                del self._vectors[piece.row, piece.frame]

    def _keep(self, row: int, frame: int, vector: np.ndarray) -> None:
        largest = float(np.abs(vector).max())
        if largest <= float(np.finfo(self.data.dtype).max):
            self.data[row, frame] = vector
        else:
            self.failures.setdefault(row, self._out_of_range(largest))

    def _out_of_range(self, largest: float) -> Failure:
        if not np.isfinite(largest):
            return Failure(
                status="embedding_not_finite", reason="the embedding holds NaN or infinity"
            )
        reason = f"the embedding reaches {largest:.3g}, beyond {self.data.dtype}"
        return Failure(status="overflow", reason=f"{reason}; extract with --dtype float32")

    def _make_room(self) -> None:
        """Refuses clips longer than their headers promised where a concat shard lacks the room."""
        room = self.job.writer.sizes.get("shard_frames")
        frames = {row: int(n) for row, n in enumerate(self.n_frames) if row not in self.failures}
        if room is None or sum(frames.values()) <= room:
            return
        for row, n in frames.items():
            duration_s = np.array(self.clips[row].duration_s or 0.0)
            promised = int(samples_at(duration_s, self.job.rate_hz))
            if self.teacher is not None:
                promised = self.teacher.plan(promised).n if promised else 0
            if n > promised:
                reason = f"decodes to {n} frames, its header promised {promised}"
                self.failures[row] = Failure(status="undecodable", reason=reason)

    def finish(self) -> None:
        """Computes the windows still waiting and empties the rows of failed clips."""
        for length in list(self._waiting):
            self._infer(length)
        began = time.perf_counter()
        self._collect(self._computing)
        self._computing = None
        self.infer_s += time.perf_counter() - began
        self._make_room()
        for row in self.failures:
            self.data[row] = self.fill
            self.n_frames[row] = 0
            for values in (self.levels, self.centres):
                if values is not None:
                    values[row] = np.nan

    def payload(self) -> ShardPayload:
        """What the writer stores, after `finish`."""
        known = schema.load()
        status = np.full(len(self.clips), known.code("ok"), np.uint8)
        for row, failure in self.failures.items():
            status[row] = known.code(failure.status)
        return ShardPayload(
            data=self.data,
            n_frames=self.n_frames,
            status=status,
            level_db=self.levels,
            centre_s=self.centres,
            clip_key=np.array([clip.key for clip in self.clips], np.uint64),
        )

    def record(self, run_id: str, loaded: Sequence[tuple[str, tuple[int, int]]]) -> dict[str, Any]:
        """What the commit record says beyond the writer's own facts.

        Args:
            run_id: Of this run.
            loaded: sha256 and `file_stamp` of each row's file.
        """
        return {
            "run_id": run_id,
            "audio_sha256": [sha256 for sha256, _ in loaded],
            "failures": [
                {
                    "clip_id": self.clips[row].clip_id,
                    "path": self.clips[row].path,
                    "status": failure.status,
                    "reason": failure.reason,
                }
                for row, failure in sorted(self.failures.items())
            ],
            "notes": {
                "file_bytes": [size for _, (size, _) in loaded],
                "file_mtime_ns": [changed for _, (_, changed) in loaded],
                "clipped_samples": sum(self.clipped.values()),
                "clipped_clips": len(self.clipped),
                "memory_back_offs": self.back_offs,
            },
        }
