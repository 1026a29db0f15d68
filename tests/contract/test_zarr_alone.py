"""A cache in the hands of somebody who has zarr-python and has never heard of understudy."""

import json
import subprocess
import sys

import numpy as np
from tests import tiny

from understudy import cache

READ = """
import json, sys
import numpy as np
import zarr

result = {}
for path in sys.argv[1:]:
    group = zarr.open_group(path, mode="r")
    ok = {k for k, text in group["status"].attrs["status_codes"].items() if text.startswith("ok")}
    (ok,) = map(int, ok)
    data = next(array for name, array in group.arrays() if name in ("embedding", "pcm"))
    rows = np.flatnonzero(group["status"][:] == ok)
    n_frames = group["n_frames"][:]
    values = np.concatenate([data[row, : n_frames[row]].ravel() for row in rows])
    result[path] = [rows.tolist(), n_frames[rows].tolist(), values.tobytes().hex()]
strangers = [name for name in sys.modules if name.startswith("understudy")]
assert not strangers, strangers
print(json.dumps(result))
"""


def test_zarr_alone_reads_the_same_numbers(tmp_path):
    folder = tiny.make_cache(tmp_path, tiny.index(10), {"framewise": {3: 2}}) / "tiny"
    paths = [str(path) for path in cache.stores(folder)]
    assert len(paths) == 3
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", READ, *paths],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for path, (rows, n_frames, values) in json.loads(done.stdout).items():
        reader = cache.CacheReader(path)
        assert len(rows) == (9 if reader.name == "framewise" else 10)
        data, wanted = reader.gather(rows)
        assert n_frames == wanted.tolist()
        valid = np.concatenate([row[:n].ravel() for row, n in zip(data, n_frames, strict=True)])
        assert values == valid.tobytes().hex()
