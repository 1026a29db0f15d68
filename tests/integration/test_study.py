"""Studies on a tiny cached dataset: planned, run, resumed, compared."""

import json
import statistics

import pytest
from click.testing import CliRunner
from tests import studies

from understudy.errors import ConfigError, UnderstudyError
from understudy.study import study
from understudy.study.cli import command


def read(out):
    return json.loads((out / "summary.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """File, folder, table of a study that has ended, and what was said of it."""
    file = studies.write(tmp_path_factory.mktemp("study"))
    said = []
    study(file, file.parent / "out", say=said.append)
    return file, file.parent / "out", read(file.parent / "out"), said


def test_the_plan_shows_the_cost_and_runs_nothing(tmp_path):
    file = studies.write(tmp_path)
    result = CliRunner().invoke(command, [str(file), "--out", str(tmp_path / "out"), "--dry-run"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "study study: 6 runs in 4 groups, 0 runs done, at most 16 steps left"
    assert lines[3].split() == ["tiny,", "fold", "1,", "seed", "1223,", "crops", "of", "59,049",
                                "samples", "2", "0", "4"]  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_the_table_holds_mean_spread_and_paired_differences(finished):
    _, out, content, said = finished
    rows = {row["system"]: row for row in content["rows"]}
    runs = {(run["system"], run["fold"]): run["value"] for run in content["runs"]}
    assert rows.keys() == {"teacher_lr", "baseline", "dc_linear"}
    for system, row in rows.items():
        values = [runs[system, 1], runs[system, 2]]
        assert row["n"] == 2
        assert row["mean"] == pytest.approx(statistics.fmean(values))
        assert row["sd"] == pytest.approx(statistics.stdev(values))
        pairs = [runs[system, fold] - runs["baseline", fold] for fold in (1, 2)]
        if system != "baseline":
            assert row["difference"] == pytest.approx(statistics.fmean(pairs))
            assert row["better"] == sum(pair > 0 for pair in pairs)
        assert row["low"] <= row["mean"] <= row["high"]
    assert rows["dc_linear"]["difference_low"] <= rows["dc_linear"]["difference"]
    assert rows["dc_linear"]["p_value"] <= rows["dc_linear"]["p_holm"] <= 1
    assert (rows["baseline"]["difference"], rows["baseline"]["p_value"]) == (None, None)
    assert len((out / "summary.csv").read_text().splitlines()) == 4
    assert (out / "report" / "index.html").exists()
    assert said[1].startswith("1 of 4 groups in ")
    assert "left: tiny, fold 1, seed 1223" in said[2]


def test_what_is_done_is_kept_and_what_is_added_is_trained(finished, tmp_path):
    file, out, *_ = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    table = (out / "summary.json").read_bytes()
    result = CliRunner().invoke(command, [str(file), "--out", str(out)])
    assert "0 steps left" in result.stdout
    assert (out / "summary.json").read_bytes() == table
    wider = tmp_path / "wider.yaml"
    wider.write_text(file.read_text().replace("baseline,", "baseline, fitnet,"))
    study(wider, out)
    assert len(read(out)["rows"]) == 4
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_dask_workers_make_the_same_table(finished, tmp_path):
    file, _, content, _ = finished
    study(file, tmp_path / "out", workers=2)
    assert read(tmp_path / "out") == content


def test_a_study_chooses_on_validation(tmp_path):
    text = studies.FILE.replace("teacher_lr, ", "")
    file = studies.write(tmp_path, text=text + "grid: {distill.distance_weight: [0.1, 0.9]}\n")
    study(file, tmp_path / "out")
    content = read(tmp_path / "out")
    rows = {(row["system"], row["variant"]): row for row in content["rows"]}
    assert len(rows) == 1 + 2 + 1
    values = []
    for fold in (1, 2):
        runs = [r for r in content["runs"] if r["fold"] == fold and r["system"] == "dc_linear"]
        values.append(max(runs, key=lambda run: run["validation"])["value"])
    chosen = rows["dc_linear", "chosen on validation"]
    assert chosen["mean"] == pytest.approx(statistics.fmean(values))
    assert chosen["difference_n"] == 2


def test_a_run_that_diverges_is_named_and_the_others_are_compared(tmp_path):
    text = studies.FILE.replace("folds: [1, 2]", "folds: [1]")
    file = studies.write(tmp_path, text=text + "grid: {optim.lr: [3e-3, 1e30]}\n")
    with pytest.raises(UnderstudyError, match=r"(?s)runs failed.*tiny-fold1.*not finite"):
        study(file, tmp_path / "out")
    content = read(tmp_path / "out")
    assert len(content["failed"]) == 2
    assert {row["system"] for row in content["rows"]} == {"teacher_lr", "baseline", "dc_linear"}


def test_several_teachers_at_once_are_one_entry_of_an_axis(tmp_path):
    text = studies.FILE.replace("[framewise]", "[framewise, [framewise, clipwise]]")
    file = studies.write(tmp_path, text=text.replace("folds: [1, 2]", "folds: [1]"))
    study(file, tmp_path / "out")
    rows = {(row["system"], row["teacher"]) for row in read(tmp_path / "out")["rows"]}
    assert rows == {
        ("teacher_lr", "framewise"),
        ("baseline", None),
        ("dc_linear", "framewise"),
        ("dc_linear", "framewise+clipwise"),
    }


def test_what_is_missing_is_all_named_before_anything_runs(tmp_path):
    file = studies.write(tmp_path)
    text = file.read_text()
    file.write_text(text.replace("[framewise]", "[framewise, passt]").replace(
        "datasets: [", "datasets: [absent, "))  # fmt: skip
    with pytest.raises(ConfigError, match=r"(?s)absent: .*no store of 'passt'"):
        study(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_scores_without_intervals_or_predictions_are_made_again_without_training(tmp_path):
    file = studies.write(tmp_path, text=studies.FILE.replace("folds: [1, 2]", "folds: [1]"))
    out = tmp_path / "out"
    study(file, out)
    content, models = read(out), {p: p.stat().st_mtime_ns for p in out.rglob("best.safetensors")}
    older, without = (next(out.glob(f"runs/*{name}*/evaluation")) for name in ("_lr", "dc_linear"))
    score = json.loads((older / "score.json").read_text())
    del score["interval"]
    (older / "score.json").write_text(json.dumps(score))
    (without / "score.npz").unlink()
    said = []
    study(file, out, say=said.append)
    assert "1 runs done, 2 trained but not scored, at most 0 steps left" in said[0]
    assert read(out) == content
    assert "interval" in json.loads((older / "score.json").read_text())
    assert models == {path: path.stat().st_mtime_ns for path in models}
