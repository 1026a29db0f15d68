"""The objective: one test per arrow of the gradient's flow, time alignment, masks."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy import students
from understudy.errors import ConfigError
from understudy.students.base import StudentOutput
from understudy.train import alignment, losses
from understudy.train.objective import Objective
from understudy.train.settings import SYSTEMS, system_settings
from understudy.train.teaching import Embedding

N_CLASSES, TEACHER_DIM, N_FRAMES, BATCH = 3, 10, 6, 5
N_SAMPLES = 33_000  # two steps of SC-CNN
DISTILLED = [name for name in SYSTEMS if name != "baseline"]
EMPTY = SimpleNamespace(projection=None, compression=None, head=None)
COMPRESSED = [name for name in DISTILLED if name.endswith("_linear")]


class Setting:
    """A narrow student, an objective and one batch."""

    def __init__(self, system: str, task: str = "multi-label", **changes) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.student = students.build("sc-cnn", N_CLASSES, width=4, dropout=0.0)
            self.objective = Objective(
                system_settings(system, changes),
                task=task,
                n_classes=N_CLASSES,
                student_dim=self.student.channels,
                teacher_dims={"a": TEACHER_DIM},
            )
            self.audio = 0.1 * torch.randn(BATCH, N_SAMPLES)
            self.teacher = torch.randn(BATCH, N_FRAMES, TEACHER_DIM)
            self.labels = torch.randint(0, 2, (BATCH, N_CLASSES)) * 2 - 1
        if task == "single-label":
            self.labels = self.labels[:, 0].clamp(min=0)
        self.valid = torch.ones(BATCH, N_FRAMES, dtype=torch.bool)
        self.centre_s = torch.linspace(0.3, 3.3, N_FRAMES, dtype=torch.float64).repeat(BATCH, 1)

    def losses(self):
        spans = self.student.step_spans(self.audio.shape[1])
        return self.objective(self.student(self.audio), self.labels, [self.embedding()], spans)

    def embedding(self):
        return Embedding(frames=self.teacher, valid=self.valid, centre_s=self.centre_s)

    @property
    def teaching(self) -> Any:
        """Its only `Teaching`; an empty one without a teacher."""
        return self.objective.teachings[0] if self.objective.teachings else EMPTY

    def moved(self, loss: str) -> set[str]:
        """Parts that the gradient of `loss` reaches."""
        parts = {
            "trunk": self.student.layer7,
            "classifier": self.student.dense2,
            "projection": self.teaching.projection,
            "C": self.teaching.compression,
            "H": self.teaching.head,
        }
        value = self.losses()[loss]
        if not value.requires_grad:
            return set()
        for module in (self.student, self.objective):
            module.zero_grad(set_to_none=True)
        value.backward()
        return {
            name
            for name, part in parts.items()
            if part is not None
            and any(p.grad is not None and p.grad.any() for p in part.parameters())
        }


@pytest.mark.parametrize("alignment", ["frames", "mean"])
class TestGradientFlow:
    @pytest.mark.parametrize("system", SYSTEMS)
    def test_prediction_moves_the_student_alone(self, system, alignment):
        setting = Setting(system, alignment=alignment)
        assert setting.moved("prediction") == {"trunk", "classifier"}

    @pytest.mark.parametrize("system", DISTILLED)
    def test_distance_moves_trunk_and_projection(self, system, alignment):
        wanted = {"trunk", "projection"} if system == "fitnet" else {"trunk"}
        assert Setting(system, alignment=alignment).moved("distance") == wanted

    @pytest.mark.parametrize("system", COMPRESSED)
    def test_distance_moves_the_compression_without_detach(self, system, alignment):
        setting = Setting(system, alignment=alignment, detach=False)
        assert setting.moved("distance") == {"trunk", "C"}

    @pytest.mark.parametrize("system", COMPRESSED)
    @pytest.mark.parametrize("detach", [True, False])
    def test_teacher_moves_compression_and_head_alone(self, system, alignment, detach):
        setting = Setting(system, alignment=alignment, detach=detach)
        assert setting.moved("teacher") == {"C", "H"}

    @pytest.mark.parametrize("system", ["baseline", "fitnet", "dc"])
    def test_no_teacher_loss_without_compression(self, system, alignment):
        setting = Setting(system, alignment=alignment)
        assert setting.moved("teacher") == set()
        assert setting.losses()["teacher"] == 0

    def test_no_distance_in_the_baseline(self, alignment):
        setting = Setting("baseline", alignment=alignment)
        assert setting.moved("distance") == set()
        assert setting.losses()["distance"] == 0

    @pytest.mark.parametrize("system", COMPRESSED)
    def test_total_moves_the_compression_by_the_teacher_loss_alone(self, system, alignment):
        setting = Setting(system, alignment=alignment)
        own = list(setting.objective.parameters())
        found = setting.losses()
        wanted = torch.autograd.grad(found["teacher"], own, retain_graph=True)
        for a, b in zip(torch.autograd.grad(found["total"], own), wanted, strict=True):
            assert torch.equal(a, b)

    @pytest.mark.parametrize("system", DISTILLED)
    def test_nothing_reaches_the_teacher(self, system, alignment):
        setting = Setting(system, alignment=alignment)
        setting.teacher.requires_grad_()
        setting.losses()["total"].backward()
        assert setting.teacher.grad is None


@pytest.mark.parametrize("system", SYSTEMS)
def test_parameter_groups_hold_everything_once(system):
    setting = Setting(system)
    groups = setting.objective.parameter_groups(setting.student)
    found = [id(p) for group in groups.values() for p in group]
    own = {*setting.student.parameters(), *setting.objective.parameters()}
    assert sorted(found) == sorted(map(id, own))
    teacher = {*_parameters(setting.teaching.compression), *_parameters(setting.teaching.head)}
    assert set(groups.get("teacher 0", [])) == teacher
    assert bool(teacher) == (system in COMPRESSED)


def _parameters(module):
    return [] if module is None else module.parameters()


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("task", ["multi-label", "single-label"])
def test_sums(system, task):
    setting = Setting(system, task, distance_weight=0.25)
    found = setting.losses()
    assert set(found) == {"total", "student", "prediction", "distance", "teacher"}
    wanted = found["prediction"]
    if system != "baseline":
        wanted = 0.75 * found["prediction"] + 0.25 * found["distance"]
    torch.testing.assert_close(found["student"], wanted)
    torch.testing.assert_close(found["total"], found["student"] + found["teacher"])
    output = setting.student(setting.audio)
    prediction = losses.prediction(output.logits, setting.labels, task)
    torch.testing.assert_close(found["prediction"], prediction)


def test_dc_linear_from_its_definition():
    setting = Setting("dc_linear")
    found = setting.losses()
    compress, head = setting.teaching.compression, setting.teaching.head
    assert compress is not None
    assert head is not None
    # Frames at 0.3, 0.9, 1.5, 2.1, 2.7, 3.3 s; steps from -1.024 and 1.024 to 3.072 s.
    by_step = torch.stack([setting.teacher[:, :2].mean(1), setting.teacher[:, 2:5].mean(1)], 1)
    feature_map = setting.student(setting.audio).feature_map
    torch.testing.assert_close(found["distance"], losses.dc(feature_map, compress(by_step)))
    logits = head(compress(setting.teacher.mean(1)))
    wanted = losses.prediction(logits, setting.labels, "multi-label")
    torch.testing.assert_close(found["teacher"], wanted)


@pytest.mark.parametrize("name", ["frames", "mean"])
@pytest.mark.parametrize("system", DISTILLED)
def test_padding_and_crops_without_frames_do_not_matter(system, name):
    setting = Setting(system, alignment=name)
    setting.valid[0] = False
    setting.valid[1, 3:] = False
    setting.teacher[~setting.valid] = torch.nan
    output = setting.student(setting.audio)
    spans = setting.student.step_spans(setting.audio.shape[1])
    run = partial(setting.objective, step_spans=spans)
    embedding = setting.embedding()
    found = run(output, setting.labels, [embedding])
    kept = StudentOutput(*(part[1:] for part in output))
    others = Embedding(**{name: part[1:] for name, part in vars(embedding).items()})
    wanted = run(kept, setting.labels[1:], [others])
    torch.testing.assert_close(found["distance"], wanted["distance"])
    torch.testing.assert_close(found["teacher"], wanted["teacher"])
    found["total"].backward()
    for module in (setting.student, setting.objective):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("system", DISTILLED)
def test_a_batch_without_any_frame_trains_on_its_labels(system):
    setting = Setting(system)
    setting.valid[:] = False
    setting.teacher[:] = torch.nan
    found = setting.losses()
    assert all(value.isfinite() for value in found.values())
    assert found["teacher"] == 0
    assert setting.moved("total") == {"trunk", "classifier"}


@pytest.mark.parametrize("system", ["fitnet", "dc_linear"])
def test_autocast_changes_only_the_student(system):
    setting = Setting(system)
    output = setting.student(setting.audio)
    spans = setting.student.step_spans(setting.audio.shape[1])
    arguments = (setting.labels, [setting.embedding()], spans)
    wanted = setting.objective(output, *arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = setting.objective(output, *arguments)
        half = setting.losses()
    for name, value in found.items():
        assert value.dtype == half[name].dtype == torch.float32
        assert torch.equal(value, wanted[name])
        torch.testing.assert_close(half[name], wanted[name], rtol=0.1, atol=0.05)


class TestAlignment:
    def align(self, centre_s, valid, start_s, end_s):
        centre_s = torch.tensor([centre_s], dtype=torch.float64)
        embedding = torch.arange(centre_s.shape[1], dtype=torch.float32)[None, :, None]
        steps, step_valid = alignment.to_steps(
            embedding,
            torch.tensor([valid], dtype=torch.bool),
            centre_s,
            torch.tensor(start_s, dtype=torch.float64),
            torch.tensor(end_s, dtype=torch.float64),
        )
        return steps[0, :, 0].tolist(), step_valid[0].tolist()

    def test_half_open_spans(self):
        assert self.align([0, 1, 2], [1, 1, 1], [0, 2], [2, 4]) == ([0.5, 2.0], [True, True])

    def test_nearest_where_a_step_is_empty(self):
        assert self.align([0, 1, 10], [1, 1, 1], [0, 2, 4], [2, 4, 6])[0] == [0.5, 1.0, 1.0]

    def test_equally_near_frames_share(self):
        assert self.align([0, 4], [1, 1], [1], [3])[0] == [0.5]

    def test_invalid_frames_do_not_count(self):
        assert self.align([0, 1, 9], [1, 0, 1], [0, 2], [2, 4])[0] == [0.0, 0.0]
        assert self.align([0, 1], [0, 0], [0, 2], [2, 4]) == ([0.0, 0.0], [False, False])

    def test_a_clip_level_vector_serves_every_step(self):
        embedding = torch.randn(2, 1, 4)
        start_s = torch.arange(3.0)
        centre_s, valid = torch.full((2, 1), 15.0), torch.ones(2, 1, dtype=torch.bool)
        steps, _ = alignment.to_steps(embedding, valid, centre_s, start_s, start_s + 1)
        assert torch.equal(steps, embedding.expand(-1, 3, -1))

    @given(data=st.data())
    @settings(max_examples=50, deadline=None)
    def test_against_a_loop(self, data):
        batch, n_frames, n_steps = (data.draw(st.integers(1, 4)) for _ in range(3))
        draw = partial(st.lists, min_size=batch * n_frames, max_size=batch * n_frames)
        tenths = data.draw(draw(st.integers(-20, 60)))
        centre_s = torch.tensor(tenths).view(batch, n_frames) / 10
        valid = torch.tensor(data.draw(draw(st.booleans()))).view(batch, n_frames)
        embedding = torch.arange(batch * n_frames * 2.0).view(batch, n_frames, 2)
        start_s = torch.arange(n_steps) * 1.5
        end_s = start_s + 1.5
        found, found_valid = alignment.to_steps(embedding, valid, centre_s, start_s, end_s)
        for i in range(batch):
            for k in range(n_steps):
                usable = [j for j in range(n_frames) if valid[i, j]]
                assert bool(found_valid[i, k]) == bool(usable)
                if not usable:
                    assert (found[i, k] == 0).all()
                    continue
                inside = [j for j in usable if start_s[k] <= centre_s[i, j] < end_s[k]]
                gap = {j: abs(centre_s[i, j] - (start_s[k] + end_s[k]) / 2) for j in usable}
                chosen = inside or [j for j in usable if gap[j] == min(gap.values())]
                torch.testing.assert_close(found[i, k], embedding[i, chosen].mean(0))

    def test_crop_mean(self):
        embedding = torch.tensor([[1.0, 3.0, torch.nan], [torch.nan] * 3])[..., None]
        valid = torch.tensor([[True, True, False], [False] * 3])
        mean, mean_valid = alignment.crop_mean(embedding, valid)
        assert mean.tolist() == [[2.0], [0.0]]
        assert mean_valid.tolist() == [True, False]


class TestSettings:
    def test_presets(self):
        found = {
            name: (s.distance, s.compression, s.alignment, s.detach) for name, s in SYSTEMS.items()
        }
        assert found == {
            "baseline": ("none", "none", "frames", True),
            "fitnet": ("fitnet", "none", "frames", True),
            "fitnet_linear": ("fitnet", "linear", "frames", True),
            "dc": ("dc", "none", "frames", True),
            "dc_linear": ("dc", "linear", "frames", True),
        }
        assert {s.distance_weight for s in SYSTEMS.values()} == {0.6}

    def test_changes(self):
        changed = system_settings("dc_linear", {"distance": "dc_unbiased", "detach": False})
        assert (changed.distance, changed.compression, changed.detach) == (
            "dc_unbiased",
            "linear",
            False,
        )
        mlp = {"compression": "mlp", "compression_settings": {"hidden": 7}}
        objective = Setting("fitnet_linear", **mlp).objective
        assert objective.get_parameter("teachings.0.compression.hidden.weight").shape == (
            7,
            TEACHER_DIM,
        )

    @pytest.mark.parametrize("distance", losses.DISTANCES)
    @pytest.mark.parametrize("compression", ["none", "linear", "mlp"])
    def test_every_combination_runs(self, distance, compression):
        setting = Setting("dc", distance=distance, compression=compression)
        setting.losses()["total"].backward()

    @pytest.mark.parametrize(
        ("system", "changes", "message"),
        [
            ("dc_liner", {}, "unknown system 'dc_liner'; did you mean 'dc_linear'"),
            (
                "dc",
                {"distanse": "dc"},
                "system dc: unknown key 'distanse'; did you mean 'distance'",
            ),
            ("dc", {"distance": "fitne"}, "did you mean 'fitnet'"),
            ("dc", {"distance_weight": 1.5}, "distance_weight: wanted 0 to 1, found 1.5"),
            ("baseline", {"compression": "linear"}, "without a distance"),
        ],
    )
    def test_what_cannot_be(self, system, changes, message):
        with pytest.raises(ConfigError, match=message):
            system_settings(system, changes)

    def test_a_distance_wants_a_teacher(self):
        with pytest.raises(ConfigError, match="distance dc wants a teacher"):
            Objective(SYSTEMS["dc"], task="multi-label", n_classes=3, student_dim=4)
        setting = Setting("dc")
        output = setting.student(setting.audio)
        with pytest.raises(ConfigError, match="wants teacher frames"):
            setting.objective(output, setting.labels)
        with pytest.raises(ConfigError, match="wants centre_s and step_spans"):
            setting.objective(output, setting.labels, [setting.embedding()])

    def test_the_baseline_wants_none(self):
        objective = Objective(SYSTEMS["baseline"], task="multi-label", n_classes=3, student_dim=4)
        output = StudentOutput(torch.zeros(2, 3), torch.zeros(2, 1, 4))
        assert objective(output, torch.ones(2, 3))["total"] == pytest.approx(0.6931, abs=1e-4)
