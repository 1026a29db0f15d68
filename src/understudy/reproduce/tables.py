"""Ours beside the paper's: the tables as plain data, and for a terminal.

Ours are the report's own rows, so that a number has one origin. A cell that was not measured is
empty; the paper's number never takes its place.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from understudy.evaluate import costs as cost_tables
from understudy.reproduce.paper import COMPLEXITY, Part, Scale, Table

if TYPE_CHECKING:
    from understudy.reproduce.run import Wish

Content = Mapping[str, Any]
"""What `understudy.evaluate.summary.summarise` makes of the runs."""


def fill(wish: "Wish", content: Content, costs: Sequence[Content]) -> list[dict[str, Any]]:
    """The chosen tables in the paper's order.

    Args:
        wish: What is asked for.
        content: Of the report over the study's runs.
        costs: What `complexity.compare` measured, a table a device.
    """
    filled = []
    for name in wish.chosen:
        if name == COMPLEXITY:
            filled += _complexity(wish, costs)
        else:
            filled.append(_scores(name, wish.paper.tables[name], content, wish.scale))
    return filled


def _scores(name: str, table: Table, content: Content, scale: Scale) -> dict[str, Any]:
    return {
        "kind": "scores",
        "name": name,
        "title": table.title,
        "source": table.source,
        "parts": [_part(part, content, scale) for part in table.parts],
    }


def _part(part: Part, content: Content, scale: Scale) -> dict[str, Any]:
    trained_on, tested_on = (scale.datasets.get(n) for n in (part.trained_on, part.tested_on))
    found = _table(content, trained_on, tested_on)
    runs = {run["run"]: run for run in content["runs"]}
    rows = []
    for student, system, teacher, printed in part.cells():
        taught = scale.teachers.get(teacher or "")
        own = None
        if found is not None and (taught or teacher is None):
            own = _row(found["rows"], student, system, taught)
        rows.append(
            {
                "student": student,
                "system": system,
                "teacher": teacher,
                "stand_in": taught if taught != teacher else None,
                "ours": None if own is None else _ours(own, runs),
                "paper": printed,
                "difference": own["mean"] - printed
                if own is not None and printed is not None and scale.comparable
                else None,
            }
        )
    return {
        "trained_on": part.trained_on,
        "tested_on": part.tested_on,
        "stand_ins": [trained_on, tested_on]
        if (trained_on, tested_on) != (part.trained_on, part.tested_on)
        else None,
        "metric": part.metric,
        "metric_of_ours": None if found is None else found["metric"],
        "label_map": None if found is None else found.get("map"),
        "rows": rows,
    }


def _table(
    content: Content, trained_on: str | None, tested_on: str | None
) -> dict[str, Any] | None:
    """The report's table of one training and one test set; of several label maps the main one."""
    if trained_on == tested_on:
        found = (one for one in content["scores"] if one["dataset"] == trained_on)
    else:
        found = (
            one
            for one in content["transfers"]
            if (one["source"], one["target"]) == (trained_on, tested_on)
        )
    return next(found, None)


def _row(
    rows: Sequence[dict[str, Any]], student: str | None, system: str, teacher: str | None
) -> dict[str, Any] | None:
    wanted = (student, system, teacher)
    same = [row for row in rows if (row["student"], row["system"], row["teacher"]) == wanted]
    return same[0] if len(same) == 1 and same[0]["mean"] is not None else None


def _ours(row: Mapping[str, Any], runs: Mapping[str, Any]) -> dict[str, Any]:
    own = [runs[one["run"]] for one in row["runs"]]
    return {
        "mean": row["mean"],
        "std": row["std"],
        "interval": row.get("interval"),
        "n_runs": len(own),
        "n_seeds": len({run["seed"] for run in own} - {None}),
        "n_folds": len({run["fold"] for run in own} - {None}),
        "runs": [run["run"] for run in own],
        "split_digests": sorted({run["split_digest"] for run in own}),
        "stores": {name: digest for run in own for name, digest in run["stores"].items()},
    }


def _complexity(wish: "Wish", costs: Sequence[Content]) -> Iterator[dict[str, Any]]:
    printed = wish.paper.complexity
    for measured in costs:
        ours = {model["name"]: model for model in measured["models"]}
        speeds = {name: model["iterations_per_s"] for name, model in ours.items()}
        rows = [
            {
                "model": name,
                "role": cost.role,
                "ours": ours.get(name),
                "paper": {
                    "parameters_m": cost.parameters_m,
                    "iterations_per_s": cost.iterations_per_s,
                },
                "difference_m": ours[name]["parameters"] / 1e6 - cost.parameters_m
                if name in ours
                else None,
                "relative_speed": {
                    "ours": speeds[name] / speeds[printed.reference] if name in ours else None,
                    "paper": cost.iterations_per_s
                    / printed.models[printed.reference].iterations_per_s,
                },
            }
            for name, cost in printed.models.items()
        ]
        yield {
            "kind": "complexity",
            "name": COMPLEXITY,
            "title": printed.title,
            "source": printed.source,
            "reference": printed.reference,
            "device": measured["machine"]["device"],
            "measured_on": cost_tables.measured_on(measured),
            "counting": measured["counting"],
            "rows": rows,
        }


def lines(table: Mapping[str, Any]) -> Iterator[str]:
    """One table for a terminal."""
    yield ""
    if table["kind"] == "complexity":
        yield f"{table['title']}, {table['device']} (paper: {table['source']})"
        yield (
            f"  {'model':<9}{'ours, M':>9}{'paper, M':>10}{'diff':>7}{'ours, it/s':>12}"
            f"{'paper, it/s':>13}{'ours, rel.':>12}{'paper, rel.':>13}  weights"
        )
        for row in table["rows"]:
            ours, relative = row["ours"], row["relative_speed"]
            yield (
                f"  {row['model']:<9}{ours['parameters'] / 1e6:>9.2f}"
                f"{row['paper']['parameters_m']:>10.1f}{row['difference_m']:>+7.2f}"
                f"{ours['iterations_per_s']:>12.4g}{row['paper']['iterations_per_s']:>13.1f}"
                f"{relative['ours']:>12.3f}{relative['paper']:>13.3f}  {ours['weights'][:24]}"
            )
        yield f"  {table['measured_on']}"
        return
    yield f"{table['title']} (paper: {table['source']})"
    for part in table["parts"]:
        yield f"  {heading(part)}"
        yield (
            f"  {'student':<9}{'system':<15}{'teacher':<20}{'ours':>7}{'95 % interval':>18}"
            f"{'seeds':>7}{'runs':>6}{'paper':>8}{'diff':>8}"
        )
        for row in part["rows"]:
            teacher = row["teacher"] or "–"
            if row["stand_in"]:
                teacher += f" ({row['stand_in']})"
            ours = row["ours"]
            shown = ("–", "–", "–", "–")
            if ours is not None:
                span = ours["interval"]
                shown = (
                    f"{ours['mean']:.3f}",
                    "–" if span is None else f"{span[0]:.3f} to {span[1]:.3f}",
                    str(ours["n_seeds"] or "–"),
                    str(ours["n_runs"]),
                )
            printed = "–" if row["paper"] is None else f"{row['paper']:.3f}"
            difference = "–" if row["difference"] is None else f"{row['difference']:+.3f}"
            yield (
                f"  {row['student'] or '–':<9}{row['system']:<15}{teacher:<20}{shown[0]:>7}"
                f"{shown[1]:>18}{shown[2]:>7}{shown[3]:>6}{printed:>8}{difference:>8}"
            )


def heading(part: Mapping[str, Any]) -> str:
    """What a part was trained and tested on, in the paper and here."""
    one = part["trained_on"] == part["tested_on"]
    text = part["trained_on"] if one else f"{part['trained_on']}, tested on {part['tested_on']}"
    text += f", {part['metric']}"
    if part["stand_ins"]:
        taken = [name or "nothing" for name in part["stand_ins"]]
        text += f"; ours: {taken[0] if one else ' to '.join(taken)}"
        if part["metric_of_ours"] not in (None, part["metric"]):
            text += f", {part['metric_of_ours']}"
    return text
