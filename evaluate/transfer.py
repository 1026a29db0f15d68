"""A run on another dataset, without further training, through a map between their labels."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from understudy import config, intervals, metrics
from understudy.errors import ConfigError, DataError, UnderstudyError, unknown
from understudy.evaluate.audit import audit
from understudy.evaluate.predictions import (
    Place,
    place_of,
    predict_rows,
    provenance,
    teacher_facts,
)
from understudy.evaluate.runs import Run
from understudy.index import ClipIndex

BUILT_IN = ("nine", "eight")
"""Names of the maps that come along, the default first."""
SAME = "same-names"
Aggregate = Literal["max", "mean"]


@dataclass(frozen=True, kw_only=True)
class LabelMap:
    """Which labels of a model stand for a label of another dataset."""

    name: str
    version: int
    source: str
    """Dataset whose labels the model predicts."""
    target: str
    """Dataset whose labels are scored."""
    map: dict[str, Any] = field(default_factory=dict)
    """Target label -> list of source labels."""

    def __post_init__(self) -> None:
        if not self.map:
            raise ConfigError(f"label map {self.name}: it maps nothing")
        for label, sources in self.map.items():
            if not (
                isinstance(sources, list) and sources and all(isinstance(s, str) for s in sources)
            ):
                raise ConfigError(
                    f"label map {self.name}: {label}: wanted a list of labels, found {sources!r}"
                )
            if len(set(sources)) < len(sources):
                raise ConfigError(f"label map {self.name}: {label}: a label is listed twice")

    @classmethod
    def load(cls, name: str | Path) -> "LabelMap":
        """A built-in map by its name, or a YAML file.

        Raises:
            ConfigError: No such map or file, or one that is not a label map.
        """
        path = Path(name)
        if str(name) in BUILT_IN:
            path = Path(__file__).with_name("label_maps") / f"{name}.yaml"
        elif path.suffix not in (".yaml", ".yml"):
            raise ConfigError(f"{unknown('label map', str(name), BUILT_IN)}, or a YAML file")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: not readable as a label map ({error})") from None
        if not isinstance(content, Mapping):
            raise ConfigError(f"{path}: wanted a mapping, found {type(content).__name__}")
        return config.from_mapping(cls, content, str(path))

    def fitted(self, source: str, source_labels: Sequence[str], index: ClipIndex) -> "LabelMap":
        """This map without the source labels that the model does not have.

        On the dataset the map was written for every label must be known; on a relative of it (a
        synthetic stand-in, a subset) some synonyms may be wanting, but one of each must be there.

        Raises:
            ConfigError: A label that is unknown; the nearest is named.
        """
        kept: dict[str, list[str]] = {}
        for label, sources in self.map.items():
            if label not in index.label_names:
                message = unknown(f"label of {index.name}", label, index.label_names)
                raise ConfigError(f"label map {self.name}: {message}")
            kept[label] = [name for name in sources if name in source_labels]
            absent = [name for name in sources if name not in source_labels]
            if absent and (source == self.source or not kept[label]):
                message = unknown(f"label of {source}", absent[0], source_labels)
                raise ConfigError(f"label map {self.name}: {message}")
        return replace(self, map=kept)


def same_names(source: str, source_labels: Iterable[str], index: ClipIndex) -> LabelMap:
    """The map of the labels that two datasets spell alike."""
    shared = [name for name in source_labels if name in index.label_names]
    if not shared:
        raise ConfigError(
            f"{source} and {index.name} have no label in common; write a label map and give it "
            "with --map FILE"
        )
    mapping = {name: [name] for name in shared}
    return LabelMap(name=SAME, version=1, source=source, target=index.name, map=mapping)


def choose(run: Run, index: ClipIndex, wanted: str | Path | None) -> list[LabelMap]:
    """The maps that a run can serve on a dataset, the main one first.

    That is `wanted`, which must fit, or else the first that fits of the built-in ones; behind it
    all other built-in ones that fit. Where none does: equal names.
    """
    labels = run.label_names
    found = {}
    if wanted is not None:
        chosen = (
            same_names(run.dataset, labels, index)
            if wanted == SAME
            else LabelMap.load(wanted).fitted(run.dataset, labels, index)
        )
        found[chosen.name] = chosen
    for name in BUILT_IN:
        try:
            found.setdefault(name, LabelMap.load(name).fitted(run.dataset, labels, index))
        except ConfigError:
            continue
    return list(found.values()) or [same_names(run.dataset, labels, index)]


def mapped(
    scores: np.ndarray,
    labels: Sequence[str],
    sources: Mapping[str, Sequence[str]],
    aggregate: Aggregate,
) -> np.ndarray:
    """Scores (clip, target label) from scores (clip, source label), in the order of `sources`:
    target label -> source labels."""
    place = {name: k for k, name in enumerate(labels)}
    reduce = {"max": np.max, "mean": np.mean}[aggregate]
    columns = [
        reduce(scores[:, [place[name] for name in names]], axis=1) for names in sources.values()
    ]
    return np.stack(columns, axis=1)


def transfer(
    run_dir: str | Path,
    dataset: str,
    *,
    cache: str | Path | None = None,
    root: str | Path | None = None,
    label_map: str | Path | None = None,
    aggregate: Aggregate = "max",
    split: Literal["test", "all"] | None = None,
    device: str = "cpu",
) -> Path:
    """Scores a run on `dataset`, for every label map it can serve.

    Args:
        run_dir: A finished run.
        dataset: Name of the other dataset.
        cache, root: Where that dataset is.
        label_map: The main map: a built-in name, "same-names" or a YAML file.
        aggregate: How several source labels of one target label become one score.
        split: Clips to score; by default the test split where there is one, else all.
        device: Where the student computes.

    Returns:
        Path of RUN/evaluation/transfer.json: value and map at the top; `targets` keeps one entry
        for each dataset the run was tried on. Predictions are beside it, as transfer-<dataset>.npz.
    """
    run = Run.read(run_dir)
    own = place_of(run, None, None)
    place = Place(
        Path(cache) if cache is not None else own.cache, Path(root) if root is not None else None
    )
    index = place.index(dataset)
    return transfer_to(run, index, place, label_map, aggregate, split, device)


def transfer_to(
    run: Run,
    index: ClipIndex,
    place: Place,
    label_map: str | Path | None = None,
    aggregate: Aggregate = "max",
    split: Literal["test", "all"] | None = None,
    device: str = "cpu",
) -> Path:
    """`transfer` with the run and the dataset at hand."""
    maps = choose(run, index, label_map)
    rows, part = _rows(index, split)
    predictions = predict_rows(run, index, rows, place, device)
    names = run.label_names
    file = f"transfer-{index.name}.npz"
    predictions.save(run.path / "evaluation" / file, index, names)
    results = {}
    all_labels, groups = index.labels[predictions.rows], index.groups[predictions.rows]
    for chosen in maps:
        scores = mapped(predictions.scores, names, chosen.map, aggregate)
        labels = columns(all_labels, index.label_names, chosen.map)
        scored = intervals.Scored(scores, labels, groups)
        results[chosen.name] = metrics.evaluate(scores, labels, list(chosen.map)) | {
            "interval": intervals.evaluate(scored, list(chosen.map)),
            "map": chosen.name,
            "map_version": chosen.version,
            "aggregate": aggregate,
            "sources": chosen.map,
        }
    main = results[maps[0].name]
    entry = {
        "dataset": index.name,
        "split": part,
        "index_digest": index.digest,
        "left_out_clips": predictions.left_out,
        "predictions": file,
        "licence": index.licence,
        "overlap": _overlap(run, index, place, predictions.rows),
        "maps": results,
    }
    content = {
        "dataset": index.name,
        "map": maps[0].name,
        "metric": main["metric"],
        "value": main["value"],
        "targets": {**_earlier_targets(run), index.name: entry},
        "teacher": teacher_facts(run, place_of(run, place.cache, None)),
        "provenance": provenance(device),
    }
    return run.write("transfer", content)


def _overlap(run: Run, index: ClipIndex, place: Place, rows: np.ndarray) -> dict[str, Any] | None:
    """What of the scored clips the run may have met in training; None where its own dataset is not
    at hand."""
    own = place_of(run, None, None)
    try:
        source = own.index(run.dataset)
        split_is_known = source.digest == run.config["index_digest"]
    except UnderstudyError:
        return None
    if not split_is_known:
        return None
    return audit(source, own.cache, run.fold, index, place.cache, rows, run.teacher)


def _earlier_targets(run: Run) -> dict[str, Any]:
    """Other datasets the run was tried on; nothing where the file is another run's or damaged."""
    try:
        return run.evaluations.get("transfer", {}).get("targets", {})
    except UnderstudyError:
        return {}


def _rows(index: ClipIndex, split: str | None) -> tuple[np.ndarray, str]:
    test = np.flatnonzero((index.clips["split"] == "test").to_numpy())
    chosen = split or ("test" if len(test) else "all")
    if chosen == "all":
        return np.arange(len(index)), chosen
    if not len(test):
        raise DataError(f"dataset {index.name} has no test split; score all clips: --split all")
    return test, chosen


def columns(labels: np.ndarray, label_names: Sequence[str], wanted: Iterable[str]) -> np.ndarray:
    """Labels (clip, label) in -1/0/1 of the wanted names; classes become one against the rest."""
    places = [label_names.index(name) for name in wanted]
    if labels.ndim == 2:
        return labels[:, places]
    return np.where(labels[:, None] == np.array(places), 1, -1)
