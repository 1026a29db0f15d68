"""What lies under a dataset's root: which audio files, and what their headers say."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from understudy import audio
from understudy.errors import AudioError, DataError
from understudy.index import inside

_THREADS = 8


def require_root(root: Path, wanted: str) -> None:
    """DataError where there is no folder `root`; `wanted` says what it should hold."""
    if not root.is_dir():
        found = "not a folder" if root.exists() else "no such folder"
        raise DataError(f"{root}: {found}; wanted {wanted}")


def audio_files(root: Path) -> list[str]:
    """Paths (relative, with /) of all audio files under `root`, sorted; hidden ones are left out.

    Raises:
        DataError: There is none, or a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror})")

    paths = []
    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        at = Path(folder).relative_to(root)
        paths += [
            (at / name).as_posix()
            for name in names
            if name.lower().endswith(audio.SUFFIXES) and not name.startswith(".")
        ]
    for path in paths:
        if not path.isprintable() and path.encode(errors="replace").decode() != path:
            raise DataError(f"{root}: file name {path!r} is not UTF-8; rename it")
    if not paths:
        raise DataError(f"{root}: no audio file; looked for *{', *'.join(audio.SUFFIXES)}")
    return sorted(paths)


def headers(root: Path, paths: Sequence[str]) -> list[audio.AudioInfo | AudioError]:
    """Header, or why there is none, of every file; none is read of a path that leaves `root`."""

    def header(path: str) -> audio.AudioInfo | AudioError:
        try:
            return audio.info(inside(root, path))
        except AudioError as error:
            return AudioError(path, error.reason)
        except DataError as error:
            return AudioError(path, str(error))

    with ThreadPoolExecutor(_THREADS) as pool:
        bar = tqdm(total=len(paths), desc="headers", unit="file", disable=None, leave=False)
        with bar:
            found = []
            for result in pool.map(header, paths):
                found.append(result)
                bar.update()
    return found


def durations(root: Path, paths: Sequence[str], wanted: str) -> np.ndarray:
    """Durations in seconds (clip,) float64; NaN where a file is missing or its header unreadable.

    Raises:
        DataError: Not one of the files exists; `wanted` says who lists them.
    """
    found = headers(root, paths)
    if all(isinstance(each, AudioError) and each.reason == audio.MISSING for each in found):
        first = f"for example {paths[0]}"
        raise DataError(f"{root}: none of the {len(paths)} files of {wanted} is there ({first})")
    return np.array(
        [each.duration_s if isinstance(each, audio.AudioInfo) else np.nan for each in found]
    )
