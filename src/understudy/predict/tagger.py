"""Labels for audio files of any length, of which no more than a block is held in memory.

tagger = Tagger.load("runs/dc_linear")       # or the folder of an exported student
tagger.tag("recording.wav")                  # {label: probability}
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from understudy import audio, checkpoint, predict, students
from understudy.errors import AudioError, ConfigError, WeightsError, unknown
from understudy.students import folder as exported
from understudy.students.base import Student
from understudy.teachers.onnx_network import OnnxNetwork
from understudy.timing import covering_starts, duration_samples

Engine = Literal["torch", "onnx", "int8"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
_ONNX = {"onnx": "model.onnx", "int8": "model-int8.onnx"}


@dataclass
class Tagged:
    """What is said of one file.

    Attributes:
        path: As it was given.
        error: Why it has no labels; None where it has.
        n_samples: At 16 kHz.
        start: First sample of each window, ascending.
        window_scores: One float64 (label,) for each window, in order.
        input_samples: Length of the windows; that of a shorter file is filled up with zeros.
    """

    path: str
    input_samples: int
    error: str | None = None
    n_samples: int = 0
    start: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    window_scores: list[np.ndarray] = field(default_factory=list)

    @property
    def duration_s(self) -> float:
        """Length of the recording, seconds."""
        return self.n_samples / predict.RATE_HZ

    @property
    def scores(self) -> np.ndarray:
        """Probabilities float64 (label,): the mean over the windows."""
        return np.mean(self.window_scores, axis=0)

    def timeline(self) -> Iterator[tuple[float, float, np.ndarray]]:
        """(start_s, end_s, probabilities (label,)) of every window."""
        for start, scores in zip(self.start.tolist(), self.window_scores, strict=True):
            end = min(start + self.input_samples, self.n_samples)
            yield start / predict.RATE_HZ, end / predict.RATE_HZ, scores


@dataclass(frozen=True)
class Tagger:
    """A trained network with the names of its labels."""

    network: "Student | OnnxNetwork"
    input_samples: int
    label_names: tuple[str, ...]
    task: str

    @classmethod
    def load(
        cls, model: str | PathLike[str], engine: Engine = "torch", device: str = "cpu"
    ) -> "Tagger":
        """The student of a run, or of the folder that `understudy export` made.

        Args:
            model: The run's or the exported folder.
            engine: What computes: "onnx" and "int8" want an exported folder with such a file.
            device: Where the network computes.

        Raises:
            UnderstudyError: Neither of the two, or one that is altered or not finished.
        """
        folder = Path(model)
        if engine not in ENGINES:
            raise ConfigError(unknown("engine", engine, ENGINES))
        if engine != "torch":
            return cls._of_onnx(folder, _ONNX[engine])
        student = checkpoint.load_student(folder)[0] if _is_run(folder) else students.load(folder)
        try:
            student = student.to(device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"device {device}: cannot be used ({reason})") from None
        return cls(student, student.input_samples, student.label_names, student.task)

    @classmethod
    def _of_onnx(cls, folder: Path, name: str) -> "Tagger":
        if _is_run(folder):
            raise ConfigError(
                f"{folder}: a run, wanted an ONNX export of it: "
                f"understudy export {folder} FOLDER --to onnx{' --int8' * ('int8' in name)}"
            )
        facts = exported.read(folder)
        if name not in facts.files:
            held = ", ".join(facts.files)
            raise WeightsError(f"{folder}: wanted {name}, found {held}: export with --to onnx")
        network = OnnxNetwork((folder / name).read_bytes(), folder / name)
        network.settle(len(facts.label_names))
        return cls(network, facts.input_samples, facts.label_names, facts.task)

    def tag(self, path: str | PathLike[str]) -> dict[str, float]:
        """Probability of every label, the likeliest first; AudioError if it cannot be decoded."""
        (result,) = self.tag_files([path])
        if result.error is not None:
            raise AudioError(path, result.error)
        order = np.argsort(-result.scores, kind="stable")
        return {self.label_names[k]: float(result.scores[k]) for k in order}

    def tag_files(
        self,
        paths: Iterable[str | PathLike[str]],
        hop_s: float | None = None,
        batch_windows: int = 32,
    ) -> Iterator[Tagged]:
        """Every file's labels, in order, as soon as they are there.

        Args:
            paths: Read as they are needed; windows of several files share a batch.
            hop_s: Distance of windows, seconds; by default the fewest that cover the file, as in
                `predict_clips`.
            batch_windows: Windows in one forward pass.

        Yields:
            One `Tagged` for each path; one that cannot be decoded holds the error.
        """
        hop = None if hop_s is None else duration_samples(hop_s, predict.RATE_HZ, "hop")
        waiting: deque[_Pending] = deque()
        windows = self._windows(paths, hop, waiting)
        with self._forward() as forward:
            scored = predict.window_scores(
                forward, self.input_samples, windows, self.task, batch_windows
            )
            for (pending, attempt), scores in scored:
                pending.add(attempt, scores)
                while waiting and waiting[0].complete:
                    yield waiting.popleft().tagged
        yield from (pending.tagged for pending in waiting)

    @contextmanager
    def _forward(self) -> Iterator[predict.Forward]:
        if isinstance(self.network, OnnxNetwork):
            yield self.network
        else:
            with predict.evaluating(self.network) as forward:
                yield forward

    def _windows(
        self, paths: Iterable[str | PathLike[str]], hop: int | None, waiting: "deque[_Pending]"
    ) -> Iterator["_Window"]:
        for path in paths:
            pending = _Pending(Tagged(str(path), self.input_samples))
            waiting.append(pending)
            try:
                yield from self._windows_of(path, hop, pending)
            except AudioError as error:
                pending.begin(0, np.zeros(0, np.int64))
                pending.tagged.error = error.reason
            pending.read = True

    def _windows_of(
        self, path: str | PathLike[str], hop: int | None, pending: "_Pending"
    ) -> Iterator["_Window"]:
        info = audio.info(path)
        n_samples = audio.resampled_length(info.n_samples, info.rate_hz, predict.RATE_HZ)
        for _ in range(2):  # a header may promise more than there is: then once more, by the truth
            start = self._starts(n_samples, hop)
            attempt = pending.begin(n_samples, start)
            with audio.stream(path) as (rate_hz, blocks):
                samples = audio.resample_blocks(blocks, rate_hz, predict.RATE_HZ)
                found = yield from _cut(samples, start, self.input_samples, (pending, attempt))
            if found == n_samples:
                break
            n_samples = found

    def _starts(self, n_samples: int, hop: int | None) -> np.ndarray:
        if hop is None:
            return covering_starts(n_samples, self.input_samples)
        last = max(0, n_samples - self.input_samples)
        return np.unique(np.append(np.arange(0, last + 1, hop), last))


@dataclass
class _Pending:
    """A file that is being read, or whose windows wait for their scores."""

    tagged: Tagged
    attempt: int = 0
    read: bool = False

    def begin(self, n_samples: int, start: np.ndarray) -> int:
        """Forgets what there is; the number of the attempt that begins."""
        self.attempt += 1
        self.tagged.n_samples, self.tagged.start = n_samples, start
        self.tagged.window_scores = []
        return self.attempt

    def add(self, attempt: int, scores: np.ndarray) -> None:
        """Scores of the next window, unless of an attempt that was given up."""
        if attempt == self.attempt:
            self.tagged.window_scores.append(scores)

    @property
    def complete(self) -> bool:
        """Whether all is there."""
        return self.read and len(self.tagged.window_scores) == len(self.tagged.start)


_Key = tuple[_Pending, int]
_Window = tuple[_Key, np.ndarray]


def _cut(
    blocks: Iterable[np.ndarray], start: np.ndarray, length: int, key: _Key
) -> Generator[_Window, None, int]:
    """Windows [start, start + length) of a stream, the last ones shorter; returns its length."""
    waiting = deque(start.tolist())
    held, offset = np.zeros(0, np.float32), 0
    for block in blocks:
        held = np.concatenate((held, block))
        while waiting and waiting[0] + length <= offset + len(held):
            first = waiting.popleft() - offset
            yield key, held[first : first + length]
        done = min(len(held), waiting[0] - offset) if waiting else len(held)
        held, offset = held[done:], offset + done
    for first in waiting:
        yield key, held[first - offset : first - offset + length]
    return offset + len(held)


def _is_run(folder: Path) -> bool:
    """Whether a folder is a run's; what it is otherwise is for `students.load` to say."""
    try:
        return "settings" in checkpoint.read_config(folder)
    except WeightsError:
        return False
