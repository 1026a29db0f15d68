"""Instruments sound what the score says; the parts they are made of keep their laws."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from understudy.datasets.synth import RATE_HZ, clip, plan, render
from understudy.datasets.synth.instrument import Note, line
from understudy.datasets.synth.room import Room
from understudy.datasets.synth.score import UNPITCHED, Score
from understudy.datasets.synth.signal import (
    cycles,
    decay,
    envelope,
    impulses,
    moving_filter,
    noise,
    resonators,
)
from understudy.datasets.synth.strings import vibrating_string

UNTUNED = ("drums", "cymbals", "shaker")
TUNED = sorted(set(clip.INSTRUMENTS) - set(UNTUNED))


def rng(*key):
    return clip.generator("test", *key)


def spectrum_db(x, n_fft=2**18):
    """Magnitudes in dB and their frequencies in Hz."""
    magnitude = np.abs(np.fft.rfft(x * np.hanning(x.size), n_fft))
    return 20 * np.log10(magnitude + 1e-12), np.fft.rfftfreq(n_fft, 1 / RATE_HZ)


def cents_off(x, f0_hz):
    """How far the strongest of the first three partials is from where f0_hz has it."""
    level_db, f_hz = spectrum_db(x)
    best = (-np.inf, 0.0)
    for k in (1, 2, 3):
        near = np.abs(f_hz - k * f0_hz) < 0.06 * f0_hz * k
        peak = np.argmax(np.where(near, level_db, -np.inf))
        best = max(best, (level_db[peak], 1200 * np.log2(f_hz[peak] / (k * f0_hz))))
    return best[1]


@pytest.mark.parametrize("style", ["studio", "field"])
@pytest.mark.parametrize("name", clip.INSTRUMENTS)
def test_an_instrument_sounds_from_its_note_on_and_not_before(name, style):
    kind = clip.INSTRUMENTS[name]
    note = Note(onset_s=1.0, duration_s=0.7, pitch=kind.compass[0], velocity=0.7)
    player = kind.draw(rng(name, style), style)
    x = player.play([note], 2 * RATE_HZ, rng(name))
    assert x.dtype == np.float32
    assert x.shape == (2 * RATE_HZ,)
    assert np.isfinite(x).all()
    before, during = x[: int(0.93 * RATE_HZ)], x[RATE_HZ : int(1.5 * RATE_HZ)]
    assert np.sqrt(np.mean(during**2)) > 1e-3
    assert np.abs(before).max() < 1e-3 * np.abs(during).max()


@pytest.mark.parametrize("name", TUNED)
def test_a_tuned_instrument_plays_the_written_pitch(name):
    kind = clip.INSTRUMENTS[name]
    note = Note(0.0, 1.5, sum(kind.compass) // 2, 0.7)
    x = kind.draw(rng(name), "studio").play([note], int(1.5 * RATE_HZ), rng(name))
    assert abs(cents_off(x, note.f0_hz)) < 25


@pytest.mark.parametrize("name", clip.INSTRUMENTS)
def test_a_part_that_rests_is_silent(name):
    kind = clip.INSTRUMENTS[name]
    x = kind.draw(rng(name), "studio").play([], RATE_HZ // 4, rng(name))
    assert not x.any()


def test_instruments_differ_between_sessions_and_stay_within_their_ranges():
    for kind in clip.INSTRUMENTS.values():
        first, second = (kind.draw(rng(k), "field") for k in (1, 2))
        assert first != second
        for parameter in dataclasses.fields(kind):
            low, high = parameter.metadata["field"]
            assert low <= getattr(first, parameter.name) <= high


@pytest.mark.parametrize("stiffness", [0.0, 4e-4])
def test_a_strings_partials_lie_where_stiffness_puts_them(stiffness):
    f0_hz, pluck = 196.4, np.hanning(8).astype(np.float32)
    x = vibrating_string(
        pluck, f0_hz, 2 * RATE_HZ, t60_s=6, damping_hz=8000, stiffness=stiffness, position=0.11
    )
    level_db, f_hz = spectrum_db(x)
    for k in (1, 2, 5, 8):
        wanted_hz = k * f0_hz * np.sqrt(1 + stiffness * k**2)
        near = np.abs(f_hz - wanted_hz) < 40
        found_hz = f_hz[np.argmax(np.where(near, level_db, -np.inf))]
        assert found_hz == pytest.approx(wanted_hz, abs=0.5)


def test_a_string_decays_by_60_db_in_its_t60():
    x = vibrating_string(np.ones(1, np.float32), 220.0, 2 * RATE_HZ, t60_s=1.0, damping_hz=1e6)
    early, late = (np.sqrt(np.mean(x[s : s + 1000] ** 2)) for s in (2000, 2000 + RATE_HZ // 2))
    assert 20 * np.log10(early / late) == pytest.approx(30, abs=1)
    assert np.abs(x[:1000]).max() > 100 * np.abs(x[-1000:]).max()  # nothing wraps round the end


@given(n=st.integers(1, 60), start=st.floats(-0.5, 0.5))
def test_impulses_are_the_sum_of_their_harmonics(n, start):
    phase = cycles(123.4, 500, start)
    direct = sum(np.cos(2 * np.pi * k * phase.astype(np.float64)) for k in range(1, n + 1))
    np.testing.assert_allclose(impulses(phase, n), direct, atol=2e-3 * n)


@given(
    n=st.integers(1, 5000),
    attack_s=st.floats(0, 0.2),
    release_s=st.floats(0, 0.2),
)
def test_an_envelope_starts_and_ends_near_zero_whatever_its_length(n, attack_s, release_s):
    shape = envelope(n, attack_s, release_s)
    assert shape.shape == (n,)
    assert shape.min() >= 0
    assert shape.max() <= 1
    if attack_s > 0.01 and release_s > 0.01 and n > 1000:
        assert max(shape[0], shape[-1]) < 0.01


def test_a_moving_filter_that_stands_still_is_a_filter():
    x = noise(rng("filter"), 3000)
    sections = resonators([500.0, 1500.0], [80.0, 120.0])
    moved = moving_filter(x, np.tile(sections, (12, 1, 1)), 256)
    np.testing.assert_allclose(moved, signal.sosfilt(sections, x), atol=1e-4)


def test_a_resonator_peaks_at_its_formant_and_passes_0_hz():
    impulse = np.eye(1, 8192)[0]
    gain = np.abs(np.fft.rfft(signal.sosfilt(resonators([700.0], [60.0]), impulse)))
    assert np.argmax(gain) * RATE_HZ / 8192 == pytest.approx(700, abs=10)
    assert gain[0] == pytest.approx(1)


def test_decay_falls_by_60_db():
    assert 20 * np.log10(decay(0.1, 4000)[2205]) == pytest.approx(-60, abs=0.1)


def test_vibrato_sets_in_after_the_onset_with_the_asked_depth():
    n = 2 * RATE_HZ
    note = Note(0.0, 2.0, 69, 0.8)
    curve = line([note], n, rng("v"), attack_s=0.02, release_s=0.02, vibrato_cents=50)
    cents = 1200 * np.log2(curve.f0_hz / 440)
    assert np.abs(cents[: n // 12]).max() < 20
    assert 40 < np.abs(cents[n // 2 :]).max() < 75


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    tempo_bpm=st.floats(40, 200),
    dynamics=st.floats(0, 1),
    name=st.sampled_from(sorted(clip.INSTRUMENTS)),
)
def test_parts_stay_in_the_compass_and_in_the_clip(seed, tempo_bpm, dynamics, name):
    kind, random = clip.INSTRUMENTS[name], rng(seed)
    score = Score.draw(random, tempo_bpm, dynamics, 6.0, tuning=0.2)
    for role in kind.roles:
        notes = score.part(role, kind.compass, random)
        assert role == "toms" or notes
        assert [n.onset_s for n in notes] == sorted(n.onset_s for n in notes)
        for note in notes:
            assert 0 <= note.onset_s < 6
            assert note.duration_s > 0
            assert 0.1 <= note.velocity <= 1
            tuning = 0 if role in UNPITCHED else 0.2
            assert kind.compass[0] <= note.pitch - tuning + 1e-9
            assert note.pitch - tuning <= kind.compass[1] + 1e-9


@pytest.mark.parametrize("peak_dbfs", [-20.0, -3.0])
def test_a_room_keeps_the_length_and_sets_the_peak(peak_dbfs):
    dry = noise(rng("dry"), 30_000)
    dry[15_000:] = 0
    room = Room.draw(rng("room"), "field")
    x = room.record(dry, peak_dbfs, rng("record"))
    assert x.shape == dry.shape
    assert 20 * np.log10(np.abs(x).max()) == pytest.approx(peak_dbfs, abs=0.01)
    assert np.abs(x[16_000:18_000]).max() > 1e-3 * np.abs(x).max()  # reverberation and noise


@pytest.mark.parametrize("style", ["studio", "field"])
def test_a_clip_is_a_function_of_style_seed_and_number(style):
    one, again, other = plan(style, 3, 5), plan(style, 3, 5), plan(style, 4, 5)
    assert one == again
    assert one != other
    x = render(one)
    np.testing.assert_array_equal(x, render(again))
    assert x.dtype == np.float32
    assert x.shape == (one.n_samples,)
    assert 6 * RATE_HZ <= one.n_samples <= 8 * RATE_HZ
    assert 0.005 < np.abs(x).max() <= 1


def test_each_player_leads_once_a_round():
    for first in (0, 10, 20):
        leads = [plan("studio", 0, first + k).instruments[0] for k in range(10)]
        named = [lead for lead in leads if lead not in clip.DISTRACTORS]
        assert sorted(named) == sorted(clip.PLAYERS)
