"""How a run goes, on stderr: two lines that stay in place, or now and then a plain one."""

import os
import sys
import threading
import time
from collections.abc import Callable

import click
from tqdm import tqdm

from understudy.extract.progress import Progress, gpu_share, split

PLAIN_S = 30.0  # between two plain lines


class Live:
    """Shows clips/s, audio-hours per hour, tasks left, failed clips and where the time goes.

    Args:
        name: Of the dataset.
        clips: To be extracted.
        show: False shows nothing.
    """

    def __init__(self, name: str, clips: int, *, show: bool) -> None:
        self._name, self._clips, self._show = name, clips, show
        tty = _has_width()
        self._plain = show and not tty
        hidden = not show or not tty
        self._bar = tqdm(
            total=clips,
            unit="clip",
            desc=name,
            file=sys.stderr,
            disable=hidden,
            dynamic_ncols=True,
        )
        self._status = tqdm(
            bar_format="{desc}", position=1, file=sys.stderr, disable=hidden, leave=False
        )
        self._done = Progress()
        self._began = self._told = time.monotonic()
        self._lock = threading.Lock()

    def update(self, step: Progress, n_tasks: int) -> None:
        """Adds a step of a task, while `n_tasks` have not ended. From any thread."""
        with self._lock:
            self._done += step
            self._status.set_description_str(self.text(n_tasks), refresh=False)
            if self._bar.update(step.clips):
                self._status.refresh()
            now = time.monotonic()
            if self._plain and now - self._told >= PLAIN_S:
                self._told = now
                click.echo(f"{self._name}: {self._rate(now)}, {self.text(n_tasks)}", err=True)

    def _rate(self, now: float) -> str:
        done, elapsed_s = self._done.clips, max(now - self._began, 1e-9)
        left_s = elapsed_s * (self._clips - done) / max(done, 1)
        left = f", about {duration(left_s)} left" if 0 < done < self._clips else ""
        return f"{done} of {self._clips} clips, {done / elapsed_s:.1f} clips/s{left}"

    def text(self, n_tasks: int) -> str:
        """The second line."""
        hours_per_hour = self._done.audio_s / max(time.monotonic() - self._began, 1e-9)
        parts = [
            f"{self._done.failed} failed",
            f"{n_tasks} task{'s' * (n_tasks != 1)} left",
            f"{hours_per_hour:.0f} audio-h/h",
            split(self._done),
        ]
        if share := gpu_share(self._done):
            parts.append(f"GPU {share}")
        return "; ".join(parts)

    def say(self, echo: Callable[[str], None]) -> Callable[[str], None]:
        """`echo`, in a way that leaves the lines in place."""

        def around(line: str) -> None:
            with tqdm.external_write_mode(file=sys.stderr):
                echo(line)

        return around

    def __enter__(self) -> "Live":
        return self

    def __exit__(self, *_: object) -> None:
        self._status.close()
        self._bar.close()


def _has_width() -> bool:
    """Whether stderr is a terminal that says how wide it is: some that programs make do not."""
    try:
        return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except OSError:
        return False


def duration(seconds: float) -> str:
    """For people ("40 s", "12 min", "7.5 h")."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
