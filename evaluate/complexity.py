"""What students and teachers cost: parameters, operations, speed, memory, side by side.

All models are warmed up by two passes and then timed in turn, one pass each per round, so that a
machine that slows down slows all of them.
"""

import functools
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from understudy import config, students, teachers
from understudy.errors import ConfigError
from understudy.evaluate.memory import peak_mb
from understudy.evaluate.predictions import on_device
from understudy.evaluate.runs import Run

TEACHER_S = 10.0
"""Audio in a teacher's iteration, seconds; also the clip of clips/s."""
N_LABELS = 50
"""Labels of a student that is measured without a run: MagnaTagATune's."""
LEAST_ROUNDS = 3
RANDOM = "random"
STAND_IN = "stand-in network, random"
COUNTING = (
    "Parameters: weights, biases and normalisation; buffers and constants of front ends are not "
    "counted, and a teacher's are those its card states. MAC: half of torch's flop count of the "
    "network without its front end, per second of audio; where torch cannot count, what the card "
    "states. An iteration: one pass at batch 1 of 10 s for a teacher, of the input length for a "
    "student. Clips/s: clips of 10 s in batches. Peak memory: beyond weights and input, of one "
    "iteration; on a CPU that of the process."
)


@dataclass
class Model:
    """Something to be measured.

    Attributes:
        weights: Whose they are: a digest, or `RANDOM` or `STAND_IN`. Speed does not depend on it.
        forward: The whole pass over audio (batch, sample).
        front_end: The part of it before the network.
        input_samples: Audio of one iteration.
        windows_of_clip: Passes of that length that a clip of 10 s takes.
        macs_per_s: Stated, for what torch cannot count.
    """

    name: str
    role: str
    weights: str
    forward: Callable[[Tensor], Any]
    front_end: Callable[[Tensor], Any]
    parameters: int
    rate_hz: int
    input_samples: int
    windows_of_clip: int
    macs_per_s: float = 0.0

    @property
    def audio_s(self) -> float:
        """Audio of one iteration, seconds."""
        return self.input_samples / self.rate_hz


def complexity(
    run_dirs: Sequence[str | Path],
    teacher_names: Sequence[str] = (),
    **how: Any,
) -> list[Path]:
    """Measures the runs' students and teachers; writes RUN/evaluation/complexity.json for each.

    Args:
        run_dirs: Runs; equal students are measured once.
        teacher_names, how: See `compare`.

    Raises:
        UnderstudyError: No model at all, an unknown teacher, a device that cannot be used.
    """
    runs = [Run.read(path) for path in run_dirs]
    wanted = {_student_key(run): _student_settings(run) for run in runs if run.student is not None}
    tables = compare(list(wanted.values()), teacher_names, **how)
    paths = []
    for run in runs:
        own = list(wanted).index(_student_key(run)) if run.student is not None else None
        shown = [
            table
            | {
                "models": [
                    model
                    for place, model in enumerate(table["models"])
                    if place == own or model["role"] == "teacher"
                ]
            }
            for table in tables
        ]
        paths.append(run.write("complexity", {"tables": shown}))
    return paths


def compare(
    student_settings: Sequence[Mapping[str, Any]],
    teacher_names: Sequence[str],
    *,
    devices: Sequence[str] = ("cpu",),
    rounds: int = 20,
    batch_clips: int = 4,
    budget_s: float = math.inf,
) -> list[dict[str, Any]]:
    """Measures students and teachers together; one table a device, JSON-able.

    Args:
        student_settings: Mappings of `name`, settings of the student and, if it is not
            `N_LABELS`, `n_labels`. Weights are drawn anew: speed does not depend on them.
        teacher_names: "NAME", "NAME=WEIGHTS" or "NAME=random"; random weights are the default, so
            nothing is downloaded.
        devices: Where to measure, one after the other.
        rounds: Timed iterations of each model.
        batch_clips: Clips of 10 s in a batch, for clips/s.
        budget_s: After as many seconds on a device no round is begun beyond `LEAST_ROUNDS`.

    Returns:
        Mappings of `models`, `rounds` (see `measure`), `machine`, `batch_clips` and `counting`.

    Raises:
        UnderstudyError: No model at all, an unknown one, a device that cannot be used.
    """
    if not student_settings and not teacher_names:
        raise ConfigError("nothing to measure: no run has a student, and no model was named")
    tables = []
    for device in devices:
        models = [student_model(one, device) for one in student_settings]
        models += [teacher_model(text, device) for text in teacher_names]
        tables.append(
            {
                "machine": machine(device),
                "batch_clips": batch_clips,
                "counting": COUNTING,
                **measure(models, device, rounds, batch_clips, budget_s),
            }
        )
    return tables


def student_model(settings: Mapping[str, Any], device: str) -> Model:
    """A student with fresh weights; `settings` as of `compare`."""
    given = dict(settings)
    name, n_labels = given.pop("name"), given.pop("n_labels", N_LABELS)
    with torch.random.fork_rng(devices=[]):
        student = students.build(name, n_labels, **given).eval()
    student = on_device(student, device)
    clip_samples = round(TEACHER_S * student.sample_rate)
    return Model(
        name=name,
        role="student",
        weights=RANDOM,
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
    teacher = teachers.build(name, weights or RANDOM, device)
    counted = sum(p.numel() for p in teacher.network.parameters()) if teacher.network else 0
    if getattr(teacher, "stand_in", False):
        told = STAND_IN
    else:
        told = RANDOM if teacher.weights_sha256.startswith(RANDOM) else teacher.weights_sha256
    return Model(
        name=name,
        role="teacher",
        weights=told,
        forward=teacher.forward,
        front_end=lambda audio: teacher.front_end(audio),
        parameters=teacher.card.parameters or counted,
        rate_hz=teacher.card.sample_rate,
        input_samples=round(TEACHER_S * teacher.card.sample_rate),
        windows_of_clip=1,
        macs_per_s=teacher.card.macs_per_s,
    )


@torch.no_grad()
def measure(
    models: Sequence[Model],
    device: str,
    rounds: int,
    batch_clips: int,
    budget_s: float = math.inf,
) -> dict[str, Any]:
    """Counts and times each model; durations in milliseconds, per-second figures as named.

    The range of iterations/s is that of the middle nine tenths of all iterations.

    Returns:
        `models`, a mapping for each, and `rounds`, how many iterations of each were timed.
    """
    end_s = time.monotonic() + budget_s
    generator = torch.Generator().manual_seed(0)
    inputs, batches = [], []
    for model in models:
        audio = 0.1 * torch.randn(batch_clips * model.windows_of_clip, model.input_samples,
                                  generator=generator)  # fmt: skip
        batches.append(audio.to(device))
        inputs.append(batches[-1][:1])
    pairs = list(zip(models, inputs, strict=True))
    macs = [count_macs(model, one) for model, one in pairs]  # and warms up, as the next line does
    memory = [peak_mb(functools.partial(model.forward, one), device) for model, one in pairs]
    batch_ms = _timed(models, batches, device, max(2, rounds // 5), 2, end_s)
    latency_ms = _timed(models, inputs, device, rounds, LEAST_ROUNDS, end_s)
    result = []
    for k, model in enumerate(models):
        p5_ms, p50_ms, p95_ms = (float(x) for x in np.percentile(latency_ms[k], (5, 50, 95)))
        result.append(
            {
                "name": model.name,
                "role": model.role,
                "weights": model.weights,
                "audio_s": model.audio_s,
                "rate_hz": model.rate_hz,
                "parameters": model.parameters,
                "macs_per_s": macs[k] / model.audio_s or model.macs_per_s,
                "iterations_per_s": 1000 / float(np.mean(latency_ms[k])),
                "iterations_per_s_range": [1000 / p95_ms, 1000 / p5_ms],
                "latency_p50_ms": p50_ms,
                "latency_p95_ms": p95_ms,
                "clips_per_s": 1000 * batch_clips / float(np.median(batch_ms[k])),
                "peak_memory_mb": memory[k],
            }
        )
    return {"models": result, "rounds": len(latency_ms[0])}


def count_macs(model: Model, audio: Tensor) -> float:
    """Multiply-accumulates of the network on `audio`, front end not counted."""
    counts = []
    for function in (model.forward, model.front_end):
        # Of fused attention on a CPU torch keeps no count.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
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


def here() -> tuple[str, ...]:
    """Devices of this machine: the CPU and, where torch can use one, the first GPU."""
    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def _timed(
    models: Sequence[Model],
    inputs: Sequence[Tensor],
    device: str,
    rounds: int,
    least: int,
    end_s: float,
) -> list[list[float]]:
    """Milliseconds of every round of every model, the models in turn; no round beyond `least` is
    begun after `end_s`."""
    result: list[list[float]] = [[] for _ in models]
    for number in range(rounds):
        if number >= least and time.monotonic() > end_s:
            break
        for k, (model, audio) in enumerate(zip(models, inputs, strict=True)):
            _synchronise(device)
            begun = time.perf_counter()
            model.forward(audio)
            _synchronise(device)
            result[k].append(1000 * (time.perf_counter() - begun))
    return result


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _student_settings(run: Run) -> dict[str, Any]:
    return {**run.config["settings"]["student"], "n_labels": len(run.label_names)}


def _student_key(run: Run) -> str:
    return config.digest(_student_settings(run))


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
