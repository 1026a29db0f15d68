"""Clips of very different lengths: the concat layout, chosen by the plan and kept."""

import numpy as np
import pytest

from understudy import audio, cache, datasets
from understudy.extract import extract, forecast
from understudy.extract import prepare as planning
from understudy.extract.pending import pending

QUIET = {"audio": True, "clips_per_shard": 4, "progress": False}


def record(path, duration_s, seed):
    time_s = np.arange(round(duration_s * 16000)) / 16000
    audio.write(path, 0.1 * np.sin(time_s * (700 + 50 * seed)), 16000)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    for i in range(9):
        record(root / f"{i}.wav", 12 if i == 6 else 1 + i / 4, i)
    (root / "5.wav").write_bytes(b"no audio")
    return root


def readers(root, folder, index=None):
    paths = extract(index or datasets.load("folder", root), ["spectral"], folder, **QUIET)
    assert [cache.verify(path) for path in paths.values()] == [[], []]
    return {name: cache.CacheReader(path) for name, path in paths.items()}


def test_ragged_clips_are_stored_without_padding(root, tmp_path, monkeypatch):
    found = readers(root, tmp_path / "a")
    monkeypatch.setattr(planning.plan, "padding", lambda track, frames: 1.0)
    wanted = readers(root, tmp_path / "b")
    for name, one in found.items():
        other = wanted[name]
        assert (one.attributes["layout"], other.attributes["layout"]) == ("concat", "dense")
        for here, there in zip(
            one.gather(range(9), missing="nan"), other.gather(range(9), missing="nan"), strict=True
        ):
            np.testing.assert_array_equal(here, there)
        np.testing.assert_array_equal(one.status, other.status)
    rows = [0, 6, 8]
    np.testing.assert_array_equal(
        found["spectral"].level_db(rows), wanted["spectral"].level_db(rows)
    )
    # The plan changed its mind; the stores that are there stay the ones in use.
    assert {r.path for r in readers(root, tmp_path / "a").values()} == {
        r.path for r in found.values()
    }


def test_a_clip_without_a_known_length_has_room(root, tmp_path):
    index = datasets.load("folder", root)
    record(root / "5.wav", 11.5, 5)  # readable only after the scan
    found = readers(root, tmp_path / "a", index)
    assert {reader.attributes["layout"] for reader in found.values()} == {"concat"}
    assert {tuple(reader.status) for reader in found.values()} == {(1,) * 9}


def test_a_clip_that_became_longer_is_refused_where_there_is_no_room(root, tmp_path):
    unreadable = (root / "5.wav").read_bytes()
    record(root / "5.wav", 1, 5)
    readers(root, tmp_path / "a")
    (root / "5.wav").write_bytes(unreadable)
    index = datasets.load("folder", root)
    record(root / "5.wav", 11.5, 5)  # readable only after the scan
    found = readers(root, tmp_path / "a", index)
    assert {reader.attributes["layout"] for reader in found.values()} == {"concat"}
    assert found["audio"].status.tolist() == [1, 1, 1, 1, 1, 2, 1, 1, 1]
    assert "its header promised" in (tmp_path / "a/set/ledger.csv").read_text()


@pytest.mark.parametrize(("others_s", "layout"), [(2, "dense"), (0.5, "concat")])
def test_files_that_come_after_the_first_run_are_taken(tmp_path, others_s, layout):
    root = tmp_path / "set"
    root.mkdir()
    lines = ["path,label", *(f"{i}.wav,x" for i in range(9))]
    (tmp_path / "labels.csv").write_text("\n".join(lines))

    def extracted(place):
        index = datasets.load("folder", root, csv=tmp_path / "labels.csv")
        reader = readers(root, tmp_path / place, index)["audio"]
        return reader.attributes["layout"], reader.path, reader.status.tolist()

    record(root / "0.wav", 2, 0)
    assert extracted("a")[0] == "dense"
    for i in range(1, 4):
        record(root / f"{i}.wav", others_s, i)
    first = extracted("b")
    for i in range(4, 9):
        record(root / f"{i}.wav", others_s, i)
    assert extracted("b") == ("dense", first[1], [1] * 9)
    assert extracted("a")[2] == [1] * 9
    assert extracted("c")[0] == layout


def test_forecast_counts_no_padding(root, tmp_path):
    index = datasets.load("folder", root)
    planned = planning.prepare(index, {}, tmp_path / "a", audio=True, clips_per_shard=4)
    found = forecast.forecast(planned, pending(planned))
    wanted = 2 * 16000 * np.nansum(index.clips["duration_s"])
    assert found.bytes == {"audio": found.needed_bytes}
    assert found.needed_bytes == pytest.approx(wanted, rel=1e-3)
