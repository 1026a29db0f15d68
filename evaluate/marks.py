"""Colours and labels of rows, the same in every table and figure of a report."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from understudy.evaluate import plots


def labelled(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with a colour, fainter for each further row of the same preset, and a plot label."""
    seen: Counter[str] = Counter()
    several = {
        name: len({row[name] for row in rows if row[name]}) > 1 for name in ("teacher", "student")
    }
    result = []
    for row in rows:
        opacity = (1.0, 0.6, 0.35)[min(seen[row["preset"]], 2)]
        seen[row["preset"]] += 1
        details = [row["variant"], *(row[name] for name, many in several.items() if many)]
        label = "\n".join([row["system"], *([", ".join(filter(None, details))] * any(details))])
        result.append(coloured(row) | {"opacity": opacity, "label": label})
    return result


def coloured(row: dict[str, Any]) -> dict[str, Any]:
    """A row, or anything with a preset, with the colour of its system."""
    colour = row["preset"] if row["preset"] in plots.SERIES else "other"
    return row | {"colour": colour, "opacity": 1.0}


def si(value: float | None) -> str:
    """Three digits with k, M, G."""
    if value is None:
        return "–"
    for power, unit in ((9, "G"), (6, "M"), (3, "k")):
        if value >= 10**power:
            return f"{value / 10**power:.3g} {unit}"
    return f"{value:.3g}"
