"""A study of seconds on the tiny dataset."""

from pathlib import Path

from tests import tiny

FILE = """
datasets: [{name: tiny, folds: [1, 2]}]
students: [{name: sc-cnn, width: 4}]
teachers: [framewise]
systems: [teacher_lr, baseline, dc_linear]
settings:
  optim: {batch: 4, lr: 3e-3, max_epochs: EPOCHS}
  run: {checkpoint_s: 0}
  threads: 1
"""


def write(folder: Path, n_epochs: int = 1, text: str = FILE) -> Path:
    """FOLDER/study.yaml and FOLDER/cache; returns the former."""
    cache_dir = tiny.make_cache(folder / "cache", tiny.index(30))
    path = folder / "study.yaml"
    path.write_text(f"cache: {cache_dir}\n" + text.replace("EPOCHS", str(n_epochs)))
    return path
