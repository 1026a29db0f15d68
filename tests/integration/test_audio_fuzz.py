"""Damaged and unusual recordings: the job goes on, and every file is embedded or in the ledger."""

import csv
import resource
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


@pytest.mark.parametrize(
    ("count", "long_s", "limit_s"),
    [
        pytest.param(50, 60, 300, id="50"),
        pytest.param(1000, 3600, 3600, id="1000", marks=pytest.mark.soak),
    ],
)
def test_every_file_is_embedded_or_in_the_ledger(
    count: int, long_s: int, limit_s: int, tmp_path: Path
):
    root, folder = tmp_path / "worn", tmp_path / "cache" / "worn"
    root.mkdir()
    write_mutants(root, count)
    write_unusual(root, tmp_path / "outside.wav", long_s)
    arguments = ["extract", "folder", "--root", str(root), "--cache", str(folder.parent)]
    arguments += ["--teacher", "spectral", "--audio"]
    result = subprocess.run(
        [sys.executable, "-m", "understudy", *arguments],
        capture_output=True,
        timeout=limit_s,  # where a hang would end
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < MOST_BYTES
    index = ClipIndex.load(folder / "index.parquet", root)
    assert len(index) == count + 6
    with (folder / "ledger.csv").open(newline="") as file:
        told = {(line["store"], line["clip_id"]): line for line in csv.DictReader(file)}
    ok = schema.load().code("ok")
    for track in ("spectral", "audio"):
        store = cache.find(folder.parent, "worn", track)
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
    bad = {row for row in range(len(index)) if reader.status[row] != ok}
    assert 0.1 * count < len(bad) < 0.9 * count  # the test is of both kinds
    names = index.clips["clip_id"].iloc[sorted(bad)]
    assert [name for name in names if "-" not in name] == ["link.wav"]
