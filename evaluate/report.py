"""One self-contained page about any number of runs, and the same numbers as JSON.

Read top to bottom: runs -> summary (plain data) -> figures -> page. The files of the runs are all
that is read; no checkpoint, cache or dataset is opened.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from understudy import checkpoint, intervals
from understudy.errors import UnderstudyError
from understudy.evaluate import costs, curves, figures, marks, plots, summary
from understudy.evaluate.runs import read_all

TEMPLATES = Path(__file__).with_name("templates")
MANY_CLASSES = 24
"""Above this many classes the per-class figure starts folded."""

METRICS = {
    "mAP": "mAP is the mean over labels of average precision: how well clips that carry a label "
    "are ranked above those that do not. 1 is perfect; chance is the share of positives",
    "accuracy": "Accuracy is the share of clips whose most probable class is the right one. "
    "1 is perfect; chance is one over the number of classes",
}


Published = Callable[[dict[str, Any]], dict[str, Any]]
"""From a report's content to published tables beside ours: `citation`, `scale`, `caution`,
`missing` and `tables`, as `understudy.reproduce` makes them."""


def report(
    run_dirs: Sequence[str | Path],
    out: str | Path,
    title: str | None = None,
    published: Published | None = None,
) -> Path:
    """Writes OUT/index.html and OUT/report.json.

    Args:
        run_dirs: Run directories, each with evaluation/score.json; transfer.json and
            complexity.json are shown where they are.
        out: Folder, made if absent.
        title: Heading of the page.
        published: Makes tables of a publication, to be shown first.

    Returns:
        Path of the page.

    Raises:
        UnderstudyError: A run without a score, an unreadable file, or a folder that cannot be made.
    """
    runs = read_all(run_dirs)
    if not runs and published is None:
        raise UnderstudyError("a report wants at least one run directory")
    content = summary.summarise(runs)
    content["published"] = published(content) if published else None
    page = render(content, curves.panels(runs), title)
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnderstudyError(f"{out}: cannot be made ({error})") from None
    checkpoint.write_json(out / "report.json", content)
    checkpoint.write_bytes(out / "index.html", page.encode())
    return out / "index.html"


def render(
    content: dict[str, Any], panels: Sequence[curves.Panel] = (), title: str | None = None
) -> str:
    """The page for `summary.summarise`'s content."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "short": _short,
        "si": marks.si,
        "pretty": _pretty,
        "measured_on": costs.measured_on,
    }
    palette = marks.Palette()
    scores = [_score(table, k, palette) for k, table in enumerate(content["scores"])]
    transfers = [_transfer(table, k, palette) for k, table in enumerate(content["transfers"])]
    for table in transfers:
        table["main"] = table is next(one for one in transfers if _pair(one) == _pair(table))
    runs = [palette.coloured(run) for run in content["runs"]]
    drawn = [_panel(panel, {run["run"]: run for run in runs}) for panel in panels]
    overview = _overview(scores, transfers)
    printed = figures.published(content["published"]) if content["published"] else None
    sections = [(table["id"], table["short"]) for table in printed["tables"]] if printed else []
    sections += [("missing", "Missing")] if printed and printed["missing"] else []
    sections += [("overview", "Overview")] if overview else []
    sections += [(table["id"], table["heading"]) for table in (*scores, *transfers)]
    sections += [("training", "Training")] if drawn else []
    sections += [("compression", "Compression")] if content["compression"] else []
    sections += [("complexity", "Complexity")] if content["complexity"] else []
    datasets = ", ".join(table["dataset"] for table in content["scores"])
    return environment.get_template("report.html.jinja").render(
        title=title or f"Students and their teachers on {datasets}",
        lead=_lead(content),
        understudy=content["understudy"],
        warnings=[
            *([printed["caution"]] if printed and printed["caution"] else []),
            *content["warnings"],
        ],
        sections=[*sections, *[("provenance", "Provenance")] * bool(runs)],
        published=printed,
        overview=overview,
        scores=scores,
        transfers=transfers,
        curves=drawn,
        training=[run | run["training"] for run in runs if run["training"]],
        complexity=content["complexity"],
        against_cost=figures.against_cost(content, palette),
        compression=figures.compression(content["compression"], palette),
        teachers=list(content["teachers"].values()),
        datasets=content["datasets"],
        runs=runs,
        css=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),
    )


def _lead(content: dict[str, Any]) -> str:
    runs = content["runs"]
    counts = [f"{len(runs)} run{'s' * (len(runs) != 1)}"] * bool(runs)
    for noun in ("system", "student", "teacher"):
        names = sorted({run[noun] for run in runs if run[noun]})
        if names and noun == "system":
            counts.append(f"{len(names)} system{'s' * (len(names) > 1)}")
        elif names:
            counts.append(f"{noun}{'s' * (len(names) > 1)} {', '.join(names)}")
    return " · ".join(counts)


def _overview(
    scores: Sequence[dict[str, Any]], transfers: Sequence[dict[str, Any]]
) -> dict[str, Any] | None:
    """Every test set side by side, a row per system; None where there is but one."""
    tables = [*scores, *transfers]
    if len(tables) < 2:
        return None
    cells: dict[tuple, list[dict[str, Any] | None]] = {}
    first: dict[tuple, dict[str, Any]] = {}
    for number, table in enumerate(tables):
        for row in table["rows"]:
            key = tuple(row[name] for name in ("student", "system", "teacher", "variant"))
            first.setdefault(key, row)
            cells.setdefault(key, [None] * len(tables))[number] = row
    return {
        "columns": [(table["short"], table["metric"]) for table in tables],
        "rows": [first[key] | {"cells": cells[key]} for key in first],
    }


def _score(table: dict[str, Any], number: int, palette: marks.Palette) -> dict[str, Any]:
    clips = " or ".join(map(str, table["n_clips"]))
    folds = {run["fold"] for row in table["rows"] for run in row["runs"]}
    if len(folds) > 1:
        clips = f"{len(folds)} folds of {clips}"
    chance = _mean(table["chance"].values())
    at_chance = "" if chance is None else f" ({chance:.3f} here)"
    drawn = _table(table, palette)
    return drawn | {
        "id": f"score-{number}",
        "short": table["dataset"],
        "heading": f"Scores on {table['dataset']}",
        "explanation": f"{METRICS[table['metric']]}{at_chance}. Scored on the {table['split']} "
        f"split of {table['dataset']} ({clips} clips), windows of a clip averaged. ± is one "
        "standard deviation over runs; differences are between runs of equal fold and seed.",
        "figure": plots.comparison(
            [_bar(row) for row in drawn["rows"]],
            table["metric"],
            _baseline(table["rows"]),
        ),
        "caption": "Bars and diamonds: means over runs. Dots: single runs. Capped lines: "
        f"{_level(table)} intervals. Dashed: the baseline, a student trained on labels alone.",
        "per_class_explanation": f"{table['per_class_metric'].capitalize()} of each label.",
        "per_class_open": len(table["chance"]) <= MANY_CLASSES,
    }


def _transfer(table: dict[str, Any], number: int, palette: marks.Palette) -> dict[str, Any]:
    chance = _mean(table["chance"].values())
    at_chance = "" if chance is None else f"; chance is {chance:.3f}"
    return _table(table, palette) | {
        "id": f"transfer-{number}",
        "short": f"{table['target']} ({table['map']})",
        "heading": f"Transfer to {table['target']}, map {table['map']}",
        "explanation": f"Trained on {table['source']}, scored on {table['n_clips'][0]} clips of "
        f"{table['target']} without further training, through the label map “{table['map']}” "
        f"({len(table['sources'])} labels{at_chance}). Only known labels count. A label at or "
        "below its chance mark hints at a wrong map.",
    }


def _pair(table: dict[str, Any]) -> tuple[str, str]:
    return table["source"], table["target"]


def _table(table: dict[str, Any], palette: marks.Palette) -> dict[str, Any]:
    """A comparison with what every table shows: colours, further metrics, per-class figure."""
    labels = list(table["chance"])
    chance = [table["chance"][label] for label in labels]
    rows = palette.labelled(table["rows"])
    series = [
        plots.Series(
            row["colour"],
            [row["per_class"][label] for label in labels],
            row["opacity"],
            [row["per_class_interval"].get(label) for label in labels],
        )
        for row in rows
    ]
    metric = table["per_class_metric"]
    return table | {
        "rows": rows,
        "pairs": [
            one | {name: palette.coloured(one[name]) for name in ("system", "minus")}
            for one in table["pairs"]
        ],
        "level": _level(table),
        "intervals": _intervals(table),
        "many_teachers": len({row["teacher"] for row in rows} - {None}) > 1,
        "many_students": len({row["student"] for row in rows} - {None}) > 1,
        "also_names": list(dict.fromkeys(name for row in rows for name in row["also"])),
        "per_class_figure": plots.per_class(labels, series, metric, chance),
        "per_class_caption": f"{metric.capitalize()} per label, mean over runs. Upright marks: "
        f"chance level. Thin lines: {_level(table)} intervals.",
    }


def _level(table: dict[str, Any]) -> str:
    how = table["resampling"]
    return f"{how['level'] if how else intervals.LEVEL:.0%}"


def _intervals(table: dict[str, Any]) -> str:
    how = table["resampling"]
    again = "the predictions of a run are not kept with their groups; score the run again"
    if not how:
        return f"There are no intervals: {again}, or they are of a single group."
    absent = any(row["interval"] is None for row in table["rows"])
    return (
        f"Intervals: Wilson's, spread by {how['n_resamples']:,} resamples of {how['n_groups']:,} "
        "groups of clips (recordings, artists) and of the runs of each fold, the same ones for all "
        "systems. They hold for other clips and seeds, not for other training clips; with one run "
        "a fold, for these very models. p: two-sided, of no difference (Student's t), corrected "
        "for the number of systems "
        f"(Holm).{f' None where {again}.' if absent else ''}"
    )


def _panel(panel: curves.Panel, runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The curves of a panel in the colours of its `runs`, named by the run."""
    drawn = dict.fromkeys(name for _, lines in panel.quantities for name in lines)
    quantities = [
        (
            quantity,
            [
                plots.Line(runs[name]["preset"], x, y, runs[name]["opacity"])
                for name, (x, y) in lines.items()
            ],
        )
        for quantity, lines in panel.quantities
    ]
    return {
        "heading": panel.heading,
        "rows": list({marks.identity(runs[name]): runs[name] for name in drawn}.values()),
        "figure": plots.curves(quantities, "epoch"),
        "meanings": [(name, curves.MEANING[name]) for name, _ in panel.quantities],
    }


def _bar(row: dict[str, Any]) -> plots.Bar:
    difference = row["difference"] or {"values": []}
    values = [run["value"] for run in row["runs"] if run["value"] is not None]
    return plots.Bar(
        row["label"],
        row["preset"],
        values,
        difference["values"],
        row["opacity"],
        row["interval"],
        difference.get("interval"),
    )


def _baseline(rows: Sequence[dict[str, Any]]) -> float | None:
    means = [row["mean"] for row in rows if row["preset"] == "baseline"]
    return means[0] if len(means) == 1 else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _short(digest: str | None) -> str:
    return digest[:10] if digest else "–"


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
