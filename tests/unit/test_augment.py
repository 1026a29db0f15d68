"""Augmentation: the same for a clip whoever asks, and never out of line with its target."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.errors import ConfigError
from understudy.students.base import StudentOutput
from understudy.train import losses
from understudy.train.augment import Augment
from understudy.train.objective import Objective
from understudy.train.settings import AugmentSettings, ObjectiveSettings
from understudy.train.stream import Batch, Mix
from understudy.train.teaching import Embedding, Teaching

ROWS = np.array([4, 0, 7])
SPANS = (np.array([-1.0, 1.0, 3.0]), np.array([1.0, 3.0, 5.0]))


def augment(**changes):
    return Augment(AugmentSettings(**changes), seed=5, n_clips=9)


def batch(rows=ROWS):
    audio = torch.from_numpy((1000 * (rows[:, None] + 1) * np.ones(64)).astype(np.int16))
    return Batch(rows=rows, audio=audio, labels=torch.from_numpy(rows % 3))


def test_nothing_is_changed_by_default():
    one = batch()
    image = torch.randn(3, 1, 8, 20)
    assert augment().audio(0, one) is one
    assert augment().image(0, ROWS, image) is image


@pytest.mark.parametrize("changes", [{"gain_db": 6.0}, {"time_masks": 2, "band_masks": 1}])
def test_draws_belong_to_clip_and_epoch_not_to_the_order_of_calls(changes):
    image = torch.randn(1, 1, 16, 200).expand(3, -1, -1, -1)
    first, second = augment(**changes), augment(**changes)
    second.image(3, ROWS, image)
    second.audio(1, batch())
    for epoch in (2, 0):
        whole = first.audio(epoch, batch()).audio, first.image(epoch, ROWS, image)
        for place, row in enumerate(ROWS):
            alone = np.array([row])
            assert torch.equal(second.audio(epoch, batch(alone)).audio[0], whole[0][place])
            assert torch.equal(second.image(epoch, alone, image[:1])[0], whole[1][place])
    again = first.audio(1, batch()).audio, first.image(1, ROWS, image)
    assert not all(torch.equal(a, b) for a, b in zip(again, whole, strict=True))


def test_gain_keeps_to_its_range():
    gains = [augment(gain_db=6.0).audio(epoch, batch()).audio[:, 0] for epoch in range(50)]
    ratio = torch.stack(gains) / (batch().audio[:, 0] / 32_768)
    change_db = 20 * ratio.log10()
    assert change_db.abs().max() <= 6.001
    assert change_db.min() < -4 < 4 < change_db.max()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3), st.integers(0, 3), st.floats(0, 2), st.integers(0, 40), st.integers(0, 9))
def test_masks_are_spans_of_the_stated_size_at_the_mean(n_time, n_band, time_s, bands, epoch):
    chosen = augment(
        time_masks=n_time, time_mask_s=time_s, band_masks=n_band, band_mask_bands=bands
    )
    image = torch.randn(3, 2, 32, 125)
    found = chosen.image(epoch, ROWS, image)
    hidden = found != image
    for i in range(3):
        mean = image[i].mean((1, 2), keepdim=True).expand_as(image[i])
        assert torch.equal(found[i][hidden[i]], mean[hidden[i]])
        frames, rows = hidden[i, 0].all(0), hidden[i, 0].all(1)
        assert frames.all() or frames.sum() <= n_time * (time_s * 62.5 + 1)
        assert rows.all() or rows.sum() <= n_band * bands
        assert torch.equal(hidden[i, 0], frames[None, :] | rows[:, None])


def test_mixup_mixes_audio_by_the_weights_it_tells():
    mixed = augment(mixup=0.4).audio(1, batch())
    assert mixed.mix is not None
    plain = batch().audio.float() / 32_768
    weight = mixed.mix.weight[:, None]
    torch.testing.assert_close(
        mixed.audio, weight * plain + (1 - weight) * plain[mixed.mix.partner]
    )
    assert sorted(mixed.mix.partner.tolist()) == [0, 1, 2]
    assert torch.equal(mixed.labels, batch().labels)


def mixture():
    return Mix(partner=torch.tensor([2, 0, 1]), weight=torch.tensor([0.9, 0.5, 0.2]))


@pytest.mark.parametrize("task", ["multi-label", "single-label"])
def test_mixed_labels_are_those_of_both_crops(task):
    mix, logits = mixture(), torch.randn(3, 4)
    labels = torch.tensor([[1, -1, 1, -1], [-1, -1, 1, 1], [1, 1, -1, 0]])
    if task == "single-label":
        labels = torch.tensor([3, 0, 1])
    found = losses.mixed_prediction(logits, labels, task, mix=mix)
    if task == "single-label":
        target = torch.nn.functional.one_hot(labels, 4).float()
        weight = mix.weight[:, None]
        target = weight * target + (1 - weight) * target[mix.partner]
        wanted = -(target * logits.log_softmax(1)).sum(1).mean()
    else:
        single = [
            [losses.prediction(logits[i : i + 1, k : k + 1], labels[j : j + 1, k : k + 1], task)
             for k in range(4)] for i, j in [(0, 0), (1, 1), (2, 2), (0, 2), (1, 0), (2, 1)]
        ]  # fmt: skip
        terms = torch.tensor(single)
        weight = mix.weight[:, None]
        n_known = 11
        wanted = ((weight * terms[:3]).sum() + ((1 - weight) * terms[3:]).sum()) / n_known
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("aligned", ["frames", "mean"])
def test_targets_are_aligned_first_and_mixed_then(aligned):
    """Crops have frames at other times; what is mixed is the teacher at the student's steps."""
    teaching = Teaching(
        "fitnet", "none", {}, aligned=aligned, detach=True, task="multi-label", n_classes=2,
        student_dim=1, teacher_dim=1,
    )  # fmt: skip
    teaching.projection = None
    # A teacher that says when it is: crop i at frame k hears the time 10 i + t.
    centre_s = torch.tensor([[0.2, 1.4, 2.6, 3.8], [0.9, 2.1, 3.3, 4.5], [0.0, 1.2, 2.4, 3.6]])
    frames = (centre_s + 10 * torch.arange(3)[:, None])[..., None]
    valid = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]], dtype=torch.bool)
    by_step = torch.tensor([[0.2, 2.0, 3.8], [10.9, 12.1, 13.9], [21.2, 21.8, 23.6]])
    if aligned == "mean":
        by_step = torch.tensor([[2.0], [12.7], [22.4]])
    mix = mixture()
    weight = mix.weight[:, None]
    student = (weight * by_step + (1 - weight) * by_step[mix.partner])[..., None]
    if aligned == "mean":
        student = student.expand(-1, 3, -1)
    embedding = Embedding(frames=frames, valid=valid, centre_s=centre_s)
    distance, _ = teaching(student, torch.ones(3, 2), embedding, SPANS, mix)
    assert distance < 1e-9
    other, _ = teaching(student, torch.ones(3, 2), embedding, SPANS, None)
    assert other > 1


def test_a_crop_mixed_with_a_silent_one_is_left_out():
    settings_ = ObjectiveSettings(distance="fitnet", compression="linear")
    objective = Objective(
        settings_, task="multi-label", n_classes=2, student_dim=4, teacher_dims={"a": 3}
    )
    frames = torch.randn(3, 4, 3)
    valid = torch.ones(3, 4, dtype=torch.bool)
    valid[0] = False
    frames[0] = torch.nan
    output = StudentOutput(torch.randn(3, 2), torch.randn(3, 3, 4, requires_grad=True))
    embedding = Embedding(frames=frames, valid=valid, centre_s=torch.rand(3, 4))
    found = objective(output, torch.ones(3, 2), [embedding], SPANS, mixture())
    assert all(value.isfinite() for value in found.values())
    (gradient,) = torch.autograd.grad(found["distance"], output.feature_map)
    # Crop 0 is silent, and crop 1 is mixed with it.
    assert [bool(part.any()) for part in gradient] == [False, False, True]


def test_negative_settings_are_refused():
    with pytest.raises(ConfigError, match=r"augment\.mixup: wanted 0 or more, found -1"):
        AugmentSettings(mixup=-1)
