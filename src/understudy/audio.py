"""Decoding, resampling and writing audio: the one file that touches codecs and resamplers.

Conventions: samples are float32 in about [-1, 1], mono unless said otherwise; a crop starts at
sample `round(start_s * rate_hz)`. A reason that this module gives for refusing a file is one of the
constants below or starts with `UNREADABLE`, so that a ledger can tell the kinds apart.
"""

import hashlib
import io
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from understudy.errors import AudioError, unknown

MISSING = "missing file"
EMPTY = "empty file (0 bytes)"
NOT_AUDIO = "not an audio file that libsndfile knows"
TRUNCATED = "truncated ogg (no end-of-stream page)"
NON_FINITE = "non-finite samples"
NO_SAMPLES = "no samples"
UNREADABLE = "cannot be read"

SUFFIXES = (".aif", ".aiff", ".au", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".wav")
INT16_SCALE = 32768  # int16 sample / INT16_SCALE = float sample, as libsndfile reads PCM

_BLOCK_SAMPLES = 2**20  # over all channels: what a lying header can make us allocate
_MAX_SAMPLES_PER_BYTE = 2**14  # silent FLAC and Vorbis stay well below; a corrupt header does not
_RUN_IN_SAMPLES = 32 * 1152  # after a seek, MP3 frames lack the bits kept in the ones before
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
        if file.format == "OGG" and not _ends_ogg_stream(path):
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
            file = _Stream(_with_frame_count(path) or os.fspath(path))
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


def _ends_ogg_stream(path: str | os.PathLike[str]) -> bool:
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


_MPEG1_KBPS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG2_KBPS = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_MPEG1_HZ = (44100, 48000, 32000)


def _mpeg_frame_bytes(header: bytes) -> int:
    """Length of the layer III frame that begins with `header`; 0 where none begins."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version, bitrate, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or bitrate in (0, 15) or rate == 3:
        return 0
    kbps = (_MPEG1_KBPS if version == 3 else _MPEG2_KBPS)[bitrate]
    rate_hz = _MPEG1_HZ[rate] >> (0, 0, 1, 0)[version] >> (2 if version == 0 else 0)
    return (144 if version == 3 else 72) * kbps * 1000 // rate_hz + (header[2] >> 1 & 1)


def _with_frame_count(path: str | os.PathLike[str]) -> io.BytesIO | None:
    """A variable-rate MP3 without a header that counts its frames, given one; None for others.

    libsndfile guesses the length of such a stream from its first frames and stops there, which
    loses the end of a file that begins loud. The guess holds for constant rates.
    """
    with Path(path).open("rb") as file:
        head = file.read(10)
        start = 0
        if head[:3] == b"ID3" and len(head) == 10:
            start = 10 + sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(head[6:10]))
        file.seek(start)
        first = file.read(256)
        length = _mpeg_frame_bytes(first[:4])
        if not length or any(tag in first for tag in (b"Xing", b"Info", b"VBRI")):
            return None
        data = first + file.read()
    at = n_frames = 0
    bitrates = set()
    while 0 <= at < len(data) - 3:
        step = _mpeg_frame_bytes(data[at : at + 4])
        if step:
            n_frames += 1
            bitrates.add(data[at + 2] >> 4)
            at += step
        else:
            at = data.find(b"\xff", at + 1)
    if len(bitrates) == 1:
        return None
    mono, mpeg1 = data[3] >> 6 == 3, data[1] & 8
    side_bytes = (17 if mono else 32) if mpeg1 else (9 if mono else 17)
    header = bytes((0xFF, data[1] | 1, 0x90 | data[2] & 0x0C, data[3]))
    count = b"Xing" + (1).to_bytes(4) + n_frames.to_bytes(4)
    frame = (header + bytes(side_bytes) + count).ljust(_mpeg_frame_bytes(header), b"\0")
    return io.BytesIO(frame + data)


def resampled_length(n: int, from_hz: int, to_hz: int) -> int:
    """Samples after resampling: `ceil(n * to_hz / from_hz)`, exactly."""
    return -(-n * to_hz // from_hz)


def _soxr_hq(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    wanted = resampled_length(len(samples), from_hz, to_hz)
    result = soxr.resample(samples, from_hz, to_hz, quality="HQ")
    if len(result) < wanted:  # soxr rounds; silence behind the end brings out the last sample
        silence = np.zeros(math.ceil(from_hz / to_hz) + 1, np.float32)
        result = soxr.resample(np.concatenate((samples, silence)), from_hz, to_hz, quality="HQ")
    return result[:wanted]


def _torchaudio_sinc(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    import torch
    from torchaudio.functional import resample as sinc

    common = math.gcd(from_hz, to_hz)
    taps = (to_hz // common) * (from_hz // common) * (1 + 12 / min(from_hz, to_hz) * common)
    _refuse_long_filter("torchaudio_sinc", taps, from_hz, to_hz)
    with torch.inference_mode():
        result = sinc(torch.from_numpy(samples.copy()), from_hz, to_hz).numpy()
    return result[: resampled_length(len(samples), from_hz, to_hz)]


_KAISER_CROSSINGS, _KAISER_ROLL_OFF, _KAISER_BETA = 50, 0.9173473712608761, 12.984585247040012
_KAISER_BLOCKS = 1024  # of one product: bounds memory on long clips


@lru_cache(maxsize=8)
def _kaiser_filter(up: int, down: int) -> tuple[np.ndarray, int]:
    """Weights (tap, phase) float32 of `up` outputs per `down` inputs, and the taps before them.

    The taper spans 50 crossings of the sinc without its roll-off, as in resampy.
    """
    scale = min(1.0, up / down)
    reach = math.ceil(_KAISER_CROSSINGS / scale)
    phase = np.arange(up) * (down / up)
    tap = np.arange(-reach, math.floor(phase[-1]) + reach + 1)
    t = scale * (phase - tap[:, None])
    taper = np.i0(_KAISER_BETA * np.sqrt(np.clip(1 - (t / _KAISER_CROSSINGS) ** 2, 0, None)))
    taper = np.where(np.abs(t) < _KAISER_CROSSINGS, taper / np.i0(_KAISER_BETA), 0)
    sinc = np.sinc(_KAISER_ROLL_OFF * t)
    return (scale * _KAISER_ROLL_OFF * sinc * taper).astype(np.float32), reach


def _kaiser_best(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    common = math.gcd(from_hz, to_hz)
    up, down = to_hz // common, from_hz // common
    _refuse_long_filter("kaiser_best", up * (down + 100 * max(1, down / up)), from_hz, to_hz)
    weights, reach = _kaiser_filter(up, down)
    n_blocks = -(-len(samples) // down)
    behind = n_blocks * down + len(weights) - reach - len(samples)
    padded = np.pad(samples, (reach, behind))
    blocks = np.lib.stride_tricks.sliding_window_view(padded, len(weights))[::down][:n_blocks]
    result = np.empty((n_blocks, up), np.float32)
    for start in range(0, n_blocks, _KAISER_BLOCKS):
        part = np.ascontiguousarray(blocks[start : start + _KAISER_BLOCKS])
        np.matmul(part, weights, out=result[start : start + _KAISER_BLOCKS])
    return result.reshape(-1)[: resampled_length(len(samples), from_hz, to_hz)]


def _refuse_long_filter(resampler: str, taps: float, from_hz: int, to_hz: int) -> None:
    if taps > 2**26:
        found = f"{resampler} needs {taps:.0f} filter taps for {from_hz} to {to_hz} Hz"
        raise AudioError("resample", f"{found}, wanted at most {2**26}; use soxr_hq")


_RESAMPLERS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "soxr_hq": _soxr_hq,
    "torchaudio_sinc": _torchaudio_sinc,
    "kaiser_best": _kaiser_best,
}
RESAMPLERS = tuple(_RESAMPLERS)


def resample(
    samples: np.ndarray, from_hz: int, to_hz: int, resampler: str = "soxr_hq"
) -> np.ndarray:
    """Resamples mono audio (sample,) to float32 of exactly `resampled_length` samples.

    `soxr_hq` is soxr's HQ recipe, `torchaudio_sinc` torchaudio.functional.resample's defaults,
    `kaiser_best` the windowed sinc of that name in resampy 0.4 and librosa.
    """
    if resampler not in _RESAMPLERS:
        raise AudioError("resample", unknown("resampler", resampler, RESAMPLERS))
    samples = np.ascontiguousarray(samples, np.float32)
    if from_hz == to_hz or not len(samples):
        return samples
    result = _RESAMPLERS[resampler](samples, from_hz, to_hz)
    assert len(result) == resampled_length(len(samples), from_hz, to_hz)
    return result


def to_int16(samples: np.ndarray) -> tuple[np.ndarray, int]:
    """(int16 samples, number of clipped ones): rounds `samples * 32768` and clips."""
    scaled = np.rint(np.asarray(samples, np.float32) * np.float32(INT16_SCALE))
    clipped = np.clip(scaled, -INT16_SCALE, INT16_SCALE - 1)
    return clipped.astype(np.int16), int(np.count_nonzero(clipped != scaled))


def from_int16(pcm: np.ndarray) -> np.ndarray:
    """float32 samples of int16 ones; the inverse of `to_int16`."""
    return np.asarray(pcm, np.float32) / np.float32(INT16_SCALE)


_SUBTYPES = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}


def write(path: str | os.PathLike[str], samples: np.ndarray, rate_hz: int) -> None:
    """Writes (sample,) or (sample, channel) as wav, flac (both 16 bit), ogg or mp3, by suffix.

    Two ogg files of the same samples differ in bytes (their serial number is random).
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _SUBTYPES:
        raise AudioError(path, unknown("suffix to write", suffix, _SUBTYPES))
    samples = np.asarray(samples, np.float32)
    container, subtype = _SUBTYPES[suffix]
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    try:
        with soundfile.SoundFile(
            os.fspath(path), "w", rate_hz, channels, subtype, format=container
        ) as file:
            for start in range(0, len(samples), 2**16):  # libvorbis overflows its stack on more
                file.write(samples[start : start + 2**16])
    except soundfile.LibsndfileError as error:
        raise AudioError(path, f"cannot be written: {error.error_string.strip()}") from None


def provenance() -> dict[str, str]:
    """Versions of the decoder and the resampler."""
    return {
        "soundfile": soundfile.__version__,
        "libsndfile": soundfile.__libsndfile_version__,
        "soxr": soxr.__version__,
        "libsoxr": soxr.__libsoxr_version__,
    }
