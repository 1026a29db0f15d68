"""What a report computes from runs: intervals, differences, rows, cost."""

from pathlib import Path

import numpy as np
import pytest
from tests.run_dirs import SYSTEMS, make_run, page_of, write

from understudy.errors import UnderstudyError
from understudy.evaluate.report import report
from understudy.evaluate.runs import Run


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
