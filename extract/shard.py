"""One track of one shard while it fills up: clips to windows, windows to batches, batches to rows.

Batches hold windows of one length, of many clips, but never cross a shard, and clips come in row
order, so that the bytes of a shard depend on its clips and on the batch size alone. On a GPU one
batch is computed while the next one is gathered.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch

from understudy import audio, schema
from understudy.cache import ShardPayload
from understudy.extract.forward import FATAL, count, forward, strict
from understudy.extract.load import Loaded
from understudy.extract.plan import Clip, Failure, TrackJob, samples_at
from understudy.extract.spool import BLOCK_SAMPLES, Samples
from understudy.extract.windows import cut, window_levels
from understudy.teachers.base import Teacher

WAITING_S = 1200.0  # most audio of windows that wait for their batch, to bound memory


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
        beat: Called after every pass, as a sign of life.
        holding: Entered with clips while the teacher has them.
    """

    def __init__(
        self,
        job: TrackJob,
        teacher: Teacher | None,
        clips: Sequence[Clip],
        batch_windows: int,
        beat: Callable[[], None] = lambda: None,
        holding: Callable[..., AbstractContextManager[None]] = lambda *_: nullcontext(),
    ) -> None:
        track = job.track
        self._beat, self._holding = beat, holding
        self.job, self.teacher, self.clips = job, teacher, clips
        self.batch_windows = batch_windows
        self.fill = 0 if teacher is None else np.nan
        # Concat stores no padding: the shard's own clips say how wide its rows become.
        width = 1 if track.layout == schema.CONCAT else track.max_frames
        shape = (len(clips), width) + (() if teacher is None else (track.dim,))
        self.data = np.full(shape, self.fill, track.dtype)
        self.n_frames = np.zeros(len(clips), np.uint32)
        self.levels = None if teacher is None else np.full(shape[:2], np.nan, np.float16)
        keeps = teacher is not None and teacher.keeps_times
        self.centres = np.full(shape[:2], np.nan) if keeps else None
        self.failures: dict[int, Failure] = {}
        self.clipped: dict[int, int] = {}
        self.short: dict[str, tuple[float, float]] = {}
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
        clip, decoded_s = loaded.clip, loaded.duration_s
        if clip.duration_s and decoded_s < clip.duration_s - audio.TOLERANCE_S:
            self.short[clip.path] = round(decoded_s, 2), round(clip.duration_s, 2)
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
        try:
            with self._holding(self.clips[row]), strict(teacher.device):
                timeline = teacher.embed(torch.from_numpy(samples[:]))
            embedding = timeline.embedding[0].cpu().numpy()
        except FATAL:
            raise
        except Exception as error:
            self._refuse(row, teacher, error)
            return
        count(teacher, None)
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
        width = self.data.shape[1]
        if frames > width:
            self._widen(min(capacity, max(frames, 2 * width)) - width)
        return True

    def _widen(self, by: int) -> None:
        def wider(values: np.ndarray, fill: float) -> np.ndarray:
            added = np.full((len(values), by, *values.shape[2:]), fill, values.dtype)
            return np.concatenate([values, added], axis=1)

        self.data = wider(self.data, self.fill)
        self.levels = None if self.levels is None else wider(self.levels, np.nan)
        self.centres = None if self.centres is None else wider(self.centres, np.nan)

    def _infer(self, length: int) -> None:
        """Has the windows of one length computed; keeps what was computed before them."""
        began = time.perf_counter()
        waiting = self._waiting.pop(length)
        self._waiting_samples -= length * len(waiting)
        windows = np.zeros((len(waiting), length), np.float32)
        for position, piece in enumerate(waiting):
            windows[position, : len(piece.samples)] = piece.samples
        assert self.teacher is not None
        rows = dict.fromkeys(piece.row for piece in waiting)
        with self._holding(*(self.clips[row] for row in rows)):
            try:
                embedding, back_offs = forward(self.teacher, windows)
            except FATAL:
                raise
            except Exception:
                computed = self._by_clip(waiting, windows, self.teacher)
            else:
                count(self.teacher, None)
                self.back_offs += back_offs
                computed = waiting, embedding
        before, self._computing = self._computing, computed
        self._collect(before)
        self.infer_s += time.perf_counter() - began
        self._beat()

    def _by_clip(
        self, waiting: list[Piece], windows: np.ndarray, teacher: Teacher
    ) -> tuple[list[Piece], torch.Tensor] | None:
        """What a batch that failed as a whole gives clip by clip; refuses those that fail."""
        kept: list[Piece] = []
        parts: list[torch.Tensor] = []
        for row, group in groupby(range(len(waiting)), lambda at: waiting[at].row):
            places = list(group)
            try:
                embedding, _ = forward(teacher, windows[places])
            except FATAL:
                raise
            except Exception as error:
                self._refuse(row, teacher, error)
                continue
            count(teacher, None)
            kept += [waiting[at] for at in places]
            parts.append(embedding)
        return (kept, torch.cat(parts)) if parts else None

    def _refuse(self, row: int, teacher: Teacher, error: Exception) -> None:
        reason = count(teacher, error)
        self.failures.setdefault(row, Failure(status="teacher_failed", reason=reason))

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
                "short": self.short,
                "clipped_samples": sum(self.clipped.values()),
                "clipped_clips": len(self.clipped),
                "memory_back_offs": self.back_offs,
            },
        }
