"""What the runs of a group have in common: clips, one stream of batches, a device.

A lone run is a group of one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy import cache as caches
from understudy import config, datasets, predict, schema
from understudy.errors import CacheError, ConfigError, DataError
from understudy.index import ClipIndex, Split
from understudy.train.augment import Augment
from understudy.train.config import TrainSettings, difference
from understudy.train.frames import FramesKey, Standardise, TeacherFrames
from understudy.train.stream import Stream


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A run of which nothing has been built."""

    run_dir: Path
    settings: TrainSettings
    teachers: tuple[str, ...] = ()
    """Not looked at by a system without a distance."""

    @property
    def frames(self) -> tuple[FramesKey, ...]:
        """Which of the stream's teacher frames it learns from, one for each teacher."""
        distill = self.settings.distill
        if distill.distance == "none":
            return ()
        if not self.teachers:
            raise ConfigError(
                f"system {distill.system} learns from a teacher: wanted --teacher and --cache"
            )
        return tuple(FramesKey(name, distill.silence_db) for name in self.teachers)


@dataclass(frozen=True, kw_only=True, eq=False)
class Feed:
    """Everything that is read, once for all runs of a group."""

    index: ClipIndex
    fold: int | None
    split: Split
    stream: Stream
    frames: Mapping[FramesKey, TeacherFrames]
    device: torch.device
    identities: Mapping[str, Any]
    """Of the stores that are read, by track."""
    cache: Path | None
    augment: Augment
    _statistics: dict[FramesKey, Standardise] = field(default_factory=dict)

    @property
    def usable(self) -> np.ndarray:
        """bool (clip,): audio and all teachers' embeddings are there."""
        return self.stream.usable

    @property
    def valid_rows(self) -> np.ndarray:
        """Usable rows of the validation split."""
        return self.split.valid[self.usable[self.split.valid]]

    def left_out(self) -> list[str]:
        """Ids of the training and validation clips that cannot be used."""
        watched = np.concatenate([self.split.train, self.split.valid])
        return sorted(self.index.clips["clip_id"].iloc[watched[~self.usable[watched]]].tolist())

    def timelines(self, key: FramesKey) -> Iterator[np.ndarray]:
        """Valid frames (frame, channel) of the usable training clips, some clips at a time."""
        return self.frames[key].timelines(self.split.train[self.usable[self.split.train]])

    def statistics(self, key: FramesKey) -> Standardise:
        """Standardisation by the training frames, computed once."""
        if key not in self._statistics:
            result = Standardise(self.frames[key].dim)
            result.fit(self.timelines(key))
            self._statistics[key] = result
        return self._statistics[key]


def open_feed(
    index: ClipIndex,
    plans: Sequence[RunPlan],
    *,
    cache: Path | None,
    stores: Sequence[str],
    fold: int | None,
) -> Feed:
    """Opens what the runs read. A clip that one of them cannot use is left out of all.

    Raises:
        UnderstudyError: Runs that cannot share a stream, or a cache that does not fit the index.
    """
    shared = plans[0].settings.shared()
    for plan in plans[1:]:
        if lines := difference(shared, plan.settings.shared()):
            raise ConfigError(f"runs of one group differ in {'; '.join(lines)}")
    device = _device(plans[0].settings.run.device)
    datasets.require_labels(index)
    split = index.split(fold)
    watched = np.concatenate([split.train, split.valid])
    keys = dict.fromkeys(key for plan in plans for key in plan.frames)
    named = _named_stores(index, cache, stores, {name for plan in plans for name in plan.teachers})
    audio = predict.audio_source(index, cache, named.get("audio"))
    identities = {} if audio.identity is None else {"audio": audio.identity}
    usable = audio.n_samples[: len(index)] > 0
    if isinstance(audio, predict.CachedAudio):
        _check_extracted(audio.reader, watched)
    frames: dict[FramesKey, TeacherFrames] = {}
    for key in keys:
        reader = _teacher_reader(index, cache, key.teacher, named.get(key.teacher))
        _check_extracted(reader, watched)
        usable &= reader.status[: len(index)] == schema.load().code("ok")
        duration_s = index.clips["duration_s"].to_numpy(np.float64)
        frames[key] = TeacherFrames(reader, duration_s, key.silence_db)
        identities[key.teacher] = reader.identity
    _check_split(index, split, usable)
    stream = Stream(
        index,
        split.train,
        usable,
        audio,
        frames,
        batch_clips=shared["optim.batch"],
        crop_samples=shared["data"]["crop_samples"],
        seed=shared["optim.seed"],
        pin=device.type == "cuda",
    )
    return Feed(
        index=index,
        fold=fold,
        split=split,
        stream=stream,
        frames=frames,
        device=device,
        identities=config.to_mapping(identities),
        cache=cache,
        augment=Augment(plans[0].settings.augment, shared["optim.seed"], len(index)),
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"run.device: '{name}' is not to be had ({_line(error)})") from None
    return device


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _named_stores(
    index: ClipIndex, cache: Path | None, stores: Sequence[str], teachers: set[str]
) -> dict[str, str]:
    """Track name to path of the stores that were asked for by name."""
    wanted = ["audio", *sorted(teachers)]
    named: dict[str, str] = {}
    for store in stores:
        path = caches.find(cache or Path(), index.name, "", store)
        name = caches.CacheReader(path).name
        if name not in wanted or name in named:
            raise ConfigError(
                f"--store {store}: a store of '{name}'; wanted at most one each of "
                f"{' and '.join(wanted)}"
            )
        named[name] = str(path)
    return named


def _teacher_reader(
    index: ClipIndex, cache: Path | None, teacher: str, store: str | None
) -> caches.CacheReader:
    if cache is None and store is None:
        raise ConfigError(f"teacher {teacher}: wanted the --cache that holds its embeddings")
    reader = caches.CacheReader(caches.find(cache or Path(), index.name, teacher, store))
    if reader.kind != "embedding":
        raise CacheError(f"{reader.path}: a store of {reader.kind}, wanted a teacher's embeddings")
    predict.check_rows(index, reader)
    return reader


def _check_extracted(reader: caches.CacheReader, rows: np.ndarray) -> None:
    missing = int((reader.status[rows] == schema.load().code("missing")).sum())
    if missing:
        raise CacheError(
            f"{reader.path} lacks {missing} of {len(rows)} training and validation clips: the "
            "extraction has not finished; run the same command again"
        )


def _check_split(index: ClipIndex, split: Split, usable: np.ndarray) -> None:
    n_train, n_valid = int(usable[split.train].sum()), int(usable[split.valid].sum())
    if n_train < 2 or n_valid < 1:
        raise DataError(
            f"dataset {index.name}: {n_train} usable clips to train on and {n_valid} to validate "
            "on; wanted at least 2 and 1"
        )
    if (
        index.task == "multi-label"
        and not (index.labels[split.valid[usable[split.valid]]] > 0).any()
    ):
        raise DataError(f"dataset {index.name}: no validation clip has a known positive label")
