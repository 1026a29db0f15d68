"""`understudy.hear.*`: each teacher is a HEAR module, and so is every exported student."""

import importlib
from pathlib import Path

import pytest
import torch
from tests import exported, hear_rules

from understudy import students, teachers
from understudy.errors import ConfigError, WeightsError
from understudy.export import export
from understudy.hear import student as hear_student


@pytest.mark.parametrize("name", teachers.names())
def test_every_teacher_is_a_module(name):
    module = importlib.import_module(f"understudy.hear.{name}")
    for function in ("load_model", "get_scene_embeddings", "get_timestamp_embeddings"):
        assert callable(getattr(module, function))


@pytest.mark.parametrize("name", ["discogs", "mn04", "spectral"])
@pytest.mark.parametrize("silent", [True, False])
def test_one_second(name, silent):
    module = importlib.import_module(f"understudy.hear.{name}")
    model = module.load_model("random")
    generator = torch.Generator().manual_seed(0)
    audio = 0.1 * torch.randn(2, model.sample_rate, generator=generator) * (not silent)
    scene = module.get_scene_embeddings(audio, model)
    assert scene.shape == (2, model.scene_embedding_size)
    assert scene.dtype == torch.float32
    embedding, timestamp = module.get_timestamp_embeddings(audio, model)
    assert embedding.shape == (2, 21, model.timestamp_embedding_size)
    assert embedding.dtype == torch.float32
    assert scene.isfinite().all()
    assert embedding.isfinite().all()
    torch.testing.assert_close(timestamp[0], 50 * torch.arange(21.0))


@pytest.mark.parametrize("name", ["spectral", pytest.param("mn04", marks=pytest.mark.soak)])
def test_teachers_by_the_validators_rules(name):
    """These with their own windows; `test_teachers.py` holds all teachers against the rules."""
    hear_rules.check(importlib.import_module(f"understudy.hear.{name}"), "random")


@pytest.fixture(scope="module", params=["sc-cnn", "hcnn"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hear")
    return export(exported.make_run(place, request.param), place / "student")


def test_students_by_the_validators_rules(folder):
    hear_rules.check(hear_student, str(folder))


def test_embeddings_of_students_are_what_their_labels_are_made_of(folder):
    model = hear_student.load_model(str(folder))
    student = students.load(folder)
    sound = 0.1 * torch.randn(2, student.input_samples)
    scene = hear_student.get_scene_embeddings(sound, model)
    torch.testing.assert_close(student.dense2(scene), student(sound).logits)
    long = torch.cat((sound, sound), 1)
    torch.testing.assert_close(hear_student.get_scene_embeddings(long, model), scene)


def test_a_students_timestamp_is_the_middle_of_its_window(folder):
    model = hear_student.load_model(str(folder), hop_s=0.5)
    sound = torch.zeros(1, 16_000 * 12)
    sound[:, 16_000 * 6 :] = hear_rules.noise(1, 6, 16_000)
    embedding, timestamp = hear_student.get_timestamp_embeddings(sound, model)
    reach_ms = 1000 * model.window_s / 2
    silent = embedding[0, timestamp[0] < 6000 - reach_ms - 20]
    heard = embedding[0, timestamp[0] > 6000 - reach_ms + 100]
    assert len(silent) > 5
    torch.testing.assert_close(silent, silent[:1].expand_as(silent))
    assert (heard - silent[0]).abs().amax(1).min() > 1e-4


def test_a_student_has_no_default_weights(tmp_path):
    with pytest.raises(ConfigError, match="wanted the folder of an exported student"):
        hear_student.load_model()
    with pytest.raises(WeightsError, match="not an exported student"):
        hear_student.load_model(str(tmp_path))
