"""What a study wants of this machine: what is here, what can be made of it, what is missing.

A track of a dataset (its audio, a teacher's embeddings) is in the cache, or can be extracted from
recordings and weights that are here, or is missing; then it is said how to get it.
"""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from understudy import cache as caches
from understudy import datasets, predict, schema, teachers
from understudy.cache import CacheReader
from understudy.errors import UnderstudyError
from understudy.evaluate.predictions import Place
from understudy.reproduce.paper import Scale
from understudy.teachers import library

AUDIO = "audio"


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Something that has to be got first."""

    what: str
    command: str
    detail: str
    """Address, size, licence."""

    def line(self) -> str:
        """For a terminal."""
        return f"missing: {self.what}\n    {self.command}\n    {self.detail}"


@dataclass(frozen=True, kw_only=True)
class Holding:
    """What is at hand of one dataset.

    Attributes:
        ready: Tracks that the cache holds whole.
        extractable: Tracks that can be made of recordings and weights that are here.
    """

    dataset: str
    root: Path
    ready: tuple[str, ...]
    extractable: tuple[str, ...]

    @property
    def tracks(self) -> frozenset[str]:
        """Tracks there will be after the extraction."""
        return frozenset((*self.ready, *self.extractable))

    def line(self) -> str:
        """For a terminal."""
        parts = [f"in the cache: {', '.join(self.ready) or 'nothing'}"]
        if self.extractable:
            parts.append(f"to extract from {self.root}: {', '.join(self.extractable)}")
        return f"{self.dataset}: {'; '.join(parts)}"


def look(
    wanted: Mapping[str, Iterable[str]],
    scale: Scale,
    data: Path,
    cache: Path,
    weights: Mapping[str, str],
) -> tuple[list[Holding], list[Missing]]:
    """Looks at cache, recordings and weights; nothing is read whole, made or fetched.

    Args:
        wanted: Dataset -> its tracks.
        scale: Says which datasets are made here.
        data: Folder with a folder for each dataset.
        cache: Folder of caches.
        weights: Teacher -> file, or "random".
    """
    holdings, missing = [], {}
    for dataset, tracks in wanted.items():
        root = data / dataset
        lacking = [track for track in tracks if not _is_whole(cache, dataset, track)]
        recorded = not lacking or dataset in scale.options or root.is_dir()
        if not recorded:
            missing[dataset] = _recordings(dataset, root)
        able = []
        for track in lacking:
            if track != AUDIO and not _weights_here(track, weights):
                missing[track] = _weights(track)
            elif recorded:
                able.append(track)
        ready = tuple(track for track in tracks if track not in lacking)
        holdings.append(Holding(dataset=dataset, root=root, ready=ready, extractable=tuple(able)))
    return holdings, list(missing.values())


def _is_whole(cache: Path, dataset: str, track: str) -> bool:
    """Whether the cache holds a track of all clips of its index."""
    if not (cache / dataset / "index.parquet").is_file():
        return False
    if not predict.has_track(cache, dataset, track):
        return False
    try:
        reader = CacheReader(caches.find(cache, dataset, track))
        n_clips = len(Place(cache).index(dataset))
    except UnderstudyError:
        return False
    lacks = (reader.status == schema.load().code("missing")).any()
    return reader.n_clips >= n_clips and not bool(lacks)


def _weights_here(teacher: str, weights: Mapping[str, str]) -> bool:
    if teacher in weights:
        return weights[teacher] == "random" or Path(weights[teacher]).is_file()
    card = teachers.card(teacher)
    path = library.published(card)
    return path is None or (path.is_file() and library.consented(card))


def _recordings(dataset: str, root: Path) -> Missing:
    release = datasets.release(dataset)
    assert release is not None  # the toy collections are made, all others are published
    remotes = [remote for source in release.sources for remote in source.files]
    size_gb = sum(remote.about_bytes for remote in remotes) / 1e9
    addresses = ", ".join(remote.urls[0] for remote in remotes[:3] if remote.urls)
    return Missing(
        what=f"recordings of {dataset}",
        command=f"understudy data fetch {dataset} --root {shlex.quote(str(root))}",
        detail=f"about {size_gb:.1f} GB from {addresses or release.homepage}; {release.licence}",
    )


def _weights(teacher: str) -> Missing:
    card = teachers.card(teacher)
    agree = " --accept-licence" if card.non_commercial else ""
    size = "" if card.weights_bytes is None else f"{card.weights_bytes / 1e6:.0f} MB from "
    return Missing(
        what=f"weights of {teacher} ({card.title})",
        command=f"understudy teachers fetch {teacher}{agree}    "
        f"(or a copy: --weights {teacher}=FILE)",
        detail=f"{size}{card.url}; {card.licence_weights}",
    )
