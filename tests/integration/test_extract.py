"""What stores hold after an extraction inside this process, and what becomes of bad clips."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from tests.studio import arrays, code, echo, ledger, load, plan_of, record, recordings

from understudy import audio, cache, teachers
from understudy.cache import CacheReader
from understudy.errors import CacheError
from understudy.extract import cluster, extract, prepare, run
from understudy.extract.cli import command


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return recordings(tmp_path)


def test_stores_hold_what_the_teachers_say(root: Path, tmp_path: Path):
    index = load(root)
    stores = extract(index, ["spectral", echo()], tmp_path / "cache", audio=True)
    assert list(stores) == ["spectral", "echo", "audio"]
    readers = {name: CacheReader(path) for name, path in stores.items()}
    for name, teacher in (("spectral", teachers.build("spectral")), ("echo", echo())):
        reader = readers[name]
        assert reader.attributes["complete"]
        data, n_frames = reader.gather(range(10))
        levels = reader.level_db(range(10))
        for row in range(10):
            decoded = audio.decode(index.absolute(row))
            samples = audio.resample(decoded.samples, decoded.rate_hz, 16000)
            wanted = teacher.embed(torch.from_numpy(samples)).embedding[0].numpy()
            assert n_frames[row] == len(wanted)
            np.testing.assert_allclose(data[row, : len(wanted)], wanted, rtol=2e-3, atol=2e-3)
            assert np.isnan(data[row, len(wanted) :]).all()
            np.testing.assert_allclose(levels[row, : len(wanted)], -20, atol=0.5)
            assert np.isnan(levels[row, len(wanted) :]).all()
    pcm, n_samples = readers["audio"].gather([9])
    decoded = audio.decode(index.absolute(9))
    wanted, _ = audio.to_int16(audio.resample(decoded.samples, decoded.rate_hz, 16000))
    np.testing.assert_array_equal(pcm[0, : n_samples[0]], wanted)


def test_level_counts_only_the_samples_of_a_short_clip(tmp_path: Path):
    root = tmp_path / "short"
    root.mkdir()
    audio.write(root / "a.wav", np.full(1600, 0.5, np.float32), 16000)
    audio.write(root / "b.wav", np.zeros(1600, np.float32), 16000)
    store = extract(load(root), ["spectral"], tmp_path / "cache")["spectral"]
    np.testing.assert_allclose(CacheReader(store).level_db([0, 1])[:, 0], [-6.02, -120], atol=0.01)


def test_bad_clips_are_told_and_the_others_unharmed(root: Path, tmp_path: Path):
    extract(load(root), ["spectral"], tmp_path / "good", clips_per_shard=20)
    good = CacheReader(cache.find(tmp_path / "good", "studio", "spectral")).gather(range(10))[0]
    (root / "a_empty.wav").write_bytes(b"")
    (root / "b_text.wav").write_text("no sound here")
    nans = np.full(8000, np.nan, np.float32)
    soundfile.write(root / "c_nan.wav", nans, 16000, subtype="FLOAT")
    record(root / "d_cut.ogg", 2.0)
    whole = (root / "d_cut.ogg").read_bytes()
    (root / "d_cut.ogg").write_bytes(whole[: len(whole) * 2 // 3])

    planned = plan_of(load(root), tmp_path / "bad", clips_per_shard=20)
    report = run.run(planned)
    reader = CacheReader(planned.stores["spectral"])
    undecodable = code("undecodable")
    status = [undecodable, undecodable, code("audio_not_finite"), undecodable]
    assert reader.status.tolist() == [1] * 10 + status
    np.testing.assert_array_equal(reader.gather(range(10))[0], good)
    lines = ledger(tmp_path / "bad" / "studio")
    assert [line["path"] for line in lines] == sorted(path.name for path in root.glob("[a-d]*"))
    assert {line["track"] for line in lines} == {"spectral"}
    assert lines[0]["reason"] == audio.EMPTY
    assert (report.n_failed, sum(report.reasons.values())) == (4, 4)
    with pytest.raises(CacheError, match="a_empty"):
        reader.gather([10])


def test_numbers_that_do_not_fit_have_a_status_of_their_own(root: Path, tmp_path: Path):
    index = load(root)
    store = extract(index, [echo(gain=1e8)], tmp_path / "half")["echo"]
    assert (CacheReader(store).status == code("overflow")).all()
    assert "--dtype float32" in ledger(tmp_path / "half" / "studio")[0]["reason"]
    store = extract(index, [echo(gain=1e8)], tmp_path / "full", dtype="float32")["echo"]
    assert (CacheReader(store).status == code("ok")).all()
    store = extract(index, [echo(gain=float("nan"))], tmp_path / "nan", dtype="float32")["echo"]
    assert (CacheReader(store).status == code("embedding_not_finite")).all()


def test_out_of_memory_halves_the_batch_and_says_so(root: Path, tmp_path: Path):
    index = load(root)
    wanted = extract(index, [echo()], tmp_path / "a")["echo"]
    planned = prepare.prepare(index, {"echo": echo(most=3)}, tmp_path / "b", audio=False)
    report = run.run(planned)
    assert report.memory_back_offs > 0
    found = CacheReader(planned.stores["echo"]).gather(range(10))[0]
    np.testing.assert_array_equal(found, CacheReader(wanted).gather(range(10))[0])
    store = extract(index, [echo(most=0)], tmp_path / "c")["echo"]
    assert (CacheReader(store).status == code("teacher_failed")).all()
    assert "OutOfMemoryError" in ledger(tmp_path / "c" / "studio")[0]["reason"]


def test_a_link_out_of_the_root_is_told(root: Path, tmp_path: Path):
    record(tmp_path / "secret.wav", 1.0)
    (root / "link.wav").symlink_to(tmp_path / "secret.wav")
    arguments = ["folder", "--root", str(root), "--teacher", "spectral", "--audio"]
    arguments += ["--cache", str(tmp_path / "cache")]
    result = CliRunner().invoke(command, arguments)
    assert "11 clips: 10 ok, 1 failed" in result.output
    lines = ledger(tmp_path / "cache" / "studio")
    assert {(line["clip_id"], line["status"]) for line in lines} == {("link.wav", "undecodable")}
    assert "out of the root" in lines[0]["reason"]
    assert "nothing to do" in CliRunner().invoke(command, arguments).output


def test_a_missing_file_is_told_from_a_damaged_one_and_taken_when_it_comes(
    root: Path, tmp_path: Path
):
    lost = tmp_path / "7.wav"
    (root / "7.wav").rename(lost)
    (root / "8.wav").write_bytes(b"no sound here")
    table = "".join(f"{number}.wav,tone\n" for number in range(10))
    (tmp_path / "labels.csv").write_text(f"path,label\n{table}")
    arguments = ["folder", "--root", str(root), "--teacher", "spectral", "--audio"]
    arguments += ["--option", f"csv={tmp_path / 'labels.csv'}", "--cache", str(tmp_path / "cache")]
    result = CliRunner().invoke(command, arguments)
    assert "10 clips: 8 ok, 2 failed, 1 of them without a file\n" in result.output
    told = {line["clip_id"]: line["reason"] for line in ledger(tmp_path / "cache" / "studio")}
    assert told.keys() == {"7.wav", "8.wav"}
    assert told["7.wav"].startswith("missing file: ")
    assert told["8.wav"] == audio.NOT_AUDIO
    for reason in told.values():
        assert f"  1 x {reason}\n" in result.output
    lost.rename(root / "7.wav")
    result = CliRunner().invoke(command, arguments)
    assert "10 clips: 9 ok, 1 failed\n" in result.output
    assert [line["clip_id"] for line in ledger(tmp_path / "cache" / "studio")] == ["8.wav"] * 2


def test_processes_and_a_running_cluster_give_the_same_bytes(root: Path, tmp_path: Path):
    extract(load(root), ["spectral"], tmp_path / "one", audio=True)
    extract(load(root), ["spectral"], tmp_path / "two", audio=True, workers=2)
    with cluster.connect(None, 1, 2) as client:
        address = client.scheduler_info()["address"]
        extract(load(root), ["spectral"], tmp_path / "there", audio=True, scheduler=address)
    wanted = arrays(tmp_path / "one" / "studio")
    assert arrays(tmp_path / "two" / "studio") == wanted
    assert arrays(tmp_path / "there" / "studio") == wanted
