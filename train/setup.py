"""What one run is made of beside the stream it shares, built and checked before the first step."""

import hashlib
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from understudy import __version__, cache, checkpoint, config, students
from understudy.errors import ConfigError
from understudy.students.base import Student
from understudy.train.config import TrainSettings, difference
from understudy.train.feed import Feed, RunPlan
from understudy.train.frames import FramesKey, Standardise
from understudy.train.objective import Objective

IDENTITY = ("settings", "dataset", "fold", "index_digest", "split_digest", "stores", "left_out")
"""Keys of config.json whose digest is the run's identity."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """A run, ready to be begun or resumed."""

    feed: Feed
    settings: TrainSettings
    student: Student
    objective: Objective
    standardise: nn.ModuleList
    """One `Standardise` for each of `frames`."""
    frames: tuple[FramesKey, ...]
    record: dict[str, Any]
    """Content of config.json."""


def prepare(feed: Feed, plan: RunPlan) -> Setup:
    """Builds a run. The student's initial weights depend on seed, student and classes only.

    Raises:
        ConfigError: Settings that do not make a run.
    """
    index, settings = feed.index, plan.settings
    if settings.compute.channels_last and feed.device.type == "cpu":
        raise ConfigError("compute.channels_last: wanted a GPU, found the CPU")
    seed = settings.optim.seed
    chosen = dict(settings.student)
    seed_torch(seed, "student")
    student = students.build(str(chosen.pop("name")), index.n_labels, **chosen)
    crop_samples = feed.stream.crop_samples
    if crop_samples < student.min_samples:
        raise ConfigError(
            f"data.crop_samples: wanted at least {student.min_samples} for {student.name}, "
            f"found {crop_samples}"
        )
    settings = settings.completed(
        {"name": student.name, **student.settings},
        crop_samples=crop_samples,
        threads=settings.threads or torch.get_num_threads(),
    )
    dims = {key.teacher: feed.frames[key].dim for key in plan.frames}
    seed_torch(seed, "objective")
    objective = Objective(
        settings.distill,
        task=index.task,
        n_classes=index.n_labels,
        student_dim=student.channels,
        teacher_dims=dims,
    )
    return Setup(
        feed=feed,
        settings=settings,
        student=student.to(feed.device),
        objective=objective.to(feed.device),
        standardise=nn.ModuleList(map(Standardise, dims.values())).to(feed.device),
        frames=plan.frames,
        record=_record(feed, plan, settings),
    )


def _record(feed: Feed, plan: RunPlan, settings: TrainSettings) -> dict[str, Any]:
    index, device = feed.index, feed.device
    teachers = [key.teacher for key in plan.frames]
    record: dict[str, Any] = {
        "system": settings.distill.label,
        "student": settings.student["name"],
        "teacher": "+".join(teachers) or None,
        "dataset": index.name,
        "fold": feed.fold,
        "seed": settings.optim.seed,
        "task": index.task,
        "label_names": list(index.label_names),
        "index_digest": index.digest,
        "split_digest": index.split_digest,
        "stores": {k: v for k, v in feed.identities.items() if k in ("audio", *teachers)},
        "clips": {name: len(getattr(feed.split, name)) for name in ("train", "valid", "test")},
        "left_out": feed.left_out(),
        "settings": settings.identity(),
        "paths": {
            "cache": None if feed.cache is None else str(cache.place(feed.cache).absolute()),
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
    return {"digest": config.digest({key: record[key] for key in IDENTITY}), **record}


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
        digests = any(line.startswith(("index_digest", "split_digest")) for line in lines)
        if digests and found.get("dataset") == record["dataset"]:
            lines.append(f"(clips, labels or splits of {record['dataset']} have changed since)")
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
