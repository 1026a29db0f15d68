"""FMA-small: 8,000 excerpts of 30 s from the Free Music Archive, one of 8 genres each.

Release: `fma_small/000/000002.mp3` and `fma_metadata/tracks.csv`, which describes 106,574 tracks
under a header of three lines; "track/genre_top" below is the column `genre_top` under `track`.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from understudy.datasets.files import durations, require_root
from understudy.datasets.release import CORRUPT, SHORT, Release, Remote, Source
from understudy.datasets.table import Row, Table, read_table
from understudy.errors import DataError
from understudy.index import ClipIndex

HOST = "https://os.unil.cloud.switch.ch/fma/"
NO_AUDIO = (99134, 108925, 133297)
TOO_SHORT = (98565, 98567, 98569)
RELEASE = Release(
    homepage="https://github.com/mdeff/fma",
    licence="per track, chosen by its artist (tracks.csv); the metadata CC BY 4.0",
    citation=(
        "M. Defferrard, K. Benzi, P. Vandergheynst, X. Bresson. FMA: A Dataset for Music Analysis. "
        "Proceedings of the 18th International Society for Music Information Retrieval Conference, "
        "2017."
    ),
    sources=(
        Source(
            files=(
                Remote(
                    name="fma_small.zip",
                    urls=(HOST + "fma_small.zip",),
                    about_bytes=7_700_000_000,
                    sha1="ade154f733639d52e35e32f5593efe5be76c6d70",
                ),
            ),
            takes={"fma_small": "fma_small"},
            unpacked_bytes=8_000_000_000,
        ),
        Source(
            files=(
                Remote(
                    name="fma_metadata.zip",
                    urls=(HOST + "fma_metadata.zip",),
                    about_bytes=360_000_000,
                    sha1="f0df49ffe5f2a6008d7dc83c6915b31835dfe733",
                ),
            ),
            takes={"fma_metadata/tracks.csv": "fma_metadata/tracks.csv"},
            unpacked_bytes=1_500_000_000,
        ),
    ),
    n_clips={"fma-small": 8_000},
    shortest_s=29.0,
    known_bad={f"{track:06d}": f"{CORRUPT}: no audio" for track in NO_AUDIO}
    | {f"{track:06d}": f"{SHORT}: below 2 s" for track in TOO_SHORT},
)
GENRES = (
    *("Hip-Hop", "Pop", "Folk", "Experimental", "Rock", "International", "Electronic"),
    "Instrumental",
)
PARTS = {"training": "train", "validation": "valid", "test": "test"}
SUBSETS = ("small", "medium", "large", "")
GENRE, PART, SUBSET, ARTIST = "track/genre_top", "set/split", "set/subset", "artist/id"


def load_fma_small(root: Path) -> ClipIndex:
    """The tracks of `root/fma_metadata/tracks.csv` in the subset small, official split.

    Clips are named by the six digits of the track ("000002") and grouped by artist. Short ones
    keep their duration.
    """
    require_root(root, f"FMA ({RELEASE.homepage}): fma_small/ and fma_metadata/")
    table = read_table(
        root / "fma_metadata" / "tracks.csv",
        ("track_id", GENRE, PART, SUBSET, ARTIST),
        header_lines=3,
        others=False,
    )
    table.distinct("track_id")
    rows = [row for row in table.rows if table.choice(row, SUBSET, SUBSETS) == "small"]
    if not rows:
        raise DataError(f"{table.path}: no track in the subset small")
    names = [f"{table.integer(row, 'track_id', 0, 999_999):06d}" for row in rows]
    paths = [f"fma_small/{name[:3]}/{name}.mp3" for name in names]
    labels = np.array([_genre(table, row) for row in rows], np.int64)
    clips = pd.DataFrame(
        {
            "clip_id": names,
            "path": paths,
            "duration_s": durations(root, paths, str(table.path)),
            "split": [PARTS[table.choice(row, PART, PARTS)] for row in rows],
            "group": [row[ARTIST] for row in rows],
        }
    )
    return ClipIndex(
        name="fma-small",
        clips=clips,
        labels=labels,
        label_names=GENRES,
        root=root,
        licence=RELEASE.licence,
        citation=RELEASE.citation,
    )


def _genre(table: Table, row: Row) -> int:
    return GENRES.index(table.choice(row, GENRE, GENRES))
