"""Seeded splits that keep groups together."""

import hashlib
from collections import Counter
from collections.abc import Sequence

from understudy.index import SPLITS


def grouped_split(
    keys: Sequence[str], fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0
) -> list[str]:
    """Assigns "train", "valid" or "test" to clips such that equal keys stay together.

    Groups come in the order of sha256("seed:key"), so that neither the order of the clips nor the
    file system matters; each goes where most clips are still wanted. No part with a fraction above
    zero stays empty while there are as many groups as such parts.

    Args:
        keys: Group of each clip; a clip without a group has a key of its own.
        fractions: Parts of train, valid and test; scaled to sum to 1.
        seed: Another seed, another split.

    Returns:
        The part of each clip, in the order of `keys`.
    """
    sizes = Counter(keys)
    total = sum(fractions)
    wanted = {
        part: len(keys) * fraction / total
        for part, fraction in zip(SPLITS, fractions, strict=True)
        if fraction > 0
    }
    order = sorted(sizes, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
    empty, placed = set(wanted), {}
    for i, key in enumerate(order):
        open_parts = empty if empty and len(order) - i <= len(empty) else wanted
        part = max((p for p in SPLITS if p in open_parts), key=lambda p: wanted[p])
        wanted[part] -= sizes[key]
        empty.discard(part)
        placed[key] = part
    return [placed[key] for key in keys]
