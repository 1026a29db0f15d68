"""HEAR module of an exported student; its folder stands where a file of weights would.

    python -m heareval.embeddings.runner understudy.hear.student --model FOLDER --tasks-dir tasks

An embedding is what the student's last linear layer reads. Sounds are embedded as they are
labelled: the fewest windows of the training length that cover one, averaged. Timestamps come every
50 ms, each the centre of a window of one step of the feature map (2.048 s of SC-CNN, 4.608 s of
HCNN) in the sound continued by silence at both ends: dear, for windows overlap, but by the rules.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from understudy import students
from understudy.errors import ConfigError
from understudy.students.base import Student
from understudy.students.frontend import HOP_SAMPLES
from understudy.teachers.hear import HOP_S
from understudy.timing import covering_starts, plan_windows

_BATCH_WINDOWS = 32


class HearStudent(nn.Module):
    """What `load_model` returns, movable with `.to(device)`.

    Attributes:
        sample_rate: Hz, of the audio it wants.
        scene_embedding_size, timestamp_embedding_size: Values per embedding.
        window_s, hop_s: Of timestamp embeddings, seconds.
    """

    def __init__(self, student: Student, window_s: float | None, hop_s: float) -> None:
        super().__init__()
        self.student = student
        self.sample_rate = int(student.sample_rate)
        self.scene_embedding_size = self.timestamp_embedding_size = int(student.channels)
        step_s = student.frames_per_step * HOP_SAMPLES / student.sample_rate
        self.window_s, self.hop_s = window_s or step_s, hop_s
        self.eval()

    @torch.no_grad()
    def embed(self, audio: Tensor, start: list[int], length: int) -> Tensor:
        """Embeddings (sound, window, channel) of windows [start, start + length) of sounds."""
        windows = [(sound, first) for sound in range(len(audio)) for first in start]
        parts = []
        for at in range(0, len(windows), _BATCH_WINDOWS):
            group = windows[at : at + _BATCH_WINDOWS]
            parts.append(
                self.student.embed(torch.stack([audio[s, t : t + length] for s, t in group]))
            )
        return torch.cat(parts).float().unflatten(0, (len(audio), len(start)))


def load_model(
    model_file_path: str = "", window_s: float | None = None, hop_s: float = HOP_S
) -> HearStudent:
    """Model of the exported student in folder `model_file_path`.

    Args:
        model_file_path: What `understudy export` made. There is no default student.
        window_s: Around a timestamp, seconds; by default one step of the feature map.
        hop_s: Distance of timestamps, seconds.

    Raises:
        UnderstudyError: No folder is given, or it is no exported student.
    """
    if not model_file_path:
        raise ConfigError("wanted the folder of an exported student (understudy export) as weights")
    return HearStudent(students.load(model_file_path), window_s, hop_s)


def get_scene_embeddings(audio: Tensor, model: HearStudent) -> Tensor:
    """Embeddings float32 (sound, channel) of whole sounds, audio (sound, samples)."""
    length = model.student.input_samples
    start = covering_starts(audio.shape[1], length)
    padded = F.pad(audio, (0, max(0, length - audio.shape[1])))
    return model.embed(padded, start.tolist(), length).mean(1)


def get_timestamp_embeddings(audio: Tensor, model: HearStudent) -> tuple[Tensor, Tensor]:
    """Embeddings float32 (sound, timestamp, channel) and timestamps (sound, timestamp).

    Timestamp i is at i * hop_s, in milliseconds, up to the sound's end.
    """
    length = round(model.window_s * model.sample_rate)
    padded = F.pad(audio, (length // 2, length - length // 2))
    plan = plan_windows(padded.shape[1], model.sample_rate, model.window_s, model.hop_s)
    embedding = model.embed(padded, plan.start.tolist(), length)
    timestamps = torch.arange(plan.n, dtype=torch.float64, device=audio.device) * model.hop_s
    return embedding, (1000 * timestamps).float().expand(len(audio), -1).contiguous()
