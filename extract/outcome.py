"""What the end of a run tells: failures from the commit records, provenance, the report."""

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from understudy import audio, cache
from understudy.cache import places
from understudy.cache.files import read_json
from understudy.cache.store import Store
from understudy.errors import CacheError
from understudy.extract import ledger
from understudy.extract.prepare import Extraction
from understudy.extract.progress import Progress, Report
from understudy.extract.session import Runtime

COUNTED = ("clipped_samples", "clipped_clips", "memory_back_offs")  # notes of commit records


def records(planned: Extraction) -> dict[str, list[dict[str, Any]]]:
    """What the end of a run tells of all commit records of a dataset, by the store's folder name;
    without failures of clips that the dataset no longer has."""
    result = {}
    for path in cache.stores(planned.dataset_dir):
        store = Store.open(path)
        shards = range(min(store.n_shards, planned.n_shards))
        found = places.spread(path, partial(_told, store), shards)
        result[path.name] = [record for record in found if record is not None]
    records = [record for found in result.values() for record in found]
    failed = {failure["clip_id"] for record in records for failure in record["failures"]}
    clip_ids = planned.index.clips["clip_id"]
    known = set(clip_ids[clip_ids.isin(list(failed))])
    for record in records:
        record["failures"] = [each for each in record["failures"] if each["clip_id"] in known]
    return result


def _told(store: Store, shard: int) -> dict[str, Any] | None:
    """What the end of a run tells of a commit record; None without one."""
    try:
        record = read_json(store.record_path(shard))
    except CacheError:
        return None
    notes = record.get("notes", {})
    return {
        "failures": record.get("failures", []),
        "bytes": sum(file["bytes"] for file in record["files"].values()),
        "notes": {name: notes.get(name, 0) for name in COUNTED},
        "short": notes.get("short", {}),
    }


def provenance(
    planned: Extraction, runtime: Runtime, done: Progress, wall_s: float
) -> dict[str, Any]:
    packages = ("understudy", "numpy", "torch", "zarr", "distributed")
    return {
        "run_id": planned.job.run_id,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in packages},
            **audio.provenance(),
        },
        "device": planned.job.device,
        "batch_windows": planned.job.batch_windows,
        "workers": runtime.scheduler or runtime.workers,
        "wall_s": round(wall_s, 3),
        **{f"run_{name}": value for name, value in done.rounded().items()},
    }


def report(
    planned: Extraction,
    records: Mapping[str, list[dict[str, Any]]],
    done: Progress,
    wall_s: float,
) -> Report:
    mine = {name: records[path.name] for name, path in planned.stores.items()}
    failed = ledger.lines(mine)
    notes: Counter[str] = Counter()
    short: dict[str, Sequence[float]] = {}
    for record in (record for shards in mine.values() for record in shards):
        notes.update(record["notes"])
        short |= record["short"]
    return Report(
        stores=planned.stores,
        bytes={name: sum(record["bytes"] for record in shards) for name, shards in mine.items()},
        n_clips=planned.job.n_clips,
        n_failed=len({line.clip_id for line in failed}),
        n_fileless=ledger.fileless(failed),
        reasons=ledger.reasons(failed),
        short=short,
        ledger=planned.dataset_dir / ledger.FILE,
        done=done,
        wall_s=wall_s,
        **notes,
    )
