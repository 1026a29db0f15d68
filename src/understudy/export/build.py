"""Exporting a run: files are made and checked in a folder aside, then moved into place."""

import hashlib
import importlib.util
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
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
    say: Callable[[str], object] = lambda line: None,
) -> Path:
    """Writes the best student of a run to folder `out`, with its card; returns the folder.

    Args:
        run_dir: A finished run of `understudy train`.
        out: The folder; an earlier export of the same run in it is replaced. Files in formats that
            are not asked for this time stay if they are of the same weights.
        formats: Of FORMATS. The weights as safetensors are always there.
        with_int8: Also write 8-bit ONNX models, and measure on the test split what they cost.
        cache, root: Where the run's dataset is, by default where training found it; needed for
            `with_int8` alone.
        licence: Identifier of the student's licence, for the head of the card.
        say: Is told in a line what is being made, what stays and what is removed.

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
    if run.student is not None:  # else the next line says what is wrong with it
        run.require_ended()
    student, _ = checkpoint.load_student(run.path)
    place = place_of(run, *(None if path is None else Path(path) for path in (cache, root)))
    earlier = _earlier(out, run)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        made = _Made()
        _write_weights(student, aside, made)
        if "torch-export" in formats:
            _write_programs(student, aside, made, say)
        if "onnx" in formats:
            _write_onnx(student, aside, made, with_int8, say)
        if made.networks:
            say("comparing with torch ...")
        _compare(student, made)
        if with_int8:
            say("scoring the test split in float32 and in 8 bits ...")
            made.facts["model-int8.onnx"]["test"] = _cost(run, place, student, made)
        _keep(earlier, out, aside, student, made, say)
        say("measuring latency ...")
        measured = _measured(run, made)
        exported = _described(run, place, student, made, aside)
        (aside / layout.CARD).write_text(
            card.text(run, exported, measured, licence), encoding="utf-8"
        )
        layout.write_config(aside, exported)
        layout.load(aside)
        _move(aside, out, earlier, say)
    except OSError as error:
        raise UnderstudyError(f"{out}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return out


def _earlier(out: Path, run: Run) -> dict[str, layout.File]:
    """Files of an earlier export of `run` in `out`; ConfigError where that holds something else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return {}
    try:
        earlier = layout.read(out)
    except UnderstudyError as error:
        raise ConfigError(f"{out}: wanted a new folder or an export of this run: {error}") from None
    held = earlier.trained.get("run")
    if held != run.digest:
        raise ConfigError(
            f"{out}: holds the export of run {str(held)[:12]}, wanted one of {run.digest[:12]}"
        )
    return dict(earlier.files)


def _write_weights(student: Student, aside: Path, made: _Made) -> None:
    tensors = {name: t.contiguous() for name, t in student.state_dict().items()}
    data = safetensors.torch.save(tensors, {"format": "pt"})
    (aside / layout.WEIGHTS).write_bytes(data)
    made.facts[layout.WEIGHTS] = {"entry": "students.load"}


def _write_programs(
    student: Student, aside: Path, made: _Made, say: Callable[[str], object]
) -> None:
    for entry in graphs.ENTRIES:
        path = aside / f"model{_ENTRY_SUFFIX[entry]}.pt2"
        say(f"making {path.name} ...")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own internals
            torch.export.save(graphs.program(student, entry), path)
            made.add(path.name, torch.export.load(path).module(), entry)


def _write_onnx(
    student: Student, aside: Path, made: _Made, with_int8: bool, say: Callable[[str], object]
) -> None:
    say("making model.onnx ...")
    front, network = graphs.onnx_parts(student)
    kinds = {"": network}
    if with_int8:
        say(f"making model{_INT8}.onnx ...")
        kinds[_INT8] = int8.quantised(network)
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


def _keep(
    earlier: dict[str, layout.File],
    out: Path,
    aside: Path,
    student: Student,
    made: _Made,
    say: Callable[[str], object],
) -> None:
    """Copies what an earlier export made of the same weights in formats not asked for this time."""
    weights = hashlib.sha256((aside / layout.WEIGHTS).read_bytes()).hexdigest()
    if not earlier or earlier[layout.WEIGHTS].sha256 != weights:
        return
    for name in [name for name in earlier if name not in made.facts]:
        shutil.copyfile(out / name, aside / name)
        made.facts[name] = dict(earlier[name].facts)
        say(f"kept: {name}")
        if name.endswith(".onnx") and importlib.util.find_spec("onnxruntime"):
            network = OnnxNetwork((aside / name).read_bytes(), name)
            network.settle(student.n_classes)
            made.networks[name] = network, made.facts[name]["entry"]


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


def _move(
    aside: Path, out: Path, earlier: dict[str, layout.File], say: Callable[[str], object]
) -> None:
    """Replaces what an earlier export left; the config goes first and comes last."""
    out.mkdir(exist_ok=True)
    names = sorted(path.name for path in aside.iterdir())
    (out / layout.CONFIG).unlink(missing_ok=True)
    for name in sorted(earlier.keys() - set(names)):
        (out / name).unlink(missing_ok=True)
        say(f"removed: {name}, of other weights")
    for name in sorted(names, key=lambda name: name == layout.CONFIG):
        (aside / name).replace(out / name)
