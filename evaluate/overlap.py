"""Whether recordings of an evaluation set may have been seen in training, by provenance."""

import re
from collections.abc import Iterable

COLLECTIONS = {
    "Magnatune": ("mtat", "magnatagatune", "magnatune"),
    "Free Music Archive": ("fma", "openmic", "freemusicarchive"),
    "Freesound": ("esc10", "esc50", "fsd50k", "fsdkaggle", "urbansound", "freesound"),
    "AudioSet": ("audioset",),
    "Million Song Dataset": ("msd", "millionsong"),
    "Jamendo": ("jamendo", "mtgjamendo"),
}
"""Collection -> how the names of sets drawn from it begin, lower case, letters and digits."""


def overlaps(evaluated: str, trained_on: Iterable[str]) -> list[str]:
    """One sentence for each training set that may share recordings with `evaluated`.

    Args:
        evaluated: Name of a dataset, e.g. "openmic".
        trained_on: Names as a teacher's card lists them, e.g. "FMA-large (pretraining)".
    """
    found = []
    for name in trained_on:
        if _key(name) == _key(evaluated):
            found.append(f"{evaluated} itself is among the training data")
        elif collection := _shared_collection(evaluated, name):
            found.append(f"{evaluated} and {name} are both drawn from {collection}")
    return found


def same_collection(first: str, second: str) -> bool:
    """Whether two datasets are one, or drawn from one collection."""
    return _key(first) == _key(second) or _shared_collection(first, second) is not None


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", re.sub(r"\(.*", "", name.lower()))


def _shared_collection(first: str, second: str) -> str | None:
    for collection, beginnings in COLLECTIONS.items():
        if all(_key(name).startswith(beginnings) for name in (first, second)):
            return collection
    return None
