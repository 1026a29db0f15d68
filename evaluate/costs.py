"""Measured costs as tables: of runs, joined, for a terminal. `complexity` measures them."""

from collections.abc import Iterable, Mapping
from typing import Any

from understudy import config
from understudy.errors import UnderstudyError
from understudy.evaluate.runs import Run

Table = dict[str, Any]
"""`models`, `machine`, `rounds`, `batch_clips` and `counting`."""
HOW = ("machine", "rounds", "batch_clips", "counting")


def of_runs(runs: Iterable[Run]) -> list[Table]:
    """What the runs' complexity.json hold, joined."""
    return joined(table for run in runs for table in _of_run(run))


def _of_run(run: Run) -> Iterable[Table]:
    entry = run.evaluations.get("complexity")
    if entry is not None and "tables" not in entry:
        raise UnderstudyError(
            f"{run.path}: complexity.json is of an earlier version; run "
            f"`understudy evaluate complexity {run.path}` again"
        )
    return entry["tables"] if entry else ()


def joined(tables: Iterable[Mapping[str, Any]]) -> list[Table]:
    """One table for each machine and way of measuring, each model in it once, students first."""
    result: dict[str, Table] = {}
    for table in tables:
        how = {key: table[key] for key in HOW}
        models = result.setdefault(config.digest(how), how | {"models": []})["models"]
        models += [model for model in table["models"] if model not in models]
    for table in result.values():
        table["models"].sort(key=lambda model: model["role"])
    return list(result.values())


def lines(tables: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """Tables for a terminal."""
    for table in joined(tables):
        yield (
            f"{'model':<10}{'parameters':>12}{'MAC/s':>10}{'iterations/s (5 to 95 %)':>30}"
            f"{'p50 ms':>10}{'p95 ms':>10}{'clips/s':>9}{'peak MB':>9}  weights"
        )
        for model in table["models"]:
            low, high = model["iterations_per_s_range"]
            rate = f"{model['iterations_per_s']:.4g} ({low:.3g} to {high:.3g})"
            memory = model["peak_memory_mb"]
            yield (
                f"{model['name']:<10}{model['parameters']:>12,}{model['macs_per_s']:>10.3g}"
                f"{rate:>30}{model['latency_p50_ms']:>10.1f}{model['latency_p95_ms']:>10.1f}"
                f"{model['clips_per_s']:>9.3g}{'–' if memory is None else f'{memory:.0f}':>9}"
                f"  {model['weights'][:24]}"
            )
        yield f"{measured_on(table)}. {table['counting']}"


def measured_on(table: Mapping[str, Any]) -> str:
    """Device, versions and repetitions behind a table."""
    found = table["machine"]
    name = found["cpu"] if found["device"] == "CPU" else f"{found['device']} ({found['cpu']})"
    threads = f"{found['threads']} thread{'s' if found['threads'] != 1 else ''}"
    return (
        f"{name}, {threads}, torch {found['torch']}; {table['rounds']} timed iterations of each "
        f"model in turn, batches of {table['batch_clips']} clips"
    )
