"""`python -m bench [NAME ...]`: the machine, then every benchmark in a process of its own."""

import os
import pkgutil
import platform
import subprocess
import sys
from pathlib import Path

import click
import torch

import bench


def machine() -> str:
    """Processor, cores, accelerator and versions: what a figure was measured on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return (
        f"{processor}, {os.cpu_count()} cores, {gpu}; Python {platform.python_version()}, "
        f"torch {torch.__version__}; load {load} at the start"
    )


@click.command()
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    """Run all benchmarks, or those NAMED."""
    known = [module.name for module in pkgutil.iter_modules(bench.__path__)]
    known.remove("__main__")
    if unknown := sorted(set(names) - set(known)):
        raise click.UsageError(f"unknown benchmark {', '.join(unknown)}; known: {', '.join(known)}")
    click.echo(machine())
    for name in names or known:
        click.secho(f"\n{name}", bold=True)
        subprocess.run([sys.executable, "-m", f"bench.{name}"], check=True)


if __name__ == "__main__":
    main()
