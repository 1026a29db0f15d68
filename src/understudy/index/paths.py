"""Paths of clips: relative, and never out of the dataset's root."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from understudy.errors import DataError

# What a clip's path must not match, and what to say of one that does.
_UNUSABLE = {
    r"^$|\x00": "is empty or holds a NUL",
    r"^/": "is absolute",
    r"(^|/)\.\.(/|$)": "leaves the root ('..')",
}


def inside(root: Path, path: str) -> Path:
    """The file that relative `path` names, links followed; DataError where that leaves `root`."""
    check_relative(pa.chunked_array([[path]], pa.large_string()))
    real = os.path.realpath(root / path)
    if not Path(real).is_relative_to(os.path.realpath(root)):
        raise _error(path, f"leads to {real}, out of the root {root}")
    return Path(real)


def check_relative(paths: pa.ChunkedArray) -> None:
    """DataError for the first of `paths` that is not a relative one; touches no file."""
    for pattern, reason in _UNUSABLE.items():
        options = pc.MatchSubstringOptions(pattern)
        matching = pc.call_function("match_substring_regex", [paths], options)
        row = pc.index(matching, True).as_py()
        if row >= 0:
            raise _error(paths[row], reason)


def _error(path: object, reason: str) -> DataError:
    return DataError(f"path '{path}' {reason}; wanted a path inside the root")
