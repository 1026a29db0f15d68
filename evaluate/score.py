"""Score of a run on the split that was kept from it: THE path of evaluation."""

from pathlib import Path
from typing import Literal

import numpy as np

from understudy import intervals, metrics
from understudy.errors import DataError
from understudy.evaluate.predictions import (
    Place,
    place_of,
    predict_rows,
    provenance,
    teacher_facts,
)
from understudy.evaluate.runs import Run
from understudy.index import ClipIndex

Part = Literal["test", "valid", "train"]


def score(
    run_dir: str | Path,
    *,
    split: Part = "test",
    cache: str | Path | None = None,
    root: str | Path | None = None,
    device: str = "cpu",
) -> Path:
    """Writes RUN/evaluation/score.json, and the predictions beside it as score.npz.

    Args:
        run_dir: A finished run.
        split: Part of the run's dataset; another one than "test" is written as score-<split>.
        cache, root: Where the dataset is; by default where training found it.
        device: Where the student computes.

    Returns:
        Path of the JSON file: `metrics.evaluate`, its `interval` by `intervals.evaluate`, and
        provenance.

    Raises:
        UnderstudyError: Training has not ended, or a dataset that is not the one trained on.
    """
    run = Run.read(run_dir)
    place = place_of(run, *(None if path is None else Path(path) for path in (cache, root)))
    index = place.index(run.dataset)
    return score_on(run, index, place, split=split, device=device)


def score_on(
    run: Run, index: ClipIndex, place: Place, *, split: Part = "test", device: str = "cpu"
) -> Path:
    """`score` with the run and its dataset at hand."""
    rows = rows_of(run, index, split)
    predictions = predict_rows(run, index, rows, place, device)
    name = "score" if split == "test" else f"score-{split}"
    predictions.save(run.path / "evaluation" / f"{name}.npz", index, run.label_names)
    labels, groups = index.labels[predictions.rows], index.groups[predictions.rows]
    scored = intervals.Scored(predictions.scores, labels, groups)
    content = metrics.evaluate(predictions.scores, labels, run.label_names) | {
        "interval": intervals.evaluate(scored, run.label_names),
        "dataset": index.name,
        "split": split,
        "fold": run.fold,
        "index_digest": index.digest,
        "split_digest": index.split_digest,
        "left_out_clips": predictions.left_out,
        "predictions": f"{name}.npz",
        "licence": index.licence,
        "teacher": teacher_facts(run, place),
        "provenance": provenance(device),
    }
    return run.write(name, content)


def rows_of(run: Run, index: ClipIndex, split: Part = "test") -> np.ndarray:
    """Rows (clip,) of one part of the dataset a run was trained on.

    Raises:
        DataError: Another index than the run's, or a part without clips.
    """
    if index.digest != run.config["index_digest"]:
        raise DataError(
            f"dataset {index.name}: clips, labels or splits are not those {run.path} was trained "
            f"on (index digest {index.digest[:12]}, wanted {run.config['index_digest'][:12]}): "
            "training clips could be among the tested ones"
        )
    rows = getattr(index.split(run.fold), split)
    if not len(rows):
        raise DataError(f"dataset {index.name}: its {split} split is empty")
    return rows
