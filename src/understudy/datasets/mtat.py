"""MagnaTagATune: 25,863 clips of 29 s of music with 188 tags, of which the 50 most frequent count.

Release: `annotations_final.csv` (tab separated: clip_id, 188 tags, mp3_path) at the root, and the
folders 0 to f of mp3.zip under `mp3/` or at the root. `clip_info_final.csv` is fetched with it, but
nothing in it is needed here.
"""

import gzip
import re
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from understudy.datasets.files import durations, require_root
from understudy.datasets.release import CORRUPT, Release, Remote, Source
from understudy.datasets.table import Row, Table, read_table
from understudy.errors import ConfigError, unknown
from understudy.index import ClipIndex

HOSTS = (
    "https://mirg.city.ac.uk/datasets/magnatagatune/",
    "http://mi.soi.city.ac.uk/datasets/magnatagatune/",
)


def _remote(name: str, about_bytes: int, md5: str) -> Remote:
    urls = tuple(host + name for host in HOSTS)
    return Remote(name=name, urls=urls, about_bytes=about_bytes, md5=md5)


RELEASE = Release(
    homepage="https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset",
    licence="CC BY-NC-SA 1.0 (Magnatune's recordings)",
    citation=(
        "E. Law, K. West, M. Mandel, M. Bay, J. S. Downie. Evaluation of Algorithms Using Games: "
        "The Case of Music Tagging. Proceedings of the 10th International Society for Music "
        "Information Retrieval Conference, 2009, pp. 387-392."
    ),
    sources=(
        Source(
            files=(
                _remote("mp3.zip.001", 1_100_000_000, "179c91c8c2a6e9b3da3d4e69d306fd3b"),
                _remote("mp3.zip.002", 1_100_000_000, "acf8265ff2e35c6ff22210e46457a824"),
                _remote("mp3.zip.003", 800_000_000, "582dc649cabb8cd991f09e14b99349a5"),
            ),
            takes={"": "mp3"},
            unpacked_bytes=3_050_000_000,
        ),
        Source(
            files=(_remote("clip_info_final.csv", 15_000_000, "03ef3cb8ddcfe53fdcdb8e0cda005be2"),),
        ),
        Source(
            files=(
                _remote("annotations_final.csv", 25_000_000, "f04fa01752a8cc64f6e1ca142a0fef1d"),
            ),
        ),
    ),
    n_clips={"mtat": 25_863},
    shortest_s=29.0,
    known_bad=dict.fromkeys(("35644", "55753", "57881"), f"{CORRUPT}: 0 bytes"),
)
TAGS = (
    *("guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast"),
    *("piano", "ambient", "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male"),
    *("singing", "vocals", "no vocals", "harpsichord", "loud", "quiet", "flute", "woman"),
    *("male vocal", "no vocal", "pop", "soft", "sitar", "solo", "man", "classic", "choir", "voice"),
    *("new age", "dance", "male voice", "female vocal", "beats", "harp", "cello", "no voice"),
    *("weird", "country", "metal", "female voice", "choral"),
)
"""The 50 most frequent of 188, synonyms unmerged, in the order in which they are published."""
FOLDERS = {**dict.fromkeys("0123456789ab", "train"), "c": "valid", **dict.fromkeys("def", "test")}
SPLITTINGS = ("folders", "clean")
CLEAN = Path(__file__).with_name("mtat_clean.csv.gz")
"""clip_id and split of all clips, as J. Lee et al. publish it for their sample-level networks: at
least one of the 50 tags and more than 29.1 s; left out (an empty split) are 4,758 of them."""

_MP3_PATH = re.compile(r"([0-9a-f])/([^/-]+)-[^/]+\.mp3")  # folder/artist-album-track-title-...


def load_mtat(root: Path, split: Literal["folders", "clean"] = "folders") -> ClipIndex:
    """All clips that `root/annotations_final.csv` lists, 50 tags.

    Clips are grouped by artist, and some artists lie in more than one split of either kind.

    Args:
        root: Folder of the release.
        split: By folder (0-b, c, d-f), or the published `clean` one, which leaves clips out.
    """
    if split not in SPLITTINGS:
        raise ConfigError(f"dataset 'mtat': {unknown('split', str(split), SPLITTINGS)}")
    require_root(root, f"MagnaTagATune ({RELEASE.homepage}): annotations_final.csv and mp3/")
    table = read_table(
        root / "annotations_final.csv", ("clip_id", *TAGS, "mp3_path"), delimiter="\t", others=False
    )
    table.distinct("clip_id")
    matches = [_match(table, row) for row in table.rows]
    prefix = "mp3/" if (root / "mp3").is_dir() else ""
    paths = [prefix + row["mp3_path"] for row in table.rows]
    if split == "clean":
        clean = clean_split()
        for row in table.rows:
            if row["clip_id"] not in clean:
                raise table.error(row, "clip_id", "one of those that the clean split lists")
        splits = [clean[row["clip_id"]] for row in table.rows]
    else:
        splits = [FOLDERS[match[1]] for match in matches]
    labels = np.array([_labels(table, row) for row in table.rows], np.int8)
    clips = pd.DataFrame(
        {
            "clip_id": [row["clip_id"] for row in table.rows],
            "path": paths,
            "duration_s": durations(root, paths, str(table.path)),
            "split": splits,
            "group": [match[2] for match in matches],
        }
    )
    return ClipIndex(
        name="mtat",
        clips=clips,
        labels=labels,
        label_names=TAGS,
        root=root,
        licence=RELEASE.licence,
        citation=RELEASE.citation,
    )


def clean_split() -> dict[str, str]:
    """clip_id -> "train", "valid", "test" or "" (left out), of all 25,863 clips."""
    _, *lines = gzip.decompress(CLEAN.read_bytes()).decode().splitlines()
    return dict(line.split(",") for line in lines)


def _match(table: Table, row: Row) -> re.Match[str]:
    match = _MP3_PATH.fullmatch(row["mp3_path"])
    if not match:
        raise table.error(row, "mp3_path", "a folder 0 to f and artist-album-....mp3")
    return match


def _labels(table: Table, row: Row) -> list[int]:
    value = {"0": -1, "1": 1}
    cells = [value.get(row[tag], 0) for tag in TAGS]
    if 0 in cells:
        raise table.error(row, TAGS[cells.index(0)], "0 or 1")
    return cells
