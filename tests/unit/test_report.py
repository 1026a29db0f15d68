"""Reports: from fabricated run directories to the page and its JSON twin."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from understudy import config, metrics
from understudy.errors import UnderstudyError
from understudy.evaluate.cli import group
from understudy.evaluate.report import report
from understudy.evaluate.runs import Run

SYSTEMS = ("teacher_lr", "baseline", "fitnet", "fitnet_linear", "dc", "dc_linear")
LABELS = ("guitar", "piano", "drums & bass", "<b>voice</b>", "$x$_1", "kora 漢")
TEACHER = {
    "name": "mn04",
    "title": "EfficientAT mn04_as",
    "weights_sha256": "899a8c6217063f69",
    "licence_code": "MIT",
    "licence_weights": "MIT",
    "training_data": ["AudioSet", "FMA-large (pretraining)"],
}


def make_run(
    folder: Path,
    system: str,
    *,
    name: str | None = None,
    fold: int | None = None,
    seed: int = 1,
    dataset: str = "openmic",
    labels: tuple[str, ...] = LABELS,
    single: bool = False,
    skill: float = 1.0,
    epochs: int = 0,
    settings: dict[str, Any] | None = None,
    target: str | None = None,
    kept: bool = True,
) -> Path:
    """A run directory as training and evaluation leave it; scores get better with `skill`. Without
    predictions unless `kept`, as earlier versions left it."""
    rng = np.random.default_rng([SYSTEMS.index(system), seed, fold or 0])
    path = folder / (name or "-".join(map(str, filter(None, [system, fold, seed]))))
    (path / "evaluation").mkdir(parents=True)
    trained = system != "teacher_lr"
    teacher = None if system == "baseline" else TEACHER["name"]
    record: dict[str, Any] = {
        "system": system,
        "student": "sc-cnn" if trained else None,
        "teacher": teacher,
        "dataset": dataset,
        "fold": fold,
        "seed": seed if trained else None,
        "label_names": list(labels),
        "task": "single-label" if single else "multi-label",
        "index_digest": "1" * 64,
        "split_digest": "2" * 64,
        "stores": {teacher: {"name": teacher}} if teacher else {},
        "settings": {"optim": {"seed": seed, "lr": 1e-3}, **(settings or {})},
        "provenance": {"torch": "2.11.0", "python": "3.11"},
    }
    record["digest"] = config.digest(record)
    write(path / "config.json", record)

    def result(n_clips: int, file: str) -> dict[str, Any]:
        """A score, and its predictions; all runs meet the same clips of a fold."""
        clips = np.random.default_rng([n_clips, fold or 0])
        noise = rng.normal(size=(n_clips, len(labels)))
        if single:
            label = clips.integers(0, len(labels), n_clips)
            score = noise + skill * np.eye(len(labels))[label]
        else:
            label = clips.choice([-1, 0, 1], size=(n_clips, len(labels)), p=[0.5, 0.2, 0.3])
            score = noise + skill * label
        if kept:
            group = np.array([f"group {fold}/{k // 2}" for k in range(n_clips)])
            np.savez(path / "evaluation" / file, score=score, label=label, group=group,
                     score_names=np.array(labels), label_names=np.array(labels))  # fmt: skip
        return metrics.evaluate(score, label, labels)

    head = {"run_digest": record["digest"], "split": "test"}
    digests = {key: record[key] for key in ("index_digest", "split_digest")}
    score = (
        result(120, "score.npz")
        | {"predictions": "score.npz"}
        | head
        | digests
        | {"provenance": {"device": "cpu"}}
    )
    write(path / "evaluation" / "score.json", score | {"teacher": TEACHER if teacher else None})
    if target:
        entry = result(90, f"transfer-{target}.npz") | {
            "map": "same",
            "map_version": 1,
            "aggregate": "max",
            "sources": {label: [label] for label in labels},
        }
        file = f"transfer-{target}.npz"
        targets = {target: {"maps": {"same": entry}, "predictions": file}}
        write(path / "evaluation" / "transfer.json", head | {"value": 0.5, "targets": targets})
    if trained and epochs:
        lines = []
        for epoch in range(1, epochs + 1):
            falling = float(np.exp(-epoch / 12) + rng.normal() * 0.02)
            teaching = {"distance": falling + 0.2, "teacher": 0.5 * falling if teacher else 0.0}
            if not teacher:
                teaching = dict.fromkeys(teaching, 0.0)
            losses = {"student": falling + 0.4, "prediction": falling + 0.3, **teaching}
            lines.append(
                {"kind": "epoch", "epoch": epoch, "step": epoch * 12, "lr": 1e-3, "train": losses,
                 "valid": losses, "metric": "mAP", "value": 0.8 - 0.4 * falling}
            )  # fmt: skip
        end = {"kind": "end", "reason": "optim.max_steps 360", "epoch": epochs, "step": epochs * 12}
        log = "\n".join(json.dumps(line) for line in [*lines, end])
        (path / "log.jsonl").write_text(log + "\n")
    return path


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def page_of(runs: list[Path], out: Path) -> tuple[str, dict[str, Any]]:
    page = report(runs, out)
    return page.read_text("utf-8"), json.loads((out / "report.json").read_text("utf-8"))


def test_a_page_of_all_systems_says_what_its_runs_say(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path, name, seed=seed, epochs=5, target="toy-field")
        for name in SYSTEMS
        for seed in (1, 2)
    ]
    page, content = page_of(runs, tmp_path / "out")
    rows = {row["system"]: row for row in content["scores"][0]["rows"]}
    assert list(rows) == list(SYSTEMS)
    scores = {path.name: Run.read(path).score()["value"] for path in runs}
    for name, row in rows.items():
        single = [scores[f"{name}-{seed}"] for seed in (1, 2)]
        assert [run["value"] for run in row["runs"]] == single
        assert row["mean"] == pytest.approx(np.mean(single))
        assert row["std"] == pytest.approx(np.std(single, ddof=1))
        assert f"{row['mean']:.3f}" in page
        for label in LABELS:
            values = [Run.read(p).score()["per_class"][label] for p in runs if p.name[:-2] == name]
            assert row["per_class"][label] == pytest.approx(np.mean(values))
    assert "2 runs per system: this decides no ordering" in page
    assert content["transfers"][0]["target"] == "toy-field"
    assert [run["training"] for run in content["runs"]][:3] == [
        None,
        None,
        {
            "epochs": 5,
            "steps": 60,
            "best_epoch": 5,
            "best_value": Run.read(runs[2]).lines("epoch")[4]["value"],
            "ended": "optim.max_steps 360",
        },
    ]
    assert "Training curves: validation metric, validation loss" in page


def test_the_page_stands_alone_and_follows_the_readers_colours(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, name, epochs=400, target="toy-field") for name in SYSTEMS[1:4]]
    page, _ = page_of(runs, tmp_path / "out")
    assert not re.search(r"https?:|//cdn|<link|@import|\bsrc=|url\((?!#)", page)
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert not re.search(r"#[0-9a-fA-F]{6}\b", drawn)
    used = set(re.findall(r"var\(--([\w-]+)\)", page))
    css = page[page.index("<style>") : page.index("</style>")]
    light, dark = css.split("prefers-color-scheme: dark", 1)
    defined = set(re.findall(r"--([\w-]+):", light))
    assert used <= defined
    colours = {name for name in defined if name not in ("font", "mono")}
    assert colours <= set(re.findall(r"--([\w-]+):", dark))
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    labels = ("<script>alert(1)</script>", '"><img src=x>', "$\\frac$", "_hidden", "漢")
    run = make_run(tmp_path, "dc", labels=labels, settings={"note": "</pre><script>bad()</script>"})
    baseline = make_run(tmp_path, "baseline", labels=labels)
    page, _ = page_of([run, baseline], tmp_path / "out")
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "<script>bad" not in page
    assert page.count("<script>") == 1
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    for text in ("&lt;script&gt;alert(1)", "$\\frac$", "_hidden", "漢"):
        assert text in drawn


def test_equal_runs_make_equal_bytes(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, name) for name in ("baseline", "dc")]
    first, _ = page_of(runs, tmp_path / "one")
    second, _ = page_of(runs, tmp_path / "two")
    assert first == second


def test_intervals_and_paired_tests_come_from_the_predictions(tmp_path: Path) -> None:
    skill = {"teacher_lr": 1.6, "baseline": 0.5, "dc": 0.5}
    runs = [
        make_run(tmp_path, kind, fold=fold, seed=seed, single=True, skill=skill[kind])
        for kind in skill
        for fold in (1, 2, 3)
        for seed in ((1,) if kind == "teacher_lr" else (1, 2))
    ]
    page, content = page_of(runs, tmp_path / "out")
    (table,) = content["scores"]
    rows = {row["system"]: row for row in table["rows"]}
    assert "1,000 resamples of 180 groups" in page
    assert "{:.3f} – {:.3f}".format(*rows["dc"]["interval"]) in page
    assert "Every two systems" in page
    assert table["resampling"]["n_groups"] == 180
    for row in rows.values():
        low, high = row["interval"]
        assert low < row["mean"] < high < low + 0.2
        assert row["per_class_interval"].keys() == row["per_class"].keys()
    better, equal = rows["teacher_lr"]["difference"], rows["dc"]["difference"]
    assert better["interval"][0] > 0.2
    assert better["p_value"] < better["p_holm"] < 0.01
    assert equal["interval"][0] < equal["mean"] < equal["interval"][1]
    assert equal["p_value"] > 0.01
    named = {(one["system"]["system"], one["minus"]["system"]) for one in table["pairs"]}
    assert named == {("dc", "baseline"), ("dc", "teacher_lr"), ("baseline", "teacher_lr")}
    (against,) = (one for one in table["pairs"] if one["minus"]["system"] == "baseline")
    assert against["interval"] == equal["interval"]


def test_runs_of_earlier_versions_are_shown_without_intervals(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, name, kept=name != "dc", target="x") for name in SYSTEMS[:5]]
    file = runs[3] / "evaluation" / "score.npz"
    with np.load(file) as arrays:
        np.savez(file, **{name: array for name, array in arrays.items() if name != "group"})
    page, content = page_of(runs, tmp_path / "out")
    assert "None where the predictions of a run are not kept" in page
    for number, table in enumerate((content["scores"][0], content["transfers"][0])):
        without = {row["system"] for row in table["rows"] if row["interval"] is None}
        assert without == ({"fitnet_linear", "dc"} if number == 0 else {"dc"})
        (dc,) = (row for row in table["rows"] if row["system"] == "dc")
        assert dc["difference"]["mean"] is not None
        assert dc["difference"]["p_value"] is dc["difference"]["p_holm"] is None
    file.write_bytes(b"no archive")
    with pytest.raises(UnderstudyError, match=r"score\.npz: not readable.*score the run again"):
        report(runs, tmp_path / "out")


def test_differences_are_paired_by_fold_and_seed(tmp_path: Path) -> None:
    folds = range(1, 4)
    kinds = ("teacher_lr", "baseline", "dc")
    runs = [make_run(tmp_path, kind, fold=fold, single=True) for kind in kinds for fold in folds]
    runs.append(make_run(tmp_path, "dc", fold=4, single=True))  # has no partner
    _, content = page_of(runs, tmp_path / "out")
    value = {path.name: Run.read(path).score()["value"] for path in runs}
    rows = {row["system"]: row for row in content["scores"][0]["rows"]}
    for kind in ("teacher_lr", "dc"):
        wanted = [value[f"{kind}-{fold}-1"] - value[f"baseline-{fold}-1"] for fold in folds]
        difference = rows[kind]["difference"]
        assert difference["n_pairs"] == 3
        assert difference["values"] == pytest.approx(wanted)
        assert difference["std"] == pytest.approx(np.std(wanted, ddof=1))
    assert rows["baseline"]["difference"] is None
    assert content["scores"][0]["caveat"].startswith("3 to 4 runs")


def test_runs_of_one_system_with_other_settings_are_rows_of_their_own(tmp_path: Path) -> None:
    for weight in (0.3, 0.6):
        settings = {"distill": {"distance_weight": weight, "alignment": "frames"}}
        make_run(tmp_path, "dc", name=f"w{weight}", settings=settings)
    _, content = page_of([tmp_path / "w0.3", tmp_path / "w0.6"], tmp_path / "out")
    rows = content["scores"][0]["rows"]
    assert [row["variant"] for row in rows] == ["distance_weight 0.3", "distance_weight 0.6"]


def test_runs_of_equal_names_are_told_apart(tmp_path: Path) -> None:
    for fold in (1, 2):
        (tmp_path / f"fold{fold}").mkdir()
    runs = [make_run(tmp_path / f"fold{k}", "dc", name="run", fold=k, single=True) for k in (1, 2)]
    _, content = page_of(runs, tmp_path / "out")
    assert [run["run"] for run in content["runs"]] == ["fold1/run", "fold2/run"]
    assert [run["value"] for run in content["runs"]] == [Run.read(p).score()["value"] for p in runs]


def test_overlap_with_the_teachers_training_data_is_announced(tmp_path: Path) -> None:
    taught, alone = make_run(tmp_path, "dc"), make_run(tmp_path, "baseline")
    page, content = page_of([taught, alone], tmp_path / "out")
    assert any("Free Music Archive" in text for text in content["warnings"])
    assert "Read this first" in page
    assert "FMA-large (pretraining)" in page
    _, content = page_of([alone], tmp_path / "out")
    assert content["warnings"] == []


def test_a_wrong_label_map_is_seen_at_a_glance(tmp_path: Path) -> None:
    right = [make_run(tmp_path / "right", name, target="field") for name in ("dc", "baseline")]
    page, content = page_of(right, tmp_path / "out")
    assert not any("at chance" in text for text in content["warnings"])
    assert "≈ chance" not in page
    wrong = [make_run(tmp_path / "wrong", name, target="field", skill=0)
             for name in ("dc", "baseline")]  # fmt: skip
    page, content = page_of(wrong, tmp_path / "other")
    (text,) = (text for text in content["warnings"] if "at chance" in text)
    assert "Look at the map" in text
    assert page.index("Look at the map") < page.index("<table")
    assert page.count("≈ chance") >= len(LABELS)


def test_runs_scored_on_other_clips_are_announced(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, name, dataset="esc10") for name in ("dc", "baseline")]
    path = runs[0] / "evaluation" / "score.json"
    write(path, json.loads(path.read_text()) | {"index_digest": "3" * 64, "n_clips": 7})
    _, content = page_of(runs, tmp_path / "out")
    assert any("different clip lists" in text for text in content["warnings"])
    assert any("different numbers of clips" in text for text in content["warnings"])


def test_a_class_without_positives_is_named_not_drawn_as_zero(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, name) for name in ("dc", "baseline")]
    for run in runs:
        path = run / "evaluation" / "score.json"
        score = json.loads(path.read_text())
        score["per_class"]["guitar"] = score["chance"]["guitar"] = None
        write(path, score | {"left_out": ["guitar"]})
    page, content = page_of(runs, tmp_path / "out")
    assert content["scores"][0]["left_out"] == ["guitar"]
    assert "undefined: no positive clip" in page


@pytest.mark.parametrize("n_classes", [2, 60])
def test_few_and_many_classes(tmp_path: Path, n_classes: int) -> None:
    labels = tuple(f"class {k}" for k in range(n_classes))
    runs = [make_run(tmp_path, name, labels=labels, single=True) for name in ("dc", "baseline")]
    page, _ = page_of(runs, tmp_path / "out")
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert all(f">{label}</text>" in drawn for label in labels)


def test_complexity_is_shown_once_per_measurement(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, name) for name in ("dc", "baseline")]
    keys = ("latency_p50_ms", "latency_p95_ms", "clips_per_s", "audio_s", "macs_per_s")
    student = dict.fromkeys(keys, 2.0) | {"name": "sc-cnn", "role": "student", "rate_hz": 16000}
    student |= {"parameters": 12_104_244, "iterations_per_s": 77.7, "peak_memory_mb": None}
    student |= {"iterations_per_s_range": [70.1, 80.2], "weights": "random"}
    teacher = student | {"name": "mn04", "role": "teacher", "iterations_per_s": 33.3}
    machine = {"device": "CPU", "cpu": "Some CPU", "threads": 2, "torch": "2", "tf32": False}
    how = {"machine": machine, "rounds": 5, "batch_clips": 4, "counting": "as counted"}
    for run in runs:
        tables = [how | {"models": [teacher, student]}]
        content = {"run_digest": Run.read(run).digest, "tables": tables}
        write(run / "evaluation" / "complexity.json", content)
    page, content = page_of(runs, tmp_path / "out")
    (table,) = content["complexity"]
    assert [model["name"] for model in table["models"]] == ["sc-cnn", "mn04"]
    assert "Score against cost" not in page  # nothing but students of one size
    assert all(text in page for text in ("12.1 M", "77.7", "70.1 – 80.2", "Some CPU", "2 threads"))


def test_scores_are_drawn_against_what_they_cost(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, name) for name in ("teacher_lr", "baseline", "dc")]
    known = {"weights": "random", "audio_s": 10.0, "rate_hz": 16000, "iterations_per_s": 2.0}
    known |= {"iterations_per_s_range": [1.0, 3.0], "latency_p95_ms": 9.0, "clips_per_s": 1.0}
    models = [
        known | {"name": name, "role": role, "parameters": n, "macs_per_s": 5 * n,
                 "latency_p50_ms": n / 1e5, "peak_memory_mb": 1.0}
        for name, role, n in (("sc-cnn", "student", 144_332), ("mn04", "teacher", 983_599))
    ]  # fmt: skip
    machine = {"device": "CPU", "cpu": "Some CPU", "threads": 1, "torch": "2", "tf32": False}
    how = {"machine": machine, "rounds": 5, "batch_clips": 4, "counting": "as counted"}
    content = {"run_digest": Run.read(runs[2]).digest, "tables": [how | {"models": models}]}
    write(runs[2] / "evaluation" / "complexity.json", content)
    page, _ = page_of(runs, tmp_path / "out")
    drawn = page[page.index("Score against cost: openmic") :].partition("</svg>")[0]
    assert all(f">{text}</text>" in drawn for text in ("sc-cnn", "144 k", "mn04", "984 k"))
    assert "mathdefault" not in drawn


def test_what_is_missing_or_wrong_is_named_with_the_command(tmp_path: Path) -> None:
    run = make_run(tmp_path, "dc")
    out = tmp_path / "out"
    with pytest.raises(UnderstudyError, match="at least one run"):
        report([], out)
    with pytest.raises(UnderstudyError, match="given twice"):
        report([run, run], out)
    with pytest.raises(UnderstudyError, match="absent: not a run directory"):
        report([tmp_path / "absent"], out)
    with pytest.raises(UnderstudyError, match=r"(?s)absent: not a run.*other: not a run"):
        report([tmp_path / "absent", run, tmp_path / "other"], out)
    score = run / "evaluation" / "score.json"
    content = json.loads(score.read_text())
    write(score, content | {"run_digest": "other"})
    with pytest.raises(UnderstudyError, match=r"score\.json: belongs to another run"):
        report([run], out)
    score.write_text("{")
    with pytest.raises(UnderstudyError, match=r"score\.json: not readable"):
        report([run], out)
    score.unlink()
    with pytest.raises(UnderstudyError, match=f"run `understudy evaluate score {run}`"):
        report([run], out)
    write(score, content)
    (run / "log.jsonl").write_text("not json\n")
    with pytest.raises(UnderstudyError, match=r"log\.jsonl: not a log"):
        report([run], out)
    assert not (out / "index.html").exists()


def test_command_leaves_out_folders_where_nothing_was_trained(tmp_path: Path) -> None:
    run = make_run(tmp_path, "dc")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / ".lock").write_text("{}")
    result = CliRunner().invoke(
        group, ["report", str(bare), str(run), "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    assert result.stderr == f"{bare}: left out: nothing was trained there\n"
    assert len(json.loads((tmp_path / "out" / "report.json").read_text())["runs"]) == 1
