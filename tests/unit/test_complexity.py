"""Counts of parameters and operations against known figures; timings for their shape alone."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from understudy import config
from understudy.errors import ConfigError
from understudy.evaluate.cli import group
from understudy.evaluate.complexity import (
    LEAST_ROUNDS,
    Model,
    complexity,
    count_macs,
    measure,
    student_model,
    teacher_model,
)
from understudy.evaluate.memory import peak_mb
from understudy.evaluate.runs import Run


def make_run(folder: Path, student: str | None, n_labels: int = 50, **settings: object) -> Path:
    folder.mkdir()
    content = {
        "system": "baseline" if student else "teacher_lr",
        "student": student,
        "label_names": [f"label {k}" for k in range(n_labels)],
        "settings": {"student": {"name": student, **settings}},
    }
    content["digest"] = config.digest(content)
    (folder / "config.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("name", "settings", "parameters", "giga_macs_per_s"),
    [
        ("sc-cnn", {"shortcut": 3}, 12_104_244, 0.75),
        ("sc-cnn", {"shortcut": 1}, 9_088_564, 0.63),
        ("hcnn", {}, 3_631_551, 0.86),
    ],
)
def test_published_students(
    name: str, settings: dict, parameters: int, giga_macs_per_s: float
) -> None:
    model = student_model({"name": name, **settings}, "cpu")
    assert model.parameters == parameters
    with torch.no_grad():
        macs = count_macs(model, torch.zeros(1, model.input_samples))
    assert macs / model.audio_s / 1e9 == pytest.approx(giga_macs_per_s, abs=0.02)


def test_mn04() -> None:
    model = teacher_model("mn04", "cpu")
    assert model.parameters == 983_599
    with torch.no_grad():
        macs = count_macs(model, torch.zeros(1, model.input_samples))
    # The published count without the classifier, which an embedding does not need.
    assert macs == 109_928_832 + 714_240 - (384 * 512 + 512 * 527)
    assert model.audio_s == 10


def test_half_the_flops_of_the_network_without_the_front_end() -> None:
    front_end, network = nn.Linear(8, 4, bias=False), nn.Linear(4, 2)
    model = Model(
        name="pair",
        role="student",
        weights="random",
        forward=lambda audio: network(front_end(audio)),
        front_end=front_end,
        parameters=10,
        rate_hz=8,
        input_samples=8,
        windows_of_clip=10,
    )
    assert count_macs(model, torch.zeros(1, 8)) == 4 * 2
    measured = measure([model], "cpu", rounds=4, batch_clips=2)
    assert measured["rounds"] == 4
    (result,) = measured["models"]
    assert result["macs_per_s"] == 8
    assert result["audio_s"] == 1
    assert 0 < result["latency_p50_ms"] <= result["latency_p95_ms"]
    low, high = result["iterations_per_s_range"]
    assert 0 < low <= 1000 / result["latency_p50_ms"] <= high
    assert result["clips_per_s"] > 0


def test_models_take_turns() -> None:
    calls: list[str] = []

    def model(name: str) -> Model:
        def forward(audio: torch.Tensor) -> torch.Tensor:
            calls.append(name)
            return audio

        return Model(name, "student", "random", forward, lambda audio: audio, 0, 8, 8, 1)

    measure([model("a"), model("b")], "cpu", rounds=4, batch_clips=1)
    alternating = ["a", "b"] * 4
    assert "".join(calls).find("".join(alternating)) >= 0


def test_equal_students_are_measured_once(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, "sc-cnn", width=2) for name in "ab"]
    runs += [make_run(tmp_path / "c", "sc-cnn", width=3), make_run(tmp_path / "d", None)]
    paths = complexity(runs, ["spectral"], rounds=1, batch_clips=1)
    contents = [json.loads(path.read_text()) for path in paths]
    models = [content["tables"][0]["models"] for content in contents]
    assert models[0] == models[1]
    assert models[2][0]["parameters"] > models[0][0]["parameters"]
    assert [[model["role"] for model in one] for one in models] == [
        ["student", "teacher"],
        ["student", "teacher"],
        ["student", "teacher"],
        ["teacher"],
    ]
    (table,) = contents[0]["tables"]
    assert table["machine"]["threads"] == torch.get_num_threads()
    assert table["machine"]["cpu"]
    assert contents[0]["run_digest"] == Run.read(runs[0]).digest


def test_errors_and_command_line(tmp_path: Path) -> None:
    taught = make_run(tmp_path / "a", "sc-cnn", width=2)
    untaught = make_run(tmp_path / "b", None)
    with pytest.raises(ConfigError, match="nothing to measure"):
        complexity([untaught])
    with pytest.raises(ConfigError, match="unknown teacher 'mn4'; did you mean"):
        complexity([taught], ["mn4"])
    with pytest.raises(ConfigError, match="nonsense"):
        complexity([taught], devices=["nonsense"])
    quick = ["--rounds", "1", "--batch-clips", "1", "--device", "cpu"]
    result = CliRunner().invoke(group, ["complexity", str(taught), *quick], catch_exceptions=False)
    assert "sc-cnn" in result.output
    with pytest.raises(ConfigError, match="--out FILE"):
        CliRunner().invoke(
            group, ["complexity", "--student", "sc-cnn", *quick], catch_exceptions=False
        )


def test_models_without_a_run_go_to_a_file(tmp_path: Path) -> None:
    out = tmp_path / "costs.json"
    named = ["--teacher", "mn01", "--teacher", "spectral", "--out", str(out)]
    quick = ["--rounds", "1", "--batch-clips", "1", "--device", "cpu"]
    CliRunner().invoke(group, ["complexity", *named, *quick], catch_exceptions=False)
    (table,) = json.loads(out.read_text())["tables"]
    assert [model["weights"] for model in table["models"]] == ["random", "none"]


def test_a_stand_in_is_called_one() -> None:
    pytest.importorskip("onnxruntime", reason="extra discogs")
    model = teacher_model("discogs", "cpu")
    assert "stand-in" in model.weights
    assert model.macs_per_s > 0  # torch counts none of it


def test_attention_is_counted() -> None:
    query = torch.zeros(1, 2, 5, 3)
    model = Model(
        name="attention",
        role="student",
        weights="random",
        forward=lambda _: nn.functional.scaled_dot_product_attention(query, query, query),
        front_end=lambda audio: audio,
        parameters=0,
        rate_hz=8,
        input_samples=8,
        windows_of_clip=1,
    )
    assert count_macs(model, torch.zeros(1, 8)) == 2 * (5 * 5 * 3) * 2


def test_a_budget_ends_the_rounds_after_the_least() -> None:
    def forward(audio: torch.Tensor) -> torch.Tensor:
        return audio

    model = Model("a", "student", "random", forward, forward, 0, 8, 8, 1)
    assert measure([model], "cpu", 50, 1, budget_s=0)["rounds"] == LEAST_ROUNDS


def test_peak_memory_is_that_of_the_call() -> None:
    held = torch.ones(5_000_000)  # 20 MB
    found = peak_mb(lambda: held * 2, "cpu")
    if found is None:
        pytest.skip("this system does not tell a process its peak memory")
    assert 15 < found < 60
