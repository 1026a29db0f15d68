"""CACHE/<dataset>/ledger.csv: every clip that is not ok, and why.

Derived from the commit records, which are written with the shards: nothing is lost in a kill.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from understudy import audio
from understudy.cache import Place
from understudy.cache.files import write_atomic

FILE = "ledger.csv"
COLUMNS = ("clip_id", "path", "track", "status", "reason", "store")
Records = Mapping[str, Iterable[Mapping[str, Any]]]  # by store name


@dataclass(frozen=True, kw_only=True)
class Line:
    """One clip missing from one store; two stores of one teacher share the `track`."""

    clip_id: str
    path: str
    track: str
    status: str
    reason: str
    store: str


def lines(records: Records) -> list[Line]:
    """Ledger of commit records, in the order of stores, shards and rows."""
    return [
        Line(track=store.rpartition("-")[0], store=store, **failure)
        for store, shards in records.items()
        for record in shards
        for failure in record.get("failures", ())
    ]


def reasons(found: Iterable[Line]) -> Counter[str]:
    """How many clips fail for each reason; a clip missing from two tracks for one counts once."""
    return Counter(reason for _, reason in {(line.clip_id, line.reason) for line in found})


def fileless(found: Iterable[Line]) -> int:
    """How many clips fail because their file is missing."""
    return len({line.clip_id for line in found if line.reason.startswith(audio.MISSING)})


def save(dataset_dir: Place, records: Records) -> None:
    """Writes the ledger of commit records, atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(line, name) for name in COLUMNS] for line in lines(records))
    write_atomic(dataset_dir / FILE, text.getvalue().encode())
