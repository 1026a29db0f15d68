"""Silent recordings in folders, and lists of them."""

import numpy as np

from understudy import audio

RATE_HZ = 8000


def sound(path, duration_s=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    audio.write(path, np.zeros(round(duration_s * RATE_HZ), np.float32), RATE_HZ)


def tree_in(folder):
    """A new tree of sounds, and of files that are none of its clips."""
    for i, name in enumerate(("b/2.flac", "a/1.wav", "a/c/3.OGG", "4.mp3", "é 5.wav")):
        sound(folder / "tree" / name.lower(), 0.1 * (i + 1))
    (folder / "tree" / "a" / "notes.txt").write_text("no audio")
    (folder / "tree" / ".hidden").mkdir()
    (folder / "tree" / "a" / "._1.wav").write_bytes(b"a Macintosh's shadow of 1.wav")
    sound(folder / "tree" / ".hidden" / "6.wav")
    return folder / "tree"


def write_csv(path, text):
    path.write_text(text, encoding="utf-8")
    return path.name
