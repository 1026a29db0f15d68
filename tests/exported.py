"""A finished run with a student so narrow that exporting it takes a moment. Nothing is trained."""

import json
from pathlib import Path

import torch
from tests import tiny

from understudy import checkpoint, students
from understudy.students.base import Student


def make_run(folder: Path, name: str = "sc-cnn", task: str = "single-label", **changes) -> Path:
    """FOLDER/run, on `tiny`'s dataset, whose cache is FOLDER/cache; seeded weights.

    Args:
        folder: Made if it is not there.
        name: The student's.
        task: The dataset's.
        changes: Entries of the run's config.
    """
    clips = tiny.index(task=task)
    tiny.make_cache(folder / "cache", clips)
    run = folder / "run"
    run.mkdir()
    student = narrow(name)
    config = {
        "digest": "d" * 64,
        "system": "dc_linear",
        "student": name,
        "teacher": "discogs",
        "dataset": clips.name,
        "fold": None,
        "seed": 1,
        "task": task,
        "label_names": list(tiny.LABELS),
        "index_digest": clips.digest,
        "split_digest": clips.split_digest,
        "stores": {"discogs": {"weights_sha256": "f" * 64}},
        "clips": {"train": 12, "valid": 3, "test": 3},
        "settings": {"student": {"name": name, **student.settings}, "optim": {"lr": 1e-3}},
        "paths": {"cache": str(folder / "cache"), "root": None},
        "provenance": {"torch": torch.__version__},
    } | changes
    (run / "config.json").write_text(json.dumps(config))
    checkpoint.save(run / "best.safetensors", student.state_dict(), {"digest": config["digest"]})
    (run / "log.jsonl").write_text('{"kind": "end"}\n')
    return run


def narrow(name: str, n_classes: int = len(tiny.LABELS)) -> Student:
    """A student of width 4 with seeded weights, and statistics that fit decibels."""
    torch.manual_seed(0)
    student = students.build(name, n_classes, width=4).eval()
    image_bn = student.get_submodule(f"{student.front_end_name}_bn")
    image_bn.get_buffer("running_mean").fill_(-20)
    image_bn.get_buffer("running_var").fill_(400)
    return student
