"""int16 samples, and files of audio."""

import os
from pathlib import Path

import numpy as np
import soundfile

from understudy.errors import AudioError, unknown

INT16_SCALE = 32768  # int16 sample / INT16_SCALE = float sample, as libsndfile reads PCM


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
