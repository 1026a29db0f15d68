"""Archives from elsewhere, unpacked without trust: nothing leaves the folder it is meant for.

Refused are absolute names and `..`, links, devices and other special entries, an entry twice, an
encrypted one, and an archive that holds more bytes or entries than forecast, whether it says so or
not. Nothing appears in the folder before the whole archive is good.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from understudy.archives import Entry, blocks, entries, joined
from understudy.errors import DataError

MOST_ENTRIES = 500_000
_WORKPLACE = ".unpacking"


def unpack(
    parts: Sequence[Path],
    wanted: Mapping[str, str],
    root: Path,
    *,
    most_bytes: int,
    most_entries: int = MOST_ENTRIES,
    progress: bool = True,
) -> None:
    """Unpacks what is `wanted` of a zip or a tar (plain or gzip) archive into the folder `root`.

    Args:
        parts: The archive; several files are one archive cut into pieces.
        wanted: File or folder in the archive ("" is all of it) -> its new name under `root`, where
            nothing of that name may be yet. They are moved there in this order, each at once, when
            the whole archive has been unpacked beside them.
        root: Made where it is missing.
        most_bytes: That the archive may hold unpacked, the unwanted entries included.
        most_entries: That it may list.
        progress: Show a bar where stderr is a terminal.

    Raises:
        DataError: Refused, damaged, without something wanted, or no space.
    """
    title = ", ".join(map(str, parts))
    try:
        with _workplace(root) as place, ExitStack() as stack:
            for name in wanted.values():
                if os.path.lexists(root / name):
                    raise DataError(f"{root / name}: is there already")
            file = stack.enter_context(joined(parts))
            bar = tqdm(
                desc="unpacking", unit="B", unit_scale=True, disable=None if progress else True
            )
            stack.enter_context(bar)
            _extract(entries(file, most_bytes), wanted, place, most_bytes, most_entries, bar)
            for i, inside in enumerate(wanted):
                if not (place / str(i)).exists():
                    raise DataError(f"lacks '{inside}'")
            for i, outside in enumerate(wanted.values()):
                target = root / outside
                target.parent.mkdir(parents=True, exist_ok=True)
                (place / str(i)).rename(target)
    except DataError as error:
        raise DataError(f"archive {title}: {error}") from None
    except OSError as error:
        raise DataError(f"archive {title}: cannot be unpacked in {root} ({error})") from None


@contextmanager
def _workplace(root: Path) -> Iterator[Path]:
    """An empty folder under `root`, for one process at a time; gone afterwards."""
    root.mkdir(parents=True, exist_ok=True)
    place = root / _WORKPLACE
    handle = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)
    finally:
        os.close(handle)


def _extract(
    found: Iterator[Entry],
    wanted: Mapping[str, str],
    place: Path,
    most_bytes: int,
    most_entries: int,
    bar: tqdm,
) -> None:
    total = 0
    for count, entry in enumerate(found, start=1):
        parts = _checked_parts(entry)
        total += entry.size
        if total > most_bytes or count > most_entries:
            raise DataError(
                f"holds more than forecast: {total} bytes in {count} entries up to '{entry.name}', "
                f"wanted at most {most_bytes} in {most_entries}; refused as a size bomb"
            )
        target = _target(parts, wanted, place)
        if target is None:
            continue
        try:
            if entry.kind == "folder":
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as sink:
                _copy(entry, sink, bar)
        except (FileExistsError, NotADirectoryError):
            raise DataError(f"'{entry.name}' is there twice, or inside a file") from None


def _checked_parts(entry: Entry) -> tuple[str, ...]:
    name = entry.name
    if entry.kind not in ("file", "folder"):
        raise DataError(f"'{name}' is {entry.kind}; refused")
    reason = ""
    if "\0" in name or "\\" in name:
        reason = "holds a NUL or a backslash"
    elif name.startswith("/") or name[1:2] == ":":
        reason = "is an absolute path"
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        reason = "leaves the folder ('..')"
    elif not parts and entry.kind == "file":
        reason = "has no name"
    if reason:
        raise DataError(f"entry {name!r} {reason}; refused")
    return parts


def _target(parts: tuple[str, ...], wanted: Mapping[str, str], place: Path) -> Path | None:
    for i, inside in enumerate(wanted):
        head = tuple(inside.split("/")) if inside else ()
        if parts[: len(head)] == head:
            return place.joinpath(str(i), *parts[len(head) :])
    return None


def _copy(entry: Entry, sink: BinaryIO, bar: tqdm) -> None:
    """Copies an entry, of exactly the bytes it declares."""
    left = entry.size
    for block in blocks(entry):
        left -= len(block)
        if left < 0:
            raise DataError(f"'{entry.name}' holds more than the {entry.size} bytes it declares")
        sink.write(block)
        bar.update(len(block))
    if left:
        raise DataError(f"'{entry.name}' ends {left} bytes before the {entry.size} it declares")
