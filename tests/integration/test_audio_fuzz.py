"""Damaged and unusual recordings: the job goes on, and every file is embedded or in the ledger."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.mutants import write_mutants, write_unusual

from understudy import cache, schema
from understudy.cache import CacheReader
from understudy.index import ClipIndex

MOST_BYTES = 3 * 2**30  # resident, of which PyTorch is a fifth
# What the system counts of a child's memory begins with its parent's, so the child tells its own.
COMMAND = """
import re
from pathlib import Path
from understudy.cli import main
try:
    main()
finally:
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    print("peak", int(peak[1]) * 1024)
"""


UNUSUAL = ["20ms.wav", "4gib.wav", "7hz.wav", "8ch.wav", "link.wav", "long.flac"]


@pytest.mark.parametrize(
    "count", [50, pytest.param(1000, marks=pytest.mark.soak)], ids=lambda count: f"{count} files"
)
def test_damaged_files(count: int, tmp_path: Path):
    root = tmp_path / "worn"
    root.mkdir()
    write_mutants(root, count)
    failed = extracted(root, tmp_path / "cache", count, limit_s=60 + 2 * count)
    assert 0.1 * count < len(failed) < 0.9 * count  # the test is of both kinds


@pytest.mark.parametrize(
    "long_s", [60, pytest.param(3600, marks=pytest.mark.soak)], ids=lambda long_s: f"{long_s} s"
)
def test_unusual_files(long_s: int, tmp_path: Path):
    root = tmp_path / "odd"
    root.mkdir()
    write_unusual(root, tmp_path / "outside.wav", long_s)
    assert extracted(root, tmp_path / "cache", len(UNUSUAL), limit_s=600) == ["link.wav"]


def extracted(root: Path, cache_dir: Path, count: int, limit_s: float) -> list[str]:
    """Extracts `root`, checks that every file is embedded or in the ledger; clips that are not."""
    folder = cache_dir / root.name
    arguments = ["extract", "folder", "--root", str(root), "--cache", str(cache_dir)]
    arguments += ["--teacher", "spectral", "--audio"]
    result = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=limit_s,  # where a hang would end
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert 0 < int(result.stdout.rpartition("peak ")[2]) < MOST_BYTES
    index = ClipIndex.load(folder / "index.parquet", root)
    assert len(index) == count
    with (folder / "ledger.csv").open(newline="") as file:
        told = {(line["store"], line["clip_id"]): line for line in csv.DictReader(file)}
    ok = schema.load().code("ok")
    for track in ("spectral", "audio"):
        store = cache.find(cache_dir, root.name, track)
        assert cache.verify(store) == []
        reader = CacheReader(store)
        for row, clip_id in enumerate(index.clips["clip_id"]):
            line = told.pop((store.name, clip_id), None)
            assert (line is None) == (reader.status[row] == ok), clip_id
            if line is None:
                data, n_frames = reader.gather([row])
                assert n_frames[0] > 0
                assert np.isfinite(data[0, : n_frames[0]]).all()
            else:
                assert line["reason"]
    assert not told
    return index.clips["clip_id"][reader.status != ok].tolist()
