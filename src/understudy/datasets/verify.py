"""Are the files of a dataset what they should be? Every clip is decoded from end to end."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tqdm import tqdm

from understudy import audio
from understudy.datasets.release import CORRUPT, DAMAGED, MISSING, SHORT
from understudy.errors import AudioError, DataError
from understudy.index import ClipIndex, inside

KINDS = (MISSING, CORRUPT, SHORT, DAMAGED)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One clip that is not as it should be."""

    clip_id: str
    path: str
    kind: str
    """One of `KINDS`."""
    reason: str
    known: bool
    """The release itself has this defect."""


def verify(
    index: ClipIndex,
    shortest_s: float = 0.0,
    known_bad: Mapping[str, str] | None = None,
    *,
    quick: bool = False,
) -> list[Problem]:
    """Clips of `index` that are missing, corrupt, short or damaged, in the index's order.

    Damaged are those that decode in full length while the decoder complains of parts of them.

    Args:
        index: The clips.
        shortest_s: A clip below it is short.
        known_bad: clip_id -> what is wrong with it in the release; a missing file is never known.
        quick: Read the headers alone, which finds neither a truncated file nor damage inside.
    """
    known_bad = known_bad or {}

    with audio.set_aside() as noise, ThreadPoolExecutor(os.cpu_count()) as pool:

        def check(row: int) -> tuple[tuple[str, str] | None, bool]:
            before = noise.n_bytes()
            fault = _fault(index, row, shortest_s, quick)
            return fault, noise.n_bytes() > before

        results = pool.map(check, range(len(index)))
        bar = tqdm(results, total=len(index), desc="clips", disable=None, leave=False)
        checked = list(bar)
    suspects = [row for row, (fault, noisy) in enumerate(checked) if noisy and not (fault or quick)]
    faults = {row: fault for row, (fault, _) in enumerate(checked) if fault}
    # Which of the clips decoded side by side it was, shows when each is decoded alone.
    for row in tqdm(suspects, desc="damage", disable=None, leave=False):
        with audio.set_aside() as noise:
            _fault(index, row, shortest_s, quick)
        if noise:
            faults[row] = DAMAGED, str(noise)
    problems = []
    for row, (kind, reason) in sorted(faults.items()):
        clip_id, path = index.clips["clip_id"].iat[row], index.clips["path"].iat[row]
        known = clip_id in known_bad and kind != MISSING
        problems.append(Problem(clip_id=clip_id, path=path, kind=kind, reason=reason, known=known))
    return problems


def _fault(index: ClipIndex, row: int, shortest_s: float, quick: bool) -> tuple[str, str] | None:
    try:
        path = inside(index.root, index.clips["path"].iat[row])
        promised_s = duration_s = audio.info(path).duration_s
        if not quick:
            decoded = audio.decode(path)
            duration_s = len(decoded.samples) / decoded.rate_hz
    except AudioError as error:
        return MISSING if error.reason == audio.MISSING else CORRUPT, error.reason
    except DataError as error:  # a link out of the root
        return CORRUPT, str(error)
    if duration_s < promised_s - audio.TOLERANCE_S:
        return CORRUPT, f"{duration_s:.2f} s can be decoded, the header promises {promised_s:.2f} s"
    if duration_s < shortest_s:
        return SHORT, f"{duration_s:.2f} s, wanted {shortest_s:g} s or more"
    return None
