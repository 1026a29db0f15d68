"""A small dataset, teachers that are quick, and what an extraction of it leaves."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from understudy import audio, datasets, schema
from understudy.extract import prepare
from understudy.index import ClipIndex
from understudy.teachers.base import Teacher
from understudy.teachers.cards import SPECTRAL

RATES_HZ = (16000, 22050, 44100)


def recordings(folder: Path) -> Path:
    """A new folder of ten recordings, 0.3 to 2.1 s, of three sample rates."""
    root = folder / "studio"
    root.mkdir()
    for i in range(10):
        record(root / f"{i}.wav", 0.3 + 0.2 * i, RATES_HZ[i % 3], seed=i)
    return root


def record(path: Path, duration_s: float, rate_hz: int = 16000, seed: int = 0) -> None:
    """A tone of -20 dBFS, of its own pitch for each seed."""
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    tone = 0.1 * np.sqrt(2) * np.sin(2 * np.pi * (200 + 37 * seed) * time_s)
    audio.write(path, tone.astype(np.float32), rate_hz)


def load(root: Path) -> ClipIndex:
    return datasets.load("folder", root)


def code(name: str) -> int:
    return schema.load().code(name)


def arrays(folder: Path) -> dict[str, bytes]:
    """Contents of all array files below a folder, by path."""
    files = folder.glob("**/c/**/*")
    return {str(f.relative_to(folder)): f.read_bytes() for f in files if f.is_file()}


def ledger(dataset_dir: Path) -> list[dict[str, str]]:
    with (dataset_dir / "ledger.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def plan_of(index: ClipIndex, cache_dir: Path, **options: object) -> prepare.Extraction:
    built = prepare.build(["spectral"])
    return prepare.prepare(index, built, cache_dir, **{"audio": False, **options})  # type: ignore


class Echo(Teacher):
    """Window in, (mean of squares * gain, -1) out; refuses batches beyond `most`."""

    gain, most = 1.0, 10**9

    def _make_front_end(self) -> nn.Module:
        return nn.BatchNorm1d(1)

    def _make_network(self) -> None:
        return None

    def _pass(self, windows: torch.Tensor) -> torch.Tensor:
        if len(windows) > self.most:
            raise torch.OutOfMemoryError("no memory left")
        power = windows.square().mean(dim=1) * self.gain
        return torch.stack([power, -torch.ones_like(power)], dim=1)


def echo(gain: float = 1.0, most: int = 10**9) -> Echo:
    card = replace(SPECTRAL, name="echo", dim=2, window_s=0.5, hop_s=0.25, min_samples=1)
    teacher = Echo(card, None, "cpu", {})
    teacher.gain, teacher.most = gain, most
    return teacher
