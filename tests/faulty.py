"""A teacher of the HEAR API (`hear:tests.faulty`) that fails on the clips of constant level.

A clip of level RAISE, NAN, HANG or KILL makes it do that; FAULTY_SLEEP_S slows all calls down, and
FAULTY_HANGING names a file for the number of the process that hangs. Also such clips, and what an
extraction of them leaves.
"""

import csv
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch

from understudy import audio, cache

RATE_HZ = 16_000
TEACHER = "hear:tests.faulty"
WINDOWS = {TEACHER: {"window_s": 0.5}}  # batches of several clips
N_GOOD = 6
RAISE, NAN, HANG, KILL = 0.5, 0.6, 0.7, 0.8
ROOT = Path(__file__).resolve().parents[1]


class Model(torch.nn.Module):
    sample_rate = RATE_HZ
    scene_embedding_size = timestamp_embedding_size = 4


def load_model(path: str = "") -> Model:
    return Model()


def get_scene_embeddings(sounds: torch.Tensor, model: Model) -> torch.Tensor:
    time.sleep(float(os.environ.get("FAULTY_SLEEP_S", "0")) * len(sounds))
    measures = (torch.mean, torch.std, torch.amax, torch.amin)
    embedding = torch.stack([measure(sounds, dim=1) for measure in measures], 1)
    for number, sound in enumerate(sounds.numpy()):
        heard = sound[sound != 0]
        if not len(heard) or np.ptp(heard) > 1e-3:
            continue
        level = round(float(heard.max()), 2)
        if level == RAISE:
            raise ValueError("this sound is too square")
        if level == NAN:
            embedding[number] = torch.nan
        if level == HANG:
            if note := os.environ.get("FAULTY_HANGING"):
                Path(note).write_text(str(os.getpid()), encoding="utf-8")
            time.sleep(3600)
        if level == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
    return embedding


def get_timestamp_embeddings(
    sounds: torch.Tensor, model: Model
) -> tuple[torch.Tensor, torch.Tensor]:
    embedding = get_scene_embeddings(sounds, model)[:, None]
    return embedding, torch.full(embedding.shape[:2], 100.0)


def record(path: Path, level: float | None = None, duration_s: float = 1.0, seed: int = 0) -> None:
    """Noise, or a constant `level`."""
    n_samples = round(duration_s * RATE_HZ)
    noise = np.random.default_rng(seed).normal(0, 0.1, n_samples)
    samples = noise if level is None else np.full(n_samples, level)
    path.parent.mkdir(parents=True, exist_ok=True)
    audio.write(path, samples.astype(np.float32), RATE_HZ)


def environment(**variables: str) -> dict[str, str]:
    """For a process that is to find this module."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    return {**os.environ, "PYTHONPATH": path, **variables}


def folder(root: Path, *levels: float) -> Path:
    """Recordings 0.wav to 5.wav of noise, and one of each level."""
    for number in range(N_GOOD):
        record(root / f"{number}.wav", seed=number)
    for level in levels:
        record(root / f"level{level}.wav", level)
    return root


def ledger(dataset_dir: Path) -> dict[str, tuple[str, str]]:
    """Status and reason by path."""
    with (dataset_dir / "ledger.csv").open(encoding="utf-8", newline="") as file:
        return {line["path"]: (line["status"], line["reason"]) for line in csv.DictReader(file)}


def sound(dataset_dir: Path) -> bool:
    """Whether all stores of a dataset verify."""
    stores = cache.stores(dataset_dir)
    return bool(stores) and not any(problem for path in stores for problem in cache.verify(path))
