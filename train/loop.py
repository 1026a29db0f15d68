"""Training students, from the first step to the last; killed at any point, it goes on from there.

index, cache -> Stream -> students and Objectives -> Adam -> validation -> RUN/best, RUN/last

Students that share dataset, fold, seed and crops share one stream: every batch is read once and
goes to each of them in turn. A lone run is a group of one.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from understudy import cache as caches
from understudy.errors import UnderstudyError
from understudy.index import ClipIndex
from understudy.train.augment import Augment
from understudy.train.config import resolve
from understudy.train.feed import Feed, RunPlan, open_feed
from understudy.train.learner import Learner
from understudy.train.runlog import Progress
from understudy.train.setup import claim, prepare, threads
from understudy.train.stream import Batch, Crops
from understudy.train.validation import Validation

Stores = str | Path | Sequence[str | Path]


def train(
    index: ClipIndex,
    *,
    student: str | None = None,
    system: str | None = None,
    teacher: str | Sequence[str] | None = None,
    cache: str | Path | None = None,
    store: Stores = (),
    run_dir: str | Path,
    fold: int | None = None,
    settings: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Path:
    """Trains one student, or goes on where an earlier call with the same arguments stopped.

    Args:
        index: The clips. Its root matters only where the cache has no audio track.
        student: Name of the student; "sc-cnn" unless settings or recipe say otherwise.
        system: Preset of the distillation; "dc_linear" unless settings or recipe say otherwise.
        teacher: Name of the teacher, or of several; not needed, and not looked at, by system
            "baseline".
        cache: Folder of the cache.
        store: Stores (path, folder name or start of the identity) to use where the cache holds
            several of one track.
        run_dir: Folder for config.json, log.jsonl, best.* and last.*; made if absent.
        fold: Test fold (see `ClipIndex.split`); None for the index's own split.
        settings: Nested mapping over `TrainSettings`, such as {"optim": {"lr": 1e-3}}.
        recipe: The same with lower precedence.
        progress: Show on stderr how it goes: a live line on a terminal, elsewhere now and then a
            plain one.

    Returns:
        run_dir.

    Raises:
        UnderstudyError: Bad settings, a cache that does not fit, a run directory of another run, a
            loss that is not finite.
    """
    chosen = resolve(settings, student=student, system=system, recipe=recipe)
    teachers = [teacher] if isinstance(teacher, str) else teacher or ()
    plan = RunPlan(run_dir=Path(run_dir), settings=chosen, teachers=tuple(teachers))
    failures = train_group(index, [plan], cache=cache, store=store, fold=fold, progress=progress)
    for error in failures.values():
        raise error
    return plan.run_dir


def train_group(
    index: ClipIndex,
    plans: Sequence[RunPlan],
    *,
    cache: str | Path | None = None,
    store: Stores = (),
    fold: int | None = None,
    progress: bool = True,
    stop: Callable[[], bool] = bool,
) -> dict[Path, UnderstudyError]:
    """Trains several students over one stream; each ends as it would alone.

    A clip that one of the runs cannot use is left out of all of them, so that they stay
    comparable; this alone makes a run of a group another one than the lone run.

    Args:
        index, cache, store, fold, progress: See `train`.
        plans: At least one. They share seed, batch, crops, device and threads.
        stop: Asked after every epoch; True leaves all runs where they stand.

    Returns:
        Run directories of the students that could not be trained to their end, and why.

    Raises:
        UnderstudyError: What keeps the whole group from being trained.
    """
    stores = [store] if isinstance(store, (str, Path)) else list(store)
    with ExitStack() as stack:
        stack.enter_context(threads(plans[0].settings.threads))
        stack.enter_context(_own_generators())
        feed = open_feed(
            index,
            plans,
            cache=None if cache is None else Path(cache),
            stores=[str(name) for name in stores],
            fold=fold,
        )
        # What is refused up to here leaves no folder behind.
        setups = [prepare(feed, plan) for plan in plans]
        for plan in plans:
            stack.enter_context(caches.lock(plan.run_dir))
        learners = []
        for plan, setup in zip(plans, setups, strict=True):
            claim(plan.run_dir, setup.record)
            learner = Learner(setup, plan.run_dir)
            if not learner.state.ended:
                learners.append(learner)
        training = Training(feed, learners, progress)
        training.run(stop)
    return training.failures


class Training:
    """A group of runs: `run` is the outline, the other methods are its parts in order."""

    def __init__(self, feed: Feed, learners: Sequence[Learner], progress: bool) -> None:
        self.feed = feed
        self.learners = list(learners)
        self.failures: dict[Path, UnderstudyError] = {}
        self.clock = Clock(feed)
        self.show_progress = progress

    def run(self, stop: Callable[[], bool] = bool) -> None:
        """Trains until something ends each of them, leaving checkpoints on the way."""
        with ExitStack() as stack:
            for learner in self.learners:
                learner.open()
                stack.callback(learner.close)
            done = max((learner.state.step for learner in self.learners), default=0)
            total = max((learner.total_steps for learner in self.learners), default=0)
            self.progress = Progress(total, done, self.show_progress and bool(self.learners))
            stack.callback(self.progress.close)
            self.progress.begin([learner.setup.record for learner in self.learners])
            while (active := self.active()) and not stop():
                epoch = min(learner.state.epoch for learner in active)
                here = [learner for learner in active if learner.state.epoch == epoch]
                self.train_epoch(epoch, here)
                self.finish_epoch([learner for learner in here if learner in self.active()])

    def active(self) -> list[Learner]:
        """Those that have not come to an end, good or bad. After a kill some may be ahead of
        others; the stream begins with the last of them."""
        return [
            learner
            for learner in self.learners
            if not learner.state.ended and learner.run_dir not in self.failures
        ]

    def train_epoch(self, epoch: int, learners: Sequence[Learner]) -> None:
        """The batches of an epoch that are left, each to those whose turn it is."""
        for learner in learners:
            learner.begin_epoch()
        first = min(learner.state.position for learner in learners)
        until = max(learner.until for learner in learners)
        plan = self.feed.stream.crops(epoch)[first:until]
        for position, (batch, images) in enumerate(self.read(plan, epoch), first):
            taking = [learner for learner in learners if learner.takes(position)]
            shown: dict[str, list[str]] = {}
            for learner in taking:
                with self.guard(learner):
                    _collect(shown, self.step(learner, batch, images.of(learner)))
            self.clock.steps += 1
            self.progress.step(max((learner.state.step for learner in taking), default=0))
            if shown:
                waiting = f"{self.clock.timing()['waiting_for_data']:.0%}"
                self.progress.show(waiting=waiting, **_joined(shown))

    def step(self, learner: Learner, batch: Batch, image: Tensor) -> dict[str, str]:
        """One update of one student; returns what the live line shows."""
        losses = learner.step(batch, image)
        state, run = learner.state, learner.setup.settings.run
        shown: dict[str, str] = {}
        if state.step % run.log_steps == 0:
            shown = learner.log_step(losses, self.clock.timing())
        if run.checkpoint_steps and state.step % run.checkpoint_steps == 0:
            learner.save()
        return shown

    def finish_epoch(self, learners: Sequence[Learner]) -> None:
        """Validates all who have come to the epoch's end, in one pass over the windows."""
        validations = {learner: Validation(learner) for learner in learners}
        with torch.no_grad():
            for batch, images in self.read(self.feed.stream.windows(self.feed.valid_rows)):
                for learner, validation in validations.items():
                    validation.add(batch, images.of(learner))
        shown: dict[str, list[str]] = {}
        for learner, validation in validations.items():
            with self.guard(learner):
                _collect(shown, learner.finish_epoch(validation, self.clock.timing()))
                if learner.due:
                    learner.save()
        if shown:
            epoch = max(learner.state.epoch for learner in learners)
            step = max(learner.state.step for learner in learners)
            self.progress.end_epoch(epoch, step, **_joined(shown))

    def read(
        self, plan: Sequence[Crops], epoch: int | None = None
    ) -> Iterator[tuple[Batch, "Images"]]:
        """Batches on the device, augmented where an epoch is given, with their images."""
        for read in self.feed.stream.read(plan):
            batch = read.to(self.feed.device)
            if epoch is not None:
                batch = self.feed.augment.audio(epoch, batch)
            yield batch, Images(batch, self.feed.augment, epoch)

    @contextmanager
    def guard(self, learner: Learner) -> Iterator[None]:
        """What ends one run early does not end the others."""
        try:
            yield
        except UnderstudyError as error:
            self.failures[learner.run_dir] = error


class Images:
    """Decibel images of a batch; front ends that learn nothing compute theirs once for all."""

    def __init__(self, batch: Batch, augment: Augment, epoch: int | None) -> None:
        self.batch = batch
        self.augment = augment
        self.epoch = epoch
        self._known: dict[type[nn.Module], Tensor] = {}

    def of(self, learner: Learner) -> Tensor:
        """The image for a learner's student."""
        student = learner.setup.student
        kind = student.front_end_class
        if kind in self._known:
            return self._known[kind]
        image = student.front_end(self.batch.audio)
        if self.epoch is not None:
            image = self.augment.image(self.epoch, self.batch.rows, image)
        if not any(True for _ in student.get_submodule(student.front_end_name).parameters()):
            self._known[kind] = image
        return image


class Clock:
    """Seconds and steps per second of this process, and its share of waiting for data."""

    def __init__(self, feed: Feed) -> None:
        self.stream = feed.stream
        self.begun_s = time.perf_counter()
        self.steps = 0

    def timing(self) -> dict[str, float]:
        """So far."""
        elapsed_s = time.perf_counter() - self.begun_s
        return {
            "elapsed_s": round(elapsed_s, 3),
            "steps_per_s": round(self.steps / elapsed_s, 3),
            "waiting_for_data": round(self.stream.waited_s / elapsed_s, 4),
        }


@contextmanager
def _own_generators() -> Iterator[None]:
    """torch's generators are given back as they were found."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=list(devices)):
        yield


def _collect(shown: dict[str, list[str]], fields: Mapping[str, str]) -> None:
    for name, text in fields.items():
        shown.setdefault(name, []).append(text)


def _joined(shown: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """One field a name, the students' values side by side."""
    return {name: " ".join(texts) for name, texts in shown.items()}
