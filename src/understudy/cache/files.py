"""Files that are either whole or absent, also after a crash or a power cut."""

import contextlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.errors import CacheError

PARTIAL = ".partial"


def write_atomic(path: Path, data: bytes | bytearray) -> None:
    """Writes `data` beside `path`, flushes it to the disk and renames it into place.

    Raises:
        CacheError: The system refuses (disk full, no permission); nothing is left behind.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL}")
    try:
        make_folder(path.parent)
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise CacheError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a mapping as JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, text.encode() + b"\n")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; CacheError if there is none."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise CacheError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise CacheError(f"{path}: no JSON ({error})") from None
    if not isinstance(value, dict):
        raise CacheError(f"{path}: wanted a JSON object, found {type(value).__name__}")
    return value


def remove(path: Path) -> None:
    """Removes a file, if there is one, and makes that last."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Makes a folder and its parents, each recorded in its parent on the disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Flushes a folder's entries, so that a rename in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def partials(root: Path) -> list[Path]:
    """What killed writers left below `root`, zarr-python's own included."""
    return sorted(root.rglob(f"*{PARTIAL}"))
