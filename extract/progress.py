"""What a run tells: a bar while it goes, a report at its end."""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from tqdm import tqdm


@dataclass(kw_only=True)
class Progress:
    """Work done; sums over shards and tasks. Seconds are busy time of each stage."""

    clips: int = 0
    audio_s: float = 0.0
    read_s: float = 0.0
    infer_s: float = 0.0
    write_s: float = 0.0
    wait_s: float = 0.0  # inference stood still for want of audio
    shards: int = 0

    def __iadd__(self, other: "Progress") -> "Progress":
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))
        return self

    def rounded(self) -> dict[str, float]:
        """All sums, for a record."""
        return {item.name: round(getattr(self, item.name), 3) for item in fields(self)}


def split(done: Progress) -> str:
    """Where the time of the stages went ("read 31 %, infer 64 %, write 5 %")."""
    busy = {"read": done.read_s, "infer": done.infer_s, "write": done.write_s}
    total = sum(busy.values()) or 1.0
    return ", ".join(f"{name} {100 * value / total:.0f} %" for name, value in busy.items())


class Bar:
    """Progress bar on stderr: clips/s, audio-hours per hour and the read/infer/write split."""

    def __init__(self, clips: int, *, show: bool) -> None:
        self._bar = tqdm(
            total=clips,
            unit="clip",
            desc="extract",
            file=sys.stderr,
            disable=not show or not sys.stderr.isatty(),
            dynamic_ncols=True,
        )
        self._done = Progress()
        self._began = time.monotonic()

    def update(self, step: Progress) -> None:
        """Adds the progress of a task."""
        self._done += step
        hours_per_hour = self._done.audio_s / max(time.monotonic() - self._began, 1e-9)
        self._bar.set_postfix_str(
            f"{hours_per_hour:.0f} audio-h/h, {split(self._done)}", refresh=False
        )
        self._bar.update(step.clips)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an extraction did and what its stores hold now."""

    stores: Mapping[str, Path]
    bytes: Mapping[str, int]
    n_clips: int
    n_failed: int
    reasons: Counter[str] = field(default_factory=Counter)
    clipped_samples: int = 0
    clipped_clips: int = 0
    memory_back_offs: int = 0
    ledger: Path
    done: Progress
    wall_s: float

    def lines(self) -> Iterable[str]:
        """The report for a terminal."""
        if self.done.shards == 0:
            yield "everything was extracted already; nothing to do"
        yield f"{self.n_clips} clips: {self.n_clips - self.n_failed} ok, {self.n_failed} failed"
        for reason, count in self.reasons.most_common():
            yield f"  {count} x {reason}"
        if self.n_failed:
            yield f"  each of them in {self.ledger}"
        if self.done.shards:
            waited = self.done.wait_s / max(self.done.wait_s + self.done.infer_s, 1e-9)
            yield (
                f"{self.done.clips / self.wall_s:.1f} clips/s, "
                f"{self.done.audio_s / self.wall_s:.0f} audio-hours per hour; {split(self.done)}; "
                f"inference waited {100 * waited:.0f} % of its time for audio"
            )
        if self.clipped_samples:
            yield f"{self.clipped_samples} samples clipped to int16, in {self.clipped_clips} clips"
        if self.memory_back_offs:
            yield (
                f"memory ran out {self.memory_back_offs} times and batches were halved: those "
                "shards may differ in the last bit from a run without"
            )
        width = max(map(len, self.stores))
        for name, path in self.stores.items():
            yield f"{name:<{width}}  {size(self.bytes[name]):>9}  {path}"


def size(n_bytes: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"
