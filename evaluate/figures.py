"""Sections of a report that are not scores: published tables, costs, compressions."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from markupsafe import Markup

from understudy.evaluate import marks, plots


def published(content: dict[str, Any]) -> dict[str, Any]:
    """Tables of a publication with their figures."""
    tables = []
    for number, table in enumerate(content["tables"]):
        drawn = {
            "id": f"published-{number}",
            "short": table["title"].split(",")[0]
            + (f", {table['device']}" if table["kind"] == "complexity" else ""),
        }
        if table["kind"] == "scores":
            drawn["parts"] = [_part(part) for part in table["parts"]]
        tables.append(table | drawn)
    return content | {"tables": tables}


def _part(part: dict[str, Any]) -> dict[str, Any]:
    rows = [marks.coloured(row | {"preset": row["system"], "variant": ""}) for row in part["rows"]]
    systems = {row["system"]: row | {"teacher": None} for row in rows}
    legend = [row for name, row in systems.items() if name != "baseline"]
    return part | {"rows": rows, "legend": legend, "figure": _grouped(part)}


def _grouped(part: dict[str, Any]) -> Markup | None:
    """Bars of a part in groups of teachers, a panel a student; None where nothing was measured."""
    panels = []
    for student in dict.fromkeys(row["student"] for row in part["rows"] if row["student"]):
        rows = [row for row in part["rows"] if row["student"] in (student, None)]
        groups: dict[str, list[plots.Column]] = {}
        for row in rows:
            if row["teacher"] and row["ours"]:
                name = row["teacher"] + (f"\n({row['stand_in']})" if row["stand_in"] else "")
                groups.setdefault(name, []).append(
                    plots.Column(
                        row["system"],
                        row["ours"]["mean"],
                        row["ours"]["interval"],
                        row["paper"] if row["difference"] is not None else None,
                    )
                )
        (baseline,) = [row["ours"] for row in rows if row["system"] == "baseline"] or [None]
        if groups:
            panels.append((student, groups, baseline["mean"] if baseline else None))
    return plots.grouped(panels, part["metric_of_ours"]) if panels else None


COSTS = {
    "parameters": "parameters",
    "macs_per_s": "multiply-accumulates per second of audio",
    "latency_p50_ms": "ms per iteration, median",
}


def against_cost(
    content: dict[str, Any], palette: marks.Palette
) -> list[tuple[str, list[dict[str, Any]], Markup]]:
    """Dataset, rows and figure of scores against the cost, as it was measured first, of the model
    behind them: the student, and for teacher_lr the teacher."""
    if not content["complexity"]:
        return []
    costs_of = {model["name"]: model for model in content["complexity"][0]["models"]}
    figures = []
    for table in content["scores"]:
        drawn = palette.labelled(table["rows"])
        rows = [(row, costs_of.get(row["student"] or row["teacher"])) for row in drawn]
        panels = [
            (
                title,
                [
                    plots.Point(
                        row["preset"],
                        f"{model['name']}\n{marks.si(model[key])}",
                        model[key],
                        row["mean"],
                        row["interval"],
                        row["opacity"],
                    )
                    for row, model in rows
                    if model and model[key] and row["mean"] is not None
                ],
            )
            for key, title in COSTS.items()
        ]
        shown = [panel for panel in panels if len({point.cost for point in panel[1]}) > 1]
        if shown:
            figure = plots.against_cost(shown, table["metric"])
            figures.append((table["dataset"], drawn, figure))
    return figures


def compression(rows: Sequence[dict[str, Any]], palette: marks.Palette) -> dict[str, Any] | None:
    """What compressions keep, with its figure; None where none was looked at."""
    if not rows:
        return None
    drawn = palette.labelled(rows)

    def lines(name: str, scaled: Callable[[list[float]], list[float]]) -> list[plots.Line]:
        return [
            plots.Line(row["preset"], range(1, len(values) + 1), scaled(values), row["opacity"])
            for row in drawn
            for values in row[name]
        ]

    panels = [
        (
            "singular values of C, relative to the largest",
            lines("singular_values", lambda v: [x / max(v) for x in v]),
        ),
        (
            "share of c's variance in its first principal axes",
            lines("variance_after", lambda v: list(accumulate(v))),
        ),
    ]
    return {"rows": drawn, "figure": plots.curves(panels, "number")}
