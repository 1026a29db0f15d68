"""One clip from its file to samples at every rate that the tracks want."""

import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from understudy import audio
from understudy.errors import AudioError, DataError
from understudy.extract.plan import Clip, Failure, file_stamp
from understudy.extract.spool import LONG_S, Samples, Spool, resampled
from understudy.index import inside

CHANGED = "the file changed while it was read"
MISSING = f"{audio.MISSING}: the dataset lists it, but its folder does not hold it"
READS = 3  # of a file that changes meanwhile, before it is refused


@dataclass(kw_only=True)
class Loaded:
    """A decoded clip: mono float32 samples by (rate in Hz, resampler), or a failure."""

    clip: Clip
    file_stamp: tuple[int, int] = (-1, -1)
    sha256: str = ""
    failure: Failure | None = None
    duration_s: float = 0.0
    samples: dict[tuple[int, str], Samples] = field(default_factory=dict)
    read_s: float = 0.0


def load(clip: Clip, wanted: Iterable[tuple[int, str]], root: str, scratch: str) -> Loaded:
    """Decodes a clip once and resamples it once per (rate, resampler).

    A file that cannot be decoded, or that lies outside `root`, is a `failure`, not an exception.
    Clips beyond `LONG_S` are kept in nameless files in the folder `scratch`.

    Raises:
        DataError: The file is missing because the whole dataset's folder is.
        CacheError: `scratch` cannot be written.
    """
    began = time.perf_counter()
    loaded = _load(clip, wanted, root, scratch)
    for _ in range(READS - 1):
        if loaded.file_stamp == file_stamp(Path(root, clip.path)):
            break
        loaded = _load(clip, wanted, root, scratch)
    if loaded.file_stamp != file_stamp(Path(root, clip.path)):
        loaded.failure = Failure(status="undecodable", reason=CHANGED)
    loaded.read_s = time.perf_counter() - began
    return loaded


def untouched(clip: Clip, root: str, failure: Failure) -> Loaded:
    """A clip that is refused without a look at its audio."""
    path = Path(root, clip.path)
    loaded = Loaded(clip=clip, file_stamp=file_stamp(path), failure=failure)
    with suppress(AudioError):
        loaded.sha256 = audio.sha256(path)
    return loaded


def _load(clip: Clip, wanted: Iterable[tuple[int, str]], root: str, scratch: str) -> Loaded:
    loaded = Loaded(clip=clip, file_stamp=file_stamp(Path(root, clip.path)))
    try:
        path = inside(Path(root), clip.path)
        if (clip.duration_s or 0.0) > LONG_S:
            _load_long(loaded, path, wanted, scratch)
        else:
            decoded = audio.decode(path, clip.start_s, clip.duration_s, digest=True)
            loaded.sha256 = decoded.sha256 or ""
            loaded.duration_s = len(decoded.samples) / decoded.rate_hz
            for rate_hz, resampler in wanted:
                loaded.samples[rate_hz, resampler] = audio.resample(
                    decoded.samples, decoded.rate_hz, rate_hz, resampler
                )
    except AudioError as error:
        if not Path(root).is_dir():
            here = f"seen from {socket.gethostname()}"
            raise DataError(f"{root}: the dataset's folder is not there, {here}") from None
        status = "audio_not_finite" if error.reason == audio.NON_FINITE else "undecodable"
        reason = MISSING if error.reason == audio.MISSING else error.reason
        loaded.failure = Failure(status=status, reason=reason)
    except DataError as error:  # a link out of the root
        loaded.failure = Failure(status="undecodable", reason=str(error))
    return loaded


def _load_long(loaded: Loaded, path: Path, wanted: Iterable[tuple[int, str]], scratch: str) -> None:
    clip = loaded.clip
    decoded = Spool(scratch)
    with audio.stream(path, clip.start_s, clip.duration_s) as (from_hz, blocks):
        for block in blocks:
            decoded.append(block)
    loaded.sha256 = audio.sha256(path)
    loaded.duration_s = len(decoded) / from_hz
    for rate_hz, resampler in wanted:
        loaded.samples[rate_hz, resampler] = resampled(
            decoded, from_hz, rate_hz, resampler, scratch
        )
