"""Weights and resume state on disk: safetensors with a JSON header, never pickle.

A file holds tensors and the state that belongs to them, so one rename moves both; it is complete or
it is not there. A sha256 over both is kept beside the state and compared at every load.
"""

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError

from understudy import students
from understudy.errors import UnderstudyError, WeightsError
from understudy.students.base import Student

_HEADER_KEY = "understudy"  # one key: the order of several would vary from run to run


def save(path: Path, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
    """Writes `tensors` and the JSON-able `state` to `path` in one atomic step.

    Equal input gives equal bytes. A failed write raises UnderstudyError and leaves the old file.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(state, sort_keys=True, allow_nan=False)
    header = {"state": text, "sha256": _digest(plain, text)}
    write_bytes(path, safetensors.torch.save(plain, {_HEADER_KEY: json.dumps(header)}))


def load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and state, as given to `save`.

    Raises:
        WeightsError: No such file, cut off, altered, or not written by `save`.
    """
    try:
        data = path.read_bytes()
        tensors = safetensors.torch.load(data)
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_HEADER_KEY])
        text, wanted = header["state"], header["sha256"]
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file ({error})") from None
    except (KeyError, TypeError, ValueError):
        raise WeightsError(f"{path}: a safetensors file, but not one of understudy's") from None
    found = _digest(tensors, text)
    if found != wanted:
        raise WeightsError(f"{path}: altered: its content has sha256 {found}, its header {wanted}")
    return tensors, json.loads(text)


def read_config(run_dir: str | Path) -> dict[str, Any]:
    """RUN/config.json: the resolved settings and identity of a run; WeightsError without it."""
    path = Path(run_dir) / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict) or not isinstance(config.get("digest"), str):
            raise ValueError("it holds no digest")
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsError(f"{run_dir}: not a run directory: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: not a run's config ({error})") from None
    return config


def load_student(
    run_dir: str | Path, which: Literal["best", "last"] = "best"
) -> tuple[Student, dict[str, Any]]:
    """The trained student of a run, on the CPU and in eval mode, and the run's config.

    Args:
        run_dir: What `understudy train --run-dir` wrote.
        which: "best" by validation metric, or "last" as training left off.

    Raises:
        WeightsError: No run, no weights yet, altered weights, or weights of another run.
    """
    config = read_config(run_dir)
    if not config.get("student"):
        raise WeightsError(f"{run_dir}: system '{config.get('system')}' trains no student")
    path = Path(run_dir) / f"{which}.safetensors"
    if not path.exists():
        raise WeightsError(f"{path}: no such file: the run has not got that far; train it first")
    tensors, state = load(path)
    if state.get("digest") != config["digest"]:
        raise WeightsError(
            f"{path}: weights of run {str(state.get('digest'))[:12]}, "
            f"but config.json is of run {config['digest'][:12]}"
        )
    if which == "last":
        tensors = subset(tensors, "student.")
    settings = dict(config["settings"]["student"])
    student = students.build(settings.pop("name"), len(config["label_names"]), **settings)
    try:
        student.load_published(tensors)
    except WeightsError as error:
        raise WeightsError(f"{path} does not fit config.json: {error}") from None
    student.label_names = tuple(config["label_names"])
    student.task = config.get("task", student.task)
    return student.eval(), config


def subset(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose name starts with `prefix`, without it."""
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes `value` as readable JSON, atomically."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces `path` by `data`: after a crash it holds the old bytes or the new ones, whole."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UnderstudyError(f"{path}: cannot be written ({error})") from error
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _digest(tensors: Mapping[str, torch.Tensor], text: str) -> str:
    result = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        result.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        result.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return result.hexdigest()
