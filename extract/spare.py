"""A spare process that works on one clip after the other, to find those that kill or stall it.

Nothing of what it computes is kept: shards are extracted again without the clips that it names.
It ends when the process that started it does, whatever it hangs at.
"""

import os
import pickle
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace

import numpy as np

from understudy.cache import clip_keys
from understudy.errors import CacheError, UnderstudyError
from understudy.extract.forward import FATAL
from understudy.extract.load import load
from understudy.extract.plan import Failure, Job, Shard, shard_clips
from understudy.extract.shard import ShardTrack
from understudy.extract.worker import Stopped, audio_of, computers
from understudy.index import ClipIndex

DONE, UNFIT = "done", "unfit"
START_S = 300.0  # patience with a process that imports torch and builds teachers
LOOK_S = 0.2  # between two looks whether to stop
EXIT_S = 30.0  # patience with a process that has said its last
STATUS = "worker_lost"


def culprits(
    job: Job,
    shards: Sequence[Shard],
    stop: Callable[[], bool] = lambda: False,
    suspects: Mapping[int, Iterable[int]] | None = None,
) -> list[Shard]:
    """The shards with `refused`: the rows on which a process died, ran out of memory or stalled.

    Args:
        job: The run's constants.
        shards: The index that lists their clips is saved.
        stop: Asked now and then whether to stop.
        suspects: Rows to try by the shard's number; all of all shards by default.

    Raises:
        CacheError: The process does not even start.
        Stopped: `stop` said so.
    """
    refused = [dict(shard.refused) for shard in shards]
    work = [
        (at, row)
        for at, shard in enumerate(shards)
        for row in sorted(range(len(shard.rows)) if suspects is None else suspects[shard.number])
        if row not in refused[at]
    ]
    while work and (found := _run(job, shards, work, stop)):
        tried, reason = found
        at, row = work[tried]
        refused[at][row] = Failure(status=STATUS, reason=reason)
        work = work[tried + 1 :]
    return [
        replace(shard, refused=tuple(sorted(rows.items())))
        for shard, rows in zip(shards, refused, strict=True)
    ]


def tried(
    job: Job, index: ClipIndex, shards: list[Shard], keys: Set[int], say: Callable[[str], None]
) -> list[Shard]:
    """The shards, refusing those clips that end a process.

    Args:
        job: The run's constants.
        index: The dataset, as it is saved.
        shards: What is pending, in order.
        keys: Of the clips that processes had in hand when they died; others are not tried.
        say: Is told of the trial and its outcome.
    """
    named = clip_keys(*(index.clips[name] for name in ("clip_id", "start_s", "duration_s")))
    pending = {shard.number: at for at, shard in enumerate(shards)}
    suspects: dict[int, list[int]] = {}
    for row in np.flatnonzero(np.isin(named, np.array(list(keys), np.uint64))).tolist():
        number, slot = divmod(row, job.clips_per_shard)
        if number in pending:
            suspects.setdefault(number, []).append(slot)
    if not suspects:
        return shards
    clips, among = sum(map(len, suspects.values())), len(suspects)
    say(
        f"an earlier run died while it worked on {clips} clip{'s' * (clips > 1)} of {among} "
        f"shard{'s' * (among > 1)}: tried one by one in a spare process"
    )
    try:
        found = culprits(job, [shards[pending[number]] for number in suspects], suspects=suspects)
    except CacheError as error:
        say(f"{error}; the shards are extracted as they are")
        return shards
    for shard in found:
        if shard.refused:
            say(verdict(job, shard))
    if not any(shard.refused for shard in found):
        say("each of them runs alone: the shards are extracted as they are")
    refusing = {shard.number: shard for shard in found}
    return [refusing.get(shard.number, shard) for shard in shards]


def verdict(job: Job, shard: Shard) -> str:
    """What `culprits` found, for people."""
    (clips,) = shard_clips(job.dataset_dir, [shard])
    names = [clips[row].path for row, _ in shard.refused]
    found = f"without {', '.join(names)}" if names else "as it is: each clip runs alone"
    return f"shard {shard.number} is extracted {found}"


def _run(
    job: Job, shards: Sequence[Shard], work: list[tuple[int, int]], stop: Callable[[], bool]
) -> tuple[int, str] | None:
    """The first of `work`, (shard, row), that ends the process, and how it ended."""
    ours, theirs = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "understudy.extract.spare", str(theirs)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[theirs],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    os.close(theirs)
    at: int | None = None

    def patience_s() -> float:
        return START_S if at is None else job.limit_s

    assert process.stdin is not None
    try:
        with suppress(BrokenPipeError):
            pickle.dump((job, shards, work), process.stdin)
            process.stdin.flush()  # and left open: its end is the end of this process
        for line in _lines(ours, stop, patience_s):
            word, _, said = line.partition(" ")
            if word == DONE:
                return None
            if word == UNFIT:
                raise CacheError(f"clips cannot be run apart: {said}")
            at = int(word)
            if said:
                return at, said
        with suppress(subprocess.TimeoutExpired):
            process.wait(EXIT_S)
    except TimeoutError as error:
        if at is not None:
            return at, str(error)
    finally:
        os.close(ours)
        process.kill()
        process.wait()
        with suppress(BrokenPipeError):
            process.stdin.close()
    how = _ended(process.returncode)
    if at is None:
        raise CacheError(f"clips cannot be run apart: the process for that {how}")
    return at, f"the process that worked on it {how}"


def _lines(handle: int, stop: Callable[[], bool], patience_s: Callable[[], float]) -> Iterator[str]:
    """Lines as they come; TimeoutError where none comes for `patience_s()`."""
    rest, since = b"", time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(handle, selectors.EVENT_READ)
        while True:
            if stop():
                raise Stopped
            if not selector.select(LOOK_S):
                if time.monotonic() - since > (limit_s := patience_s()):
                    raise TimeoutError(f"no sign of life for {limit_s:g} s")
                continue
            if not (data := os.read(handle, 1 << 16)):
                return
            since = time.monotonic()
            *lines, rest = (rest + data).split(b"\n")
            yield from (line.decode() for line in lines)


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    by = signal.Signals(-code).name
    return f"was ended by {by}" + ("; memory may have run out" * (by == "SIGKILL"))


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing comes but the end
    os._exit(1)


def main(handle: int) -> None:
    """The spare process: reads its work, names each piece before it starts on it."""
    with os.fdopen(handle, "w", buffering=1) as say:
        job, shards, work = pickle.load(sys.stdin.buffer)  # from the process that started this one
        threading.Thread(target=_end_with_parent, daemon=True).start()
        names = {name for shard in shards for name in shard.tracks}
        jobs = {item.track.name: item for item in job.tracks if item.track.name in names}
        try:
            computing = computers(jobs.values(), job.device)
        except UnderstudyError as error:
            say.write(f"{UNFIT} {error}\n")
            return
        wanted = audio_of(jobs.values())
        clips = shard_clips(job.dataset_dir, shards)
        for number, (at, row) in enumerate(work):
            clip = clips[at][row]

            def beat(number: int = number) -> None:
                say.write(f"{number}\n")

            beat()
            try:
                loaded = load(clip, wanted, job.root, job.scratch)
                for name in shards[at].tracks:
                    part = ShardTrack(jobs[name], computing[name], [clip], job.batch_windows, beat)
                    part.add(0, loaded)
                    part.finish()
            except (MemoryError, *FATAL) as error:
                text = " ".join(str(error).split())[:200]
                say.write(f"{number} {type(error).__name__}: {text}\n")
                return
            except UnderstudyError:
                break  # none of a clip's making; the extraction meets it again
        say.write(f"{DONE}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
