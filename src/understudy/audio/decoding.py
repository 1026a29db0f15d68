"""Decoding. A reason that is given here for refusing a file is one of the constants below or starts
with `UNREADABLE`, so that a ledger can tell the kinds apart.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from understudy.audio.mpeg import repaired
from understudy.errors import AudioError

MISSING = "missing file"
EMPTY = "empty file (0 bytes)"
NOT_AUDIO = "not an audio file that libsndfile knows"
TRUNCATED = "truncated ogg (no end-of-stream page)"
NON_FINITE = "non-finite samples"
NO_SAMPLES = "no samples"
UNREADABLE = "cannot be read"

SUFFIXES = (".aif", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav")

_BLOCK_SAMPLES = 2**20  # over all channels: what a lying header can make us allocate
_MAX_SAMPLES_PER_BYTE = 2**14  # silent FLAC and Vorbis stay well below; a corrupt header does not
_RUN_IN_SAMPLES = 32 * 1152  # after a seek, MP3 frames lack the bits kept in the ones before
TOLERANCE_S = 0.1  # between what an MP3's header says and what it holds
_OGG_PAGE_BYTES = 27 + 255 + 255 * 255


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """What a file's header says. `n_samples` counts per channel; an MP3 may hold fewer."""

    rate_hz: int
    channels: int
    n_samples: int
    duration_s: float
    container: str


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Mono float32 `samples` (sample,) at the file's own rate; `sha256` of the file's bytes."""

    samples: np.ndarray
    rate_hz: int
    sha256: str | None = None


def info(path: str | os.PathLike[str]) -> AudioInfo:
    """Reads the header only.

    Raises:
        AudioError: Missing, empty, not audio, no samples, or a header that cannot be true.
    """
    with _opened(path) as file:
        return AudioInfo(
            rate_hz=file.samplerate,
            channels=file.channels,
            n_samples=file.frames,
            duration_s=file.frames / file.samplerate,
            container=file.format,
        )


def decode(
    path: str | os.PathLike[str],
    start_s: float = 0.0,
    duration_s: float | None = None,
    *,
    digest: bool = False,
) -> Decoded:
    """Decodes a file, or a crop of it, to mono (mean of the channels) at its own rate.

    Args:
        path: wav, flac, ogg, mp3, or another container of `SUFFIXES`.
        start_s: Start of the crop in seconds.
        duration_s: Length of the crop; None is up to the end. A crop that runs over the end is
            returned as far as it goes.
        digest: Also hash the file's bytes.

    Raises:
        AudioError: Missing, empty, not audio, truncated (ogg), broken, non-finite, or no samples.
    """
    with stream(path, start_s, duration_s) as (rate_hz, blocks):
        parts = list(blocks)
    samples = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return Decoded(samples=samples, rate_hz=rate_hz, sha256=sha256(path) if digest else None)


@contextmanager
def stream(
    path: str | os.PathLike[str], start_s: float = 0.0, duration_s: float | None = None
) -> Iterator[tuple[int, Iterator[np.ndarray]]]:
    """What `decode` reads, as its rate and blocks of samples, each decoded when it is asked for.

    Raises:
        AudioError: As `decode` does, where it is met: the blocks may end with it.
    """
    assert start_s >= 0, start_s
    assert duration_s is None or duration_s >= 0, duration_s
    with _opened(path) as file:
        if file.format == "OGG" and not ends_ogg_stream(path):
            raise AudioError(path, TRUNCATED)
        rate_hz = file.samplerate
        start = round(start_s * rate_hz)
        count = None if duration_s is None else round(duration_s * rate_hz)
        if start >= file.frames or count == 0:
            raise AudioError(path, f"{NO_SAMPLES} at {start_s:g} s ({file.frames} in the file)")
        run_in = min(start, _RUN_IN_SAMPLES if file.format == "MP3" else 0)
        if start > run_in:  # once, on a fresh handle: later seeks in Vorbis are not exact
            file.seek(start - run_in)
        for _ in _mono_blocks(file, run_in):
            pass
        yield rate_hz, _finite_blocks(path, file, count)


def _finite_blocks(
    path: str | os.PathLike[str], file: soundfile.SoundFile, count: int | None
) -> Iterator[np.ndarray]:
    empty = True
    for block in _mono_blocks(file, count):
        if not np.isfinite(block).all():
            raise AudioError(path, NON_FINITE)
        empty = False
        yield block
    if empty:
        raise AudioError(path, NO_SAMPLES)


def sha256(path: str | os.PathLike[str]) -> str:
    """Of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Stream(soundfile.SoundFile):
    """SoundFile that does not seek behind every read: in MP3 that drops the bit reservoir."""

    def seekable(self) -> bool:
        return False


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[soundfile.SoundFile]:
    """An open file with at least one sample; what goes wrong inside becomes an AudioError."""
    try:
        size = Path(path).stat().st_size
        if not Path(path).is_file():
            raise AudioError(path, f"{UNREADABLE}: not a regular file")
        if size == 0:
            raise AudioError(path, EMPTY)
        try:
            file = _Stream(repaired(path) or os.fspath(path))
        except (soundfile.LibsndfileError, TypeError):  # TypeError: headerless, named *.raw
            raise AudioError(path, NOT_AUDIO) from None
        with file:
            if file.frames == 0:
                raise AudioError(path, NO_SAMPLES)
            if file.samplerate <= 0 or file.frames > size * _MAX_SAMPLES_PER_BYTE:
                found = f"{file.frames} samples at {file.samplerate} Hz in {size} bytes"
                raise AudioError(path, f"{UNREADABLE}: the header promises {found}")
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise AudioError(path, MISSING) from None
    except soundfile.LibsndfileError as error:
        text = error.error_string.strip().removeprefix("Error : ").rstrip(".")
        raise AudioError(path, f"{UNREADABLE}: {text}") from None
    except OSError as error:
        raise AudioError(path, f"{UNREADABLE}: {error.strerror or error}") from None


def _mono_blocks(file: soundfile.SoundFile, count: int | None) -> Iterator[np.ndarray]:
    remaining = file.frames if count is None else min(count, file.frames)
    per_block = max(1, _BLOCK_SAMPLES // file.channels)
    while remaining > 0:
        block = np.empty((min(per_block, remaining), file.channels), np.float32)
        block = file.read(out=block)
        if not len(block):
            return
        remaining -= len(block)
        with np.errstate(over="ignore", invalid="ignore"):  # non-finite is reported by decode
            samples = block[:, 0] if file.channels == 1 else block.mean(axis=1)
        yield samples


def ends_ogg_stream(path: str | os.PathLike[str]) -> bool:
    """True where the last page is whole and says that the stream ends (RFC 3533, section 6)."""
    with Path(path).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _OGG_PAGE_BYTES))
        tail = file.read()
    at = tail.rfind(b"OggS\0")
    if at < 0 or len(tail) < at + 27:
        return False
    flags, n_segments = tail[at + 5], tail[at + 26]
    body = sum(tail[at + 27 : at + 27 + n_segments])
    return bool(flags & 4) and len(tail) >= at + 27 + n_segments + body
