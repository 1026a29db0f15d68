"""Teachers against the packages of their authors: same random weights, same clips, same machine.

    python -m bench.teachers [--cpu-time] [GROUP ...]

Methods of a group take turns in every round; the fastest round of each counts. "of peak" is the
share of this device's matrix-multiply rate, measured here, that the network's multiply-adds
amount to; "MB" is the most memory a pass takes beyond what was held before it. The packages are
extra `oracles`; without them their rows say so. At the end, four teachers in one extraction
against one extraction each, and against their bare forwards and one decode.
"""

import contextlib
import functools
import importlib
import io
import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import click
import torch

from understudy import audio, datasets, teachers
from understudy.evaluate.memory import peak_mb
from understudy.extract import cluster, plan, prepare, run
from understudy.extract import load as loading
from understudy.teachers.base import Teacher

FOUR = ("passt", "panns", "mule", "discogs")
ROUNDS = {"cpu": 2, "cuda": 5}
CLIP_S = 10.0
DENSE_S = {"cpu": 1.0, "cuda": 10.0}  # of the clip that is cut every 50 ms
RATE_HZ = 44_100
HEAD = f"{'':<42}{'windows':>8}{'windows/s':>11}{'audio-h/h':>11}{'of peak':>9}{'MB':>7}{'ours':>7}"


@dataclass
class Method:
    """One way to embed `windows` windows, which hold `audio_s` of recordings."""

    name: str
    call: Callable[[], Any]
    windows: int
    audio_s: float
    macs: float | None = None
    peak: float = 0.0  # multiply-adds a second


def noise(duration_s: float, rate_hz: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(batch, round(duration_s * rate_hz), generator=generator)


CLOCKS = {"cpu": time.perf_counter, "cuda": time.perf_counter}


def seconds(call: Callable[[], Any], device: str) -> float:
    """Time of one call, the device's work included."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = CLOCKS[device]()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return CLOCKS[device]() - start


def matmul_peak(device: str, dtype: torch.dtype = torch.float32) -> float:
    """Multiply-adds a second of a large product of square matrices."""
    n = 8192 if device == "cuda" else 1536
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return n**3 / min(seconds(lambda: a @ b, device) for _ in range(6))


def compare(title: str, methods: list[Method], device: str) -> Iterator[str]:
    """A line for each method; the first of them is ours."""
    best = [float("inf")] * len(methods)
    with quiet():
        memory = [peak_mb(method.call, device) or math.nan for method in methods]  # and warms up
        for _ in range(ROUNDS[device]):
            for k, method in enumerate(methods):
                best[k] = min(best[k], seconds(method.call, device))
    per_window = [second / method.windows for second, method in zip(best, methods, strict=True)]
    yield f"{title}, {device}"
    for k, method in enumerate(methods):
        share = f"{method.macs / best[k] / method.peak:8.0%}" if method.macs else f"{'':>8}"
        ratio = f"{per_window[k] / per_window[0]:6.2f}x" if k else f"{'':>7}"
        yield (
            f"  {method.name:<40}{method.windows:8}{method.windows / best[k]:11.1f}"
            f"{method.audio_s / best[k]:11.0f} {share}{memory[k]:7.0f}{ratio}"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The packages print what they do, and warn of what others have deprecated."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def hear21passt(ours: Teacher, timings: list[tuple[float, float]], device: str) -> dict | None:
    """Its timestamp path by (window, hop) in seconds, weights ours; None without the package."""
    try:
        with quiet():
            base = importlib.import_module("hear21passt.base")
            made = functools.partial(base.get_model_passt, pretrained=False)
            paths = {}
            with mock.patch.object(base, "get_model_passt", made):
                for window_s, hop_s in timings:
                    model = base.get_basic_model(
                        mode="embed_only",
                        timestamp_window=round(1000 * window_s),
                        timestamp_hop=round(1000 * hop_s),
                    ).to(device)
                    assert ours.network is not None
                    model.net.load_state_dict(ours.network.state_dict())
                    paths[window_s, hop_s] = functools.partial(
                        base.get_timestamp_embeddings, model=model.eval()
                    )
    except ImportError:
        return None
    return paths


def panns_inference(device: str) -> Callable[[torch.Tensor], Any] | None:
    """Its CNN14; None without the package. Its import would run a shell command."""
    with tempfile.TemporaryDirectory() as home:
        labels = Path(home) / "panns_data" / "class_labels_indices.csv"
        labels.parent.mkdir()
        rows = (f"{index},/m/{index},label {index}" for index in range(527))
        labels.write_text("\n".join(["index,mid,display_name", *rows]))
        try:
            with (
                quiet(),
                mock.patch.dict(os.environ, HOME=home),
                mock.patch("os.system", side_effect=AssertionError("ran a shell command")),
            ):
                models = importlib.import_module("panns_inference.models")
        except ImportError:
            return None
    return models.Cnn14(32000, 1024, 320, 64, 50, 14000, 527).eval().to(device)


def precisions(device: str) -> tuple[str, ...]:
    return ("float32", "bfloat16") if device == "cuda" else ("float32",)


def passt(device: str) -> Iterator[str]:
    built = {p: teachers.build("passt", "random", device, precision=p) for p in precisions(device)}
    timings = [(0.16, 0.05), (0.96, 0.96)]
    theirs = hear21passt(built["float32"], timings, device)
    for timing in timings:
        duration_s = DENSE_S[device] if timing[1] < timing[0] else CLIP_S
        clip = noise(duration_s, 32000).to(device)
        windows = built["float32"].centred(clip, *timing).embedding.shape[1]
        columns = (round(100 * timing[0]) + 1 - 16) // 10 + 1
        macs = windows * transformer_macs(columns)
        methods = [
            Method(
                f"ours, {p}",
                functools.partial(teacher.centred, clip, *timing),
                windows,
                duration_s,
                macs,
                matmul_peak(device, getattr(torch, p)),
            )
            for p, teacher in built.items()
        ]
        if theirs is not None:
            call = torch.no_grad()(functools.partial(theirs[timing], clip))
            peak = methods[0].peak
            methods.append(Method("hear21passt", call, windows, duration_s, macs, peak))
        yield from compare(
            "passt, {:g} ms every {:g} ms".format(*(1e3 * t for t in timing)), methods, device
        )
        if theirs is None:
            yield "  hear21passt: not installed (extra oracles)"


def transformer_macs(columns: int) -> float:
    """Of one pass: patches, and twelve blocks whose last one is computed for two tokens only."""
    tokens, dim, patches = 12 * columns + 2, 768, 12 * columns
    full = tokens * 12 * dim**2 + 2 * tokens**2 * dim
    last = tokens * 3 * dim**2 + 2 * 9 * dim**2 + 2 * 2 * tokens * dim
    return patches * 256 * dim + 11 * full + last


def panns(device: str) -> Iterator[str]:
    n_clips = 1 if device == "cpu" else 16
    clips = noise(CLIP_S, 32000, n_clips).to(device)
    macs = n_clips * CLIP_S * teachers.card("panns").macs_per_s
    methods = []
    for p in precisions(device):
        teacher = teachers.build("panns", "random", device, precision=p)
        call, peak = (
            functools.partial(teacher.forward, clips),
            matmul_peak(device, getattr(torch, p)),
        )
        methods.append(Method(f"ours, {p}", call, n_clips, n_clips * CLIP_S, macs, peak))
    theirs = panns_inference(device)
    if theirs is not None:
        call = torch.no_grad()(functools.partial(theirs, clips))
        methods.append(
            Method("panns-inference", call, n_clips, n_clips * CLIP_S, macs, methods[0].peak)
        )
    yield from compare("panns, clips of 10 s", methods, device)
    if theirs is None:
        yield "  panns-inference: not installed (extra oracles)"


def discogs(device: str) -> Iterator[str]:
    """onnxruntime on the file's own batch of 64, filled up, against the open batch."""
    from understudy.teachers import discogs, discogs_stand_in
    from understudy.teachers.onnx_network import OnnxNetwork

    teacher = teachers.build("discogs", "random", device)
    model = discogs_stand_in.model(0)
    output = discogs.expose(model, teacher.card.dim, "stand-in")
    padded = OnnxNetwork(model.SerializeToString(), "stand-in", output, 64, "discogs")
    padded.settle(teacher.card.dim)
    for n in (9, 64):
        patches = teacher.front_end(noise(2.064, 16000, n).to(device))
        macs = n * teacher.card.macs_per_s * CLIP_S / 9
        assert teacher.network is not None
        ways = {"ours, batch left open": teacher.network, "onnxruntime, padded to 64": padded}
        peak = matmul_peak(device)
        methods = [
            Method(name, functools.partial(network, patches), n, n * 0.992, macs, peak)
            for name, network in ways.items()
        ]
        yield from compare(f"discogs (stand-in), network, {n} patches", methods, device)


def mule(device: str) -> Iterator[str]:
    teacher = teachers.build("mule", "random", device)
    clip = noise(CLIP_S, teacher.card.sample_rate).to(device)
    windows = teacher.plan(clip.shape[1]).n
    macs = windows * teacher.card.macs_per_s * 3.015
    call = functools.partial(teacher.embed, clip)
    ours = Method("ours, float32", call, windows, CLIP_S, macs, matmul_peak(device))
    yield from compare("mule, 3 s every 2 s", [ours], device)


def together(device: str) -> Iterator[str]:
    """Four teachers in one extraction, in four, and their forwards and one decode alone."""
    built = {name: teachers.build(name, "random", device) for name in FOUR}
    slots = plan.cores() if device == "cpu" else 1
    n_clips, clip_s = slots if device == "cpu" else 64, CLIP_S
    wanted = {(t.card.sample_rate, t.card.resampler) for t in built.values()}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "clips"
        root.mkdir()
        for k in range(n_clips):
            samples = noise(clip_s, RATE_HZ, seed=k)[0].numpy()
            audio.write(root / f"{k}.flac", samples, RATE_HZ)
        index = datasets.load("folder", root)

        def extract(names: tuple[str, ...]) -> float:
            cache = tempfile.mkdtemp(dir=folder)
            chosen = {name: built[name] for name in names}
            planned = prepare.prepare(index, chosen, cache, audio=False)
            return seconds(functools.partial(run.run, planned, run.Runtime(progress=False)), device)

        index.save(Path(folder) / "index.parquet")
        every = plan.shards(len(index), len(index), {"all": [0]})
        (clips,) = plan.shard_clips(folder, every)

        def bare() -> float:
            """What cannot be saved: each window once through its network, each clip read once."""

            def embed(clip: plan.Clip) -> None:
                loaded = loading.load(clip, wanted, str(root), folder)
                for teacher in built.values():
                    key = teacher.card.sample_rate, teacher.card.resampler
                    teacher.embed(torch.from_numpy(loaded.samples[key][:]))

            def work() -> None:
                with cluster.one_thread(), ThreadPoolExecutor(slots) as pool:
                    list(pool.map(embed, clips))

            return seconds(work, device)

        extract(("discogs",))  # dask is imported
        bare()  # kernels are made
        best: dict[str, float] = dict.fromkeys(("one", "four", "bare"), float("inf"))
        for _ in range(1 if device == "cpu" else 3):
            best["one"] = min(best["one"], extract(FOUR))
            best["four"] = min(best["four"], sum(extract((name,)) for name in FOUR))
            best["bare"] = min(best["bare"], bare())
    yield f"{', '.join(FOUR)}: {n_clips} clips of {clip_s:g} s, {device}"
    for name, label in (
        ("one", "one extraction"),
        ("four", "four extractions"),
        ("bare", "bare forwards and one decode"),
    ):
        yield f"  {label:<40}{best[name]:8.2f} s{best[name] / best['one']:18.2f}x"
    yield f"  one extraction is {best['one'] / best['bare']:.2f}x forwards and decode (target 1.1x)"


GROUPS = {group.__name__: group for group in (passt, panns, discogs, mule, together)}


@click.command()
@click.argument("groups", nargs=-1, type=click.Choice(list(GROUPS)))
@click.option(
    "--cpu-time",
    is_flag=True,
    help="On the CPU one thread, and its processor time: for a machine that others use.",
)
def main(groups: tuple[str, ...], cpu_time: bool) -> None:
    """Print the table, or the GROUPS of it."""
    if cpu_time:
        torch.set_num_threads(1)
        CLOCKS["cpu"] = time.process_time
    clock = "processor time" if cpu_time else "wall time"
    click.echo(f"{clock}, {torch.get_num_threads()} threads on the CPU\n{HEAD}")
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in devices:
        click.echo(f"matrix-multiply peak, {device}: {2 * matmul_peak(device) / 1e9:.0f} GFLOP/s")
        for name in groups or GROUPS:
            for line in GROUPS[name](device):
                click.echo(line)
    if "cuda" not in devices:
        click.echo("cuda: no rows, this machine has no GPU that torch can use")


if __name__ == "__main__":
    main()
