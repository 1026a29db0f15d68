"""What a trained compression C keeps of its teacher's embedding.

Of C and the valid frames of the training clips: its singular values, the share of the embedding's
variance that is left in c, and how well regressions on clip means do before C and after it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from understudy import checkpoint, predict
from understudy.cache import CacheReader
from understudy.errors import ConfigError, WeightsError
from understudy.evaluate import teacher_lr
from understudy.evaluate.predictions import place_of, provenance, teacher_store
from understudy.evaluate.runs import Run
from understudy.index import ClipIndex

BLOCK_CLIPS = 256
WEIGHTS = {"linear": "linear.weight", "pca": "components"}
"""Kinds of compression that are one matrix, and its name in a checkpoint."""


@dataclass(frozen=True)
class Compression:
    """C of one teacher: c = matrix @ (e - mean) / std, up to a constant."""

    teacher: str
    kind: str
    matrix: np.ndarray
    """float64 (student channel, teacher channel)."""
    mean: np.ndarray
    std: np.ndarray

    def standardised(self, embedding: np.ndarray) -> np.ndarray:
        """What C takes, of embeddings (..., teacher channel)."""
        return (embedding - self.mean) / self.std


def compression(run_dir: str | Path, *, cache: str | Path | None = None) -> Path:
    """Writes RUN/evaluation/compression.json.

    Args:
        run_dir: A run whose system compresses by one matrix, with its last checkpoint.
        cache: Cache of its embeddings; by default where training found it.

    Raises:
        UnderstudyError: No such compression, an unfinished run, embeddings that are not there.
    """
    run = Run.read(run_dir)
    run.require_ended()
    place = place_of(run, None if cache is None else Path(cache), None)
    index = place.index(run.dataset)
    split = index.split(run.fold)
    told = []
    for one in load(run):
        reader = CacheReader(teacher_store(run, one.teacher, run.dataset, place.cache))
        predict.check_rows(index, reader)
        silence_db = run.config["settings"]["distill"]["silence_db"]
        covariance = _covariance(one, reader, split.train, silence_db)
        told.append(
            {
                "teacher": one.teacher,
                "kind": one.kind,
                **spectrum(one.matrix, covariance),
                "probe": _probe(one, reader, index, split, silence_db),
            }
        )
    content = {
        "metric": "mAP" if index.task == "multi-label" else "accuracy",
        "index_digest": index.digest,
        "split_digest": index.split_digest,
        "teachers": told,
        "provenance": provenance("cpu"),
    }
    return run.write("compression", content)


def is_one_matrix(run: Run) -> bool:
    """Whether a run's system has a compression that `load` can read."""
    distill = run.config.get("settings", {}).get("distill", {})
    return distill.get("distance") != "none" and distill.get("compression") in WEIGHTS


def load(run: Run) -> Iterator[Compression]:
    """The compressions of a run as training left them, a teacher each.

    Raises:
        ConfigError: The system has none, or one that is not a single matrix.
        WeightsError: No checkpoint, or one of another run.
    """
    if not is_one_matrix(run):
        raise ConfigError(
            f"{run.path}: {run.system} has no compression that is one matrix; wanted one of "
            f"{', '.join(WEIGHTS)}"
        )
    tensors, header = checkpoint.load(run.path / "last.safetensors")
    if header.get("digest") != run.digest:
        raise WeightsError(f"{run.path / 'last.safetensors'}: of another run than config.json's")
    kind = run.config["settings"]["distill"]["compression"]
    for number, teacher in enumerate((run.teacher or "").split("+")):
        own = checkpoint.subset(tensors, f"objective.teachings.{number}.compression.")
        statistics = checkpoint.subset(tensors, f"standardise.{number}.")
        yield Compression(
            teacher=teacher,
            kind=kind,
            matrix=_float64(own[WEIGHTS[kind]]),
            mean=_float64(statistics["mean"]),
            std=_float64(statistics["std"]),
        )


def spectrum(matrix: np.ndarray, covariance: np.ndarray) -> dict[str, Any]:
    """How much of a distribution a matrix keeps.

    Args:
        matrix: (out, in).
        covariance: (in, in), of what it is applied to.

    Returns:
        `dim_before`, `dim_after`; `singular_values`, the largest first; `variance_kept`, the share
        of the total variance that the best linear reconstruction from the product regains, and
        `variance_kept_by_pca`, the most that any matrix of its size could;
        `effective_dim_before` and `effective_dim_after`, participation ratios of the variances
        along principal axes; `variance_after`, these variances, as shares of their sum.
    """
    total = np.trace(covariance)
    after = matrix @ covariance @ matrix.T
    cross = matrix @ covariance
    regained = np.trace(cross.T @ np.linalg.pinv(after, hermitian=True) @ cross)
    axes_before = np.linalg.eigvalsh(covariance)[::-1].clip(min=0)
    axes_after = np.linalg.eigvalsh(after)[::-1].clip(min=0)
    return {
        "dim_before": matrix.shape[1],
        "dim_after": matrix.shape[0],
        "singular_values": np.linalg.svd(matrix, compute_uv=False).tolist(),
        "variance_kept": float(regained / total),
        "variance_kept_by_pca": float(axes_before[: len(matrix)].sum() / total),
        "effective_dim_before": _participation(axes_before),
        "effective_dim_after": _participation(axes_after),
        "variance_after": (axes_after / axes_after.sum()).tolist(),
    }


def _participation(variances: np.ndarray) -> float:
    return float(variances.sum() ** 2 / np.square(variances).sum())


def _covariance(
    one: Compression, reader: CacheReader, rows: np.ndarray, silence_db: float
) -> np.ndarray:
    """Covariance of the standardised valid frames of some clips."""
    dim = len(one.mean)
    n, total, products = 0, np.zeros(dim), np.zeros((dim, dim))
    for start in range(0, len(rows), BLOCK_CLIPS):
        block = np.sort(rows)[start : start + BLOCK_CLIPS]
        data, n_frames = reader.gather(block, missing="nan")
        inside = np.arange(data.shape[1]) < np.asarray(n_frames)[:, None]
        loud = reader.level_db(block)[:, : data.shape[1]] >= silence_db
        frames = one.standardised(data[inside & loud].astype(np.float64))
        n += len(frames)
        total += frames.sum(axis=0)
        products += frames.T @ frames
    mean = total / n
    return products / n - np.outer(mean, mean)


def _probe(
    one: Compression, reader: CacheReader, index: ClipIndex, split: Any, silence_db: float
) -> dict[str, float]:
    """Test score of regressions on clip means, before C and after it; see `teacher_lr`."""
    parts = []
    for rows in (split.train, split.valid, split.test):
        features, usable = teacher_lr.clip_means(reader, index, rows, silence_db)
        parts.append((one.standardised(features[usable]), index.labels[rows[usable]]))
    return {
        "before": _value(parts, index, silence_db),
        "after": _value([(x @ one.matrix.T, y) for x, y in parts], index, silence_db),
    }


def _value(
    parts: Sequence[tuple[np.ndarray, np.ndarray]], index: ClipIndex, silence_db: float
) -> float:
    train, valid, (x, y) = parts
    model, _ = teacher_lr.fit_chosen(train, valid, index, silence_db=silence_db)
    return teacher_lr.value(model.predict(x), y)


def _float64(tensor: torch.Tensor) -> np.ndarray:
    return tensor.double().numpy()
