"""A cached dataset so small that a student trains on it in a second: audio track and two teachers.

Nothing is extracted: the stores are written directly, with embeddings that know the labels.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from understudy import cache, schema, timing
from understudy.index import ClipIndex

RATE_HZ = 16_000
DIM = 6
LABELS = ("low", "middle", "high")
TEACHERS = {"framewise": (1.0, 0.5), "clipwise": ("clip", 1.0)}
QUICK = {
    "student": {"width": 4},
    "optim": {"batch": 4, "lr": 3e-3, "max_epochs": 3},
    "threads": 1,
}
"""Settings of a run of a few seconds."""


def index(n_clips: int = 18, task: str = "multi-label", seed: int = 0) -> ClipIndex:
    """Clips of 2 to 6 s in five folds, two thirds of them also in split train."""
    rng = np.random.default_rng(seed)
    samples = rng.integers(2 * RATE_HZ, 6 * RATE_HZ, n_clips)
    classes = np.arange(n_clips) % len(LABELS)
    clips = pd.DataFrame(
        {
            "clip_id": [f"clip{i:03d}" for i in range(n_clips)],
            "path": [f"clip{i:03d}.wav" for i in range(n_clips)],
            "duration_s": samples / RATE_HZ,
            "fold": np.arange(n_clips) % 5 + 1,
            "split": [("train", "train", "train", "train", "valid", "test")[i // 3 % 6]
                      for i in range(n_clips)],
        }
    )  # fmt: skip
    labels = np.where(classes[:, None] == np.arange(len(LABELS)), 1, -1)
    return ClipIndex(
        name="tiny",
        clips=clips,
        labels=labels if task == "multi-label" else classes,
        label_names=LABELS,
        root=Path("absent"),
    )


def samples_of(clips: ClipIndex, row: int) -> np.ndarray:
    """int16 (sample,): a tone whose pitch tells the label, and noise."""
    n_samples = round(float(clips.clips["duration_s"].to_numpy()[row]) * RATE_HZ)
    labels = clips.labels[row]
    kind = int(np.argmax(labels)) if clips.labels.ndim == 2 else int(labels)
    rng = np.random.default_rng((1, row))
    tone = np.sin(2 * np.pi * (200, 900, 4000)[kind] * np.arange(n_samples) / RATE_HZ)
    return (3000 * tone + 300 * rng.standard_normal(n_samples)).astype(np.int16)


def make_cache(
    folder: Path, clips: ClipIndex, status: dict[str, dict[int, int]] | None = None
) -> Path:
    """Writes FOLDER/<name> with index, audio and the stores of `TEACHERS`; returns FOLDER.

    Args:
        folder: The cache.
        clips: What `index` made.
        status: Track name to {row: status code} of clips that are not ok.
    """
    dataset_dir = folder / clips.name
    dataset_dir.mkdir(parents=True, exist_ok=True)
    clips.save(dataset_dir / "index.parquet")
    n = len(clips)
    rows = [samples_of(clips, row) for row in range(n)]
    lengths = np.array([len(row) for row in rows])
    identity = {"sample_rate": RATE_HZ, "resampler": "soxr_hq"}
    track = cache.Track(
        kind="audio", name="audio", dtype="int16", max_frames=int(lengths.max()), identity=identity
    )
    pcm = np.zeros((n, track.max_frames), np.int16)
    for row, samples in enumerate(rows):
        pcm[row, : len(samples)] = samples
    _write(dataset_dir, track, clips, pcm, lengths, None, (status or {}).get("audio", {}))
    for number, (name, (window_s, hop_s)) in enumerate(TEACHERS.items()):
        plans = [timing.plan_windows(int(k), RATE_HZ, window_s, hop_s) for k in lengths]
        track = cache.Track(
            kind="embedding",
            name=name,
            dtype="float16",
            max_frames=max(plan.n for plan in plans),
            dim=DIM,
            identity={
                **identity,
                "dim": DIM,
                "version": "1",
                "weights_sha256": "none",
                "front_end": "none",
                "window_s": window_s,
                "hop_s": hop_s,
                "precision": "float32",
            },
        )
        data = np.full((n, track.max_frames, DIM), np.nan, np.float16)
        level_db = np.full(data.shape[:2], np.nan, np.float16)
        for row, plan in enumerate(plans):
            rng = np.random.default_rng((number, row))
            data[row, : plan.n] = rng.standard_normal((plan.n, DIM)) + 3 * (row % len(LABELS))
            level_db[row, : plan.n] = -20
        n_frames = np.array([plan.n for plan in plans])
        _write(dataset_dir, track, clips, data, n_frames, level_db, (status or {}).get(name, {}))
    return folder


def _write(dataset_dir, track, clips, data, n_frames, level_db, bad) -> None:
    columns = (clips.clips[name] for name in ("clip_id", "start_s", "duration_s"))
    keys = np.array([cache.clip_key(*clip) for clip in zip(*columns, strict=True)], np.uint64)
    status = np.full(len(clips), schema.load().code("ok"), np.uint8)
    for row, code in bad.items():
        status[row] = code
    writer = cache.StoreWriter.open_or_create(dataset_dir, track, len(clips), 7)
    for shard in range(writer.n_shards):
        part = slice(writer.rows(shard).start, writer.rows(shard).stop)
        payload = cache.ShardPayload(
            data=data[part],
            n_frames=n_frames[part].astype(np.uint32),
            status=status[part],
            clip_key=keys[part],
            level_db=None if level_db is None else level_db[part],
        )
        writer.write_shard(shard, payload, {"run_id": "tiny"})
    writer.finalise({})
