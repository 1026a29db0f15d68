"""What a run is made of, built and checked before the first step."""

import hashlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy import __version__, checkpoint, config, predict, schema, students
from understudy import cache as caches
from understudy.errors import CacheError, ConfigError, DataError
from understudy.index import ClipIndex, Split
from understudy.students.base import Student
from understudy.train.config import TrainSettings, difference
from understudy.train.frames import Standardise, TeacherFrames
from understudy.train.objective import Objective
from understudy.train.stream import Stream

IDENTITY = ("settings", "dataset", "fold", "index_digest", "split_digest", "stores", "left_out")
"""Keys of config.json whose digest is the run's identity."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """A run, ready to be begun or resumed."""

    index: ClipIndex
    split: Split
    settings: TrainSettings
    student: Student
    objective: Objective
    standardise: Standardise
    frames: TeacherFrames | None
    stream: Stream
    device: torch.device
    record: dict[str, Any]
    """Content of config.json."""


def prepare(
    index: ClipIndex,
    settings: TrainSettings,
    *,
    teacher: str | None,
    cache: Path | None,
    stores: Sequence[str],
    fold: int | None,
) -> Setup:
    """Builds a run. The student's initial weights depend on seed, student and classes only.

    Raises:
        UnderstudyError: Settings, index and cache that do not make a run together.
    """
    device = _device(settings.run.device)
    seed = settings.optim.seed
    chosen = dict(settings.student)
    seed_torch(seed, "student")
    student = students.build(str(chosen.pop("name")), index.n_labels, **chosen)
    settings = settings.completed(
        {"name": student.name, **student.settings},
        crop_samples=settings.data.crop_samples or student.input_samples,
        threads=settings.threads or torch.get_num_threads(),
    )
    crop_samples = settings.data.crop_samples
    assert crop_samples is not None
    if crop_samples < student.min_samples:
        raise ConfigError(
            f"data.crop_samples: wanted at least {student.min_samples} for {student.name}, "
            f"found {crop_samples}"
        )
    split = index.split(fold)
    watched = np.concatenate([split.train, split.valid])
    audio, frames, identities = _sources(index, settings, teacher, cache, stores)
    usable = audio.n_samples[: len(index)] > 0
    if isinstance(audio, predict.CachedAudio):
        _check_extracted(audio.reader, watched)
    if frames is not None:
        _check_extracted(frames.reader, watched)
        usable &= frames.reader.status[: len(index)] == schema.load().code("ok")
    _check_split(index, split, usable)

    seed_torch(seed, "objective")
    objective = Objective(
        settings.distill,
        task=index.task,
        n_classes=index.n_labels,
        student_dim=student.channels,
        teacher_dim=None if frames is None else frames.dim,
    )
    stream = Stream(
        index,
        split.train,
        usable,
        audio,
        frames,
        batch_clips=settings.optim.batch,
        crop_samples=crop_samples,
        seed=seed,
        pin=device.type == "cuda",
    )
    record: dict[str, Any] = {
        "system": settings.distill.label,
        "student": student.name,
        "teacher": None if frames is None else teacher,
        "dataset": index.name,
        "fold": fold,
        "seed": seed,
        "task": index.task,
        "label_names": list(index.label_names),
        "index_digest": index.digest,
        "split_digest": index.split_digest,
        "stores": identities,
        "clips": {name: len(getattr(split, name)) for name in ("train", "valid", "test")},
        "left_out": sorted(index.clips["clip_id"].iloc[watched[~usable[watched]]].tolist()),
        "settings": settings.identity(),
        "paths": {
            "cache": None if cache is None else str(cache.absolute()),
            "root": None if index.root == Path() else str(index.root.absolute()),
        },
        "provenance": {
            "understudy": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        },
    }
    record = {"digest": config.digest({key: record[key] for key in IDENTITY}), **record}
    return Setup(
        index=index,
        split=split,
        settings=settings,
        student=student.to(device),
        objective=objective.to(device),
        standardise=Standardise(1 if frames is None else frames.dim).to(device),
        frames=frames,
        stream=stream,
        device=device,
        record=record,
    )


def claim(run_dir: Path, record: Mapping[str, Any]) -> None:
    """Writes RUN/config.json, or checks that the run there is this one.

    Raises:
        ConfigError: The directory holds another run; the message lists what differs.
    """
    path = run_dir / "config.json"
    if not path.exists():
        checkpoint.write_json(path, record)
        return
    found = checkpoint.read_config(run_dir)
    if found["digest"] != record["digest"]:
        wanted = config.to_mapping({key: record[key] for key in IDENTITY})
        lines = difference({key: found.get(key) for key in IDENTITY}, wanted)
        raise ConfigError(
            f"{run_dir} holds another run; choose another --run-dir or repeat its settings.\n  "
            + "\n  ".join(lines or ["config.json was altered by hand"])
        )


def seed_torch(seed: int, part: str) -> None:
    """Seeds torch for one `part` of a run, so that no part's draws move another's."""
    torch.manual_seed(int.from_bytes(hashlib.sha256(f"{seed}:{part}".encode()).digest()[:7]))


@contextmanager
def threads(n_threads: int | None) -> Iterator[None]:
    """torch uses `n_threads` CPU threads within the block (None: as it is)."""
    before = torch.get_num_threads()
    try:
        if n_threads is not None and n_threads != before:
            torch.set_num_threads(n_threads)
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


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


def _sources(
    index: ClipIndex,
    settings: TrainSettings,
    teacher: str | None,
    cache: Path | None,
    stores: Sequence[str],
) -> tuple[predict.AudioSource, TeacherFrames | None, dict[str, Any]]:
    """Audio, teacher frames and the identities of the stores they come from."""
    named: dict[str, str] = {}
    for store in stores:
        path = caches.find(cache or Path(), index.name, "", store)
        name = caches.CacheReader(path).name
        if name not in ("audio", teacher) or name in named:
            raise ConfigError(
                f"--store {store}: a store of '{name}'; wanted at most one each of "
                f"{' and '.join(filter(None, ('audio', teacher)))}"
            )
        named[name] = str(path)
    audio = predict.audio_source(index, cache, named.get("audio"))
    identities = {"audio": audio.identity} if audio.identity is not None else {}
    if settings.distill.distance == "none":
        return audio, None, identities
    if teacher is None or (cache is None and teacher not in named):
        raise ConfigError(
            f"system {settings.distill.system} learns from a teacher: wanted --teacher and --cache"
        )
    reader = caches.CacheReader(
        caches.find(cache or Path(), index.name, teacher, named.get(teacher))
    )
    if reader.kind != "embedding":
        raise CacheError(f"{reader.path}: a store of {reader.kind}, wanted a teacher's embeddings")
    predict.check_rows(index, reader)
    duration_s = index.clips["duration_s"].to_numpy(np.float64)
    frames = TeacherFrames(reader, duration_s, settings.distill.silence_db)
    return audio, frames, identities | {teacher: reader.identity}


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
