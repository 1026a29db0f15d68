"""Planning: teachers are built, tracks described, changes found. Nothing is written."""

import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy import cache as stores
from understudy import schema
from understudy import teachers as registry
from understudy.cache import Place, StoreWriter, Track
from understudy.cache.store import INDEX, Store
from understudy.errors import CacheError, ConfigError, DataError
from understudy.extract import plan
from understudy.extract.changes import compare
from understudy.extract.plan import Job, TrackJob
from understudy.index import ClipIndex

if TYPE_CHECKING:
    from understudy.teachers.base import Teacher

AUDIO = "audio"
AUDIO_RATE_HZ = 16_000
AUDIO_RESAMPLER = "soxr_hq"
BATCH_WINDOWS = 32  # part of what makes array files repeat byte for byte: change it with care


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """A planned extraction. Making one reads the cache but writes nothing."""

    index: ClipIndex
    job: Job
    teachers: Mapping[str, "Teacher"]
    changes: list[str]  # since the extraction before, for people
    clip_bytes: Mapping[str, float]  # of one clip's data on disk, on average, by track
    retry_failed: bool = False  # shards with clips that failed are computed again

    @property
    def dataset_dir(self) -> Place:
        """CACHE/<dataset>."""
        return stores.place(self.job.dataset_dir)

    @property
    def stores(self) -> dict[str, Place]:
        """Store of every track, by the track's name."""
        return {item.track.name: item.writer.path for item in self.job.tracks}

    @property
    def n_shards(self) -> int:
        """Shards of every track."""
        return -(-self.job.n_clips // self.job.clips_per_shard)


def build(
    teachers: "Iterable[str | Teacher]",
    weights: Mapping[str, str | Path] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    device: str | None = None,
) -> "dict[str, Teacher]":
    """Teachers by name, built from names where they are not built yet; see `extract`."""
    asked = list(teachers)
    _once(item if isinstance(item, str) else item.card.name for item in asked)
    by_name = [item for item in asked if isinstance(item, str)]
    for name in by_name:
        registry.require(name)
    for what, mapping in (("weights", weights or {}), ("settings", settings or {})):
        for name in mapping:
            if name not in by_name:
                raise ConfigError(f"{what} for a teacher that was not asked for: {name}")
    if by_name and device is None:
        device = plan.default_device()
    built = [
        registry.build(
            item,
            weights=(weights or {}).get(item),
            device=device or "cpu",
            **(settings or {}).get(item, {}),
        )
        if isinstance(item, str)
        else item
        for item in asked
    ]
    _once(teacher.card.name for teacher in built)
    return {teacher.card.name: teacher for teacher in built}


def _once(names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigError(f"teacher {twice[0]} is named twice; one run makes one store of each")


def prepare(
    index: ClipIndex,
    teachers: "Mapping[str, Teacher]",
    cache: str | Place,
    *,
    audio: bool,
    clips_per_shard: int | None = None,
    dtype: str | None = None,
    workers: int = 1,
    batch_windows: int = BATCH_WINDOWS,
    limit_s: float = plan.LIMIT_S,
    elsewhere: bool = False,
    device: str | None = None,
    retry_failed: bool = False,
    drop_removed: bool = False,
) -> Extraction:
    """Plans an extraction; see `extract`.

    Args:
        elsewhere: Workers of another cluster choose their threads and, unless `device` is given,
            their device themselves.
    """
    if not teachers and not audio:
        raise ConfigError("nothing to extract: name a teacher, or ask for audio")
    limits = {"workers": workers, "batch_windows": batch_windows, "time limit in s": limit_s}
    for name, value in limits.items():
        if value < 1:
            raise ConfigError(f"{name}: wanted 1 or more, found {value}")
    if not len(index):
        raise DataError(f"dataset '{index.name}' has no clips")
    dataset_dir = stores.place(cache).absolute() / index.name
    existing = stores.clips_per_shard(dataset_dir)  # tells first of all of stores it cannot read
    index, changed = compare(index, dataset_dir / INDEX, drop_removed=drop_removed)
    durations_s = index.clips["duration_s"].to_numpy()
    planned = [_teacher_track(teacher, index, dtype, durations_s) for teacher in teachers.values()]
    if audio:
        planned.append(_audio_track(index, durations_s))
    clips_per_shard = plan.settle_shard_clips(
        clips_per_shard,
        existing,
        len(index),
        max(plan.clip_bytes(track) for track, _ in planned),
    )
    tracks = [_fitted(track, frames, dataset_dir, clips_per_shard) for track, frames in planned]
    by_name = dict(teachers)
    chosen, device = device, str(next((t.device for t in teachers.values()), "cpu"))
    # On a CPU one thread a task scales best; a GPU wants one task, with many decoders.
    slots = workers if workers > 1 or device != "cpu" else plan.cores()
    job = Job(
        run_id=uuid.uuid4().hex,
        root=str(index.root.absolute()),  # workers may have been started elsewhere
        dataset_dir=str(dataset_dir),
        n_clips=len(index),
        clips_per_shard=clips_per_shard,
        tracks=tuple(
            _track_job(
                track,
                by_name.get(track.name) if track.kind == "embedding" else None,
                StoreWriter.plan(dataset_dir, track, len(index), clips_per_shard),
            )
            for track in tracks
        ),
        device=plan.ANY_DEVICE if elsewhere and chosen is None else device,
        batch_windows=batch_windows,
        slots=slots,
        decode_threads=None if elsewhere else plan.decoders(slots),
        limit_s=limit_s,
    )
    stored = {
        track.name: plan.stored_clip_bytes(track, frames)
        for track, (_, frames) in zip(tracks, planned, strict=True)
    }
    return Extraction(
        index=index,
        job=job,
        teachers=by_name,
        changes=changed,
        clip_bytes=stored,
        retry_failed=retry_failed,
    )


def _teacher_track(
    teacher: "Teacher", index: ClipIndex, dtype: str | None, durations_s: np.ndarray
) -> tuple[Track, np.ndarray]:
    card = teacher.card
    n_samples = plan.samples_at(durations_s, card.sample_rate)
    if teacher.own_times:  # to plan means to embed: once will do
        n_samples = np.full_like(n_samples, n_samples.max())
    frames = plan.clip_frames(n_samples, lambda n: teacher.plan(n).n)
    facts = {
        "title": card.title,
        "licence_code": card.licence_code,
        "licence_weights": card.licence_weights,
        "training_data": list(card.training_data),
        "parameters": card.parameters,
        "macs_per_s": card.macs_per_s,
        "min_samples": card.min_samples,
        "policy": card.policy,
        "citation": card.citation,
        "url": card.url,
        "weights_bytes": card.weights_bytes,
    }
    track = Track(
        kind="embedding",
        name=card.name,
        dtype=dtype or card.storage_dtype,
        max_frames=max(1, int(frames.max())),
        dim=card.dim,
        identity=teacher.identity(),
        attributes=_known(_dataset_facts(index) | facts),
    )
    return track, frames


def _audio_track(index: ClipIndex, durations_s: np.ndarray) -> tuple[Track, np.ndarray]:
    n_samples = plan.samples_at(durations_s, AUDIO_RATE_HZ)
    track = Track(
        kind="audio",
        name=AUDIO,
        dtype="int16",
        max_frames=max(1, int(n_samples.max())),
        identity={"sample_rate": AUDIO_RATE_HZ, "resampler": AUDIO_RESAMPLER},
        attributes=_known(_dataset_facts(index) | {"citation": index.citation}),
    )
    return track, n_samples


def _dataset_facts(index: ClipIndex) -> dict[str, Any]:
    return {"dataset": index.name, "index_sha256": index.digest, "licence": index.licence}


def _known(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if value not in (None, "")}


def _fitted(track: Track, frames: np.ndarray, dataset_dir: Place, clips_per_shard: int) -> Track:
    """The track in the layout, and with the frame capacity, of the store that it has already.

    The capacity may be more than the clips need. A new store gets the layout that suits them, and
    has room for clips of unknown length, which may only be missing yet.
    """
    concat = plan.as_concat(track, frames, clips_per_shard)
    there = stores.stores(dataset_dir)
    known = [each for each in (track, concat) if dataset_dir / each.store_name in there]
    if not known:
        room = plan.with_room(frames)
        if plan.padding(track, room) > schema.load().most_padding:
            return plan.as_concat(track, room, clips_per_shard)
        return track
    path = dataset_dir / known[0].store_name
    sizes = Store.open(path).sizes
    for size, what in (("max_frames", "a clip"), ("shard_frames", "a shard")):
        wanted = known[0].sizes(len(frames), clips_per_shard).get(size, 0)
        if wanted > sizes.get(size, 0):
            raise CacheError(
                f"{path} holds at most {sizes[size]} frames {what} and the clips now need "
                f"{wanted}; use another cache folder, or remove the store to start it anew"
            )
    return replace(
        known[0], max_frames=sizes["max_frames"], shard_frames=sizes.get("shard_frames", 0)
    )


def _track_job(track: Track, teacher: "Teacher | None", writer: StoreWriter) -> TrackJob:
    return TrackJob(
        track=track,
        writer=writer,
        spec=None if teacher is None else teacher.spec,
        rate_hz=AUDIO_RATE_HZ if teacher is None else teacher.card.sample_rate,
        resampler=AUDIO_RESAMPLER if teacher is None else teacher.card.resampler,
    )
