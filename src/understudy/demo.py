"""`understudy demo`: the whole mission on the toy collections, as the commands a user would type.

Each command is printed and then run in this process. Every one of them resumes, so a demo that was
interrupted continues where it stopped.
"""

import json
import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import click

from understudy.cli import cli

TEACHER = "spectral"
STUDENT_SYSTEMS = ("baseline", "fitnet", "fitnet_linear", "dc", "dc_linear")
SYSTEMS = ("teacher_lr", *STUDENT_SYSTEMS)


def commands(out: Path, steps: int, width: int, clips: int, seed: int) -> Iterator[list[str]]:
    """The demo's command lines (without the leading `understudy`), in order.

    Args:
        out: Folder for everything the demo makes.
        steps: Training steps of each student.
        width: Channels of the student's first blocks (the published SC-CNN has 128).
        clips: Clips of `toy-studio`; `toy-field` gets two thirds of them.
        seed: Seed of the collections and of the training.
    """
    data, cache, runs = out / "data", out / "cache", out / "runs"
    sizes = {"toy-studio": clips, "toy-field": clips * 2 // 3}
    for name, n_clips in sizes.items():
        made = ["--root", str(data / name), "--clips", str(n_clips), "--seed", str(seed)]
        yield ["data", "make", name, *made]
        yield [
            *["extract", name, "--root", str(data / name)],
            *["--teacher", TEACHER, "--audio", "--cache", str(cache)],
        ]
    source = ["toy-studio", "--cache", str(cache), "--teacher", TEACHER]
    yield ["evaluate", "teacher-lr", *source, "--run-dir", str(runs / "teacher_lr")]
    for system in STUDENT_SYSTEMS:
        yield [
            *["train", *source, "--student", "sc-cnn", "--system", system],
            *["--run-dir", str(runs / system)],
            *["--set", f"student.width={width}", "--set", f"optim.max_steps={steps}"],
            *["--set", "optim.lr=2e-3", "--set", f"optim.seed={seed}"],
        ]
        yield ["evaluate", "score", str(runs / system)]
    for system in SYSTEMS:
        yield ["evaluate", "transfer", str(runs / system), "toy-field", "--cache", str(cache)]
    yield ["evaluate", "complexity", str(runs / "dc_linear"), "--teacher", TEACHER]
    every = [str(runs / system) for system in SYSTEMS]
    yield ["evaluate", "report", *every, "--out", str(out / "report")]


@click.command(name="demo")
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True)
@click.option("--steps", type=click.IntRange(1), default=220, show_default=True,
              help="Training steps of each student.")  # fmt: skip
@click.option("--width", type=click.IntRange(1), default=16, show_default=True,
              help="Channels of the student's first blocks.")  # fmt: skip
@click.option("--clips", type=click.IntRange(30), default=300, show_default=True,
              help="Clips of toy-studio; toy-field gets two thirds.")  # fmt: skip
@click.option("--seed", type=int, default=1223, show_default=True)
def command(out: Path, steps: int, width: int, clips: int, seed: int) -> None:
    """Run the whole mission on the built-in toy collections; no download is needed.

    Makes two small collections of synthesised music, extracts embeddings once, trains the five
    student systems and the teacher's logistic regression on one collection, tests all six there
    and, without fine-tuning, on the other, and writes a report.
    """
    # Before torch is imported. Models this small gain nothing from a second thread, and on two
    # virtual cores of a shared machine a step was measured to take 2.4 times as long with it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    started = time.monotonic()
    for arguments in commands(out, steps, width, clips, seed):
        click.secho(f"\n$ understudy {shlex.join(arguments)}", bold=True)
        cli.main(args=arguments, prog_name="understudy", standalone_mode=False)
    click.echo(summary(out, steps, time.monotonic() - started))


def summary(out: Path, steps: int, seconds: float) -> str:
    """The closing lines: a table of the six systems, where the report is, and a caveat."""

    def value(system: str, name: str) -> str:
        path = out / "runs" / system / "evaluation" / f"{name}.json"
        return f"{json.loads(path.read_text())['value']:.3f}"

    rows = [
        f"{system:<15}{value(system, 'score'):>12}{value(system, 'transfer'):>22}"
        for system in SYSTEMS
    ]
    return "\n".join(
        [
            "",
            f"{'mAP on test':<15}{'toy-studio':>12}{'toy-field (transfer)':>22}",
            *rows,
            "",
            f"Report: {out / 'report' / 'index.html'}    ({seconds:.0f} s)",
            f"{steps} steps on synthetic clips show that every stage works;",
            "they decide no ordering of the systems.",
        ]
    )
