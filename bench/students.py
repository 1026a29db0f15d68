"""How much faster than real time a student labels audio, on one core: torch, ONNX, 8-bit ONNX.

    python -m bench.students

Random weights, which cost as much as trained ones; batches of 8 windows of the training length,
front end included. Engines take turns, and the least of the rounds counts. It is the process's own
seconds that are counted, so that others' load does not. `ratio` is torch's time by the engine's.
"""

import time
from collections.abc import Callable

import click
import torch
from torch import Tensor

from understudy import students
from understudy.export import graphs, int8
from understudy.students.base import Student
from understudy.teachers.onnx_network import OnnxNetwork

STUDENTS = ("sc-cnn", "hcnn")
ROUNDS = {16: 7, 128: 3}
BATCH = 8
LABELS = 50


def table() -> str:
    """Seconds of audio in a second of one core, narrow and full width."""
    lines = [f"{'student':<8}{'width':>6}  {'engine':<6}{'MB':>7}{'x real time':>13}{'ratio':>8}"]
    torch.set_num_threads(1)
    for name in STUDENTS:
        for width, rounds in ROUNDS.items():
            student = students.build(name, LABELS, width=width).eval()
            audio_s = BATCH * student.input_samples / student.sample_rate
            engines = made(student)
            seconds = measure(
                {key: engine for key, (engine, _) in engines.items()}, student, rounds
            )
            for key, (_, size) in engines.items():
                factor, ratio = audio_s / seconds[key], seconds["torch"] / seconds[key]
                lines.append(
                    f"{name:<8}{width:>6}  {key:<6}{size / 1e6:>7.2f}{factor:>13.0f}{ratio:>8.2f}"
                )
    return "\n".join(lines)


def made(student: Student) -> dict[str, tuple[Callable[[Tensor], object], int]]:
    """Engines with the bytes of their weights or of their files."""
    front, network = graphs.onnx_parts(student)
    weights = sum(tensor.nbytes for tensor in student.state_dict().values())
    engines: dict[str, tuple[Callable[[Tensor], object], int]] = {"torch": (student, weights)}
    for key, part in (("onnx", network), ("int8", int8.quantised(network))):
        data = graphs.joined(front, part).SerializeToString()
        engine = OnnxNetwork(data, key)
        engine.settle(LABELS)
        engines[key] = engine, len(data)
    return engines


@torch.no_grad()
def measure(
    engines: dict[str, Callable[[Tensor], object]], student: Student, rounds: int
) -> dict[str, float]:
    """Least seconds of a batch, by engine."""
    sound = 0.1 * torch.randn(BATCH, student.input_samples)
    least = dict.fromkeys(engines, float("inf"))
    for number in range(rounds + 1):  # the first allocates
        for key, engine in engines.items():
            begun = time.process_time()
            engine(sound)
            if number:
                least[key] = min(least[key], time.process_time() - begun)
    return least


if __name__ == "__main__":
    click.echo(table())
