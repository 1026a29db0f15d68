"""Reports: from fabricated run directories to the page and its JSON twin."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tests.run_dirs import LABELS, SYSTEMS, make_run, page_of, write

from understudy.errors import UnderstudyError
from understudy.evaluate.cli import group
from understudy.evaluate.report import report
from understudy.evaluate.runs import Run


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


def test_training_curves_have_the_shades_of_the_tables_and_whole_epochs(tmp_path: Path) -> None:
    lrs = (1e-3, 2e-3)
    runs = [
        make_run(tmp_path, "dc", name=f"dc-{lr}", epochs=2, settings={"optim": {"lr": lr}})
        for lr in lrs
    ]
    page, _ = page_of(runs, tmp_path / "out")
    training = page[page.index('id="training"') : page.index('id="provenance"')]
    shades = dict(
        re.findall(r"opacity: ([\d.]+).></span><code>dc</code> <span[^>]*>lr ([^<]+)<", page)
    )
    assert shades == {"1.0": "0.001", "0.6": "0.002"}
    legend = re.findall(r"opacity: ([\d.]+)\"></span><code>dc", training.partition("<svg")[0])
    assert legend == ["1.0", "0.6"]
    drawn = training[training.index("<svg") : training.index("</svg>")]
    assert "0.6" in re.findall(r"stroke-opacity: ([\d.]+)", drawn)
    assert {">1</text>", ">2</text>"} <= set(re.findall(r">[\d.]+</text>", drawn))
    assert ">1.2</text>" not in drawn
    assert ">1.5</text>" not in drawn


def test_a_score_over_folds_says_how_many_clips_each_has(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "dc", fold=fold) for fold in (1, 2)]
    page, _ = page_of(runs, tmp_path / "out")
    assert "split of openmic (2 folds of 120 clips)" in page
    assert "split of openmic (120 clips)" in page_of(runs[:1], tmp_path / "one")[0]


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
