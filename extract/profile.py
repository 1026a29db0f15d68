"""CACHE/<dataset>/profile.json: how fast each run was, and where its time went."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from understudy.cache import Place
from understudy.cache.files import read_json, write_json
from understudy.errors import CacheError

FILE = "profile.json"
KEPT = 50  # runs


def add(dataset_dir: Place, provenance: Mapping[str, Any]) -> None:
    """Adds a run; `provenance` is what its stores keep of it."""
    runs: list[Any] = []
    with suppress(CacheError):
        runs = list(read_json(dataset_dir / FILE).get("runs", []))
    wall_s = max(provenance["wall_s"], 1e-9)
    busy = {stage: provenance[f"run_{stage}_s"] for stage in ("read", "infer", "write")}
    total = sum(busy.values()) or 1.0
    rates = {
        "clips_per_s": round(provenance["run_clips"] / wall_s, 3),
        "audio_hours_per_hour": round(provenance["run_audio_s"] / wall_s, 3),
        "split": {stage: round(value / total, 4) for stage, value in busy.items()},
    }
    write_json(dataset_dir / FILE, {"runs": [*runs, {**provenance, **rates}][-KEPT:]})
