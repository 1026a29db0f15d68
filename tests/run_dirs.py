"""Fabricated run directories, and the report of some."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from understudy import config, metrics
from understudy.evaluate.report import report

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
