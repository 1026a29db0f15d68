"""Files that are either whole or absent, also after a crash or a power cut; objects always are."""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from understudy.cache.objects import ObjectPath
from understudy.cache.places import Place, spread
from understudy.errors import CacheError

PARTIAL = ".partial"
# Of a file, written by one call, then flushed while more is written. Files written by small calls
# lie in small parts of the page cache, and are read a tenth slower from there.
CALL_BYTES = 8 << 20
MOST_PIECES = 1024  # that POSIX systems take at once


def write_atomic(path: Place, data: bytes) -> None:
    """Writes one file, see `write_all`."""
    write_all({path: [data]})


def write_all(contents: Mapping[Place, Iterable[bytes | memoryview]]) -> None:
    """Writes files that each appear whole or not at all, the last one after all others.

    All are written beside their places and flushed to the disk, then renamed in the order given;
    the renames have reached the disk when this returns. Objects are put side by side.

    Args:
        contents: Path to the pieces of its bytes.

    Raises:
        CacheError: The system refuses (disk full, no permission).
    """
    objects = [path for path in contents if isinstance(path, ObjectPath)]
    for some in (objects[:-1], objects[-1:]):
        if some:
            spread(some[0], lambda path: path.write_bytes(b"".join(contents[path])), some)
    local = {path: pieces for path, pieces in contents.items() if isinstance(path, Path)}
    if local:
        _write_files(local)


def _write_files(contents: Mapping[Path, Iterable[bytes | memoryview]]) -> None:
    moves: dict[Path, Path] = {}
    changed: dict[Path, None] = {}
    current = None
    try:
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(len(contents)) as flushers:
            # All are opened before the first is flushed, since a flush holds up what opens files.
            handles: dict[Path, int] = {}
            for current in contents:
                changed |= dict.fromkeys([*make_folder(current.parent), current.parent])
                moves[current] = current.with_name(f".{current.name}.{uuid.uuid4().hex}{PARTIAL}")
                file = stack.enter_context(moves[current].open("xb", buffering=0))
                handles[current] = file.fileno()
            flushes: list[Future[None]] = []
            for current, handle in handles.items():
                flushes += _write(handle, contents[current], flushers)
            # Side by side, the file system flushes them together: half the time of one by one.
            flushes += [flushers.submit(os.fsync, handle) for handle in handles.values()]
            for flush in flushes:
                flush.result()
        for current, partial in moves.items():
            partial.replace(current)
        sync_folders(changed)
    except BaseException as error:
        for partial in moves.values():
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise CacheError(f"cannot write {current}: {error.strerror or error}") from error
        raise


def _write(
    handle: int, pieces: Iterable[bytes | memoryview], flushers: Executor
) -> list[Future[None]]:
    """Writes pieces, many by one call; returns the flushes it began meanwhile."""
    flushes: list[Future[None]] = []
    waiting: list[bytes | memoryview] = []
    n_bytes = 0
    for piece in pieces:
        waiting.append(piece)
        n_bytes += len(piece)
        if n_bytes >= CALL_BYTES:
            _write_whole(handle, waiting)
            waiting, n_bytes = [], 0
            if all(flush.done() for flush in flushes):
                flushes.append(flushers.submit(os.fsync, handle))
    _write_whole(handle, waiting)
    return flushes


def _write_whole(handle: int, pieces: Sequence[bytes | memoryview]) -> None:
    if len(pieces) > MOST_PIECES:
        pieces = [b"".join(pieces)]
    while pieces:
        written = os.writev(handle, pieces)
        for whole, piece in enumerate(pieces):  # the system may take less than it was given
            if written < len(piece):
                pieces = [memoryview(piece)[written:], *pieces[whole + 1 :]]
                break
            written -= len(piece)
        else:
            return


def write_json(path: Place, value: Mapping[str, Any]) -> None:
    """Writes a mapping as JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, text.encode() + b"\n")


def read_json(path: Place) -> dict[str, Any]:
    """Reads a JSON object; CacheError if there is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CacheError(f"cannot read {path}: {error.strerror or error}") from None
    return parse_json(content, path)


def parse_json(content: bytes, path: Place) -> dict[str, Any]:
    """The JSON object that `path` holds; CacheError if it holds something else."""
    try:
        value = json.loads(content)
    except ValueError as error:
        raise CacheError(f"{path}: no JSON ({error})") from None
    if not isinstance(value, dict):
        raise CacheError(f"{path}: wanted a JSON object, found {type(value).__name__}")
    return value


def remove(*paths: Place) -> None:
    """Removes files, where there are any, and makes that last."""
    objects = [path for path in paths if isinstance(path, ObjectPath)]
    if objects:
        spread(objects[0], lambda path: path.unlink(missing_ok=True), objects)
    folders = {}
    for path in paths:
        if isinstance(path, Path):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
                folders[path.parent] = None
    sync_folders(folders)


def remove_tree(path: Place) -> None:
    """Removes all that lies below a place."""
    if isinstance(path, ObjectPath):
        remove(*path.rglob("*"))
    else:
        shutil.rmtree(path)


def move(path: Place, target: Place) -> None:
    """Renames a file, and makes that last."""
    if isinstance(path, Path) and isinstance(target, Path):
        path.replace(target)
        sync_folders({path.parent, target.parent})
    else:
        target.write_bytes(path.read_bytes())
        path.unlink()


def make_folder(folder: Path) -> list[Path]:
    """Makes a folder and its parents; returns those that gained an entry, yet to be synced."""
    if folder.is_dir():
        return []
    changed = make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    return [*changed, folder.parent]


def sync_folders(folders: Iterable[Path]) -> None:
    """Flushes folders' entries, so that renames in them survive a power cut."""
    handles = [os.open(folder, os.O_RDONLY) for folder in folders]
    try:
        if len(handles) == 1:
            os.fsync(handles[0])
        elif handles:
            with ThreadPoolExecutor(len(handles)) as pool:
                list(pool.map(os.fsync, handles))
    finally:
        for handle in handles:
            os.close(handle)


def partials(root: Place) -> list[Place]:
    """What killed writers left below `root`, zarr-python's own included."""
    if isinstance(root, ObjectPath):  # an object that was not put as a whole is not there
        return []
    return sorted(root.rglob(f"*{PARTIAL}"))
