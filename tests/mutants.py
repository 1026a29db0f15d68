"""Audio files as a large collection has them: damaged at random, by a seed, or merely unusual."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from understudy import audio

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
RATES_HZ = (16000, 22050, 44100)
HEADER_BYTES = 64


def flip(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Up to 64 bits, anywhere."""
    for at in rng.integers(0, len(data), rng.integers(1, 65)):
        data[at] ^= 1 << int(rng.integers(8))
    return data


def truncate(data: bytearray, rng: np.random.Generator) -> bytearray:
    """The end, perhaps nearly all."""
    return data[: rng.integers(len(data))]


def overwrite(data: bytearray, rng: np.random.Generator) -> bytearray:
    """A few bytes of the header with zeros, ones or noise."""
    at, n = int(rng.integers(HEADER_BYTES)), int(rng.integers(1, 9))
    data[at : at + n] = (bytes(n), b"\xff" * n, rng.bytes(n))[rng.integers(3)]
    return data


def cut_out(data: bytearray, rng: np.random.Generator) -> bytearray:
    """A piece from the middle."""
    first, last = sorted(rng.integers(0, len(data), 2).tolist())
    return data[:first] + data[last:]


def append(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Padding, noise or the file once more."""
    return data + (bytes(5000), rng.bytes(5000), bytes(data))[rng.integers(3)]


MUTATIONS: tuple[Callable[[bytearray, np.random.Generator], bytearray], ...] = (
    flip,
    truncate,
    overwrite,
    cut_out,
    append,
)


def write_mutants(folder: Path, count: int, seed: int = 0) -> None:
    """`count` damaged files of one second, of every format and kind of damage in turn."""
    rng = np.random.default_rng(seed)
    whole: dict[tuple[str, int], bytes] = {}
    for suffix in SUFFIXES:
        for rate_hz in RATES_HZ:
            path = folder / f"whole{suffix}"
            noise = rng.normal(0, 0.1, (rate_hz, 1 + rate_hz % 2)).astype(np.float32)
            audio.write(path, noise, rate_hz)
            whole[suffix, rate_hz] = path.read_bytes()
            path.unlink()
    sources = list(whole.items())
    for number in range(count):
        (suffix, _), data = sources[number % len(sources)]
        mutate = MUTATIONS[number // len(sources) % len(MUTATIONS)]
        worn = mutate(bytearray(data), rng)
        named = suffix if rng.random() < 0.9 else SUFFIXES[rng.integers(len(SUFFIXES))]
        (folder / f"{number:04d}-{mutate.__name__}{named}").write_bytes(worn)


def write_unusual(folder: Path, outside: Path, long_s: int) -> None:
    """Files that are whole but extreme, a header that lies, and a link out of `folder`."""
    rng = np.random.default_rng(0)
    for name, channels, rate_hz, n in (
        ("20ms.wav", 1, 16000, 320),
        ("7hz.wav", 1, 7, 3),
        ("8ch.wav", 8, 192000, 96000),
    ):
        soundfile.write(folder / name, rng.normal(0, 0.1, (n, channels)), rate_hz)
    with soundfile.SoundFile(folder / "long.flac", "w", 8000, 1) as file:
        for _ in range(long_s // 60):
            file.write(rng.normal(0, 0.01, 8000 * 60))
    audio.write(folder / "4gib.wav", np.zeros(1000, np.float32), 16000)
    data = bytearray((folder / "4gib.wav").read_bytes())
    data[4:8] = data[40:44] = b"\xf0\xff\xff\xff"
    (folder / "4gib.wav").write_bytes(data)
    audio.write(outside, np.zeros(16000, np.float32), 16000)
    (folder / "link.wav").symlink_to(outside)
