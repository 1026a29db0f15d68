"""The card of an exported student, README.md: what its run and its evaluation have recorded."""

import html
import re
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from understudy.errors import UnderstudyError
from understudy.evaluate.predictions import Place, each_teacher
from understudy.evaluate.runs import Run
from understudy.students.folder import Exported
from understudy.teachers.card import non_commercial

OTHER_LICENCE = "other"
_METHOD = "Y. Ding, A. Lerch: Embedding Compression for Teacher-to-Student Knowledge Transfer, 2024"
_STUDENTS = (
    "M. Won, A. Ferraro, D. Bogdanov, X. Serra: Evaluation of CNN-based Automatic Music Tagging "
    "Models, SMC 2020"
)


def provenance(run: Run, place: Place) -> dict[str, Any]:
    """What a student comes from, for config.json and the card."""
    try:
        index = place.index(run.dataset)
        data = {"licence": index.licence, "citation": index.citation}
    except UnderstudyError:  # the recordings may be elsewhere by now
        data = {"licence": run.evaluations.get("score", {}).get("licence", ""), "citation": ""}
    teachers = each_teacher(run, place)
    for teacher in teachers:
        teacher["non_commercial"] = non_commercial(teacher.get("licence_weights", ""))
    return {
        "run": run.digest,
        "system": run.system,
        "dataset": run.dataset,
        **{f"dataset_{key}": value for key, value in data.items()},
        "fold": run.fold,
        "seed": run.seed,
        "clips": run.config.get("clips", {}),
        "index_digest": run.config.get("index_digest"),
        "split_digest": run.config.get("split_digest"),
        "settings": {k: v for k, v in run.config["settings"].items() if k != "student"},
        "teachers": teachers,
        "stores": run.config.get("stores", {}),
        "provenance": run.config.get("provenance", {}),
    }


def text(run: Run, exported: Exported, measured: dict[str, Any], licence: str) -> str:
    """The card, in Markdown with a YAML head as hubs read it.

    Args:
        run: Its evaluation/score.json, where there is one, gives the metrics.
        exported: What is exported.
        measured: `models` and `machine`, as `evaluate.complexity.measure` gives them.
        licence: For the head.
    """
    environment = Environment(
        loader=PackageLoader("understudy.export"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown: `md` escapes
    )
    environment.filters.update(md=md, allows=allows, bytes=_size, interval=_interval)
    score = run.evaluations.get("score")
    return environment.get_template("card.md.jinja").render(
        head=_head(exported, score, licence),
        exported=exported,
        trained=exported.trained,
        name=title(exported),
        licence=licence,
        restricted=restricted(exported),
        score=score,
        models=measured["models"],
        machine=measured["machine"],
        citations=_citations(exported),
    )


def title(exported: Exported) -> str:
    """Name of the student, with width, data and system."""
    student = exported.student
    return (
        f"{student['name']} (width {student['width']}), {exported.trained['dataset']}, "
        f"{exported.trained['system']}"
    )


def restricted(exported: Exported) -> list[str]:
    """Names of the data and teachers whose licences forbid commercial use."""
    trained = exported.trained
    sources = {t["name"]: t.get("licence_weights", "") for t in trained["teachers"]}
    sources[trained["dataset"]] = trained["dataset_licence"]
    return [name for name, licence in sources.items() if non_commercial(licence)]


def allows(licence: str) -> str:
    """What a licence lets one do, as far as its wording says."""
    words = re.split(r"[\s-]+", licence.upper())
    if not licence or "NOT STATED" in licence.upper():
        return "nothing stated: ask its authors"
    if licence.lower().startswith("none"):
        return "no weights, no terms"
    if non_commercial(licence):
        return "non-commercial use only" + (", under the same terms" if "SA" in words else "")
    if "PER TRACK" in licence.upper():
        return "as its owners chose, work by work"
    return "commercial use not excluded; keep the notices"


def md(value: object) -> str:
    """`value` as plain text in Markdown, in one line: neither markup nor HTML of its own."""
    line = " ".join(str(value).split())
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", html.escape(line, quote=False))


def _head(exported: Exported, score: dict[str, Any] | None, licence: str) -> str:
    trained = exported.trained
    head: dict[str, Any] = {"license": licence}
    if licence == OTHER_LICENCE:
        head |= {"license_name": "terms-of-data-and-teachers", "license_link": "README.md"}
    head |= {
        "library_name": "understudy",
        "pipeline_tag": "audio-classification",
        "tags": ["audio", "knowledge-distillation", exported.student["name"]],
    }
    if score is not None and score["value"] is not None:
        metric = {"type": score["metric"], "name": f"test {score['metric']}",
                  "value": round(score["value"], 4)}  # fmt: skip
        result = {
            "task": {"type": "audio-classification"},
            "dataset": {"type": trained["dataset"], "name": trained["dataset"]},
            "metrics": [metric],
        }
        head["model-index"] = [{"name": title(exported), "results": [result]}]
    return yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip()


def _citations(exported: Exported) -> list[str]:
    trained = exported.trained
    teachers = [t.get("citation", "") for t in trained["teachers"]]
    named = [_STUDENTS, *([_METHOD] if teachers else []), *teachers, trained["dataset_citation"]]
    return list(dict.fromkeys(text for text in named if text))


def _interval(score: dict[str, Any], group: str = "", name: str = "value") -> str:
    """ " [low, high]" of one value of a score, or nothing where it has none."""
    found = score.get("interval") or {}
    pair = (found.get(group) or {}).get(name) if group else found.get(name)
    if not isinstance(pair, list) or len(pair) != 2 or None in pair:
        return ""
    return f" [{pair[0]:.3f}, {pair[1]:.3f}]"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.2f} MB"
