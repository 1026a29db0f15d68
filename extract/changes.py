"""How the clips of a run differ from those that the cache lists."""

from typing import Any

import numpy as np
import pandas as pd

from understudy.cache import Place
from understudy.cache.places import local_copy
from understudy.errors import CacheError, DataError
from understudy.index import ClipIndex


def changes(index: ClipIndex, saved: Place) -> list[str]:
    """How `index` differs from the one `saved` in the cache, one line each; none without one.

    Raises:
        CacheError: The cache holds another collection under the same name.
    """
    if not saved.is_file():
        return []
    try:
        with local_copy(saved) as file:
            old = ClipIndex.load(file, index.root)
    except DataError as error:
        return [f"{error}; it is replaced"]
    there, here = old.clips["clip_id"], index.clips["clip_id"]
    if len(there) and not np.any(there.isin(here)):
        raise CacheError(
            f"{saved} lists {len(there)} clips ('{there.iat[0]}', ...) and none of the {len(here)} "
            f"here ('{here.iat[0]}', ...): another collection of the same name '{index.name}'. Use "
            "another --cache or, for a folder, another name: --option name=NAME"
        )
    return [f"the dataset changed: {line}" for line in explain(old, index)]


def explain(old: ClipIndex, new: ClipIndex) -> list[str]:
    """What changed between two indexes, one line each."""
    before: Any = old.clips
    after: Any = new.clips
    lines = []
    columns = ["clip_id", "start_s", "duration_s"]
    if not before[columns].equals(after[columns]):
        place = pd.Index(before["clip_id"]).get_indexer(after["clip_id"])  # -1: not there
        row = np.flatnonzero(place >= 0)
        same = np.ones(len(row), bool)
        for name in ("start_s", "duration_s"):
            then, now = before[name].to_numpy()[place[row]], after[name].to_numpy()[row]
            same &= (then == now) | (np.isnan(then) & np.isnan(now))
        moved = row[same & (place[row] != row)]
        lines = [
            _line("added", after["clip_id"][place < 0]),
            _line("removed", before["clip_id"].drop(place[row])),
            _line("changed", after["clip_id"].iloc[row[~same]]),
        ]
        if len(moved):
            told = _line("moved to another row", after["clip_id"].iloc[moved])
            lines.append(f"{told}: their shards are computed again")
    if not any(lines) and old.digest != new.digest:
        lines.append("labels or splits changed; embeddings stay")
    return [line for line in lines if line]


def _line(what: str, clip_ids: pd.Series) -> str:
    if not len(clip_ids):
        return ""
    names = ", ".join(clip_ids.iloc[:3]) + (", ..." if len(clip_ids) > 3 else "")
    return f"{len(clip_ids)} clip{'s' * (len(clip_ids) > 1)} {what} ({names})"
