"""A study's file and the cells of its grid."""

from pathlib import Path

import pytest

from understudy.errors import ConfigError
from understudy.study.grid import read_study

STUDIES = Path(__file__).parents[2] / "studies"


def cells(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text("cache: cache\nsettings: {threads: 1}\n" + text)
    return read_study(path).cells


def test_an_axis_that_changes_nothing_adds_no_cell(tmp_path):
    found = cells(
        tmp_path,
        "datasets: [{name: a, folds: [1, 2]}]\nteachers: [x, y]\nseeds: [1, 2, 3]\n"
        "systems: [teacher_lr, baseline, dc]\ngrid: {distill.distance_weight: [0.3, 0.6]}\n",
    )
    count = {name: sum(cell.system == name for cell in found) for name in
             ("teacher_lr", "baseline", "dc")}  # fmt: skip
    assert count == {"teacher_lr": 2 * 2, "baseline": 2 * 3, "dc": 2 * 3 * 2 * 2}
    assert len({cell.name for cell in found}) == len(found)


def test_axes_settings_and_changed_systems_reach_the_run(tmp_path):
    (one, two) = cells(
        tmp_path,
        "datasets: [a]\nstudents: [{name: sc-cnn, width: 8}]\nteachers: [x]\n"
        "systems: [{system: dc_linear, detach: false}]\nsettings: {optim: {lr: 0.1}}\n"
        "grid: {optim.batch: [4, 8]}\n".replace("settings: {optim", "settings: {threads: 1, optim"),
    )
    assert (one.system, one.variant) == ("dc_linear [detach=False]", "optim.batch=4")
    for cell, batch in ((one, 4), (two, 8)):
        assert cell.settings is not None
        assert cell.settings.optim.batch == batch
        assert cell.settings.optim.lr == 0.1
        assert cell.settings.student == {"name": "sc-cnn", "width": 8}
        assert not cell.settings.distill.detach


def test_parts_share_the_top_level_and_equal_cells(tmp_path):
    found = cells(
        tmp_path,
        "teachers: [x]\nsystems: [dc]\nparts:\n  - datasets: [a, b]\n  - datasets: [b, c]\n"
        "    systems: [dc, fitnet]\n",
    )
    assert [(cell.dataset.name, cell.system) for cell in found] == [
        ("a", "dc"), ("b", "dc"), ("b", "fitnet"), ("c", "dc"), ("c", "fitnet"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datasets: [a]\nsystem: [dc]\n", "unknown key 'system'; did you mean 'systems'"),
        ("systems: [dc]\n", "missing datasets"),
        ("datasets: [a]\nsystems: [dcc]\n", "'dcc'; did you mean 'dc'"),
        ("datasets: [{nam: a}]\n", "unknown key 'nam'; did you mean 'name'"),
        ("datasets: [a]\nsystems: [dc]\n", "wanted teachers"),
        ("datasets: [a]\nstudents: [sccnn]\n", "did you mean 'sc-cnn'"),
        ("datasets: [a]\nstudents: [{name: sc-cnn, widht: 3}]\n", "did you mean 'width'"),
        ("datasets: [a]\ngrid: {optim.lr: 3}\n", r"optim\.lr: wanted a list of values, found 3"),
        ("datasets: [a]\ngrid: {optim.lrr: [3]}\nsystems: [baseline]\n", "unknown key 'lrr'"),
        ("datasets: [a]\ncahce: b\n", "unknown key 'cahce'; did you mean 'cache'"),
        ("datasets: [a]\nparts: 3\n", "parts: wanted a list of mappings, found 3"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        cells(tmp_path, text)
    assert "study.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "n_cells"), [("toy", 11), ("esc10", 80), ("ding2024", 104), ("esc10-where", 45)]
)
def test_the_studies_that_come_along(name, n_cells):
    study = read_study(STUDIES / f"{name}.yaml")
    assert len(study.cells) == n_cells


def test_students_of_one_name_are_told_apart_over_all_parts(tmp_path):
    found = cells(
        tmp_path,
        "datasets: [a]\nteachers: [x]\nsystems: [baseline]\nparts:\n"
        "  - students: [{name: sc-cnn, width: 8}]\n"
        "  - students: [{name: sc-cnn, width: 8, tap: pre}, hcnn]\n",
    )
    assert [cell.student for cell in found] == [
        "sc-cnn [width=8]",
        "sc-cnn [width=8, tap=pre]",
        "hcnn",
    ]
