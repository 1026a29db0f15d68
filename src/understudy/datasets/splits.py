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
    order = sorted(sizes, key=lambda key: _drawn(seed, key))
    empty, placed = set(wanted), {}
    for i, key in enumerate(order):
        open_parts = empty if empty and len(order) - i <= len(empty) else wanted
        part = max((p for p in SPLITS if p in open_parts), key=lambda p: wanted[p])
        wanted[part] -= sizes[key]
        empty.discard(part)
        placed[key] = part
    return [placed[key] for key in keys]


def stratified_split(
    keys: Sequence[str],
    classes: Sequence[int],
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> list[str]:
    """`grouped_split` that gives every class about the same fractions, as far as groups allow.

    Groups come class by class (a mixed group with its commonest class), within a class in the order
    of `grouped_split`; each goes where most clips are wanted of those seen so far, so that single
    clips of a class and of the whole are both within a clip or two of their fractions.

    Args:
        keys: Group of each clip; a clip without a group has a key of its own.
        classes: Class of each clip.
        fractions: Parts of train, valid and test; scaled to sum to 1.
        seed: Another seed, another split.
    """
    members: dict[str, Counter[int]] = {}
    for key, label in zip(keys, classes, strict=True):
        members.setdefault(key, Counter())[int(label)] += 1
    total = sum(fractions)
    share = {p: f / total for p, f in zip(SPLITS, fractions, strict=True) if f > 0}
    order = sorted(
        members,
        key=lambda key: (
            min(members[key], key=lambda label: (-members[key][label], label)),
            _drawn(seed, key),
        ),
    )
    empty, placed, n_seen = set(share), {}, 0
    n_placed = dict.fromkeys(share, 0)
    for i, key in enumerate(order):
        size = members[key].total()
        n_seen += size
        open_parts = empty if empty and len(order) - i <= len(empty) else share
        part = max(
            (p for p in SPLITS if p in open_parts), key=lambda p: n_seen * share[p] - n_placed[p]
        )
        n_placed[part] += size
        empty.discard(part)
        placed[key] = part
    return [placed[key] for key in keys]


def _drawn(seed: int, key: str) -> bytes:
    """Where `key` comes in the order that the seed draws."""
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()
