"""A spare process that works on one clip after the other, to find those that kill or stall it.

Nothing of what it computes is kept: the shard is extracted again without the clips that it names.
"""

import os
import pickle
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace

from understudy.errors import CacheError, UnderstudyError
from understudy.extract.forward import FATAL
from understudy.extract.load import load
from understudy.extract.plan import Failure, Job, Shard, shard_clips
from understudy.extract.shard import ShardTrack
from understudy.extract.worker import Stopped, audio_of, computers

DONE, UNFIT = "done", "unfit"
START_S = 300.0  # patience with a process that imports torch and builds teachers
LOOK_S = 0.2  # between two looks whether to stop
EXIT_S = 30.0  # patience with a process that has said its last
STATUS = "worker_lost"


def culprits(
    job: Job,
    shard: Shard,
    stop: Callable[[], bool] = lambda: False,
    suspects: Iterable[int] | None = None,
) -> Shard:
    """The shard with `refused`: the rows on which a process died, ran out of memory or stalled.

    Args:
        job: The run's constants.
        shard: Its index is saved.
        stop: Asked now and then whether to stop.
        suspects: Rows of the shard to try; all by default.

    Raises:
        CacheError: The process does not even start.
        Stopped: `stop` said so.
    """
    refused = dict(shard.refused)
    rows = range(len(shard.rows)) if suspects is None else sorted(suspects)
    rows = [row for row in rows if row not in refused]
    while rows and (found := _run(job, shard, rows, stop)):
        row, reason = found
        refused[row] = Failure(status=STATUS, reason=reason)
        rows = rows[rows.index(row) + 1 :]
    return replace(shard, refused=tuple(sorted(refused.items())))


def verdict(job: Job, shard: Shard) -> str:
    """What `culprits` found, for people."""
    (clips,) = shard_clips(job.dataset_dir, [shard])
    names = [clips[row].path for row, _ in shard.refused]
    found = f"without {', '.join(names)}" if names else "as it is: each clip runs alone"
    return f"shard {shard.number} is extracted {found}"


def _run(
    job: Job, shard: Shard, rows: list[int], stop: Callable[[], bool]
) -> tuple[int, str] | None:
    """The first of the rows that ends the process, and how it ended."""
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
    row: int | None = None

    def patience_s() -> float:
        return START_S if row is None else job.limit_s

    try:
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin as pipe:
            pickle.dump((job, shard, rows), pipe)
        for line in _lines(ours, stop, patience_s):
            word, _, said = line.partition(" ")
            if word == DONE:
                return None
            if word == UNFIT:
                raise CacheError(f"clips cannot be run apart: {said}")
            row = int(word)
            if said:
                return row, said
        with suppress(subprocess.TimeoutExpired):
            process.wait(EXIT_S)
    except TimeoutError as error:
        if row is not None:
            return row, str(error)
    finally:
        os.close(ours)
        process.kill()
        process.wait()
    how = _ended(process.returncode)
    if row is None:
        raise CacheError(f"clips cannot be run apart: the process for that {how}")
    return row, f"the process that worked on it {how}"


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


def main(handle: int) -> None:
    """The spare process: reads its work, names each row before it starts on it."""
    with os.fdopen(handle, "w", buffering=1) as say:
        job, shard, rows = pickle.load(sys.stdin.buffer)  # from the process that started this one
        jobs = {item.track.name: item for item in job.tracks if item.track.name in shard.tracks}
        try:
            computing = computers(jobs.values(), job.device)
        except UnderstudyError as error:
            say.write(f"{UNFIT} {error}\n")
            return
        wanted = audio_of(jobs.values())
        (clips,) = shard_clips(job.dataset_dir, [shard])
        for row in rows:
            clip = clips[row]

            def beat(row: int = row) -> None:
                say.write(f"{row}\n")

            beat()
            try:
                loaded = load(clip, wanted, job.root, job.scratch)
                for name, item in jobs.items():
                    part = ShardTrack(item, computing[name], [clip], job.batch_windows, beat)
                    part.add(0, loaded)
                    part.finish()
            except (MemoryError, *FATAL) as error:
                text = " ".join(str(error).split())[:200]
                say.write(f"{row} {type(error).__name__}: {text}\n")
                return
            except UnderstudyError:
                break  # none of a clip's making; the extraction meets it again
        say.write(f"{DONE}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
