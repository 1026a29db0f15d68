"""OpenMIC-2018: 20,000 excerpts of 10 s from the Free Music Archive, 20 instruments, most unknown.

Release: `audio/000/000046_3840.ogg` (track and first sample), `openmic-2018-aggregated-labels.csv`
with the probability that an instrument is there where somebody was asked, `class-map.json`, and
`partitions/split01_train.csv` and `split01_test.csv`. `openmic-2018.npz` holds the same labels as
pickled objects and is not read.
"""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from understudy.datasets.files import durations, require_root
from understudy.datasets.release import Release, Remote, Source
from understudy.datasets.splits import grouped_split
from understudy.datasets.table import Table, read_table
from understudy.errors import ConfigError, DataError
from understudy.index import ClipIndex

_TOP = "openmic-2018"
LABELS = "openmic-2018-aggregated-labels.csv"
RELEASE = Release(
    homepage="https://zenodo.org/records/1432913",
    licence="CC BY 4.0",
    citation=(
        "E. Humphrey, S. Durand, B. McFee. OpenMIC-2018: An Open Data-set for Multiple Instrument "
        "Recognition. Proceedings of the 19th International Society for Music Information "
        "Retrieval Conference, 2018."
    ),
    sources=(
        Source(
            files=(
                Remote(
                    name="openmic-2018-v1.0.0.tgz",
                    urls=(
                        "https://zenodo.org/records/1432913/files/openmic-2018-v1.0.0.tgz?download=1",
                    ),
                    about_bytes=2_600_000_000,
                    md5="e4ccf187e2bb5ab2e115416e8aafe7f4",
                ),
            ),
            takes={
                f"{_TOP}/{name}": name for name in ("audio", "class-map.json", "partitions", LABELS)
            },
            unpacked_bytes=3_500_000_000,
        ),
    ),
    n_clips={"openmic": 20_000},
    shortest_s=9.9,
)
INSTRUMENTS = (
    *("accordion", "banjo", "bass", "cello", "clarinet", "cymbals", "drums", "flute", "guitar"),
    *("mallet_percussion", "mandolin", "organ", "piano", "saxophone", "synthesizer", "trombone"),
    *("trumpet", "ukulele", "violin", "voice"),
)
COLUMNS = ("sample_key", "instrument", "relevance")
VALID_FRACTION = 0.15

_KEY = re.compile(r"[0-9]{6}_[0-9]+")


def load_openmic(root: Path, valid_fraction: float = VALID_FRACTION, seed: int = 0) -> ClipIndex:
    """All clips of split01, in the order of their keys, and the labels that are known of them.

    Args:
        root: Folder of the release.
        valid_fraction: Part of split01's training clips taken for validation, whole FMA tracks.
        seed: Of that choice.
    """
    if not 0 <= valid_fraction < 1:
        raise ConfigError(
            f"dataset 'openmic': valid_fraction {valid_fraction}: wanted 0 to below 1"
        )
    require_root(root, f"OpenMIC-2018 ({RELEASE.homepage}): audio/, partitions/ and {LABELS}")
    _check_class_map(root / "class-map.json")
    partitions = {part: root / "partitions" / f"split01_{part}.csv" for part in ("train", "test")}
    parts: dict[str, str] = {}
    for part, path in partitions.items():
        for key in _keys(path):
            if key in parts:
                raise DataError(f"{path}: {key} is in the {parts[key]} partition already")
            parts[key] = part
    train = sorted(key for key, part in parts.items() if part == "train")
    fractions = (1 - valid_fraction, valid_fraction, 0)
    parts |= zip(train, grouped_split([key[:6] for key in train], fractions, seed), strict=True)
    keys = sorted(parts)
    labels = _labels(read_table(root / LABELS, COLUMNS, others=False), keys)
    paths = [f"audio/{key[:3]}/{key}.ogg" for key in keys]
    clips = pd.DataFrame(
        {
            "clip_id": keys,
            "path": paths,
            "duration_s": durations(root, paths, str(partitions["train"].parent)),
            "split": [parts[key] for key in keys],
            "group": [key[:6] for key in keys],
        }
    )
    return ClipIndex(
        name="openmic",
        clips=clips,
        labels=labels,
        label_names=INSTRUMENTS,
        root=root,
        licence=RELEASE.licence,
        citation=RELEASE.citation,
    )


def _check_class_map(path: Path) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not JSON ({error})") from None
    wanted = {name: i for i, name in enumerate(INSTRUMENTS)}
    if found != wanted:
        raise DataError(f"{path}: found {found}, wanted {wanted}")


def _keys(path: Path) -> list[str]:
    """One sample key a line, without a header."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a list of keys ({error})") from None
    keys = [line.strip() for line in lines]
    for i, key in enumerate(keys, start=1):
        if not _KEY.fullmatch(key):
            raise DataError(f"{path}, line {i}: '{key}'; wanted a sample key such as 000046_3840")
    return keys


def _labels(table: Table, keys: list[str]) -> np.ndarray:
    """int8 (clip, label): 1 above one half, -1 below, 0 at one half or where nobody was asked."""
    position = {key: i for i, key in enumerate(keys)}
    labels = np.zeros((len(keys), len(INSTRUMENTS)), np.int8)
    for row in table.rows:
        key, instrument = row["sample_key"], table.choice(row, "instrument", INSTRUMENTS)
        if key not in position:
            raise table.error(row, "sample_key", "one of split01")
        label = np.sign(table.number(row, "relevance", 0, 1) - 0.5)
        cell = position[key], INSTRUMENTS.index(instrument)
        if labels[cell] == -label != 0:
            raise table.error(row, "relevance", f"what an earlier line says of {key}, {instrument}")
        labels[cell] = label
    return labels
