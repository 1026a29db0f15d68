"""What students and teachers cost: parameters, operations, speed, memory, side by side.

All models are warmed up and then timed in turn, one pass each per round, so that a machine that
slows down slows all of them.
"""

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from understudy import config, students, teachers
from understudy.errors import ConfigError
from understudy.evaluate.predictions import on_device
from understudy.evaluate.runs import Run

TEACHER_S = 10.0
"""Audio in a teacher's iteration, seconds; also the clip of clips/s."""
COUNTING = (
    "Parameters: weights, biases and normalisation; buffers and constants of front ends are not "
    "counted, and a teacher's are those its card states. MAC: half of torch's flop count of the "
    "network without its front end, per second of audio. Clips/s: clips of 10 s in batches."
)


@dataclass
class Model:
    """Something to be measured.

    Attributes:
        forward: The whole pass over audio (batch, sample).
        front_end: The part of it before the network.
        input_samples: Audio of one iteration.
        windows_of_clip: Passes of that length that a clip of 10 s takes.
    """

    name: str
    role: str
    forward: Callable[[Tensor], Any]
    front_end: Callable[[Tensor], Any]
    parameters: int
    rate_hz: int
    input_samples: int
    windows_of_clip: int

    @property
    def audio_s(self) -> float:
        """Audio of one iteration, seconds."""
        return self.input_samples / self.rate_hz


def complexity(
    run_dirs: Sequence[str | Path],
    teacher_names: Sequence[str] = (),
    *,
    device: str = "cpu",
    rounds: int = 20,
    batch_clips: int = 4,
) -> list[Path]:
    """Measures the runs' students and teachers; writes RUN/evaluation/complexity.json for each.

    Args:
        run_dirs: Runs; equal students are measured once.
        teacher_names: "NAME", "NAME=WEIGHTS" or "NAME=random". Speed does not depend on the
            values of weights, so random ones are the default and nothing is downloaded.
        device: Where to measure.
        rounds: Timed iterations of each model.
        batch_clips: Clips of 10 s in a batch, for clips/s.

    Raises:
        UnderstudyError: No model at all, an unknown teacher, a device that cannot be used.
    """
    runs = [Run.read(path) for path in run_dirs]
    models: dict[str, Model] = {}
    for run in runs:
        if run.student is not None:
            models.setdefault(_student_key(run), student_model(run, device))
    for text in teacher_names:
        model = teacher_model(text, device)
        models[model.name] = model
    if not models:
        raise ConfigError("nothing to measure: no run has a student, and no --teacher was given")
    measured = dict(
        zip(models, measure(list(models.values()), device, rounds, batch_clips), strict=True)
    )
    paths = []
    for run in runs:
        own = _student_key(run) if run.student is not None else None
        shown = [v for k, v in measured.items() if k == own or v["role"] == "teacher"]
        content = {
            "models": shown,
            "machine": machine(device),
            "rounds": rounds,
            "batch_clips": batch_clips,
            "counting": COUNTING,
        }
        paths.append(run.write("complexity", content))
    return paths


def student_model(run: Run, device: str) -> Model:
    """A run's student with fresh weights, which cost as much as trained ones."""
    settings = dict(run.config["settings"]["student"])
    name = settings.pop("name")
    with torch.random.fork_rng(devices=[]):
        student = students.build(name, len(run.label_names), **settings).eval()
    student = on_device(student, device)
    clip_samples = round(TEACHER_S * student.sample_rate)
    return Model(
        name=name,
        role="student",
        forward=student,
        front_end=student.front_end,
        parameters=sum(p.numel() for p in student.parameters()),
        rate_hz=student.sample_rate,
        input_samples=student.input_samples,
        windows_of_clip=-(-clip_samples // student.input_samples),
    )


def teacher_model(text: str, device: str) -> Model:
    """A teacher from "NAME" or "NAME=WEIGHTS"."""
    name, _, weights = text.partition("=")
    teacher = teachers.build(name, weights or "random", device)
    counted = sum(p.numel() for p in teacher.network.parameters()) if teacher.network else 0
    return Model(
        name=name,
        role="teacher",
        forward=teacher.forward,
        front_end=lambda audio: teacher.front_end(audio),
        parameters=teacher.card.parameters or counted,
        rate_hz=teacher.card.sample_rate,
        input_samples=round(TEACHER_S * teacher.card.sample_rate),
        windows_of_clip=1,
    )


@torch.no_grad()
def measure(
    models: Sequence[Model], device: str, rounds: int, batch_clips: int
) -> list[dict[str, Any]]:
    """Counts and times each model; durations in milliseconds, per-second figures as named."""
    generator = torch.Generator().manual_seed(0)
    inputs, batches = [], []
    for model in models:
        audio = 0.1 * torch.randn(batch_clips * model.windows_of_clip, model.input_samples,
                                  generator=generator)  # fmt: skip
        batches.append(audio.to(device))
        inputs.append(batches[-1][:1])
    macs = [count_macs(model, one) for model, one in zip(models, inputs, strict=True)]
    memory = [
        _peak_memory_mb(model, one, device) for model, one in zip(models, inputs, strict=True)
    ]
    latency_ms = _timed(models, inputs, device, rounds)
    batch_ms = _timed(models, batches, device, max(3, rounds // 5))
    return [
        {
            "name": model.name,
            "role": model.role,
            "audio_s": model.audio_s,
            "rate_hz": model.rate_hz,
            "parameters": model.parameters,
            "macs_per_s": macs[k] / model.audio_s,
            "iterations_per_s": 1000 / float(np.mean(latency_ms[k])),
            "latency_p50_ms": float(np.percentile(latency_ms[k], 50)),
            "latency_p95_ms": float(np.percentile(latency_ms[k], 95)),
            "clips_per_s": 1000 * batch_clips / float(np.median(batch_ms[k])),
            "peak_memory_mb": memory[k],
        }
        for k, model in enumerate(models)
    ]


def count_macs(model: Model, audio: Tensor) -> float:
    """Multiply-accumulates of the network on `audio`, front end not counted."""
    counts = []
    for function in (model.forward, model.front_end):
        with FlopCounterMode(display=False) as counter:
            function(audio)
        counts.append(counter.get_total_flops())
    return (counts[0] - counts[1]) / 2


def machine(device: str) -> dict[str, Any]:
    """What was measured on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU",
        "cpu": _cpu_model(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "tf32": bool(torch.backends.cuda.matmul.allow_tf32),
    }


def _timed(
    models: Sequence[Model], inputs: Sequence[Tensor], device: str, rounds: int
) -> list[list[float]]:
    """Milliseconds of every round of every model, the models in turn; two rounds of warm-up."""
    result: list[list[float]] = [[] for _ in models]
    for number in range(rounds + 2):
        for k, (model, audio) in enumerate(zip(models, inputs, strict=True)):
            _synchronise(device)
            begun = time.perf_counter()
            model.forward(audio)
            _synchronise(device)
            if number >= 2:
                result[k].append(1000 * (time.perf_counter() - begun))
    return result


def _peak_memory_mb(model: Model, audio: Tensor, device: str) -> float | None:
    """Memory beyond weights and input in one iteration; None on a CPU (torch keeps no count)."""
    if not device.startswith("cuda"):
        return None
    model.forward(audio)
    _synchronise(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    model.forward(audio)
    _synchronise(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _student_key(run: Run) -> str:
    return config.digest([run.config["settings"]["student"], len(run.label_names)])


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
