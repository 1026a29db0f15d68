"""teacher_lr: logistic regression on a teacher's clip means, what its embedding alone can do.

Valid frames of the timeline are averaged (silence is masked), standardised with the training clips'
statistics; C is chosen on the validation clips, the model refitted on both. It leaves a run
directory like any trained system's.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from understudy import __version__, checkpoint, config, datasets, metrics, predict, schema
from understudy import cache as caches
from understudy.cache import CacheReader
from understudy.errors import CacheError, ConfigError, DataError, WeightsError
from understudy.evaluate import logistic
from understudy.index import ClipIndex

SYSTEM = "teacher_lr"
GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Values of C, the inverse of the regularisation's strength."""
FALL = 0.02
"""Two values of C in a row that validate worse than the best, the second by this much: larger ones,
which take longest to fit, are not tried."""
SILENCE_DB = -70.0
NEVER = -1e3
"""Logit of a class that is never predicted: its softmax is 0."""
BLOCK_CLIPS = 256
IDENTITY = ("settings", "dataset", "fold", "index_digest", "split_digest", "stores")


@dataclass(frozen=True)
class Model:
    """A fitted regression: weight (label, channel), bias (label,), over standardised clip means."""

    mean: np.ndarray
    std: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    task: str
    silence_db: float

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Probabilities float32 (clip, label) of clip means (clip, channel)."""
        logits = (features - self.mean) / self.std @ self.weight.T + self.bias
        if self.task == "multi-label":
            return (0.5 * (1 + np.tanh(logits / 2))).astype(np.float32)
        logits -= logits.max(axis=1, keepdims=True)
        return (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(np.float32)

    def save(self, run_dir: Path, about: dict[str, Any]) -> None:
        """RUN/best.safetensors and best.json."""
        about = {**about, "task": self.task, "silence_db": self.silence_db}
        arrays = {name: getattr(self, name) for name in ("mean", "std", "weight", "bias")}
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
        checkpoint.save(run_dir / "best.safetensors", tensors, about)
        checkpoint.write_json(run_dir / "best.json", about)

    @classmethod
    def load(cls, run_dir: Path) -> "Model":
        """What `save` wrote; WeightsError if it is damaged or of another run."""
        tensors, about = checkpoint.load(run_dir / "best.safetensors")
        if about.get("digest") != checkpoint.read_config(run_dir)["digest"]:
            raise WeightsError(f"{run_dir / 'best.safetensors'}: of another run than config.json's")
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        return cls(**arrays, task=about["task"], silence_db=about["silence_db"])


def train(
    index: ClipIndex,
    *,
    teacher: str,
    cache: str | Path,
    run_dir: str | Path,
    fold: int | None = None,
    store: str | None = None,
    silence_db: float = SILENCE_DB,
    grid: tuple[float, ...] = GRID,
) -> Path:
    """Fits the regression and writes RUN/config.json, best.safetensors and best.json.

    Args:
        index: The clips; their files are not needed.
        teacher: Whose embeddings, from the cache.
        cache: Folder of the cache.
        run_dir: Made if absent; another run's is refused.
        fold: Test fold; None for the index's own split.
        store: Which store, where the cache has several of the teacher.
        silence_db: Frames below this level (dBFS) are left out of clip means.
        grid: Values of C to choose from.

    Returns:
        run_dir.

    Raises:
        UnderstudyError: No store, an unfinished one or one of other clips, no usable clips, a
            taken run directory.
    """
    run_dir = Path(run_dir)
    datasets.require_labels(index)
    reader = CacheReader(caches.find(cache, index.name, teacher, store))
    predict.check_rows(index, reader)
    split = index.split(fold)
    record = _record(index, reader, fold, silence_db, grid, Path(cache))
    _claim(run_dir, record)
    parts = []
    for name in ("train", "valid"):
        rows = getattr(split, name)
        features, usable = clip_means(reader, index, rows, silence_db)
        if not usable.any():
            raise DataError(f"dataset {index.name}: no usable clip in its {name} split")
        parts.append((features[usable], index.labels[rows[usable]]))
    model, about = fit_chosen(parts[0], parts[1], index, grid=grid, silence_db=silence_db)
    model.save(run_dir, {"digest": record["digest"], **about})
    return run_dir


def fit_chosen(
    train: tuple[np.ndarray, np.ndarray],
    valid: tuple[np.ndarray, np.ndarray],
    index: ClipIndex,
    *,
    grid: tuple[float, ...] = GRID,
    silence_db: float = SILENCE_DB,
) -> tuple[Model, dict[str, Any]]:
    """Chooses C on the validation clips and refits on both sets of (features, labels).

    Values of C are tried in rising order, each from the solution of the last and to
    `logistic.ROUGH`, until validation falls (see `FALL`); the refit goes on to the optimum, to
    `logistic.TOLERANCE`.

    Returns:
        The model, and `c`, `metric` and `value` of validation, `grid` of all values tried,
        `n_clips`, `constant_labels`, `n_unconverged`.
    """
    regression = Regression(*train, index, silence_db)
    values: dict[float, float] = {}
    for c in sorted(grid):
        found = regression.fit(c, logistic.ROUGH).predict(valid[0])
        values[c] = value(found, valid[1])
        if _falls([*values.values()]):
            break
    chosen = max(values, key=lambda c: (values[c], -c))  # of equals the most regularised
    x, y = (np.concatenate(pair) for pair in zip(train, valid, strict=True))
    regression = Regression(x, y, index, silence_db)
    model = regression.fit(chosen)
    return model, {
        "c": chosen,
        "metric": "mAP" if index.task == "multi-label" else "accuracy",
        "value": values[chosen],
        "grid": [{"c": c, "value": found} for c, found in values.items()],
        "n_clips": len(x),
        "constant_labels": regression.constant_labels,
        "n_unconverged": regression.n_unconverged,
    }


class Regression:
    """Clips, standardised, to be fitted for one C after the other.

    Multi-label: one binary regression per label on its known entries; a label with one kind of
    entry only gets a constant. Single-label: one multinomial regression; a class without clips is
    never predicted.

    Attributes:
        constant_labels: Names of labels and classes there is nothing to learn of.
        n_unconverged: Labels of the latest fit that stopped before its optimum.
    """

    def __init__(
        self, features: np.ndarray, labels: np.ndarray, index: ClipIndex, silence_db: float
    ) -> None:
        self.mean, std = features.mean(axis=0), features.std(axis=0)
        self.std = np.where(std > 1e-7 * np.abs(self.mean), std, 1.0)
        self._task, self._silence_db = index.task, silence_db
        self._bias = np.zeros(index.n_labels)
        self._two_classes = False
        if labels.ndim == 1:
            self._fitted, targets = np.unique(labels, return_inverse=True)
            self._bias[:] = NEVER
            self._bias[self._fitted] = 0.0
            self._two_classes = len(self._fitted) == 2
            if self._two_classes:  # scikit-learn fits the second class's logit alone
                targets = np.where(targets == 1, 1, -1)[:, None]
        else:
            positive, negative = (labels == 1).sum(axis=0), (labels == -1).sum(axis=0)
            share = (positive + 1) / (positive + negative + 2)
            self._bias[:] = np.log(share / (1 - share))
            self._fitted = np.flatnonzero((positive > 0) & (negative > 0))
            targets = labels[:, self._fitted]
        learnt = set(self._fitted.tolist())
        self.constant_labels = [n for k, n in enumerate(index.label_names) if k not in learnt]
        self.n_unconverged = 0
        enough = len(self._fitted) > (labels.ndim == 1)
        x = (features - self.mean) / self.std
        self._problem = logistic.Problem(x, targets) if enough else None

    def fit(self, c: float, tolerance: float = logistic.TOLERANCE) -> Model:
        """The optimum for one C, to a tolerance as of `logistic.TOLERANCE`."""
        weight, bias = np.zeros((len(self._bias), len(self.mean))), self._bias.copy()
        if self._problem is not None:
            found = self._problem.fit(c, tolerance)
            self.n_unconverged = int((~found.converged).sum())
            weight[self._fitted], bias[self._fitted] = found.weight, found.bias
            if self._two_classes:
                sign = np.array([-0.5, 0.5])
                weight[self._fitted] *= sign[:, None]
                bias[self._fitted] *= sign
        return Model(self.mean, self.std, weight, bias, self._task, self._silence_db)


def clip_means(
    reader: CacheReader, index: ClipIndex, rows: np.ndarray, silence_db: float = SILENCE_DB
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the valid frames of each clip.

    A clip of nothing but silence is the mean of all its frames.

    Args:
        reader: The teacher's store of `index`.
        rows: (clip,) index rows.
        silence_db: Frames below this level, in dBFS, are not valid.

    Returns:
        float64 (clip, channel), 0 for clips without an embedding; bool (clip,) which have one.

    Raises:
        CacheError: Clips that have not been extracted yet.
    """
    code = schema.load().code
    if reader.n_clips < len(index) or (reader.status[rows] == code("missing")).any():
        raise CacheError(
            f"{reader.path}: lacks clips of {index.name}; its extraction has not finished: "
            "run the same `understudy extract` command again"
        )
    usable = reader.status[rows] == code("ok")
    result = np.zeros((len(rows), reader.dim))
    places = np.flatnonzero(usable)
    for start in range(0, len(places), BLOCK_CLIPS):
        block = places[start : start + BLOCK_CLIPS]
        data, n_frames = reader.gather(rows[block])
        inside = np.arange(data.shape[1]) < n_frames[:, None]
        loud = inside & (reader.level_db(rows[block]) >= silence_db)
        valid = np.where(loud.any(axis=1, keepdims=True), loud, inside)
        frames = np.where(valid[..., None], data, 0).astype(np.float64)
        result[block] = frames.sum(axis=1) / valid.sum(axis=1, keepdims=True)
    return result, usable


def value(scores: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy or mAP of scores (clip, label); DataError where no label has a positive clip."""
    if labels.ndim == 1:
        return metrics.accuracy(scores, labels)
    found = metrics.average_precision(scores, labels)[1]
    if np.isnan(found):
        raise DataError("no clip has a known positive label: mAP is not defined, C not chosen")
    return found


def _falls(values: list[float]) -> bool:
    best = max(values)
    return all(v < best for v in values[-2:]) and values[-1] <= best - FALL


def _record(
    index: ClipIndex,
    reader: CacheReader,
    fold: int | None,
    silence_db: float,
    grid: tuple[float, ...],
    cache: Path,
) -> dict[str, Any]:
    if reader.kind != "embedding":
        raise CacheError(f"{reader.path}: a store of {reader.kind}, wanted a teacher's embeddings")
    record: dict[str, Any] = {
        "system": SYSTEM,
        "student": None,
        "teacher": reader.name,
        "dataset": index.name,
        "fold": fold,
        "seed": None,
        "task": index.task,
        "label_names": list(index.label_names),
        "index_digest": index.digest,
        "split_digest": index.split_digest,
        "stores": {reader.name: cast(dict, config.to_mapping(reader.identity))},
        "settings": {SYSTEM: {"silence_db": silence_db, "grid": list(grid)}},
        "paths": {"cache": str(caches.place(cache).absolute()), "root": str(index.root.absolute())},
        "provenance": {
            "understudy": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
    return {"digest": config.digest({key: record[key] for key in IDENTITY}), **record}


def _claim(run_dir: Path, record: dict[str, Any]) -> None:
    path = run_dir / "config.json"
    if path.exists():
        found = checkpoint.read_config(run_dir)
        if found["digest"] != record["digest"]:
            differing = [key for key in IDENTITY if found.get(key) != record[key]]
            raise ConfigError(
                f"{run_dir} holds another run ({', '.join(differing) or 'altered by hand'} "
                "differ); choose another --run-dir"
            )
    else:
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{run_dir}: cannot be made ({error})") from None
    checkpoint.write_json(path, record)
