"""ESC-50 and its subset ESC-10: environmental sounds of 5 s, one class each, five folds.

Release: https://github.com/karolpiczak/ESC-50 (`audio/`, `meta/esc50.csv`). Clips cut from one
recording (`src_file`) share a fold.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from understudy.datasets.files import durations, require_root
from understudy.datasets.release import Release, Remote, Source
from understudy.datasets.table import Row, Table, read_table
from understudy.index import ClipIndex

URL = "https://github.com/karolpiczak/ESC-50"
_TOP = "ESC-50-master"
RELEASE = Release(
    homepage=URL,
    licence="CC BY-NC 3.0",
    citation=(
        "K. J. Piczak. ESC: Dataset for Environmental Sound Classification. "
        "Proceedings of the 23rd ACM International Conference on Multimedia, 2015, pp. 1015-1018."
    ),
    sources=(
        Source(
            files=(
                Remote(  # made anew from the branch: no checksum stays true
                    name=f"{_TOP}.zip",
                    urls=(f"{URL}/archive/master.zip",),
                    about_bytes=650_000_000,
                ),
            ),
            takes={f"{_TOP}/audio": "audio", f"{_TOP}/meta": "meta"},
            unpacked_bytes=900_000_000,
        ),
    ),
    n_clips={"esc50": 2_000, "esc10": 400},
    shortest_s=3.5,  # 5 s as wav; ESC-10 as ogg has clips of 3.6 to 7.2 s
)
LICENCES = {"esc50": RELEASE.licence, "esc10": "CC BY 3.0"}
N_FOLDS = 5
COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file", "take")
_CLASSES = """
    dog rooster pig cow frog cat hen insects sheep crow
    rain sea_waves crackling_fire crickets chirping_birds
    water_drops wind pouring_water toilet_flush thunderstorm
    crying_baby sneezing clapping breathing coughing
    footsteps laughing brushing_teeth snoring drinking_sipping
    door_wood_knock mouse_click keyboard_typing door_wood_creaks can_opening
    washing_machine vacuum_cleaner clock_alarm clock_tick glass_breaking
    helicopter chainsaw siren car_horn engine train church_bells airplane fireworks hand_saw
"""
CLASSES = tuple(_CLASSES.split())
ESC10_TARGETS = (0, 1, 10, 11, 12, 20, 21, 38, 40, 41)
SUFFIXES = (".wav", ".ogg", ".flac")


def load_esc50(root: Path) -> ClipIndex:
    """All clips that `root/meta/esc50.csv` lists, 50 classes."""
    return _load("esc50", root, range(len(CLASSES)))


def load_esc10(root: Path) -> ClipIndex:
    """The clips that the `esc10` column of `root/meta/esc50.csv` marks, 10 classes."""
    return _load("esc10", root, ESC10_TARGETS)


def _load(name: str, root: Path, targets: range | tuple[int, ...]) -> ClipIndex:
    require_root(root, f"an ESC-50 release ({URL}): audio/ and meta/esc50.csv")
    table = read_table(root / "meta" / "esc50.csv", COLUMNS)
    table.distinct("filename")
    rows = [
        row
        for row in table.rows
        if table.choice(row, "esc10", ("True", "False")) == "True" or name == "esc50"
    ]
    paths = [_path(table, row, root) for row in rows]
    clips = pd.DataFrame(
        {
            "clip_id": [Path(row["filename"]).stem for row in rows],
            "path": paths,
            "duration_s": durations(root, paths, str(table.path)),
            "fold": [table.integer(row, "fold", 1, N_FOLDS) for row in rows],
            "group": [row["src_file"] for row in rows],
        }
    )
    return ClipIndex(
        name=name,
        clips=clips,
        labels=np.array([targets.index(_target(table, row, targets)) for row in rows], np.int64),
        label_names=tuple(CLASSES[target] for target in targets),
        root=root,
        licence=LICENCES[name],
        citation=RELEASE.citation,
    )


def _target(table: Table, row: Row, targets: range | tuple[int, ...]) -> int:
    category = table.choice(row, "category", [CLASSES[target] for target in targets])
    wanted = str(CLASSES.index(category))
    if row["target"] != wanted:
        raise table.error(row, "target", f"{wanted}, the target of '{category}'")
    return int(wanted)


def _path(table: Table, row: Row, root: Path) -> str:
    """The listed file, or the same clip in another container where only that is there."""
    path = table.file(row, "filename", root, prefix="audio/")
    if not (root / path).exists():
        for suffix in SUFFIXES:
            other = Path(path).with_suffix(suffix).as_posix()
            if (root / other).exists():
                return other
    return path
