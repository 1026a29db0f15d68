"""Colours and labels of rows, the same in every table and figure of a report."""

from collections.abc import Sequence
from typing import Any

from understudy.evaluate import plots

_OPACITIES = (1.0, 0.6, 0.35)


class Palette:
    """Colours of one report: a system's own, fainter for each further row of the same preset
    (another student, teacher or variant) in the order in which they are first met."""

    def __init__(self) -> None:
        self._met: dict[str, list[tuple[Any, ...]]] = {}

    def coloured(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row, or anything with its names, with its colour."""
        met = self._met.setdefault(row["preset"], [])
        if identity(row) not in met:
            met.append(identity(row))
        return coloured(row) | {"opacity": _OPACITIES[min(met.index(identity(row)), 2)]}

    def labelled(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows with a colour and a plot label."""
        several = {
            name: len({row[name] for row in rows if row[name]}) > 1
            for name in ("teacher", "student")
        }
        result = []
        for row in rows:
            details = [row["variant"], *(row[name] for name, many in several.items() if many)]
            label = "\n".join([row["system"], *([", ".join(filter(None, details))] * any(details))])
            result.append(self.coloured(row) | {"label": label})
        return result


def coloured(row: dict[str, Any]) -> dict[str, Any]:
    """A row, or anything with a preset, with the colour of its system."""
    colour = row["preset"] if row["preset"] in plots.SERIES else "other"
    return row | {"colour": colour, "opacity": 1.0}


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    """What tells a row from others of its report."""
    return tuple(row[name] for name in ("student", "system", "teacher", "variant"))


def si(value: float | None) -> str:
    """Three digits with k, M, G."""
    if value is None:
        return "–"
    for power, unit in ((9, "G"), (6, "M"), (3, "k")):
        if value >= 10**power:
            return f"{value / 10**power:.3g} {unit}"
    return f"{value:.3g}"
