"""`understudy doctor`: what this machine offers, and whether what understudy needs works on it."""

import importlib
import importlib.metadata
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from understudy import __version__, fetch
from understudy.disk import existing, free_bytes

PACKAGES = ("torch", "torchaudio", "soundfile", "soxr", "zarr", "dask", "distributed", "numpy")
CONTAINERS = ("wav", "flac", "ogg", "mp3")
RATE_HZ, TONE_HZ, TONE_S = 44_100, 440.0, 0.5
# A lossy codec may be this far from the tone, as a share of its energy.
LARGEST_ERROR = 0.05
DRIVER = Path("/proc/driver/nvidia/version")
LOW_DISK_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Finding:
    """One line of the report. `broken`: something that understudy needs does not work."""

    name: str
    text: str
    broken: bool = False


Check = Callable[[], Iterator[Finding]]


def versions() -> Iterator[Finding]:
    """Python and the packages that decide what numbers come out, each imported."""
    yield Finding("understudy", __version__)
    yield Finding("python", f"{platform.python_version()} on {platform.platform()}")
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:  # OSError: a shared library
            yield Finding(name, f"cannot be imported: {error}", broken=True)
            continue
        version = importlib.metadata.version(name)
        if name == "soundfile":
            version += f", libsndfile {sys.modules[name].__libsndfile_version__}"
        yield Finding(name, version)


def decoders() -> Iterator[Finding]:
    """Writes a tone in every container, reads it back and resamples it."""
    from understudy import audio

    time_s = np.arange(round(TONE_S * RATE_HZ)) / RATE_HZ
    tone = (0.5 * np.sin(2 * np.pi * TONE_HZ * time_s)).astype(np.float32)
    with tempfile.TemporaryDirectory(prefix="understudy-doctor-") as folder:
        for suffix in CONTAINERS:
            path = Path(folder) / f"tone.{suffix}"
            try:
                audio.write(path, tone, RATE_HZ)
                decoded = audio.decode(path)
                error = spectral_error(decoded.samples, decoded.rate_hz)
                length = len(audio.resample(decoded.samples, decoded.rate_hz, 16_000))
            except Exception as error:  # whatever the codec's library throws is the finding
                yield Finding(suffix, f"{type(error).__name__}: {error}", broken=True)
                continue
            if error > LARGEST_ERROR or not length:
                wrong = f"{error:.0%} of what was decoded is not the tone that was written"
                yield Finding(suffix, wrong, broken=True)
            else:
                yield Finding(suffix, f"written, decoded and resampled ({path.stat().st_size} B)")


def spectral_error(samples: np.ndarray, rate_hz: int) -> float:
    """Share of the energy of (sample,) that is not at TONE_HZ."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    near = np.abs(np.fft.rfftfreq(len(samples), 1 / rate_hz) - TONE_HZ) < 30
    return float(1 - power[near].sum() / max(power.sum(), 1e-30))


def processor() -> Iterator[Finding]:
    """Cores and threads."""
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = torch.get_num_threads()
    yield Finding("CPU", f"{os.cpu_count()} cores, {usable} usable; torch takes {threads} threads")
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        yield Finding("memory", gigabytes(memory))


def accelerators() -> Iterator[Finding]:
    """Every GPU, after a multiplication on it."""
    import torch

    if not torch.cuda.is_available():
        why = "; a driver is loaded, but torch cannot use it" if DRIVER.exists() else ""
        yield Finding("GPU", f"none: teachers and students run on the CPU{why}")
        return
    for number in range(torch.cuda.device_count()):
        name = f"cuda:{number}"
        facts = torch.cuda.get_device_properties(number)
        try:
            free, total = torch.cuda.mem_get_info(number)
            ones = torch.ones(64, 64, device=name)
            works = bool(((ones @ ones) == 64).all())
        except RuntimeError as error:
            yield Finding(name, f"{facts.name}: {error}", broken=True)
            continue
        text = f"{facts.name}, {gigabytes(free)} of {gigabytes(total)} free"
        yield Finding(name, text if works else f"{text}: computes wrongly", broken=not works)
    yield Finding("CUDA", f"{torch.version.cuda} of torch, driver {driver()}")


def driver() -> str:
    """Version of NVIDIA's driver."""
    try:
        words = DRIVER.read_text().split()
        return next(word for word in words if word[0].isdigit() and "." in word)
    except (OSError, StopIteration):
        return "unknown"


def disks() -> Iterator[Finding]:
    """Free space where downloads and, usually, caches go; whether one may write there."""
    for name, folder in (("UNDERSTUDY_HOME", fetch.home()), ("this folder", Path.cwd())):
        try:
            with tempfile.TemporaryFile(dir=existing(folder)):
                pass
        except OSError as error:
            # Weights are kept below the former; nothing need be written to the latter.
            broken = folder != Path.cwd()
            yield Finding(name, f"{folder}: not writable ({error.strerror})", broken=broken)
            continue
        free = free_bytes(folder)
        low = ": little" if free < LOW_DISK_BYTES else ""
        yield Finding(name, f"{folder}: {gigabytes(free)} free{low}")


def weights() -> Iterator[Finding]:
    """Which published weights are here, and whole as far as their size says."""
    from understudy import teachers
    from understudy.teachers.library import published

    missing = []
    for name in teachers.names():
        card = teachers.card(name)
        path = published(card)
        if path is None:
            continue
        if not path.is_file():
            missing.append(name)
            continue
        size = path.stat().st_size
        wanted = card.weights_bytes or size
        text = gigabytes(size) if size == wanted else f"{path}: {size} bytes, wanted {wanted}"
        yield Finding(name, text, broken=size != wanted)
    if missing:
        yield Finding("not here", f"{', '.join(missing)} (fetched at first use)")


def gigabytes(n_bytes: int) -> str:
    """Size for people."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"


CHECKS: dict[str, Check] = {
    "versions": versions,
    "decoders": decoders,
    "processor": processor,
    "GPU": accelerators,
    "disk": disks,
    "weights": weights,
}


def findings() -> Iterator[tuple[str, Finding]]:
    """All findings by section; a check that fails as a whole is a finding, too."""
    for section, check in CHECKS.items():
        try:
            for finding in check():
                yield section, finding
        except Exception as error:  # the point is to say so, whatever it is
            yield section, Finding(section, f"{type(error).__name__}: {error}", broken=True)


@click.command(name="doctor")
def command() -> None:
    """Check this machine: versions, decoders, processor, GPU, disk, weights.

    Exit code 1 if something that understudy needs does not work.
    """
    broken, last = 0, ""
    for section, finding in findings():
        if section != last:
            click.secho(section, bold=True)
            last = section
        mark = click.style("BROKEN ", fg="red", bold=True) if finding.broken else ""
        click.echo(f"  {finding.name:<16} {mark}{finding.text}")
        broken += finding.broken
    if broken:
        click.echo(f"{broken} thing{'s' * (broken > 1)} broken")
        sys.exit(1)
    click.echo("all that understudy needs works")
