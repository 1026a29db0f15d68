"""How the clips of a run differ from those that the cache lists."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from understudy.cache import Place
from understudy.cache.places import local_copy
from understudy.errors import CacheError, DataError
from understudy.index import ClipIndex

MOST_REMOVED = 0.2  # share of a dataset that may go without a word from its owner


def compare(
    index: ClipIndex, saved: Place, *, drop_removed: bool = False
) -> tuple[ClipIndex, list[str]]:
    """Compares `index` with the one `saved` in the cache.

    Args:
        drop_removed: However many clips are gone, what was extracted of them may go, too.

    Returns:
        The index, in which clips whose files are missing have the length that they had, so that
        what was extracted of them stays; and how it differs, one line each.

    Raises:
        CacheError: The cache holds another collection under the same name, or much more of it.
    """
    if not saved.is_file():
        return index, []
    try:
        with local_copy(saved) as file:
            old = ClipIndex.load(file, index.root)
    except DataError as error:
        return index, [f"{error}; it is replaced"]
    there: Any = old.clips["clip_id"]
    here: Any = index.clips["clip_id"]
    gone = there[:0] if there.equals(here) else there[~there.isin(here)]
    if len(there) and len(gone) == len(there):
        raise CacheError(
            f"{saved} lists {len(there)} clips ('{there.iat[0]}', ...) and none of the {len(here)} "
            f"here ('{here.iat[0]}', ...): another collection of the same name '{index.name}'. Use "
            "another --cache or, for a folder, another name: --option name=NAME"
        )
    if len(gone) > MOST_REMOVED * len(there) and not drop_removed:
        raise CacheError(
            f"{saved} lists {len(there)} clips, and {len(gone)} of them ('{gone.iat[0]}', ...) are "
            "not in the dataset any more: what was extracted of them would be dropped. Is it all "
            "there? If so, use another --cache or --option name=NAME, or drop it: --drop-removed"
        )
    index, kept = _with_lengths(index, old)
    told = _line("without a file now", kept)
    lines = [f"{told}: what was extracted of them stays"] if told else []
    return index, lines + [f"the dataset changed: {line}" for line in explain(old, index)]


def _with_lengths(index: ClipIndex, old: ClipIndex) -> tuple[ClipIndex, pd.Series]:
    """The index with the lengths that missing files had, and the clips of which that is so."""
    clips: Any = index.clips
    unknown = np.flatnonzero(clips["duration_s"].isna())
    missing = [row for row in unknown if not (index.root / clips["path"].iat[row]).exists()]
    names = clips["clip_id"].iloc[missing]
    listed: Any = old.clips[old.clips["clip_id"].isin(names)]
    then = listed.set_index("clip_id").reindex(names)
    starts_s = clips["start_s"].to_numpy()[missing]
    same = (then["duration_s"].notna() & (then["start_s"] == starts_s)).to_numpy()
    rows = np.array(missing, int)[same]
    durations_s = clips["duration_s"].to_numpy(copy=True)
    durations_s[rows] = then["duration_s"].to_numpy()[same]
    kept = replace(index, clips=clips.assign(duration_s=durations_s)) if len(rows) else index
    return kept, clips["clip_id"].iloc[rows]


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
