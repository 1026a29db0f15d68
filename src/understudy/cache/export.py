"""Stores as one .npy file per clip, for programs that know neither Zarr nor understudy."""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from understudy import schema
from understudy.cache import files
from understudy.cache.places import Place
from understudy.cache.reader import CacheReader
from understudy.errors import CacheError

INDEX_NAME = "index.csv"
COLUMNS = ("row", "clip_id", "file", "n_frames", "status")
LONGEST = 120
BATCH, BATCH_BYTES = 64, 64 << 20  # clips read at once: as many, or one


def file_names(clip_ids: Sequence[str]) -> list[str]:
    """A file name for each clip: its id where that can stand as one, on any file system.

    Others lose what no name may hold, and gain their row. No two names are equal, case ignored.
    """
    stems = [re.sub(r"[^A-Za-z0-9._-]", "_", clip)[:LONGEST].lstrip(".-") for clip in clip_ids]
    count = Counter(stem.lower() for stem in stems)
    kept = [
        stem if stem == clip and stem.lower() != "index" and count[stem.lower()] == 1 else ""
        for stem, clip in zip(stems, clip_ids, strict=True)
    ]
    taken = {name.lower() for name in kept}
    names = []
    for row, (name, stem) in enumerate(zip(kept, stems, strict=True)):
        while not name or (name.lower() in taken and not kept[row]):
            name = f"{name or stem}-{row}"
        taken.add(name.lower())
        names.append(f"{name}.npy")
    return names


def destinations(path: Place, out: Path) -> tuple[list[str], list[Path]]:
    """clip_id and file of every row of a store.

    Raises:
        CacheError: No store, or no index beside it that names its clips.
    """
    store = CacheReader(path).store
    clip_ids = store.clip_ids()
    if len(clip_ids) < store.sizes["n_clips"]:
        raise CacheError(
            f"{path}: {store.sizes['n_clips']} clips, but {path.parent} has no index.parquet that "
            f"names them ({len(clip_ids)} found)"
        )
    clip_ids = clip_ids[: store.sizes["n_clips"]]
    return clip_ids, [out / name for name in file_names(clip_ids)]


def export(path: Place, out: Path, advance: Callable[[int], object] = lambda n: None) -> int:
    """Writes every clip that is ok to OUT/<clip id>.npy, without padding, and OUT/index.csv.

    Files are (frame, channel), audio (sample,), in the stored dtype; those of the same name are
    replaced. The index comes last and lists all clips; those that are not ok have no file.

    Args:
        advance: Is told how many clips more are done.

    Returns:
        Clips written.

    Raises:
        CacheError: Damaged data, no index beside the store, or a folder that cannot be written.
    """
    reader = CacheReader(path)
    clip_ids, targets = destinations(path, out)
    ok = reader.status == schema.load().code("ok")
    row_bytes = reader.max_frames * reader.dim * reader.dtype.itemsize
    batch = max(1, min(BATCH, BATCH_BYTES // row_bytes))
    try:
        out.mkdir(parents=True, exist_ok=True)
        for first in range(0, reader.n_clips, batch):
            rows = np.arange(first, min(first + batch, reader.n_clips))
            data, n_frames = reader.gather(rows, missing="nan")
            for row, clip, n in zip(rows.tolist(), data, n_frames.tolist(), strict=True):
                if ok[row]:
                    partial = targets[row].with_name(f".{targets[row].name}{files.PARTIAL}")
                    with partial.open("wb") as file:
                        np.save(file, clip[:n], allow_pickle=False)
                    partial.replace(targets[row])
            advance(len(rows))
    except OSError as error:
        raise CacheError(f"cannot write {out}: {error.strerror or error}") from error
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    name_of = schema.load().status_name
    for row, (clip, target) in enumerate(zip(clip_ids, targets, strict=True)):
        n, code = int(reader.n_frames[row]), int(reader.status[row])
        writer.writerow([row, clip, target.name if ok[row] else "", n, name_of(code)])
    files.write_atomic(out / INDEX_NAME, text.getvalue().encode())
    return int(ok.sum())
