"""Random batches of clips out of an object store whose every answer takes its time.

A server of a folder on this machine, that waits before each answer, stands in for S3: its latency
is set, its throughput is this machine's. All readers go through the same server, take turns, read
other rows in each round, and count by their median. Run: python -m bench.remote
"""

import contextlib
import functools
import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path

import click
import numpy as np
import zarr

from bench.reads import payload, track
from understudy import cache
from understudy.cache.objects import ObjectPath

FRAMES, DIM = 30, 768
Read = Callable[[np.ndarray, np.ndarray], object]


class Handler(BaseHTTPRequestHandler):
    """Answers GET, of ranges too, and HEAD as S3 does."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, *args: object, folder: Path, delay_s: float) -> None:
        self._folder, self._delay_s = folder, delay_s
        super().__init__(*args)  # type: ignore[arg-type]

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        """See the class."""
        time.sleep(self._delay_s)
        path = self._folder / self.path.partition("?")[0].lstrip("/")
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        size, changed = path.stat().st_size, path.stat().st_mtime
        start, stop = 0, size
        if found := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            first, last = found.groups()
            start = int(first) if first else max(0, size - int(last))
            stop = min(size, int(last) + 1) if first and last else size
        self.send_response(206 if found else 200)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Last-Modified", formatdate(changed, usegmt=True))
        self.send_header("ETag", f'"{changed}"')
        if found:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.end_headers()
        if self.command == "GET":
            with path.open("rb") as file:
                file.seek(start)
                self.wfile.write(file.read(stop - start))

    do_HEAD = do_GET


class Server(ThreadingHTTPServer):
    """Takes as many connections at once as there may be requests."""

    request_queue_size = 128


def _serve(folder: Path, delay_s: float, told: Connection) -> None:
    handler = functools.partial(Handler, folder=folder, delay_s=delay_s)
    with Server(("127.0.0.1", 0), handler) as server:
        told.send(server.server_port)
        server.serve_forever()


@contextlib.contextmanager
def serving(folder: Path, delay_s: float) -> Iterator[str]:
    """Address of a server of `folder`, whose folders are buckets, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(folder, delay_s, there), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{here.recv()}"
    finally:
        process.kill()
        process.join()


def make(dataset_dir: Path, data: np.ndarray, clips_per_shard: int) -> str:
    """Writes a store of `data` (clip, frame, channel); its name."""
    writer = cache.StoreWriter.open_or_create(
        dataset_dir, track(FRAMES, DIM), len(data), clips_per_shard
    )
    for shard in range(writer.n_shards):
        rows = writer.rows(shard)
        writer.write_shard(shard, payload(data[rows.start : rows.stop], rows), {})
    writer.finalise({})
    return writer.path.name


def readers(store: ObjectPath) -> dict[str, Callable[[], Read]]:
    """Name to what opens a reader, a function of (rows, out)."""

    def gather() -> Read:
        reader = cache.CacheReader(store)
        return lambda rows, out: reader.gather(rows, out=out)

    def by_zarr() -> Read:
        array = zarr.open_array((store / "embedding").zarr_store(), mode="r")

        def read(rows: np.ndarray, out: np.ndarray) -> None:
            out[:] = array.oindex[rows]

        return read

    def one_by_one() -> Read:
        """What one knows without an index: where a clip lies; no checksums."""
        size = cache.CacheReader(store).store.sizes["clips_per_shard"]
        n_bytes = FRAMES * DIM * 2

        def read(rows: np.ndarray, out: np.ndarray) -> None:
            for into, row in enumerate(rows.tolist()):
                at = row % size * (n_bytes + 4)
                path = store / f"embedding/c/{row // size}/0/0"
                part = np.frombuffer(path.read(at, at + n_bytes), np.float16)
                out[into] = part.reshape(FRAMES, DIM)

        return read

    return {
        "CacheReader.gather": gather,
        "zarr-python oindex": by_zarr,
        "a range after the other": one_by_one,
    }


def measure(store: ObjectPath, data: np.ndarray, batch: int, rounds: int, later: int) -> None:
    """Prints ms/batch: the first of a reader, and those after it."""
    rng = np.random.default_rng(batch)
    out = np.empty((batch, FRAMES, DIM), np.float16)
    makers = readers(store)
    first: dict[str, list[float]] = {name: [] for name in makers}
    after: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(rounds):
        batches = rng.integers(0, len(data), (1 + later, batch))
        for name, maker in makers.items():
            began = time.perf_counter()
            read = maker()
            for number, rows in enumerate(batches):
                read(rows, out)
                ended = time.perf_counter()
                (after if number else first)[name].append(ended - began)
                np.testing.assert_array_equal(out, data[rows])
                began = time.perf_counter()
    click.echo(f"{batch} random clips{'opening and first':>29}{'later':>10}   ms/batch, median")
    base = np.median(after["CacheReader.gather"])
    for name in makers:
        opening, rest = np.median(first[name]) * 1e3, np.median(after[name]) * 1e3
        click.echo(f"{name:<28}{opening:>14.0f}{rest:>10.0f}   ({rest / base / 1e3:.1f} x)")


@click.command()
@click.option("--clips", default=4096, show_default=True)
@click.option("--clips-per-shard", default=512, show_default=True)
@click.option("--latency-ms", default=20.0, show_default=True)
@click.option("--batch", "batches", default=(16, 64), show_default=True, multiple=True)
@click.option("--rounds", default=3, show_default=True, help="Readers opened of each kind.")
@click.option("--later", default=5, show_default=True, help="Batches of each after its first.")
def main(
    clips: int,
    clips_per_shard: int,
    latency_ms: float,
    batches: tuple[int, ...],
    rounds: int,
    later: int,
) -> None:
    """Print milliseconds per batch at an emulated latency."""
    rng = np.random.default_rng(0)
    data = rng.standard_normal((clips, FRAMES, DIM), np.float32).astype(np.float16)
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        name = make(Path(folder, "bucket"), data, clips_per_shard)
        with serving(Path(folder), latency_ms / 1e3) as url:
            os.environ.update(AWS_ENDPOINT_URL=url, AWS_SKIP_SIGNATURE="true", AWS_REGION="none")
            click.echo(
                f"{clips} clips of {FRAMES} x {DIM} float16, {clips_per_shard} a shard; "
                f"{latency_ms:.0f} ms before each answer"
            )
            for batch in batches:
                measure(ObjectPath("s3://bucket", name), data, batch, rounds, later)


if __name__ == "__main__":
    main()
