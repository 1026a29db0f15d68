"""Overlap audit of a transfer: were recordings that are scored now already trained on?

By ids where both datasets draw on one collection and so name its recordings alike; and by clip
means of one teacher, which both have in their caches: whatever lies much closer to a training clip
than other clips do is listed, closest first, for someone to listen to.
"""

from pathlib import Path
from typing import Any

import numpy as np

from understudy import cache as caches
from understudy import predict
from understudy.cache import CacheReader, Place
from understudy.errors import UnderstudyError
from understudy.evaluate.overlap import same_collection
from understudy.evaluate.teacher_lr import clip_means
from understudy.index import ClipIndex

THRESHOLD = 0.98
"""Cosine from which a pair is suspected: the same recording encoded anew is above it, other
excerpts of it may be below."""
LISTED = 10
BLOCK = 1024


def audit(
    source: ClipIndex,
    source_cache: Place | None,
    fold: int | None,
    target: ClipIndex,
    target_cache: Place | None,
    rows: np.ndarray,
    teacher: str | None = None,
) -> dict[str, Any]:
    """Looks for scored clips of `target` among those a run was trained and validated on.

    Args:
        source, source_cache, fold: What the run was trained on.
        target, target_cache: What it is scored on.
        rows: (clip,) rows of `target` that are scored.
        teacher: Whose embeddings, where both sides have them; else those of any common teacher.

    Returns:
        JSON-able. `ids`: n_shared recordings and the first of them, None where ids do not compare.
        `embeddings`: teacher, threshold, n_suspected clips of the target and the closest pairs;
        None where the two have no store of one identity, with `reason`.
    """
    split = source.split(fold)
    trained = np.concatenate([split.train, split.valid])
    result: dict[str, Any] = {"ids": None, "embeddings": None, "reason": None}
    if same_collection(source.name, target.name):
        known = _ids(source, trained)
        shared = [row for row in rows.tolist() if _ids(target, np.array([row])) & known]
        names = target.clips["clip_id"].iloc[shared[:LISTED]].tolist()
        result["ids"] = {"n_shared": len(shared), "shared": names}
    try:
        stores = _common_store(source, source_cache, target, target_cache, teacher)
        result["embeddings"] = _nearest(source, stores[0], trained, target, stores[1], rows)
    except UnderstudyError as error:
        result["reason"] = str(error)
    return result


def sentences(source: str, target: str, found: dict[str, Any]) -> list[str]:
    """What an audit found that a reader must know."""
    texts = []
    ids, near = found["ids"], found["embeddings"]
    if ids and ids["n_shared"]:
        texts.append(
            f"{ids['n_shared']} scored clips of {target} have the id of a recording that was "
            f"trained on in {source} ({', '.join(ids['shared'][:3])} ...)"
        )
    if near and near["n_suspected"]:
        pair = near["closest"][0]
        texts.append(
            f"{near['n_suspected']} scored clips of {target} sound like clips trained on in "
            f"{source} (cosine of {near['teacher']} above {near['threshold']:g}; closest: "
            f"{pair['target']} and {pair['source']}, {pair['cosine']:.3f})"
        )
    return texts


def _ids(index: ClipIndex, rows: np.ndarray) -> set[str]:
    """Clip ids and groups: one dataset's group, a track of which it has excerpts, may be another's
    clip."""
    chosen = index.clips.iloc[rows]
    return {*chosen["clip_id"], *chosen["group"]} - {""}


def _common_store(
    source: ClipIndex,
    source_cache: Place | None,
    target: ClipIndex,
    target_cache: Place | None,
    teacher: str | None,
) -> tuple[Place, Place]:
    """The two stores of one teacher identity, by which their folders are named."""
    sides = [(source_cache, source.name), (target_cache, target.name)]
    held = [
        {path.name: path for path in caches.stores(cache / name) if not _is_audio(path)}
        if cache is not None
        else {}
        for cache, name in sides
    ]
    common = sorted(held[0].keys() & held[1].keys(), key=lambda n: (not _is_of(n, teacher), n))
    if not common:
        raise UnderstudyError(
            f"{source.name} and {target.name} have no embeddings of one teacher in their caches"
        )
    return held[0][common[0]], held[1][common[0]]


def _is_audio(path: Place) -> bool:
    return _is_of(path.name, "audio")


def _is_of(name: str, track: str | None) -> bool:
    return Path(name).stem.rpartition("-")[0] == track


def _nearest(
    source: ClipIndex,
    source_store: Place,
    trained: np.ndarray,
    target: ClipIndex,
    target_store: Place,
    rows: np.ndarray,
) -> dict[str, Any]:
    sides = []
    for index, store, chosen in ((source, source_store, trained), (target, target_store, rows)):
        reader = CacheReader(store)
        predict.check_rows(index, reader)
        means, usable = clip_means(reader, index, chosen)
        sides.append((means[usable], index.clips["clip_id"].iloc[chosen[usable]].tolist()))
    (known, known_ids), (scored, scored_ids) = sides
    centre = np.concatenate([known, scored]).mean(axis=0)
    known, scored = (_directions(means - centre) for means in (known, scored))
    cosine = np.full(len(scored), -1.0, np.float32)
    nearest = np.zeros(len(scored), np.int64)
    for start in range(0, len(scored) if len(known) else 0, BLOCK):
        block = scored[start : start + BLOCK] @ known.T
        nearest[start : start + BLOCK] = block.argmax(axis=1)
        cosine[start : start + BLOCK] = block.max(axis=1)
    closest = np.argsort(-cosine, kind="stable")[:LISTED]
    return {
        "teacher": source_store.stem.rpartition("-")[0],
        "threshold": THRESHOLD,
        "n_suspected": int((cosine >= THRESHOLD).sum()),
        "closest": [
            {
                "target": scored_ids[k],
                "source": known_ids[nearest[k]],
                "cosine": float(cosine[k]),
            }
            for k in closest.tolist()
        ]
        if len(known)
        else [],
    }


def _directions(means: np.ndarray) -> np.ndarray:
    """float32 rows of length 1; zeros stay zeros."""
    length = np.linalg.norm(means, axis=1, keepdims=True)
    return (means / np.maximum(length, 1e-12)).astype(np.float32)
