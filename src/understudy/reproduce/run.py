"""THE path: choose -> look -> extract -> study -> complexity -> tables -> report.

Every step keeps what is done, so the same command goes on after a stop, and after data or weights
have come in fills what was empty.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from understudy import checkpoint, datasets
from understudy.errors import ConfigError, UnderstudyError, unknown
from understudy.evaluate import complexity
from understudy.evaluate.compression import compression, is_one_matrix
from understudy.evaluate.runs import Run
from understudy.extract import extract
from understudy.reproduce import needs, paper, tables
from understudy.reproduce.needs import AUDIO, Holding, Missing
from understudy.reproduce.paper import COMPLEXITY, SCALES, Paper, Part, Scale
from understudy.study.grid import TEACHER_LR, Cell, read_study
from understudy.study.plan import Plan, make_plan
from understudy.study.run import finish, run

BUDGET_S = 60.0
BATCH_CLIPS = 2
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is asked for, and where things are."""

    paper: Paper
    chosen: tuple[str, ...]
    """Names of its tables."""
    scale: Scale
    data: Path
    cache: Path
    weights: Mapping[str, str]

    @property
    def parts(self) -> list[Part]:
        """Parts of the chosen tables."""
        return [part for name in self.chosen if name != COMPLEXITY
                for part in self.paper.tables[name].parts]  # fmt: skip


def reproduce(
    name: str,
    out: str | Path,
    *,
    chosen: Sequence[str] = (),
    scale: str = "full",
    data: str | Path | None = None,
    cache: str | Path | None = None,
    weights: Mapping[str, str] | None = None,
    dry_run: bool = False,
    workers: int = 1,
    scheduler: str | None = None,
    progress: bool = True,
    say: Say = lambda line: None,
) -> Path | None:
    """Fills the paper's tables with what can be measured here, beside the paper's numbers.

    Args:
        name: "ding2024".
        out: Folder of runs and report; at the toy scale of everything.
        chosen: Names of tables, all by default.
        scale: A key of `paper.SCALES`.
        data: Folder with a folder of recordings for each dataset.
        cache: Folder of caches.
        weights: Teacher -> file, where it is not the published one in UNDERSTUDY_HOME.
        dry_run: Only say what is here and what is missing.
        workers, scheduler, progress: As of `study`.
        say: Is told what is missing, the plan, and how far it is.

    Returns:
        Path of the page; None after a dry run.

    Raises:
        UnderstudyError: An unknown name; runs that failed, after the page has been written.
    """
    out = Path(out)
    if scale not in SCALES:
        raise ConfigError(unknown("scale", scale, SCALES))
    toy = not SCALES[scale].comparable
    wish = Wish(
        paper=_paper(name),
        chosen=tuple(_paper(name).choose(chosen)),
        scale=SCALES[scale],
        data=Path(data) if data is not None else out / "data" if toy else Path("data"),
        cache=Path(cache) if cache is not None else out / "cache" if toy else Path("cache"),
        weights={**SCALES[scale].weights, **(weights or {})},
    )
    if wish.scale.caution:
        say(wish.scale.caution)
    cells = _wanted(wish)
    holdings, missing = needs.look(_tracks(cells), wish.scale, wish.data, wish.cache, wish.weights)
    for entry in (*holdings, *missing):
        say(entry.line())
    if dry_run:
        return None
    for holding in holdings:
        _extract(wish, holding, progress, say)
    possible = _possible(cells, {holding.dataset: holding.tracks for holding in holdings})
    say(f"{len(possible)} of {len(cells)} runs can be made with what is here")
    study = replace(read_study(wish.scale.study, wish.cache), name=out.name, cells=possible)
    plan = make_plan(study, out)
    if plan.problems:
        raise ConfigError("it cannot be run yet:\n  " + "\n  ".join(plan.problems))
    failures: dict[str, str] = {}
    if possible:
        say(plan.describe())
        failures = run(plan, scheduler=scheduler, workers=workers, progress=progress, say=say)
    _compressions(plan, failures, say)
    costs = _costs(wish, out / "complexity.json", say) if COMPLEXITY in wish.chosen else []

    def published(content: Mapping[str, Any]) -> dict[str, Any]:
        return _published(wish, missing, tables.fill(wish, content, costs))

    title = f"{wish.paper.title}: ours and the paper's"
    finish(plan, failures, title=title, published=published)
    page = out / "report" / "index.html"
    filled = json.loads((out / "report" / "report.json").read_text(encoding="utf-8"))["published"]
    for table in filled["tables"]:
        for line in tables.lines(table):
            say(line)
    if failures:
        told = [f"{run_name}: {reason}" for run_name, reason in failures.items()]
        raise UnderstudyError(f"{len(failures)} runs failed:\n  " + "\n  ".join(told))
    return page


def _paper(name: str) -> Paper:
    if name != "ding2024":
        raise ConfigError(unknown("paper", name, ["ding2024"]))
    return paper.read(name)


def _wanted(wish: Wish) -> tuple[Cell, ...]:
    """The cells of the scale's study that a chosen table shows, scored on what it asks for.

    Across datasets only students are compared, and what only they are is no reason to extract a
    teacher's embeddings of the other dataset: teacher_lr is scored on its own.
    """
    named, taught = wish.scale.datasets, wish.scale.teachers
    shown: dict[tuple[str, str | None, str, str | None], dict[str, None]] = {}
    for part in wish.parts:
        if part.trained_on in named:
            for student, system, teacher, _ in part.cells():
                key = named[part.trained_on], student, system, taught.get(teacher or "")
                tests = shown.setdefault(key, {})
                if part.tested_on != part.trained_on and part.tested_on in named:
                    tests[named[part.tested_on]] = None
    cells = []
    for cell in read_study(wish.scale.study, wish.cache).cells:
        key = cell.dataset.name, cell.student, cell.system, cell.teacher
        if key in shown:
            transfer = () if cell.system == TEACHER_LR else tuple(shown[key])
            cells.append(replace(cell, dataset=replace(cell.dataset, transfer=transfer)))
    return tuple(cells)


def _tracks(cells: Sequence[Cell]) -> dict[str, list[str]]:
    """Dataset -> the tracks that its cells, and those scored on it, read."""
    found: dict[str, dict[str, None]] = {}
    for cell in cells:
        own = found.setdefault(cell.dataset.name, {})
        own |= {AUDIO: None} | dict.fromkeys(cell.teachers)
        for target in cell.dataset.transfer:
            found.setdefault(target, {})[AUDIO] = None
    return {dataset: list(tracks) for dataset, tracks in found.items()}


def _possible(cells: Sequence[Cell], tracks: Mapping[str, frozenset[str]]) -> tuple[Cell, ...]:
    """Cells whose tracks there are; scored on those of the other datasets that are here."""
    result = []
    for cell in cells:
        wanted = {*cell.teachers} if cell.system == TEACHER_LR else {AUDIO, *cell.teachers}
        if wanted <= tracks[cell.dataset.name]:
            here = tuple(name for name in cell.dataset.transfer if AUDIO in tracks[name])
            result.append(replace(cell, dataset=replace(cell.dataset, transfer=here)))
    return tuple(result)


def _extract(wish: Wish, holding: Holding, progress: bool, say: Say) -> None:
    if not holding.extractable:
        return
    say(f"extracting {', '.join(holding.extractable)} of {holding.dataset}")
    options = wish.scale.options.get(holding.dataset, {})
    index = datasets.load(holding.dataset, holding.root, **options)
    teachers = [track for track in holding.extractable if track != AUDIO]
    extract(
        index,
        teachers,
        wish.cache,
        audio=AUDIO in holding.extractable,
        weights={name: wish.weights[name] for name in teachers if name in wish.weights},
        progress=progress,
    )


def _compressions(plan: Plan, failures: Mapping[str, str], say: Say) -> None:
    """What each trained compression keeps, of runs that have not been asked yet."""
    runs = [Run.read(path) for path, cell in plan.run_dirs.items() if cell.name not in failures]
    pending = [run for run in runs if is_one_matrix(run) and "compression" not in run.evaluations]
    for number, run_ in enumerate(pending, 1):
        compression(run_.path, cache=plan.study.cache)
        say(f"{number} of {len(pending)} compressions looked at: {run_.name}")


def _costs(wish: Wish, path: Path, say: Say) -> list[dict[str, Any]]:
    """Complexity of the paper's six networks, at full size at any scale; measured once a machine.

    Weights are random: speed does not depend on them, and counts do not either.
    """
    devices = complexity.here()
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))["tables"]
        if [table["machine"] for table in kept] == [complexity.machine(d) for d in devices]:
            return kept
    say(f"measuring complexity of six networks on {', '.join(devices)}: some minutes")
    measured = complexity.compare(
        [{"name": name} for name in wish.paper.complexity.names("student")],
        wish.paper.complexity.names("teacher"),
        devices=devices,
        batch_clips=BATCH_CLIPS,
        budget_s=BUDGET_S,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_json(path, {"tables": measured})
    return measured


def _published(
    wish: Wish, missing: Sequence[Missing], filled: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "citation": wish.paper.citation,
        "scale": wish.scale.name,
        "caution": wish.scale.caution,
        "missing": [vars(entry) for entry in missing],
        "tables": list(filled),
    }
