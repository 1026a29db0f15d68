"""Other implementations of Zarr v3 read the bytes that CacheReader reads, and the other way round.

zarr-python itself: test_cache_contract.py.

Each runs in a process of its own: tensorstore's threads do not survive a fork, and the codec
pipeline of zarrs is a setting of the whole process.
"""

import hashlib
import importlib.util
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import zarr
from tests import stores
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from understudy import cache

READ = """
import hashlib, json, sys
import numpy as np

reader, *paths = sys.argv[1:]
if reader == "zarrs":
    import zarr, zarrs
    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline",
                     "codec_pipeline.strict": True})
    def read(path):
        array = zarr.open_array(path, mode="r")
        assert type(array._async_array.codec_pipeline).__name__ == "ZarrsCodecPipeline"
        return array[:]
else:
    import tensorstore
    def read(path):
        kvstore = {"driver": "file", "path": path}
        return tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, open=True).result()[...] \\
            .read().result()
print(json.dumps({path: hashlib.sha256(np.ascontiguousarray(read(path)).tobytes()).hexdigest()
                  for path in paths}))
"""

WRITERS = {"embedding": "embedding", "audio": "pcm"}


def read_by(reader: str, paths: list[str]) -> dict[str, str]:
    """sha256 of each array's values, read by another implementation."""
    if importlib.util.find_spec(reader) is None:
        pytest.skip(f"{reader} is not installed")
    done = subprocess.run(
        [sys.executable, "-I", "-c", READ, reader, *paths],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("reader", ["zarrs", "tensorstore"])
def test_others_read_the_same_bytes(tmp_path, reader):
    """Every array of dense and concat stores, edge shards and failed clips among them."""
    wanted = {}
    for kind, data in WRITERS.items():
        for layout in ("dense", "concat"):
            track = stores.track(kind, layout=layout)
            path, held = stores.make(tmp_path / layout, track)
            opened = cache.CacheReader(path)
            assert opened._foreign is None
            gathered, n_frames = opened.gather(range(10), missing="nan")
            np.testing.assert_array_equal(gathered, held.data)
            values = {name: opened.store.read(name) for name in opened.store.kind.arrays}
            if layout == "dense":
                values[data] = gathered
            else:
                spans = [clip[:n] for clip, n in zip(gathered, n_frames, strict=True)]
                array = opened.store.arrays[data]
                fill = opened.store.data.fill_value
                values[data] = np.full(array["shape"], fill, opened.dtype)
                for first, span in zip(values["offset"].astype(int), spans, strict=True):
                    values[data][first : first + len(span)] = span
            for name, array in values.items():
                digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
                wanted[str(path / name)] = digest
    assert read_by(reader, list(wanted)) == wanted


CHAINS = {
    "zstd": {"compressors": ZstdCodec(level=3)},
    "blosc": {"compressors": BloscCodec(cname="lz4", shuffle="bitshuffle", typesize=2)},
    "gzip": {"compressors": GzipCodec()},
    "plain": {"compressors": None},
}


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("chain", CHAINS)
def test_stores_of_other_codecs_read_the_same(tmp_path, chain, sharded):
    """What a user of zarr-python made of a store is read through zarr-python."""
    path, held = stores.make(tmp_path, stores.track())
    array: Any = zarr.open_array(path / "embedding", mode="r")
    values, names = array[:], array.metadata.dimension_names
    tail = values.shape[1:]
    with zarr.config.set({"array.write_empty_chunks": True}):
        new = zarr.create_array(
            path / "embedding",
            shape=values.shape,
            dtype=values.dtype,
            chunks=(1, *tail),
            shards=(4, *tail) if sharded else None,
            fill_value=float("nan"),
            dimension_names=names,
            overwrite=True,
            **CHAINS[chain],
        )
        new[:] = values
    reader = stores.foreign_reader(path, held)
    part, _ = reader.gather([9, 5], frames=([2, 0], 3))
    np.testing.assert_array_equal(part, np.stack([held.data[9, 2:5], held.data[5, :3]]))
