"""What a report says, as plain data: computed from the files of its runs, before any layout."""

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from understudy import __version__, config
from understudy.errors import UnderstudyError
from understudy.evaluate import costs
from understudy.evaluate.caveats import chance_bounds, teachers, warnings
from understudy.evaluate.comparison import Result, comparison
from understudy.evaluate.curves import outcome
from understudy.evaluate.runs import Run, every, grouped
from understudy.evaluate.uncertainty import own_test, transferred


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """Everything the report shows, JSON-able.

    Raises:
        UnderstudyError: One run given twice, or a run without a score.
    """
    twice = [str(path) for path, n in Counter(run.path.resolve() for run in runs).items() if n > 1]
    if twice:
        raise UnderstudyError(f"given twice: {', '.join(twice)}")
    every(Run.score, runs)
    variants = _variants(runs)
    by_dataset = grouped(runs, lambda run: run.dataset)
    scores = [
        {"dataset": name, "split": group[0].score().get("split", "test")}
        | comparison(group, variants, Run.score, own_test)
        for name, group in by_dataset.items()
    ]
    transfers = list(_transfers(by_dataset, variants))
    return {
        "understudy": __version__,
        "scores": scores,
        "transfers": transfers,
        "complexity": costs.of_runs(runs),
        "compression": _compression(runs, variants),
        "teachers": teachers(runs),
        "datasets": _datasets(runs),
        "runs": [_describe(run, variants) for run in runs],
        "warnings": warnings(runs, transfers),
    }


def _transfers(
    by_dataset: dict[str, list[Run]], variants: dict[str, str]
) -> Iterable[dict[str, Any]]:
    for source, runs in by_dataset.items():
        pairs = {
            (target, name): None
            for run in runs
            for target, entry in run.evaluations.get("transfer", {}).get("targets", {}).items()
            for name in entry["maps"]
        }
        for target, name in pairs:

            def result(run: Run, target: str = target, name: str = name) -> Result:
                return run.evaluations["transfer"]["targets"][target]["maps"][name]

            able = [run for run in runs if _serves(run, target, name)]
            first = result(able[0])
            table = comparison(
                able, variants, result, lambda run, t=target, n=name: transferred(run, t, n)
            )
            yield table | {
                "source": source,
                "target": target,
                "map": name,
                "map_version": first["map_version"],
                "aggregate": first["aggregate"],
                "sources": first["sources"],
                "overlap": _overlap(able, target),
                "n_positive": first["n_positive"],
                "n_negative": first["n_negative"],
                "chance_bound": chance_bounds(table["chance"], first["n_positive"]),
            }


def _overlap(runs: Sequence[Run], target: str) -> dict[str, Any] | None:
    """The audit of the runs' trainings that found most; None where none was made."""
    entries = [run.evaluations["transfer"]["targets"][target].get("overlap") for run in runs]

    def found(one: dict[str, Any]) -> tuple[int, int]:
        ids, near = one["ids"], one["embeddings"]
        return (ids["n_shared"] if ids else -1, near["n_suspected"] if near else -1)

    return max((one for one in entries if one), key=found, default=None)


def _serves(run: Run, target: str, name: str) -> bool:
    targets = run.evaluations.get("transfer", {}).get("targets", {})
    return name in targets.get(target, {}).get("maps", {})


def _variants(runs: Sequence[Run]) -> dict[str, str]:
    """Run digest -> the settings in which it differs from others of its student and system."""
    result = {run.digest: "" for run in runs}
    groups = grouped(runs, lambda run: (run.dataset, run.student, run.system, run.teacher))
    for group in groups.values():
        flat = {run.digest: _flat(run.config.get("settings", {})) for run in group}
        keys = {key for one in flat.values() for key in one if key.split(".")[-1] != "seed"}
        differing = sorted(key for key in keys if len({str(f.get(key)) for f in flat.values()}) > 1)
        for digest, settings in flat.items():
            pairs = (f"{key.split('.')[-1]} {settings.get(key)}" for key in differing)
            result[digest] = ", ".join(pairs)
    return result


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        path: leaf
        for key, item in value.items()
        for path, leaf in _flat(item, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def _compression(runs: Sequence[Run], variants: dict[str, str]) -> list[dict[str, Any]]:
    """What compressions keep: a row for each dataset, system and teacher, means over its runs."""
    groups: dict[tuple, list[tuple[Run, dict[str, Any]]]] = {}
    for run in runs:
        for one in run.evaluations.get("compression", {}).get("teachers", ()):
            key = run.dataset, run.student, run.system, one["teacher"], variants[run.digest]
            groups.setdefault(key, []).append((run, one))
    rows = []
    for (dataset, student, system, teacher, variant), found in groups.items():
        names = ("dim_before", "dim_after", "variance_kept", "variance_kept_by_pca",
                 "effective_dim_before", "effective_dim_after")  # fmt: skip
        rows.append(
            {
                "dataset": dataset,
                "student": student,
                "system": system,
                "preset": found[0][0].preset,
                "teacher": teacher,
                "variant": variant,
                "metric": found[0][0].evaluations["compression"]["metric"],
                "runs": [run.name for run, _ in found],
                **{name: fmean(one[name] for _, one in found) for name in names},
                "probe_before": fmean(one["probe"]["before"] for _, one in found),
                "probe_after": fmean(one["probe"]["after"] for _, one in found),
                "singular_values": [one["singular_values"] for _, one in found],
                "variance_after": [one["variance_after"] for _, one in found],
            }
        )
    return rows


def _datasets(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Licence and index digest of every dataset that was scored on."""
    result: dict[str, dict[str, Any]] = {}
    for run in runs:
        targets = run.evaluations.get("transfer", {}).get("targets", {})
        for name, entry in {run.dataset: run.score(), **targets}.items():
            result[name] = {key: entry.get(key) for key in ("licence", "index_digest")}
    return result


def _describe(run: Run, variants: dict[str, str]) -> dict[str, Any]:
    return {
        "run": run.name,
        "system": run.system,
        "preset": run.preset,
        "student": run.student,
        "teacher": run.teacher,
        "variant": variants[run.digest],
        "dataset": run.dataset,
        "fold": run.fold,
        "seed": run.seed,
        "value": run.score()["value"],
        "digest": run.digest,
        "index_digest": run.config.get("index_digest"),
        "split_digest": run.config.get("split_digest"),
        "stores": {
            name: config.digest(identity) for name, identity in run.config.get("stores", {}).items()
        },
        "training": outcome(run),
        "provenance": {"training": run.config.get("provenance", {})}
        | {name: entry.get("provenance", {}) for name, entry in run.evaluations.items()},
        "settings": run.config.get("settings", {}),
    }
