"""Scores of one run on the clips of an index, whichever way the run makes them."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from understudy import cache as caches
from understudy import checkpoint, config, datasets, predict, schema, teachers
from understudy.errors import (
    AudioError,
    CacheError,
    ConfigError,
    DataError,
    UnderstudyError,
)
from understudy.evaluate import teacher_lr
from understudy.evaluate.runs import Run
from understudy.index import ClipIndex
from understudy.students.base import Student


@dataclass(frozen=True)
class Place:
    """Where a dataset is found: a cache, the recordings, or both."""

    cache: Path | None = None
    root: Path | None = None

    def index(self, dataset: str, **options: Any) -> ClipIndex:
        """The cache's own index if there is one, else the dataset as it lies under the root.

        Raises:
            ConfigError: Neither is there.
        """
        found = self.cache and caches.load_index(self.cache, dataset, self.root)
        if found is not None:
            return found
        if self.root is None:
            wanted = f"wanted a cache that holds {dataset} (--cache) or its files (--root)"
            if self.cache is None:
                raise ConfigError(f"no --cache was given; {wanted}")
            raise ConfigError(f"{caches.no_index(self.cache, dataset)}; {wanted}")
        return datasets.load(dataset, self.root, **options)


def place_of(run: Run, cache: Path | None, root: Path | None) -> Place:
    """Where a run's own dataset is: what is given, else, if nothing is, where training found it."""
    if cache is not None or root is not None:
        return Place(cache, root)
    paths = {key: Path(path) for key, path in run.config.get("paths", {}).items() if path}
    return Place(paths.get("cache"), paths.get("root"))


@dataclass(frozen=True)
class Predictions:
    """Scores of the clips that could be used; kept beside the numbers made of them, without which
    two runs cannot be compared clip by clip.

    Attributes:
        rows: int64 (clip,) index rows.
        scores: float32 (clip, label), probabilities.
        left_out: Ids of clips that cannot be decoded or embedded.
    """

    rows: np.ndarray
    scores: np.ndarray
    left_out: list[str]

    def save(self, path: Path, index: ClipIndex, label_names: tuple[str, ...]) -> None:
        """Writes clip_id, group, score, label and both sets of names as npz."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            allow_pickle=False,
            clip_id=np.array(index.clips["clip_id"].iloc[self.rows].tolist(), np.str_),
            group=index.groups[self.rows],
            score=self.scores,
            score_names=np.array(label_names, np.str_),
            label=index.labels[self.rows],
            label_names=np.array(index.label_names, np.str_),
        )
        path.parent.mkdir(exist_ok=True)
        checkpoint.write_bytes(path, buffer.getvalue())


def predict_rows(
    run: Run, index: ClipIndex, rows: np.ndarray, place: Place, device: str = "cpu"
) -> Predictions:
    """Predicts with the best checkpoint of a run.

    A student reads audio, windows averaged; teacher_lr reads the teacher's cached embeddings, from
    a store of the very identity it was trained on.

    Raises:
        UnderstudyError: Training has not ended, nothing to read from, an unfinished extraction, or
            no usable clip.
    """
    run.require_ended()
    if run.student is None:
        result = _by_teacher_lr(run, index, rows, place)
    else:
        result = _by_student(run, index, rows, place, device)
    if not len(result.rows):
        raise DataError(f"dataset {index.name}: none of {len(rows)} clips can be used")
    return result


def teacher_store(run: Run, teacher: str, dataset: str, cache: Path | None) -> caches.Place:
    """The store of `dataset` with the identity of the `teacher` that `run` was trained with."""
    if cache is None:
        raise ConfigError(f"{run.system} reads the teacher's embeddings: wanted --cache")
    identity = config.digest(run.config["stores"][teacher])
    try:
        return caches.find(cache, dataset, teacher, store=identity[:12])
    except CacheError as error:
        raise CacheError(
            f"{run.path} was trained on embeddings of {teacher} with identity {identity[:12]}, "
            f"and {dataset} lacks them: {error} "
            "Extract it with the same weights and settings."
        ) from None


def teacher_facts(run: Run, place: Place) -> dict[str, Any] | None:
    """What a report says of a run's teacher, from its store, else its card; None without one.
    Several teachers are told as one, with what is true of any."""
    if run.teacher is None:
        return None
    told = each_teacher(run, place)
    if len(told) == 1:
        return told[0]
    known = dict.fromkeys(key for facts in told for key in facts)
    joined: dict[str, Any] = {
        key: "; ".join(dict.fromkeys(str(facts.get(key)) for facts in told)) for key in known
    }
    data = dict.fromkeys(name for facts in told for name in facts.get("training_data", ()))
    return joined | {"name": run.teacher, "training_data": list(data)}


def each_teacher(run: Run, place: Place) -> list[dict[str, Any]]:
    """`teacher_facts` of every one of a run's teachers."""
    return [_facts(run, name, place) for name in (run.teacher or "").split("+") if name]


def _facts(run: Run, teacher: str, place: Place) -> dict[str, Any]:
    names = ("title", "licence_code", "licence_weights", "training_data", "citation")
    identity = run.config.get("stores", {}).get(teacher, {})
    facts: dict[str, Any] = {}
    try:
        store = teacher_store(run, teacher, run.dataset, place.cache)
        facts = caches.CacheReader(store).attributes
    except UnderstudyError:
        if teacher in teachers.names():
            facts = vars(teachers.card(teacher))
    known = {name: facts[name] for name in names if name in facts}
    known |= {"training_data": list(known["training_data"])} if "training_data" in known else {}
    return {"name": teacher, "weights_sha256": identity.get("weights_sha256"), **known}


def _by_teacher_lr(run: Run, index: ClipIndex, rows: np.ndarray, place: Place) -> Predictions:
    reader = caches.CacheReader(teacher_store(run, run.teacher or "", index.name, place.cache))
    predict.check_rows(index, reader)
    model = teacher_lr.Model.load(run.path)
    features, usable = teacher_lr.clip_means(reader, index, rows, model.silence_db)
    names = index.clips["clip_id"].iloc[rows[~usable]].tolist()
    return Predictions(rows[usable], model.predict(features[usable]), names)


def _by_student(
    run: Run, index: ClipIndex, rows: np.ndarray, place: Place, device: str
) -> Predictions:
    student = on_device(checkpoint.load_student(run.path)[0], device)
    task = run.config["task"]
    return predict_audio(
        index, rows, place, lambda clips: predict.predict_clips(student, clips, task), run.name
    )


def predict_audio(
    index: ClipIndex,
    rows: np.ndarray,
    place: Place,
    scores_of: Callable[[Iterator[np.ndarray]], np.ndarray],
    name: str,
) -> Predictions:
    """Scores of whatever reads audio.

    Args:
        index, rows: Clips to score.
        place: Where their audio is.
        scores_of: Clips float32 (sample,) at 16 kHz to probabilities (clip, label).
        name: Of what scores them, for the progress bar.

    Raises:
        UnderstudyError: Nothing to read from, an unfinished extraction.
    """
    source = predict.audio_source(index, place.cache)
    if isinstance(source, predict.CachedAudio):
        missing = source.reader.status[rows] == schema.load().code("missing")
        if missing.any():
            raise CacheError(
                f"{source.reader.path}: lacks {missing.sum()} of {len(rows)} clips; its extraction "
                "has not finished: run the same `understudy extract` command again"
            )
    used, left_out = [], []

    def clips() -> Iterator[np.ndarray]:
        for row in tqdm(rows.tolist(), desc=f"scoring {name}", unit="clip", disable=None):
            if source.n_samples[row] == 0:
                left_out.append(index.clips["clip_id"].iloc[row])
                continue
            try:
                samples = source.clip(row)
            except AudioError as error:
                if not Path(error.path).exists():  # a wrong --root, no defect of one file
                    raise
                left_out.append(index.clips["clip_id"].iloc[row])
                continue
            used.append(row)
            yield samples

    scores = scores_of(clips())
    return Predictions(np.array(used, np.int64), scores, left_out)


def on_device(student: Student, device: str) -> Student:
    """`student` on `device`; ConfigError for a device that is not to be had."""
    try:
        return student.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {device}: cannot be used ({reason})") from None


def provenance(device: str) -> dict[str, str]:
    """Versions and device behind a set of predictions."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return {"torch": torch.__version__, "numpy": np.__version__, "device": name}
