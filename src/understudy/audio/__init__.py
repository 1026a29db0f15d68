"""Decoding, resampling and writing audio: the one place that touches codecs and resamplers.

Conventions: samples are float32 in about [-1, 1], mono unless said otherwise; a crop starts at
sample `round(start_s * rate_hz)`.
"""

import soundfile
import soxr

from understudy.audio.decoding import (
    EMPTY,
    MISSING,
    NO_SAMPLES,
    NON_FINITE,
    NOT_AUDIO,
    SUFFIXES,
    TOLERANCE_S,
    TRUNCATED,
    UNREADABLE,
    AudioInfo,
    Decoded,
    decode,
    info,
    sha256,
    stream,
)
from understudy.audio.encoding import INT16_SCALE, from_int16, to_int16, write
from understudy.audio.noise import Noise, set_aside
from understudy.audio.resampling import RESAMPLERS, resample, resample_blocks, resampled_length

__all__ = [
    "EMPTY",
    "INT16_SCALE",
    "MISSING",
    "NON_FINITE",
    "NOT_AUDIO",
    "NO_SAMPLES",
    "RESAMPLERS",
    "SUFFIXES",
    "TOLERANCE_S",
    "TRUNCATED",
    "UNREADABLE",
    "AudioInfo",
    "Decoded",
    "Noise",
    "decode",
    "from_int16",
    "info",
    "provenance",
    "resample",
    "resample_blocks",
    "resampled_length",
    "set_aside",
    "sha256",
    "stream",
    "to_int16",
    "write",
]


def provenance() -> dict[str, str]:
    """Versions of the decoder and the resampler."""
    return {
        "soundfile": soundfile.__version__,
        "libsndfile": soundfile.__libsndfile_version__,
        "soxr": soxr.__version__,
        "libsoxr": soxr.__libsoxr_version__,
    }
