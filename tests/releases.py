"""Trees in the formats of the published datasets: real lists, fabricated annotations, few files.

Annotations have their full width and all clips; of the audio only a handful is there.
"""

import csv
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from understudy import audio
from understudy.datasets.fma import ARTIST, GENRE, GENRES, NO_AUDIO, PART, SUBSET, TOO_SHORT
from understudy.datasets.mtat import TAGS
from understudy.datasets.openmic import INSTRUMENTS, LABELS

RATE_HZ = 8000
MTAT_EMPTY = ("35644", "55753", "57881")


def sound(path: Path, duration_s: float) -> None:
    """A quiet tone at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time_s = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    audio.write(path, 0.1 * np.sin(2 * np.pi * 440 * time_s).astype(np.float32), RATE_HZ)


def empty(path: Path) -> None:
    """A file without a byte at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def mtat(root: Path, shared: Path, only: Iterable[str] | None = None) -> Path:
    """MagnaTagATune: every clip, or `only` some, 188 tags; clip i has the tag i % 50 of the 50.

    The first clip is there in full, the three that the release has empty are empty.
    """
    with (shared / "data" / "mtat" / "splits.csv").open(newline="") as file:
        clips = [(row["clip_id"], row["mp3_path"]) for row in csv.DictReader(file)]
    if only is not None:
        clips = [clip for clip in clips if clip[0] in set(only)]
    others = [f"tag {i:03d}" for i in range(188 - len(TAGS))]
    columns = sorted([*TAGS, *others])
    root.mkdir(parents=True)
    cells = ["\t".join(f'"{int(c in (tag, others[0]))}"' for c in columns) for tag in TAGS]
    lines = ["\t".join(f'"{column}"' for column in ("clip_id", *columns, "mp3_path"))]
    for i, (clip_id, path) in enumerate(clips):
        lines.append(f'"{clip_id}"\t{cells[i % len(TAGS)]}\t"{path}"')
    (root / "annotations_final.csv").write_text("\n".join(lines) + "\n")
    paths = dict(clips)
    sound(root / "mp3" / clips[0][1], 29.1)
    for clip_id in MTAT_EMPTY:
        if clip_id in paths:
            empty(root / "mp3" / paths[clip_id])
    return root


def fma(root: Path, n_other: int = 50) -> Path:
    """FMA: the 8,000 tracks of the subset small among others, 53 columns, a header of three lines.

    Genres come in turn, 800 for validation and 800 for test. The six known defects are among them,
    the short ones with their files, of those without audio one empty and one absent; track 2 is
    there in full.
    """
    named = ["track_id", "album/information", ARTIST, PART, SUBSET, GENRE]
    columns = [*named, *(f"track/fact {i}" for i in range(53 - len(named)))]
    bad = (*NO_AUDIO, *TOO_SHORT)
    small = sorted({2, *bad, *range(1000, 1000 + 8000 - 7)})
    others = range(20_000, 20_000 + n_other)
    (root / "fma_metadata").mkdir(parents=True)
    with (root / "fma_metadata" / "tracks.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        heads = [column.partition("/") for column in columns[1:]]
        writer.writerow(["", *(top for top, _, _ in heads)])
        writer.writerow(["", *(name for _, _, name in heads)])
        writer.writerow(["track_id", *("" for _ in heads)])
        for i, track in enumerate(sorted([*small, *others])):
            place = small.index(track) if track in bad or track < 20_000 else -1
            part = "test" if place < 800 else "validation" if place < 1600 else "training"
            cells = {
                "track_id": track,
                "album/information": '<p>two lines,\nand a "quote"</p>' if i % 100 == 0 else "",
                ARTIST: i // 3,
                PART: "training" if place < 0 else part,
                SUBSET: "large" if place < 0 else "small",
                GENRE: "" if place < 0 else GENRES[place % len(GENRES)],
            }
            writer.writerow([cells.get(column, "") for column in columns])
    sound(_fma_path(root, 2), 30.0)
    empty(_fma_path(root, NO_AUDIO[0]))
    for track, duration_s in zip(TOO_SHORT, (1.6, 0.5, 1.5), strict=True):
        sound(_fma_path(root, track), duration_s)
    return root


def _fma_path(root: Path, track: int) -> Path:
    name = f"{track:06d}"
    return root / "fma_small" / name[:3] / f"{name}.mp3"


def openmic(root: Path, shared: Path) -> Path:
    """OpenMIC: the real partitions and class map; two answers a clip, one in 41 undecided.

    Of the audio, the first three clips are there: whole, cut off, empty.
    """
    (root / "partitions").mkdir(parents=True)
    keys = []
    for name in ("split01_train.csv", "split01_test.csv"):
        shutil.copy(shared / "data" / "openmic" / name, root / "partitions" / name)
        keys += (root / "partitions" / name).read_text().split()
    shutil.copy(shared / "data" / "openmic" / "class-map.json", root / "class-map.json")
    assert list(json.loads((root / "class-map.json").read_text())) == list(INSTRUMENTS)
    keys.sort()
    with (root / LABELS).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["sample_key", "instrument", "relevance", "num_responses"])
        for i, key in enumerate(keys):
            writer.writerow([key, INSTRUMENTS[i % 20], 0.5 if i % 41 == 0 else 0.81755, 3])
            writer.writerow([key, INSTRUMENTS[(i + 1) % 20], 0.0, 3])
    first, second, third = (root / "audio" / key[:3] / f"{key}.ogg" for key in keys[:3])
    sound(first, 10.0)
    sound(second, 10.0)
    second.write_bytes(second.read_bytes()[:-2000])
    empty(third)
    return root
