"""Figures of a report as inline SVG.

Matplotlib draws with placeholder colours that are then replaced by CSS variables, so that one
figure serves light and dark pages; text stays text, in the page's font.
"""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from statistics import fmean
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK, MUTED, GRID, SURFACE = "#010101", "#020202", "#030303", "#040404"
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "line", SURFACE: "surface"}
SERIES = ("teacher_lr", "baseline", "fitnet", "fitnet_linear", "dc", "dc_linear", "other")
"""Systems with a colour of their own; every further one is drawn as "other"."""
VARIABLES |= {f"#0{k}0{k}0{k + 1}": f"system-{name}" for k, name in enumerate(SERIES, 1)}
WIDTH_IN = 10.0
BARS_AT_MOST = 90
"""Beyond this many bars a per-class figure has dots instead."""
POINTS_PER_LINE = 300
LINES_AT_MOST = 24
"""Beyond this many lines they are drawn fainter."""


@dataclass(frozen=True)
class Bar:
    """One system of a comparison: its single values and their paired differences to a baseline."""

    label: str
    system: str
    values: Sequence[float]
    differences: Sequence[float] = ()
    opacity: float = 1.0
    interval: Sequence[float] | None = None
    """(low, high) of the mean."""
    difference_interval: Sequence[float] | None = None


@dataclass(frozen=True)
class Line:
    """One run's curve."""

    system: str
    x: Sequence[float]
    y: Sequence[float]
    opacity: float = 1.0


@dataclass(frozen=True)
class Series:
    """Per-class values of one system; None where a class has none."""

    system: str
    values: Sequence[float | None]
    opacity: float = 1.0
    intervals: Sequence[Sequence[float] | None] = ()
    """(low, high) of each value; empty where there are none."""


@dataclass(frozen=True)
class Point:
    """One system of an accuracy-against-cost figure."""

    system: str
    label: str
    cost: float
    value: float
    interval: Sequence[float] | None = None
    opacity: float = 1.0


@dataclass(frozen=True)
class Column:
    """One system of one teacher: its mean, its interval, and a published number beside it."""

    system: str
    mean: float
    interval: Sequence[float] | None = None
    published: float | None = None


def colour(system: str) -> str:
    """Placeholder colour of a system."""
    name = system if system in SERIES else "other"
    return next(code for code, variable in VARIABLES.items() if variable == f"system-{name}")


def comparison(bars: Sequence[Bar], metric: str, baseline: float | None) -> Markup:
    """Means as bars from zero, runs as dots, intervals as capped lines; beside it differences."""
    with _figure(0.9 + 0.42 * len(bars)) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        reached = [max((*bar.values, *(bar.interval or ()))) for bar in bars if bar.values]
        highest = max(reached, default=1.0)
        for y, bar in enumerate(bars):
            if bar.values:
                mean = fmean(bar.values)
                left.barh(y, mean, height=0.56, color=colour(bar.system), alpha=bar.opacity)
                _runs(left, y, bar.values, bar.interval)
                left.text(highest * 1.04, y, f"{mean:.3f}", va="center", color=INK)
            if bar.differences:
                mean = fmean(bar.differences)
                _runs(right, y, bar.differences, bar.difference_interval)
                right.plot(mean, y, "D", ms=7, color=colour(bar.system), zorder=5, mec=SURFACE)
        left.set_xlim(0, highest * 1.16)
        left.set_yticks(range(len(bars)), [bar.label for bar in bars])
        left.invert_yaxis()
        left.set_title(metric, loc="left")
        if baseline is not None:
            left.axvline(baseline, color=INK, lw=0.9, ls=(0, (4, 3)), zorder=1)
        right.axvline(0, color=INK, lw=0.9, ls=(0, (4, 3)), zorder=1)
        shown = [d for bar in bars for d in (*bar.differences, *(bar.difference_interval or ()))]
        reach = max(map(abs, shown), default=0.0) * 1.1 or 0.01
        right.set_xlim(-reach, reach)
        right.locator_params(axis="x", nbins=6)
        right.set_title(f"difference in {metric} to the baseline", loc="left")
        for axes in (left, right):
            _plain_axes(axes, "x")
        return _svg(figure, f"Mean {metric} of {len(bars)} systems")


def grouped(
    panels: Sequence[tuple[str, Mapping[str, Sequence[Column]], float | None]], metric: str
) -> Markup:
    """Upright bars in groups of one teacher each; slashed with compression, dashed the baseline.

    Args:
        panels: Student, teacher -> columns, and the baseline's mean.
        metric: What is measured.
    """
    with _figure(0.6 + 2.6 * len(panels)) as figure:
        grid = figure.subplots(len(panels), 1, squeeze=False).ravel()
        for axes, (student, groups, baseline) in zip(grid, panels, strict=True):
            shown = [baseline or 0.0]
            for place, columns in enumerate(groups.values()):
                width = min(0.8 / len(columns), 0.16)
                for k, column in enumerate(columns):
                    x = place + (k - (len(columns) - 1) / 2) * width
                    slashed = "////" if column.system.endswith("_linear") else None
                    axes.bar(x, column.mean, width * 0.9, color=colour(column.system),
                             hatch=slashed, edgecolor=SURFACE, lw=0)  # fmt: skip
                    if column.interval is not None:
                        axes.vlines(x, *column.interval, color=INK, lw=1.3, zorder=4)
                    if column.published is not None:
                        axes.plot(x, column.published, "D", ms=6, mfc="none", mec=INK, zorder=5)
                    shown += [column.mean, *(column.interval or ()), column.published or 0.0]
            if baseline is not None:
                axes.axhline(baseline, color=INK, lw=1.1, ls=(0, (4, 3)), zorder=3)
            axes.set_ylim(0, max(shown) * 1.08 or 1)
            axes.set_xticks(range(len(groups)), list(groups))
            axes.set_xlim(-0.6, len(groups) - 0.4)
            axes.set_title(f"{student}: {metric}", loc="left")
            _plain_axes(axes, "y")
            for label in axes.get_xticklabels():
                label.set_color(INK)
        return _svg(figure, f"{metric} of every system, in groups of one teacher each")


def against_cost(panels: Sequence[tuple[str, Sequence[Point]]], metric: str) -> Markup:
    """Value against a cost on a logarithmic axis, a panel for each kind of cost."""
    with _figure(3.6) as figure:
        grid = figure.subplots(1, len(panels), squeeze=False, sharey=True).ravel()
        for axes, (title, points) in zip(grid, panels, strict=True):
            for point in points:
                if point.interval is not None:
                    axes.vlines(point.cost, *point.interval, color=INK, lw=1, zorder=3)
                axes.plot(point.cost, point.value, "o", ms=8, color=colour(point.system),
                          alpha=point.opacity, mec=SURFACE, zorder=4)  # fmt: skip
            axes.set_xscale("log")
            names = {point.cost: point.label for point in points}
            axes.set_xticks(list(names), list(names.values()))
            axes.minorticks_off()
            axes.margins(x=0.25, y=0.2)
            axes.set_xlabel(title)
            _plain_axes(axes, "y")
        grid[0].set_title(metric, loc="left")
        return _svg(figure, f"{metric} against cost")


def curves(panels: Sequence[tuple[str, Sequence[Line]]], x_label: str) -> Markup:
    """One panel per quantity, one line per run."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with _figure(0.3 + 2.5 * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, (title, lines) in zip(grid, panels, strict=False):
            width, fade = (1.3, 1.0) if len(lines) <= LINES_AT_MOST else (0.9, 0.45)
            for line in lines:
                x, y = _thinned(line)
                style = {"color": colour(line.system), "alpha": fade * line.opacity}
                axes.plot(x, y, lw=width, solid_joinstyle="round", **style)
                if len(x) == 1:
                    axes.plot(x, y, "o", ms=3.5, **style)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_title(title, loc="left")
            axes.set_xlabel(x_label)
            _plain_axes(axes, "y")
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        return _svg(figure, "Training curves: " + ", ".join(title for title, _ in panels))


def per_class(
    labels: Sequence[str],
    series: Sequence[Series],
    metric: str,
    chance: Sequence[float | None],
) -> Markup:
    """One row per class: a bar or a dot per system, a vertical mark at chance level."""
    as_bars = len(labels) * len(series) <= BARS_AT_MOST
    row_in = (0.13 + 0.085 * len(series)) if as_bars else 0.2
    y = np.arange(len(labels), dtype=float)
    with _figure(0.7 + row_in * len(labels)) as figure:
        axes = figure.subplots()
        _plain_axes(axes, "x")
        if not as_bars:
            axes.hlines(y, 0, 1, color=GRID, lw=0.8, zorder=0.5)
        height = 0.78 / max(1, len(series))
        for k, one in enumerate(series):
            x = np.array([np.nan if value is None else value for value in one.values], float)
            if as_bars:
                offset = (k - (len(series) - 1) / 2) * height
                shown = np.nan_to_num(x)
                bars = {"height": height * 0.9, "color": colour(one.system), "alpha": one.opacity}
                axes.barh(y + offset, shown, **bars)
                for place, found in zip(y + offset, one.intervals, strict=False):
                    if found is not None:
                        for code, width in ((SURFACE, 2.2), (INK, 0.9)):
                            axes.plot(found, [place, place], color=code, lw=width, zorder=3)
            else:
                dots = {"color": colour(one.system), "alpha": one.opacity, "mec": SURFACE}
                axes.plot(x, y, "o", ms=5.5, mew=0.6, clip_on=False, **dots)
        for k, label_values in enumerate(zip(*(one.values for one in series), strict=True)):
            if all(value is None for value in label_values):
                axes.text(0.005, k, "undefined: no positive clip", va="center", color=MUTED)
        marks = np.array([np.nan if value is None else value for value in chance], float)
        axes.vlines(marks, y - 0.44, y + 0.44, color=SURFACE, lw=3.4, zorder=4)
        axes.vlines(marks, y - 0.44, y + 0.44, color=INK, lw=1.6, zorder=5)
        axes.set_yticks(y, labels)
        axes.set_ylim(len(labels) - 0.45, -0.55)
        axes.set_xlim(0, 1)
        axes.set_title(metric, loc="left")
        return _svg(figure, f"{metric} of {len(labels)} classes")


def _runs(axes: Axes, y: float, values: Sequence[float], interval: Sequence[float] | None) -> None:
    """Single values as faint dots in the bar's lower part, the interval as a capped line."""
    if len(values) > 1:
        dots = {"color": SURFACE, "mec": INK, "mew": 0.7, "alpha": 0.55, "zorder": 3}
        axes.plot(values, [y + 0.15] * len(values), "o", ms=3.6, **dots)
    if interval is not None:
        _capped(axes, y, interval, 0.13, 1.6)


def _capped(axes: Axes, y: float, interval: Sequence[float], cap: float, width: float) -> None:
    """An interval that can be told from the bar or dots under it, in light and in dark."""
    low, high = interval
    for extra, code in ((1.8, SURFACE), (0.0, INK)):
        line = {"color": code, "lw": width + extra, "zorder": 4, "solid_capstyle": "butt"}
        axes.plot([low, high], [y, y], **line)
        axes.plot([low, low], [y - cap, y + cap], **line)
        axes.plot([high, high], [y - cap, y + cap], **line)


def _thinned(line: Line) -> tuple[np.ndarray, np.ndarray]:
    """At most POINTS_PER_LINE points: means over equal runs of neighbours."""
    x, y = np.asarray(line.x, float), np.asarray(line.y, float)
    if len(x) <= POINTS_PER_LINE:
        return x, y
    parts = list(pairwise(np.linspace(0, len(x), POINTS_PER_LINE + 1).astype(int)))
    return (
        np.array([x[a:b].mean() for a, b in parts]),
        np.array([y[a:b].mean() for a, b in parts]),
    )


def _plain_axes(axes: Axes, grid: str) -> None:
    axes.grid(axis=grid, color=GRID, lw=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=MUTED)
    for label in axes.get_yticklabels() if grid == "x" else ():
        label.set_color(INK)
    for side, spine in axes.spines.items():
        spine.set_visible(grid == "y" and side == "bottom")
        spine.set_color(GRID)


@contextmanager
def _figure(height_in: float) -> Iterator[Figure]:
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "understudy",
        "text.parse_math": False,
        "font.size": 9.5,
        "axes.titlesize": 9.5,
        "axes.titlecolor": MUTED,
        "axes.labelcolor": MUTED,
        "axes.unicode_minus": False,
    }
    with mpl.rc_context(style), warnings.catch_warnings():
        # Text is measured with matplotlib's font but drawn with the reader's.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        figure.patch.set_alpha(0)
        yield figure


def _svg(figure: Figure, description: str) -> Markup:
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(buffer, metadata=no_metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'\s(xmlns(:xlink)?|version)="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r' id="(?![hpm][0-9a-f]{10}")[^"]*"', "", text)
    scope = sha256(text.encode()).hexdigest()[:8]  # ids are shared by all figures of a page
    text = re.sub(r'(id="|href="#|url\(#)([hpm][0-9a-f]{10})', rf"\g<1>{scope}\g<2>", text)
    text = re.sub(r'="[^"]*"', _shorter, text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", text)
    for code, variable in VARIABLES.items():
        text = text.replace(code, f"var(--{variable})")
    label = Markup('<svg role="img" aria-label="{}"').format(description)
    return Markup(text.replace("<svg", label, 1))


def _shorter(attribute: re.Match[str]) -> str:
    """Coordinates with two decimals, on one line."""
    return re.sub(r"\s+", " ", re.sub(r"(\.\d\d)\d+", r"\1", attribute.group()))
