"""Exporting a run: files are made and checked in a folder aside, then moved into place."""

import hashlib
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from understudy import __version__, checkpoint, metrics, predict
from understudy.errors import ConfigError, UnderstudyError, unknown
from understudy.evaluate import complexity
from understudy.evaluate.predictions import Place, place_of, predict_audio
from understudy.evaluate.runs import Run
from understudy.evaluate.score import rows_of
from understudy.export import card, graphs, int8, parity
from understudy.students import folder as layout
from understudy.students.base import Student
from understudy.teachers.onnx_network import OnnxNetwork

FORMATS = ("safetensors", "onnx", "torch-export")
_ROUNDS, _BUDGET_S = 10, 60.0
_ENTRY_SUFFIX = {"audio": "", "log_mel": "-logmel"}


_INT8 = "-int8"


@dataclass
class _Made:
    """What has been written so far, by file."""

    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    networks: dict[str, tuple[parity.Network, graphs.Entry]] = field(default_factory=dict)

    def add(self, name: str, network: parity.Network, entry: graphs.Entry) -> None:
        """Takes note of a file and of the network in it."""
        self.facts[name], self.networks[name] = {"entry": entry}, (network, entry)

    @property
    def onnx(self) -> dict[str, OnnxNetwork]:
        """ONNX models that take audio."""
        return {name: network for name, (network, entry) in self.networks.items()
                if entry == "audio" and isinstance(network, OnnxNetwork)}  # fmt: skip


def export(
    run_dir: str | Path,
    out: str | Path,
    formats: Sequence[str] = ("safetensors",),
    *,
    with_int8: bool = False,
    cache: str | Path | None = None,
    root: str | Path | None = None,
    licence: str = card.OTHER_LICENCE,
) -> Path:
    """Writes the best student of a run to folder `out`, with its card; returns the folder.

    Args:
        run_dir: A finished run of `understudy train`.
        out: The folder; an earlier export of the same run in it is replaced.
        formats: Of FORMATS. The weights as safetensors are always there.
        with_int8: Also write 8-bit ONNX models, and measure on the test split what they cost.
        cache, root: Where the run's dataset is, by default where training found it; needed for
            `with_int8` alone.
        licence: Identifier of the student's licence, for the head of the card.

    Raises:
        UnderstudyError: A run without a student, unfinished, an export that differs from torch's
            by more than `parity.TOLERANCE`, a folder that holds something else.
    """
    run, out = Run.read(run_dir), Path(out)
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(unknown("format", name, FORMATS))
    if with_int8 and "onnx" not in formats:
        raise ConfigError("int8 is a kind of ONNX: wanted the format onnx beside it")
    student, _ = checkpoint.load_student(run.path)
    if not run.ended:
        raise UnderstudyError(
            f"{run.path / 'log.jsonl'}: training has not ended; run the same `understudy train` "
            "command again, it goes on where it stopped"
        )
    place = place_of(run, *(None if path is None else Path(path) for path in (cache, root)))
    _require_free(out, run)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        made = _Made()
        _write_weights(student, aside, made)
        if "torch-export" in formats:
            _write_programs(student, aside, made)
        if "onnx" in formats:
            _write_onnx(student, aside, made, with_int8)
        _compare(student, made)
        if with_int8:
            made.facts["model-int8.onnx"]["test"] = _cost(run, place, student, made)
        measured = _measured(run, made)
        exported = _described(run, place, student, made, aside)
        (aside / layout.CARD).write_text(
            card.text(run, exported, measured, licence), encoding="utf-8"
        )
        layout.write_config(aside, exported)
        layout.load(aside)
        _move(aside, out)
    except OSError as error:
        raise UnderstudyError(f"{out}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return out


def _require_free(out: Path, run: Run) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        held = layout.read(out).trained.get("run")
    except UnderstudyError as error:
        raise ConfigError(f"{out}: wanted a new folder or an export of this run: {error}") from None
    if held != run.digest:
        raise ConfigError(
            f"{out}: holds the export of run {str(held)[:12]}, wanted one of {run.digest[:12]}"
        )


def _write_weights(student: Student, aside: Path, made: _Made) -> None:
    tensors = {name: t.contiguous() for name, t in student.state_dict().items()}
    data = safetensors.torch.save(tensors, {"format": "pt"})
    (aside / layout.WEIGHTS).write_bytes(data)
    made.facts[layout.WEIGHTS] = {"entry": "students.load"}


def _write_programs(student: Student, aside: Path, made: _Made) -> None:
    for entry in graphs.ENTRIES:
        path = aside / f"model{_ENTRY_SUFFIX[entry]}.pt2"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own internals
            torch.export.save(graphs.program(student, entry), path)
            made.add(path.name, torch.export.load(path).module(), entry)


def _write_onnx(student: Student, aside: Path, made: _Made, with_int8: bool) -> None:
    front, network = graphs.onnx_parts(student)
    kinds = {"": network} | ({_INT8: int8.quantised(network)} if with_int8 else {})
    for kind, model in kinds.items():
        for entry in graphs.ENTRIES:
            whole = graphs.joined(front, model) if entry == "audio" else model
            path = aside / f"model{_ENTRY_SUFFIX[entry]}{kind}.onnx"
            path.write_bytes(whole.SerializeToString())
            runnable = OnnxNetwork(path.read_bytes(), path.name)
            runnable.settle(student.n_classes)
            made.add(path.name, runnable, entry)


def _compare(student: Student, made: _Made) -> None:
    """Notes how far every network is from torch's; 8 bits may be, the test split says how bad."""
    for name, error in parity.errors(student, made.networks).items():
        if not name.endswith(f"{_INT8}.onnx"):
            parity.require_small(error, name)
        made.facts[name]["error_over_rms"] = error


def _cost(run: Run, place: Place, student: Student, made: _Made) -> dict[str, Any]:
    """Test metric of the ONNX model and of its 8-bit sibling."""
    index = place.index(run.dataset)
    rows = rows_of(run, index)
    values, top = {}, {}
    for name, network in made.onnx.items():
        found = predict_audio(
            index,
            rows,
            place,
            lambda clips, network=network: predict.clip_scores(
                network, student.input_samples, clips, student.task
            ),
            name,
        )
        result = metrics.evaluate(found.scores, index.labels[found.rows], student.label_names)
        values[name] = result
        top[name] = found.scores.argmax(1)
    whole, small = (values[name] for name in ("model.onnx", "model-int8.onnx"))
    return {
        "metric": whole["metric"],
        "float32": whole["value"],
        "int8": small["value"],
        "n_clips": whole["n_clips"],
        "same_top_label": float((top["model.onnx"] == top["model-int8.onnx"]).mean()),
    }


def _measured(run: Run, made: _Made) -> dict[str, Any]:
    """Complexity of the student, and the latency of all that takes audio, timed in turn."""
    settings = run.config["settings"]["student"]
    own = complexity.student_model({**settings, "n_labels": len(run.label_names)}, "cpu")
    models = [replace(own, name="torch")] + [
        replace(own, name=name, role="export", forward=network, front_end=lambda audio: None)
        for name, network in made.onnx.items()
    ]
    found = complexity.measure(models, "cpu", _ROUNDS, batch_clips=1, budget_s=_BUDGET_S)
    return {"models": found["models"], "machine": complexity.machine("cpu")}


def _described(
    run: Run, place: Place, student: Student, made: _Made, aside: Path
) -> layout.Exported:
    files = {}
    for name, facts in made.facts.items():
        data = (aside / name).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        files[name] = layout.File(bytes=len(data), sha256=digest, facts=facts)
    return layout.Exported(
        format=layout.FORMAT,
        understudy=__version__,
        student={"name": student.name, **student.settings},
        label_names=student.label_names,
        task=student.task,
        sample_rate=student.sample_rate,
        input_samples=student.input_samples,
        trained=card.provenance(run, place),
        files=files,
    )


def _move(aside: Path, out: Path) -> None:
    """Replaces what an earlier export left; the config goes first and comes last."""
    out.mkdir(exist_ok=True)
    if (out / layout.CONFIG).exists():
        stale = layout.read(out).files
        (out / layout.CONFIG).unlink()
        for name in stale:
            (out / name).unlink(missing_ok=True)
    names = sorted(path.name for path in aside.iterdir())
    for name in sorted(names, key=lambda name: name == layout.CONFIG):
        (aside / name).replace(out / name)
