"""Batches of audio crops, their teacher frames and labels.

Order and crops are pure functions of (seed, epoch), so (epoch, position) is the sampler's whole
state. One thread of this process reads ahead into a ring of reused buffers: handing arrays between
processes costs more than reading them, and fresh buffers cost page faults.
"""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from torch import Tensor

from understudy.index import ClipIndex
from understudy.predict import RATE_HZ, AudioSource
from understudy.timing import covering_starts
from understudy.train.frames import FramesKey, TeacherFrames

_RING = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Frames:
    """A teacher's frames of the crops of a batch."""

    embedding: Tensor
    """(batch, frame, channel) in the stored dtype; NaN where there is none."""
    centre_s: Tensor
    """float32 (batch, frame), seconds from the crop's start."""
    valid: Tensor
    """bool (batch, frame): belongs to the crop and is not silent."""

    def map(self, change: Callable[[Tensor], Tensor]) -> "Frames":
        """With every tensor changed."""
        return Frames(**{name: change(tensor) for name, tensor in vars(self).items()})


@dataclass(frozen=True, kw_only=True, eq=False)
class Mix:
    """How the crops of a batch are mixed: weight * itself + (1 - weight) * partner."""

    partner: Tensor
    """int64 (batch,), places in the batch."""
    weight: Tensor
    """float32 (batch,)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Crops of some clips. The tensors are views of a buffer, good until the next batch is asked
    for."""

    rows: np.ndarray
    """(batch,) index rows."""
    audio: Tensor
    """int16 (batch, sample) at 16 kHz, augmented: float32; zeros behind the end of a clip shorter
    than the crop."""
    labels: Tensor
    """Multi-label int8 (batch, label) of -1/0/1, or single-label int64 (batch,)."""
    frames: Mapping[FramesKey, Frames] = field(default_factory=dict)
    """Of each of the stream's teachers."""
    mix: Mix | None = None
    """How the audio is mixed; labels and frames are as they were read."""

    def to(self, device: torch.device) -> "Batch":
        """A copy of the tensors on `device` (on the CPU: the same tensors).

        To a GPU they go by a CUDA stream of their own, past what is being computed. The copy is
        complete when this returns, so that the buffer may be used again.
        """
        if device.type != "cuda":
            return self._map(self.rows, lambda tensor: tensor.to(device))
        copies, computation = _copies(device), torch.cuda.current_stream(device)

        def copy(tensor: Tensor) -> Tensor:
            moved = tensor.to(device, non_blocking=True)
            moved.record_stream(computation)  # its memory is in use until that is done with it
            return moved

        with torch.cuda.stream(copies):
            result = self._map(self.rows, copy)
        copies.synchronize()
        return result

    def first(self, rows: np.ndarray) -> "Batch":
        """The part of a buffer that takes `rows`, named so."""
        return self._map(rows, lambda tensor: tensor[: len(rows)])

    def _map(self, rows: np.ndarray, change: Callable[[Tensor], Tensor]) -> "Batch":
        frames = {key: value.map(change) for key, value in self.frames.items()}
        return Batch(rows=rows, audio=change(self.audio), labels=change(self.labels), frames=frames)


@cache
def _copies(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


Crops = tuple[np.ndarray, np.ndarray]
"""Index rows (batch,) and first samples (batch,)."""


def order(seed: int, epoch: int, n_clips: int) -> tuple[np.ndarray, np.ndarray]:
    """The shuffle of an epoch, int64 (n_clips,), and where each clip's crop lies, [0, 1).

    The second is by clip, not by place in the shuffle: leaving a clip out moves no other's crop.
    """
    rng = np.random.default_rng((seed, epoch))
    return rng.permutation(n_clips), rng.random(n_clips)


class Stream:
    """Training batches and validation windows of one split.

    Args:
        index: The clips.
        rows: The training split's rows, usable or not.
        usable: bool (clip,): audio and all teachers' embeddings are there.
        audio: Where samples come from.
        frames: Where teachers' frames come from; a batch has them under the same keys.
        batch_clips: Clips in a batch. An epoch's incomplete last batch is left out; a split of
            fewer clips makes one batch of all of them.
        crop_samples: Length of a crop.
        seed: Of the shuffle and the crops.
        pin: Page-lock the buffers, for copies to a GPU.
    """

    def __init__(
        self,
        index: ClipIndex,
        rows: np.ndarray,
        usable: np.ndarray,
        audio: AudioSource,
        frames: Mapping[FramesKey, TeacherFrames],
        *,
        batch_clips: int,
        crop_samples: int,
        seed: int,
        pin: bool = False,
    ) -> None:
        self.rows = rows
        self.usable = usable
        self.seed = seed
        self.batch_clips = min(batch_clips, int(usable[rows].sum()))
        self.crop_samples = crop_samples
        self.waited_s = 0.0
        """Seconds that consumers have waited for data so far."""
        self._labels = index.labels
        self._audio = audio
        self._frames = frames
        self._pin = pin
        self._buffers: list[Batch] = []

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return int(self.usable[self.rows].sum()) // self.batch_clips

    def crops(self, epoch: int) -> list[Crops]:
        """What an epoch's batches hold, without reading anything."""
        shuffle, place = order(self.seed, epoch, len(self.rows))
        shuffle = shuffle[self.usable[self.rows[shuffle]]]
        rows = self.rows[shuffle]
        slack = np.maximum(0, self._audio.n_samples[rows] - self.crop_samples)
        starts = np.floor(place[shuffle] * (slack + 1)).astype(np.int64)
        n = self.batch_clips
        return [(rows[i * n : (i + 1) * n], starts[i * n : (i + 1) * n])
                for i in range(self.steps_per_epoch)]  # fmt: skip

    def windows(self, rows: np.ndarray) -> list[Crops]:
        """Evenly filled batches of the windows that cover the usable clips of `rows`.

        All clips' first windows come first, then the second ones, so that a batch holds different
        clips wherever it can: a distance over a batch of one clip's windows says nothing.
        """
        plan = [
            (ordinal, row, start)
            for row in rows[self.usable[rows]].tolist()
            for ordinal, start in enumerate(
                covering_starts(int(self._audio.n_samples[row]), self.crop_samples).tolist()
            )
        ]
        plan.sort()
        table = np.array(plan, np.int64).reshape(-1, 3)
        n_batches = -(-len(table) // self.batch_clips)
        return [(part[:, 1], part[:, 2]) for part in np.array_split(table, n_batches)]

    def read(self, plan: Sequence[Crops]) -> Generator[Batch, None, None]:
        """The batches of `plan`, in order; the next ones are read while one is used.

        Raises:
            UnderstudyError: Whatever reading a batch raised, in its place.
        """
        while len(self._buffers) < min(_RING, max(1, len(plan))):
            self._buffers.append(self._allocate())
        free: queue.Queue[Batch | None] = queue.Queue()
        ready: queue.Queue[Batch | BaseException] = queue.Queue()
        for buffer in self._buffers:
            free.put(buffer)

        def fill() -> None:
            try:
                for crops in plan:
                    buffer = free.get()
                    if buffer is None:
                        return
                    ready.put(self._fill(buffer, crops))
            except BaseException as error:  # it is raised again where the batch is wanted
                ready.put(error)

        with _running(threading.Thread(target=fill, daemon=True), free):
            for number in range(len(plan)):
                begun = time.perf_counter()
                batch = ready.get()
                self.waited_s += time.perf_counter() - begun
                if isinstance(batch, BaseException):
                    raise batch
                yield batch
                free.put(self._buffers[number % len(self._buffers)])

    def _allocate(self) -> Batch:
        n = self.batch_clips

        def zeros(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.zeros((n, *shape), dtype=dtype, pin_memory=self._pin)

        frames = {}
        for key, source in self._frames.items():
            slots = source.capacity(self.crop_samples / RATE_HZ)
            stored = torch.from_numpy(np.zeros(0, source.dtype)).dtype
            frames[key] = Frames(
                embedding=zeros(stored, slots, source.dim),
                centre_s=zeros(torch.float32, slots),
                valid=zeros(torch.bool, slots),
            )
        labels = torch.from_numpy(self._labels[:1].copy())
        return Batch(
            rows=np.zeros(n, np.int64),
            audio=zeros(torch.int16, self.crop_samples),
            labels=zeros(labels.dtype, *labels.shape[1:]),
            frames=frames,
        )

    def _fill(self, buffer: Batch, crops: Crops) -> Batch:
        rows, starts = crops
        batch = buffer.first(rows)
        self._audio.crops(rows, starts, batch.audio.numpy())
        np.take(self._labels, rows, axis=0, out=batch.labels.numpy())
        for key, source in self._frames.items():
            frames = batch.frames[key]
            source.crops(
                rows,
                starts / RATE_HZ,
                self.crop_samples / RATE_HZ,
                frames.embedding.numpy(),
                frames.centre_s.numpy(),
                frames.valid.numpy(),
            )
        return batch


@contextmanager
def _running(thread: threading.Thread, free: queue.Queue) -> Iterator[None]:
    """Runs `thread` for the length of the block; None in `free` tells it to end."""
    thread.start()
    try:
        yield
    finally:
        free.put(None)
        thread.join()
