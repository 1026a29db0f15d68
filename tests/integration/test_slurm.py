"""The recipe for Slurm of docs/clusters.md, with an `sbatch` that starts the job right here."""

import os
import subprocess
import sys
from pathlib import Path

from tests import docs, faulty

from understudy import datasets
from understudy.cache import CacheReader
from understudy.extract import extract

PAGE = Path(__file__).parents[2] / "docs" / "clusters.md"
# Jobs lead process groups of their own; the number of a group is its job's.
SBATCH = """#!/bin/sh
setsid sh "$1" > /dev/null 2>&1 < /dev/null &
echo $! >> "$JOBS"
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
for job in "$@"; do kill -- "-$job"; done
"""


def test_the_recipe_runs_an_extraction(tmp_path: Path):
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    for number in range(6):
        faulty.record(tmp_path / "in" / f"{number}.wav", seed=number)
    (recipe,) = (block for block in docs.blocks(PAGE) if block.note == "cluster.py")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    cluster = subprocess.Popen(
        [sys.executable, "-c", recipe.text.replace("jobs=8", "jobs=2")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=faulty.environment(PATH=path, JOBS=str(tmp_path / "jobs")),
    )
    try:
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        store = extract(
            datasets.load("folder", tmp_path / "in"),
            ["hear:tests.faulty"],
            tmp_path / "cache",
            scheduler=address,
            progress=False,
        )["hear:tests.faulty"]
        assert CacheReader(store).attributes["complete"]
        assert CacheReader(store).attributes["provenance"]["workers"] == address
    finally:
        cluster.communicate("\n", timeout=60)
    assert cluster.returncode == 0
    jobs = (tmp_path / "jobs").read_text().split()
    assert len(jobs) == 2
