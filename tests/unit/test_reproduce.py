"""The paper's numbers, what is missing here, and tables in which columns never mix."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from markupsafe import escape
from tests import tiny

from understudy.errors import ConfigError
from understudy.reproduce import needs, paper, run, tables
from understudy.reproduce.cli import command
from understudy.reproduce.paper import SCALES, Scale
from understudy.study.grid import read_study

PAPER = paper.read("ding2024")
STUDY = """
cache: cache
datasets: [{name: tiny}]
students: [{name: sc-cnn, width: 4}]
teachers: [framewise]
systems: [teacher_lr, baseline, dc_linear]
settings:
  optim: {batch: 4, lr: 3e-3, max_epochs: 1}
  run: {checkpoint_s: 0}
  threads: 1
"""


def printed(table: str, **where: str) -> dict[tuple[str, str | None], float | None]:
    """(system, teacher) -> number of the parts of a table that fit."""
    return {
        (system, teacher): value
        for part in PAPER.tables[table].parts
        if all(getattr(part, key) == value for key, value in where.items())
        for _, system, teacher, value in part.cells()
    }


def test_the_papers_numbers() -> None:
    """Spot checks against the paper's text, and that no cell of its tables is without a number."""
    first, third = printed("1"), printed("3", trained_on="fma-small")
    assert first["baseline", None] == 0.863
    assert (first["dc", "passt"], first["dc", "mule"]) == (0.892, 0.874)
    assert (third["dc_linear", "passt"], third["dc_linear", "mule"]) == (0.545, 0.531)
    assert printed("3", trained_on="esc50")["fitnet_linear", "mule"] == 0.758
    assert len(first) == 9
    assert None not in [*first.values(), *third.values()]
    assert set(printed("fig3").values()) == {None}  # a picture: it prints no numbers
    assert PAPER.complexity.models["mule"].parameters_m == 62.4
    assert PAPER.complexity.models["hcnn"].iterations_per_s == 164.2


def test_the_papers_text_holds_the_numbers(shared: Path) -> None:
    text = (shared / "paper.txt").read_text()
    values = [v for name in ("1", "3") for v in printed(name).values() if v is not None]
    assert all(f"{value:.3f}"[1:] in text for value in values)
    for cost in PAPER.complexity.models.values():
        assert f"{cost.parameters_m}\t{cost.iterations_per_s}" in text


@pytest.mark.parametrize("scale", SCALES.values(), ids=list(SCALES))
def test_every_cell_of_the_tables_is_a_run_of_the_scales_study(scale: Scale) -> None:
    cells = {
        (cell.dataset.name, cell.student, cell.system, cell.teacher)
        for cell in read_study(scale.study).cells
    }
    for table in PAPER.tables.values():
        for part in table.parts:
            if part.trained_on not in scale.datasets:
                continue
            for student, system, teacher, _ in part.cells():
                if teacher is None or teacher in scale.teachers:
                    taught = scale.teachers.get(teacher or "")
                    assert (scale.datasets[part.trained_on], student, system, taught) in cells


def test_what_is_missing_is_told_with_command_address_and_size(tmp_path: Path) -> None:
    arguments = ["ding2024", "--dry-run", "--table", "1", "--data", str(tmp_path / "data")]
    arguments += ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    environment = {"UNDERSTUDY_HOME": str(tmp_path / "home")}
    result = CliRunner(env=environment).invoke(command, arguments, catch_exceptions=False)
    said = result.output
    assert f"understudy data fetch mtat --root {tmp_path / 'data' / 'mtat'}" in said
    assert "understudy teachers fetch mule --accept-licence" in said
    assert "251 MB from https://github.com/PandoraMedia" in said
    assert "recordings of openmic" in said
    assert "esc50" not in said  # Table 1 does not ask for it
    assert "panns" not in said
    assert not (tmp_path / "out").exists()


def test_weights_and_recordings_that_are_here_are_extracted(tmp_path: Path) -> None:
    (tmp_path / "data" / "mtat").mkdir(parents=True)
    (tmp_path / "passt.pt").touch()
    holdings, missing = needs.look(
        {"mtat": ["audio", "passt", "mule"]},
        SCALES["full"],
        tmp_path / "data",
        tmp_path / "cache",
        {"passt": str(tmp_path / "passt.pt"), "mule": str(tmp_path / "absent.keras")},
    )
    assert holdings[0].extractable == ("audio", "passt")
    assert [entry.what.split(" (")[0] for entry in missing] == ["weights of mule"]


def test_ctrl_c_says_how_to_go_on(
    small: tuple[Path, list[str], Scale], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(SCALES, "toy", small[2])
    monkeypatch.setattr(run, "run", interrupted)
    result = CliRunner().invoke(
        command,
        ["ding2024", "--scale", "toy", "--table", "fig3", "--out", str(tmp_path / "out"),
         "--cache", str(small[0].parent / "cache")],
    )  # fmt: skip
    assert result.exit_code == 130
    assert result.stderr == "stopped; the same command goes on from what is done\n"


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown table 'fig4'; did you mean 'fig3'"):
        run.reproduce("ding2024", tmp_path, chosen=["fig4"])
    with pytest.raises(ConfigError, match="unknown paper"):
        run.reproduce("ding2023", tmp_path)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], Scale]:
    """A reproduction of Figure 3 and Table 3 with a cached dataset in MTAT's place, and what it
    said."""
    folder = tmp_path_factory.mktemp("reproduce")
    tiny.make_cache(folder / "cache", tiny.index(30))
    (folder / "study.yaml").write_text(STUDY)
    scale = dataclasses.replace(
        SCALES["toy"],
        study=folder / "study.yaml",
        datasets={"mtat": "tiny"},
        teachers={"passt": "framewise"},
        options={},
    )
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALES, "toy", scale)
        for _ in range(2):
            run.reproduce("ding2024", folder / "out", chosen=["fig3", "3"], scale="toy",
                          cache=folder / "cache", progress=False, say=said.append)  # fmt: skip
    return folder / "out", said, scale


def read(out: Path) -> dict[str, Any]:
    return json.loads((out / "report" / "report.json").read_text())


def test_what_was_not_measured_stays_empty(small: tuple[Path, list[str], Scale]) -> None:
    content = read(small[0])
    by_name = {table["name"]: table for table in content["published"]["tables"]}
    (figure,) = by_name["fig3"]["parts"]
    filled = {
        (row["student"], row["system"], row["teacher"]) for row in figure["rows"] if row["ours"]
    }
    assert filled == {
        (None, "teacher_lr", "passt"),
        ("sc-cnn", "baseline", None),
        ("sc-cnn", "dc_linear", "passt"),
    }
    assert all(row["paper"] is None for row in figure["rows"])
    for part in by_name["3"]["parts"]:
        assert all(row["ours"] is None and row["paper"] is not None for row in part["rows"])


def test_ours_are_the_runs_own(small: tuple[Path, list[str], Scale]) -> None:
    content = read(small[0])
    values = {run["run"]: run["value"] for run in content["runs"]}
    (figure,) = (t for t in content["published"]["tables"] if t["name"] == "fig3")
    for row in figure["parts"][0]["rows"]:
        if row["ours"]:
            assert [values[name] for name in row["ours"]["runs"]] == [row["ours"]["mean"]]
            assert len(row["ours"]["split_digests"][0]) == 64


def test_the_same_command_goes_on(small: tuple[Path, list[str], Scale]) -> None:
    assert any("3 runs done" in line for line in small[1])
    assert sum(line.startswith("1 of 1 compressions") for line in small[1]) == 1


def test_toy_numbers_are_called_toy_and_form_no_difference(
    small: tuple[Path, list[str], Scale],
) -> None:
    out, said, scale = small
    page = (out / "report" / "index.html").read_text()
    assert str(escape(scale.caution)) in page
    assert said[0] == scale.caution
    assert "(toy scale)" in page
    rows = [row for table in read(out)["published"]["tables"] for part in table["parts"]
            for row in part["rows"]]  # fmt: skip
    assert all(row["difference"] is None for row in rows)


def test_differences_at_full_scale() -> None:
    part = PAPER.tables["1"].parts[0]
    row = {"student": "sc-cnn", "system": "dc", "teacher": "mule", "mean": 0.9, "std": None}
    row |= {"interval": [0.8, 0.95], "runs": [{"run": "a"}, {"run": "b"}]}
    described = {"seed": 1, "fold": None, "split_digest": "s", "stores": {"mule": "m"}}
    content = {
        "scores": [],
        "transfers": [
            {"source": "mtat", "target": "openmic", "map": "nine", "metric": "mAP", "rows": [row]}
        ],
        "runs": [{"run": "a", **described}, {"run": "b", **described, "seed": 2}],
    }
    filled = tables._part(part, content, SCALES["full"])
    shown = {(r["system"], r["teacher"]): r for r in filled["rows"]}
    one = shown["dc", "mule"]
    assert (one["paper"], one["difference"]) == (0.874, pytest.approx(0.026))
    assert (one["ours"]["n_seeds"], one["ours"]["interval"]) == (2, [0.8, 0.95])
    assert shown["dc", "passt"]["ours"] is None
    assert shown["dc", "passt"]["difference"] is None
    text = "\n".join(tables.lines({"kind": "scores", "title": "T", "source": "S",
                                   "parts": [filled]}))  # fmt: skip
    assert "0.800 to 0.950" in text


def test_complexity_alone_wants_neither_data_nor_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = dataclasses.replace(
        PAPER, complexity=dataclasses.replace(PAPER.complexity, models={
            name: cost for name, cost in PAPER.complexity.models.items() if cost.role == "student"
        })
    )  # fmt: skip
    monkeypatch.setattr(paper, "read", lambda _: quick)
    monkeypatch.setattr(run, "BUDGET_S", 0.0)
    monkeypatch.setattr(run, "BATCH_CLIPS", 1)
    page = None
    for _ in range(2):  # the second time what was measured is kept
        page = run.reproduce("ding2024", tmp_path, chosen=["2"], progress=False)
    assert page is not None
    content = read(tmp_path)
    for table in content["published"]["tables"]:
        assert {row["model"] for row in table["rows"]} == {"sc-cnn", "hcnn"}
        assert all(abs(row["difference_m"]) < 0.1 for row in table["rows"])
        assert all(row["ours"]["weights"] == "random" for row in table["rows"])
    text = page.read_text(encoding="utf-8")
    assert "Table 2" in text
    assert not any(empty in text for empty in ("0 runs", "Provenance", "<tbody></tbody>"))
