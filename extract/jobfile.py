"""What to extract, as one command line or one job file says it: `ExtractJob`, and its plans."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from understudy import config, datasets
from understudy.errors import ConfigError
from understudy.extract import plan
from understudy.extract.prepare import Extraction, build, prepare
from understudy.extract.session import Runtime


@dataclass(frozen=True, kw_only=True)
class DatasetEntry:
    """A dataset of a job."""

    name: str
    root: Path
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TeacherEntry:
    """A teacher of a job; without settings its name alone will do."""

    name: str
    weights: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """Such as window_s and hop_s."""


@dataclass(frozen=True, kw_only=True)
class ExtractJob:
    """Teachers, and the datasets that all of them run over. Paths are as from the shell."""

    cache: Path
    datasets: tuple[DatasetEntry, ...]
    teachers: tuple[TeacherEntry | str, ...] = ()
    audio: bool = False
    dtype: str | None = None
    clips_per_shard: int | None = None
    device: str | None = None
    workers: int = 1
    scheduler: str | None = None
    max_failures: int | str | None = None
    """Clips of one dataset that may fail before the run ends: a number, or such as "1%"."""
    time_limit_s: float = plan.LIMIT_S
    retry_failed: bool = False
    drop_removed: bool = False

    @property
    def runtime(self) -> Runtime:
        """How it runs, as against what it makes."""
        return Runtime(
            scheduler=self.scheduler, workers=self.workers, max_failures=self.max_failures
        )


def read_job(path: Path, changes: Mapping[str, Any] | None = None) -> ExtractJob:
    """Reads a job file; `changes` go before what it says.

    Raises:
        ConfigError: No such file, an unknown key (the nearest is named) or a wrong value.
    """
    content = config.read_yaml(path, "a mapping with cache, datasets and teachers")
    return config.from_mapping(ExtractJob, {**content, **(changes or {})}, str(path))


def plan_job(job: ExtractJob) -> list[Extraction]:
    """One plan per dataset; each teacher is built once. Nothing is written.

    Raises:
        UnderstudyError: A dataset, teacher or cache that cannot be used.
    """
    if not job.datasets:
        raise ConfigError("nothing to extract: name a dataset")
    if job.dtype not in (None, "float16", "float32"):
        raise ConfigError(f"dtype: wanted float16 or float32, found '{job.dtype}'")
    job.runtime.allowed(1)
    entries = [TeacherEntry(name=t) if isinstance(t, str) else t for t in job.teachers]
    teachers = build(
        [entry.name for entry in entries],
        {entry.name: entry.weights for entry in entries if entry.weights is not None},
        {entry.name: entry.settings for entry in entries},
        job.device,
    )
    plans = [
        prepare(
            datasets.load(entry.name, entry.root, **entry.options),
            teachers,
            job.cache,
            audio=job.audio,
            clips_per_shard=job.clips_per_shard,
            dtype=job.dtype,
            workers=job.workers,
            limit_s=job.time_limit_s,
            elsewhere=job.scheduler is not None,
            device=job.device,
            retry_failed=job.retry_failed,
            drop_removed=job.drop_removed,
        )
        for entry in job.datasets
    ]
    for name, count in Counter(planned.index.name for planned in plans).items():
        if count > 1:
            raise ConfigError(
                f"{count} datasets are called '{name}'; a folder's option name gives it another"
            )
    return plans
