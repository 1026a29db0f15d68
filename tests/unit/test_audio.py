import hashlib
import tracemalloc

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy import audio
from understudy.audio import decoding, mpeg
from understudy.errors import AudioError

RATE_HZ = 16000


def noise(n, channels=None, seed=0):
    shape = n if channels is None else (n, channels)
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)


def reason(path, call=audio.decode):
    with pytest.raises(AudioError) as caught:
        call(path)
    assert str(path) in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_crops_are_parts_of_the_whole(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    audio.write(path, noise(RATE_HZ * 6, 2), RATE_HZ)
    whole = audio.decode(path)
    header = audio.info(path)
    assert (header.rate_hz, header.channels, header.n_samples) == (RATE_HZ, 2, RATE_HZ * 6)
    assert header.duration_s == 6.0
    assert header.container == suffix.upper()
    assert whole.samples.shape == (RATE_HZ * 6,)
    assert whole.samples.dtype == np.float32
    for start, count in ((0, 1), (1, 7), (5000, 20000), (95999, 1), (90000, 6000)):
        crop = audio.decode(path, start / RATE_HZ, count / RATE_HZ).samples
        np.testing.assert_allclose(crop, whole.samples[start : start + count], atol=1e-6)
    over = audio.decode(path, 5.5, 10.0).samples
    np.testing.assert_allclose(over, whole.samples[88000:], atol=1e-6)
    assert "no samples at 6 s" in reason(path, lambda p: audio.decode(p, 6.0))
    assert "no samples" in reason(path, lambda p: audio.decode(p, 0.0, 0.0))


@pytest.mark.parametrize("suffix", ["ogg", "mp3", "flac"])
def test_blocks_do_not_show(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"a.{suffix}"
    audio.write(path, noise(RATE_HZ * 6), RATE_HZ)
    whole = audio.decode(path).samples
    monkeypatch.setattr(decoding, "_BLOCK_SAMPLES", 4097)
    np.testing.assert_array_equal(audio.decode(path).samples, whole)


def test_digest_is_of_the_bytes(tmp_path):
    path = tmp_path / "a.wav"
    audio.write(path, noise(100), RATE_HZ)
    assert audio.decode(path, digest=True).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert audio.decode(path).sha256 is None


@pytest.mark.parametrize("call", [audio.decode, audio.info])
def test_what_is_no_audio_file_is_refused(tmp_path, call):
    assert reason(tmp_path / "absent.wav", call) == audio.MISSING
    assert reason(tmp_path, call).startswith(audio.UNREADABLE)
    (tmp_path / "empty.wav").touch()
    assert reason(tmp_path / "empty.wav", call) == audio.EMPTY
    assert reason(tmp_path / "empty.wav" / "below.wav", call) == audio.MISSING
    for name in ("text.wav", "text.mp3", "text.raw", "text.ogg"):
        (tmp_path / name).write_text("this is no audio\n" * 20)
        assert reason(tmp_path / name, call) == audio.NOT_AUDIO
    audio.write(tmp_path / "none.wav", noise(0), RATE_HZ)
    assert reason(tmp_path / "none.wav", call) == audio.NO_SAMPLES


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_truncated_ogg_is_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("ogg") / "a.ogg"
    audio.write(path, noise(RATE_HZ * 2), RATE_HZ)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert reason(path) in (audio.TRUNCATED, audio.EMPTY, audio.NOT_AUDIO, audio.NO_SAMPLES)


def test_an_ogg_cut_between_pages_is_refused_as_truncated(tmp_path):
    path = tmp_path / "a.ogg"
    audio.write(path, noise(RATE_HZ * 5), RATE_HZ)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b"OggS")])
    assert len(soundfile.read(path)[0]) > 0  # libsndfile does not mind
    assert reason(path) == audio.TRUNCATED


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_samples_are_refused(tmp_path, value):
    samples = noise(1000, 2)
    samples[500, 1] = value
    soundfile.write(tmp_path / "a.wav", samples, RATE_HZ, subtype="FLOAT")
    assert reason(tmp_path / "a.wav") == audio.NON_FINITE


def test_broken_flac_is_refused_and_truncated_wav_taken_as_far_as_it_goes(tmp_path):
    for suffix in ("flac", "wav"):
        path = tmp_path / f"a.{suffix}"
        audio.write(path, noise(RATE_HZ * 5), RATE_HZ)
        path.write_bytes(path.read_bytes()[: 44 + RATE_HZ * 2])
    assert reason(tmp_path / "a.flac").startswith(audio.UNREADABLE)
    assert len(audio.decode(tmp_path / "a.wav").samples) == RATE_HZ


@pytest.mark.parametrize(
    ("channels", "rate_hz", "n"), [(8, 192000, 3840), (1, 7, 3), (1, 44100, 1), (2, 8000, 160)]
)
def test_unusual_files_are_accepted(tmp_path, channels, rate_hz, n):
    samples = noise(n, channels)
    soundfile.write(tmp_path / "a.wav", samples, rate_hz, subtype="FLOAT")
    decoded = audio.decode(tmp_path / "a.wav")
    np.testing.assert_allclose(decoded.samples, samples.mean(axis=1), atol=1e-7)
    for to_hz in (16000, 32000):
        result = audio.resample(decoded.samples, rate_hz, to_hz)
        assert len(result) == audio.resampled_length(n, rate_hz, to_hz)
        assert np.isfinite(result).all()


def test_a_header_cannot_make_us_allocate(tmp_path):
    wav, flac = tmp_path / "a.wav", tmp_path / "a.flac"
    for path in (wav, flac):
        audio.write(path, noise(1000), RATE_HZ)
    data = bytearray(wav.read_bytes())
    data[4:8] = data[40:44] = b"\xf0\xff\xff\xff"
    wav.write_bytes(data)
    data = bytearray(flac.read_bytes())
    data[21:26] = bytes([data[21] | 0x0F]) + b"\xff" * 4  # total samples: 2 ** 36 - 1
    flac.write_bytes(data)
    tracemalloc.start()
    assert len(audio.decode(wav).samples) == 1000
    assert "header promises" in reason(flac)
    assert "header promises" in reason(flac, audio.info)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def _without_frame_count(path):
    """Cuts the Xing or Info frame off an MP3."""
    data = path.read_bytes()
    assert b"Xing" in data[:64] or b"Info" in data[:64]
    path.write_bytes(data[mpeg.frame_bytes(data[:4]) :])


@pytest.mark.parametrize("loud_first", [True, False])
@pytest.mark.parametrize("rate_hz", [16000, 44100])
def test_mp3_of_variable_rate_without_a_count_is_read_to_its_end(tmp_path, loud_first, rate_hz):
    samples = noise(rate_hz * 8)
    samples[rate_hz * 4 :] = 0
    path = tmp_path / "a.mp3"
    with soundfile.SoundFile(
        path, "w", rate_hz, 1, compression_level=0.5, bitrate_mode="VARIABLE"
    ) as file:
        file.write(samples if loud_first else samples[::-1])
    whole = audio.decode(path).samples
    _without_frame_count(path)
    guess = soundfile.info(path).frames
    assert abs(guess / len(whole) - 1) > 0.2  # what this is about
    decoded = audio.decode(path).samples
    assert audio.info(path).n_samples == len(decoded)
    assert 0 <= len(decoded) - len(whole) < 0.2 * rate_hz  # encoder delay and padding
    loud = np.abs(decoded) > 0.05
    assert loud.sum() == pytest.approx((np.abs(whole) > 0.05).sum(), rel=0.01)


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("counted", [True, False])
def test_what_follows_the_last_frame_of_an_mp3_is_ignored(tmp_path, mode, counted):
    path = tmp_path / "a.mp3"
    samples = noise(RATE_HZ * 3)
    with soundfile.SoundFile(
        path, "w", RATE_HZ, 1, compression_level=0.5, bitrate_mode=mode
    ) as file:
        file.write(samples)
    if not counted:
        _without_frame_count(path)
    whole, data = audio.decode(path).samples, path.read_bytes()
    junk = np.random.default_rng(0).bytes(100_000)
    tag = b"APETAGEX" + junk[:400] + b"APETAGEX" + bytes(24) + b"TAG" + b"x" * 125
    for tail in (b"TAG" + b"x" * 125, tag, bytes(5000), junk, b"<html>" * 300, data[:3]):
        path.write_bytes(data + tail)
        decoded = audio.decode(path).samples
        np.testing.assert_array_equal(decoded, whole)
        assert abs(audio.info(path).n_samples - len(whole)) <= 1152


def test_truncated_mp3_gives_what_it_has(tmp_path):
    path = tmp_path / "a.mp3"
    audio.write(path, noise(RATE_HZ * 8), RATE_HZ)
    whole = audio.decode(path).samples
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    half = audio.decode(path).samples
    assert audio.info(path).n_samples == len(whole)  # the header still says so
    assert 0.4 < len(half) / len(whole) < 0.6
    np.testing.assert_array_equal(half, whole[: len(half)])


@given(n=st.integers(0, 3000), from_hz=st.integers(1, 96000), to_hz=st.integers(1, 96000))
@settings(max_examples=60, deadline=None)
def test_resampled_length_is_the_ceiling(n, from_hz, to_hz):
    length = audio.resampled_length(n, from_hz, to_hz)
    assert (length - 1) * from_hz < n * to_hz <= length * from_hz or n == length == 0
    if length < 2**20:
        result = audio.resample(noise(n), from_hz, to_hz)
        assert result.dtype == np.float32
        assert len(result) == length


@pytest.mark.parametrize("resampler", audio.RESAMPLERS)
def test_resamplers_keep_a_tone(resampler):
    t = np.arange(44100) / 44100
    tone = np.sin(2 * np.pi * 440 * t).astype(np.float32)
    result = audio.resample(tone, 44100, 16000, resampler)
    wanted = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    np.testing.assert_allclose(result[500:-500], wanted[500:-500], atol=2e-3)


@given(
    n=st.integers(1, 30_000),
    from_hz=st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000, 48001, 96000]),
    block=st.integers(1, 9000),
)
@settings(max_examples=40)
def test_blocks_are_resampled_as_the_whole(n, from_hz, block):
    whole = noise(n, seed=n)
    blocks = (whole[at : at + block] for at in range(0, n, block))
    parts = list(audio.resample_blocks(blocks, from_hz, RATE_HZ))
    np.testing.assert_array_equal(np.concatenate(parts), audio.resample(whole, from_hz, RATE_HZ))


def test_resample_says_what_it_cannot():
    with pytest.raises(AudioError, match="did you mean 'soxr_hq'"):
        audio.resample(noise(10), 8000, 16000, "soxr")
    with pytest.raises(AudioError, match="44101 to 32000 Hz"):
        audio.resample(noise(10), 44101, 32000, "torchaudio_sinc")


def test_int16_clips_and_counts():
    samples = np.array([0, 0.5, 1.0, 1.2, -1.0, -1.1, 1 / 32768, 0.6 / 32768], np.float32)
    before = samples.copy()
    pcm, n_clipped = audio.to_int16(samples)
    assert pcm.dtype == np.int16
    assert pcm.tolist() == [0, 16384, 32767, 32767, -32768, -32768, 1, 1]
    assert n_clipped == 3
    np.testing.assert_array_equal(samples, before)


def test_int16_round_trip_is_what_a_16_bit_file_holds(tmp_path):
    every = np.arange(-32768, 32768).astype(np.int16)
    assert (audio.to_int16(audio.from_int16(every))[0] == every).all()
    soundfile.write(tmp_path / "a.wav", every, RATE_HZ)
    np.testing.assert_array_equal(audio.decode(tmp_path / "a.wav").samples, audio.from_int16(every))


def test_write_refuses_what_it_does_not_know(tmp_path):
    with pytest.raises(AudioError, match=r"\.xyz"):
        audio.write(tmp_path / "a.xyz", noise(10), RATE_HZ)
    with pytest.raises(AudioError, match="sample rates"):
        audio.write(tmp_path / "a.mp3", noise(10), 7)


def test_provenance_names_decoder_and_resampler():
    assert set(audio.provenance()) == {"soundfile", "libsndfile", "soxr", "libsoxr"}
    assert all(audio.provenance().values())


CLIPS = {"1-100032-A": 0, "1-187207-A": 20, "1-172649-A": 40}


@pytest.mark.parametrize("clip", CLIPS)
def test_real_clips_decode_and_resample_as_upstream(shared, golden, clip):
    wanted = np.load(golden / "mn04_real.npz")
    path = shared / "data" / "esc10" / "audio" / f"{clip}-{CLIPS[clip]}.ogg"
    decoded = audio.decode(path, digest=True)
    assert decoded.sha256 == wanted[f"{clip}/sha256"]
    assert decoded.rate_hz == 44100
    resampled = audio.resample(decoded.samples, 44100, 32000, "torchaudio_sinc")
    other = audio.resample(decoded.samples, 44100, 32000)
    lengths = wanted[f"{clip}/n_samples"].tolist()
    assert [len(decoded.samples), len(resampled)] == lengths
    assert len(other) == lengths[1]
    np.testing.assert_allclose(
        decoded.samples[44100 : 44100 + 128], wanted[f"{clip}/wave_44100"], atol=1e-6
    )
    np.testing.assert_allclose(
        resampled[32000 : 32000 + 128], wanted[f"{clip}/wave_32000"], atol=1e-6
    )
    for samples, rms in zip((decoded.samples, resampled), wanted[f"{clip}/wave_rms"], strict=True):
        assert np.sqrt(np.mean(samples.astype("f8") ** 2)) == pytest.approx(rms, rel=1e-4)
    assert np.sqrt(np.mean((other - resampled) ** 2)) < 0.05 * np.sqrt(np.mean(resampled**2))
    crop = audio.decode(path, 1.0, 0.5).samples
    np.testing.assert_array_equal(crop, decoded.samples[44100 : 44100 + 22050])


def test_no_real_clip_is_taken_for_truncated(shared):
    paths = sorted((shared / "data" / "esc10" / "audio").glob("*.ogg"))
    assert len(paths) == 400
    assert all(decoding.ends_ogg_stream(path) for path in paths)
