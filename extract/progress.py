"""What a run counts, and what it reports at its end."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice

from understudy.cache import Place

SHOWN = 3  # clips that a report names of a kind


@dataclass(kw_only=True)
class Progress:
    """Work done; sums over shards and tasks. Seconds are busy time of each stage."""

    clips: int = 0
    failed: int = 0  # clips of committed shards that some track lacks
    audio_s: float = 0.0
    read_s: float = 0.0
    infer_s: float = 0.0
    write_s: float = 0.0
    wait_s: float = 0.0  # inference stood still for want of audio
    shards: int = 0
    gpu_busy_s: float = 0.0  # as NVML has it, of `gpu_seen_s` of all workers' GPUs
    gpu_seen_s: float = 0.0

    def __iadd__(self, other: "Progress") -> "Progress":
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))
        return self

    def rounded(self) -> dict[str, float]:
        """All sums, for a record."""
        return {item.name: round(getattr(self, item.name), 3) for item in fields(self)}


def gpu_share(done: Progress) -> str:
    """How busy GPUs were ("87 %"); empty where nothing could be seen."""
    return f"{100 * done.gpu_busy_s / done.gpu_seen_s:.0f} %" if done.gpu_seen_s else ""


def split(done: Progress) -> str:
    """Where the time of the stages went ("read 31 %, infer 64 %, write 5 %")."""
    busy = {"read": done.read_s, "infer": done.infer_s, "write": done.write_s}
    total = sum(busy.values()) or 1.0
    return ", ".join(f"{name} {100 * value / total:.0f} %" for name, value in busy.items())


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an extraction did and what its stores hold now."""

    stores: Mapping[str, Place]
    bytes: Mapping[str, int]
    n_clips: int
    n_failed: int
    n_fileless: int
    """Of those that failed, because their file is missing."""
    reasons: Counter[str] = field(default_factory=Counter)
    short: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Path of a clip that is ok -> seconds decoded, seconds promised by its header."""
    clipped_samples: int = 0
    clipped_clips: int = 0
    memory_back_offs: int = 0
    ledger: Place
    done: Progress
    wall_s: float

    def lines(self) -> Iterable[str]:
        """The report for a terminal."""
        if self.done.shards == 0:
            yield "everything was extracted already; nothing to do"
        fileless = f", {self.n_fileless} of them without a file" * (self.n_fileless > 0)
        yield (
            f"{self.n_clips} clips: {self.n_clips - self.n_failed} ok, {self.n_failed} failed"
            f"{fileless}"
        )
        for reason, count in self.reasons.most_common():
            yield f"  {count} x {reason}"
        if self.n_failed:
            yield f"  each of them in {self.ledger}; --retry-failed tries them again"
        if self.short:
            some = ", ".join(
                f"{path} ({found:g} of {promised:g} s)"
                for path, (found, promised) in islice(self.short.items(), SHOWN)
            )
            more = f" and {len(self.short) - SHOWN} more" * (len(self.short) > SHOWN)
            yield f"ok, but shorter than the header promises: {some}{more}"
        if self.done.shards:
            waited = self.done.wait_s / max(self.done.wait_s + self.done.infer_s, 1e-9)
            yield (
                f"{self.done.clips / self.wall_s:.1f} clips/s, "
                f"{self.done.audio_s / self.wall_s:.0f} audio-hours per hour; {split(self.done)}; "
                f"inference waited {100 * waited:.0f} % of its time for audio"
                + (f"; GPUs busy {share}" if (share := gpu_share(self.done)) else "")
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
