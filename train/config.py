"""Settings of a training run. The defaults are the published recipe (EAsT's code, where the paper
is silent).

Precedence, lowest first: defaults, the system's preset, recipe file, `--set`, named option.
"""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from understudy import config, students
from understudy.errors import ConfigError, nearest, unknown
from understudy.train.settings import SYSTEMS, AugmentSettings, ObjectiveSettings

STUDENT = "sc-cnn"
SYSTEM = "dc_linear"
LATER = {"later": True}
"""Metadata of settings younger than the first runs: at its default such a setting is not part of a
run's identity, so that those stay what they were."""


@dataclass(frozen=True, kw_only=True)
class OptimSettings:
    """Optimisation: Adam, schedule, early stop."""

    lr: float = 1e-4
    """Initial learning rate."""
    weight_decay: float = 1e-4
    """L2 penalty inside Adam."""
    batch: int = 16
    """Clips in a batch."""
    max_steps: int = 100_000
    """Training ends after this many steps at the latest."""
    max_epochs: int | None = None
    """Or after this many epochs."""
    clip_norm: float = 1.0
    """Largest gradient norm, apart for {student, projection} and for {C, H}."""
    schedule: Literal["plateau", "cosine"] = field(default="plateau", metadata=LATER)
    """Of the learning rate: down when the validation loss stops falling, or half a cosine from its
    initial value to 0 over all steps of the run."""
    plateau_factor: float = 0.2
    """The learning rate is multiplied by this when the validation loss stops falling ..."""
    plateau_patience: int = 5
    """... for more than this many epochs."""
    stop_patience: int = 12
    """Training ends after this many epochs without a lower validation loss."""
    seed: int = 1223
    """Of initial weights, batches, crops and dropout."""

    def __post_init__(self) -> None:
        at_least = {
            "batch": 2,  # batch normalisation needs two
            "max_steps": 1,
            "plateau_patience": 0,
            "stop_patience": 1,
            "seed": 0,
        }
        for name, least in (
            at_least | ({} if self.max_epochs is None else {"max_epochs": 1})
        ).items():
            if getattr(self, name) < least:
                raise ConfigError(
                    f"optim.{name}: wanted at least {least}, found {getattr(self, name)}"
                )
        for name in ("lr", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"optim.{name}: wanted more than 0, found {getattr(self, name)}")
        if not self.weight_decay >= 0:
            raise ConfigError(f"optim.weight_decay: wanted 0 or more, found {self.weight_decay}")
        if not 0 < self.plateau_factor < 1:
            raise ConfigError(
                f"optim.plateau_factor: wanted between 0 and 1, found {self.plateau_factor}"
            )

    def total_steps(self, steps_per_epoch: int) -> int:
        """Steps of a run unless it stops early."""
        if self.max_epochs is None:
            return self.max_steps
        return min(self.max_steps, self.max_epochs * steps_per_epoch)


@dataclass(frozen=True, kw_only=True)
class DistillSettings(ObjectiveSettings):
    """What the student learns from the teacher."""

    system: str = SYSTEM
    """Preset of the other fields."""
    standardise: Literal["channel", "none"] = "channel"
    """Teacher embeddings: zero mean and unit variance per channel over the training clips."""
    silence_db: float = -70.0
    """Teacher frames below this level (dBFS) are left out of everything."""

    @property
    def label(self) -> str:
        """The preset's name, and what was changed of it: "dc", "dc [alignment=mean]"."""
        preset = SYSTEMS[self.system]
        changes = [
            f"{f.name}={getattr(self, f.name)}"
            for f in fields(ObjectiveSettings)
            if f.name != "distance_weight" and getattr(self, f.name) != getattr(preset, f.name)
        ]
        return f"{self.system} [{', '.join(changes)}]" if changes else self.system


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What a batch is made of."""

    crop_samples: int | None = None
    """Length of a crop at 16 kHz; None: the student's own input length."""

    def __post_init__(self) -> None:
        if self.crop_samples is not None and self.crop_samples < 1:
            raise ConfigError(f"data.crop_samples: wanted at least 1, found {self.crop_samples}")


@dataclass(frozen=True, kw_only=True)
class ComputeSettings:
    """How the student computes, which changes results a little."""

    precision: Literal["float32", "bf16"] = "float32"
    """bf16: under autocast. Front end, losses and weights stay float32."""
    compile: bool = False
    """Use torch.compile; the first steps take long."""
    channels_last: bool = False
    """Memory order of images and convolutions; on a GPU only: in this order CPU convolutions of
    few channels write beyond their memory (PyTorch 2.11: crashes with SC-CNN of width 4)."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How it is run; nothing here enters the run's identity."""

    device: str = "auto"
    """"auto": a GPU where there is one. Only CPU runs are promised to repeat to the last bit."""
    checkpoint_steps: int | None = None
    """Steps between two checkpoints, beside those between epochs."""
    checkpoint_s: float = 30.0
    """Least seconds between two checkpoints at the ends of epochs, so that tiny epochs don't spend
    their time on writing; a killed run repeats what came after its last one, with equal results."""
    log_steps: int = 10
    """Steps between two lines of the log."""
    tensorboard: bool = False
    """Write RUN/tensorboard beside the log; wants the extra [tensorboard]."""

    def __post_init__(self) -> None:
        if self.log_steps < 1 or (self.checkpoint_steps is not None and self.checkpoint_steps < 1):
            raise ConfigError("run.log_steps and run.checkpoint_steps: wanted at least 1")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """All of it."""

    student: dict[str, Any] = field(default_factory=lambda: {"name": STUDENT})
    """`name` and that student's own settings, checked and completed where it is built."""
    optim: OptimSettings = field(default_factory=OptimSettings)
    distill: DistillSettings = field(default_factory=DistillSettings)
    data: DataSettings = field(default_factory=DataSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings, metadata=LATER)
    compute: ComputeSettings = field(default_factory=ComputeSettings, metadata=LATER)
    run: RunSettings = field(default_factory=RunSettings)
    threads: int | None = None
    """CPU threads, which change results in the last bit; None: as many as torch would use."""

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads: wanted at least 1, found {self.threads}")

    def completed(self, student: Mapping[str, Any], crop_samples: int, threads: int | None):
        """These settings with the values that depend on the student and the machine filled in."""
        return replace(
            self,
            student=dict(student),
            data=replace(self.data, crop_samples=crop_samples),
            threads=threads,
        )

    @property
    def crop_samples(self) -> int:
        """Length of a crop at 16 kHz."""
        return self.data.crop_samples or students.kind(str(self.student["name"])).input_samples

    def shown(self) -> dict[str, Any]:
        """All settings as a plain mapping, with the student's own and its length of a crop."""
        given = dict(self.student)
        kind = students.kind(str(given.pop("name")))
        own = config.from_mapping(kind.settings_class, given, f"student {kind.name}")
        student = {"name": kind.name, **config.to_mapping(own)}
        return config.to_mapping(self.completed(student, self.crop_samples, self.threads))

    def shared(self) -> dict[str, Any]:
        """What runs over one stream must have in common."""
        return {
            "optim.seed": self.optim.seed,
            "optim.batch": self.optim.batch,
            "data": {**config.to_mapping(self.data), "crop_samples": self.crop_samples},
            **({} if self.augment == AugmentSettings() else {"augment": vars(self.augment)}),
            "run.device": self.run.device,
            "threads": self.threads,
        }

    def identity(self) -> dict[str, Any]:
        """The settings that make two runs different runs, as a plain mapping."""
        return {k: v for k, v in config.to_mapping(_without_later(self)).items() if k != "run"}


def _without_later(settings: Any) -> Any:
    """A mapping of a dataclass without the `LATER` settings that are at their defaults."""
    if not is_dataclass(settings):
        return settings
    result = {}
    for each in fields(settings):
        value = getattr(settings, each.name)
        made = each.default_factory() if each.default_factory is not MISSING else each.default
        if not (each.metadata.get("later") and value == made):
            result[each.name] = _without_later(value)
    return result


def resolve(
    settings: Mapping[str, Any] | None = None,
    *,
    student: str | None = None,
    system: str | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> TrainSettings:
    """Settings of a run, from all the places they may come from.

    Args:
        settings: Nested mapping, as `--set` makes one.
        student, system: The named options; None leaves the choice to the others.
        recipe: Content of a recipe file.

    Raises:
        ConfigError: An unknown section, key, system or value; the nearest is named.
    """
    named: dict[str, Any] = {}
    if student is not None:
        named["student"] = {"name": student}
    if system is not None:
        named["distill"] = {"system": system}
    chosen = config.merged(recipe or {}, settings or {}, named)
    distill = chosen.get("distill")
    name = distill.get("system", SYSTEM) if isinstance(distill, Mapping) else SYSTEM
    if name not in SYSTEMS:
        raise ConfigError(unknown("system", str(name), SYSTEMS))
    defaults = {"student": {"name": STUDENT}, "distill": config.to_mapping(SYSTEMS[name])}
    known = {f.name for f in fields(TrainSettings)}
    for key in chosen:
        if key not in known:
            raise ConfigError(_unknown_setting(key, known))
    return config.from_mapping(TrainSettings, config.merged(defaults, chosen))


def _unknown_setting(key: str, sections: Iterable[str]) -> str:
    """Message for a key that is no section, but perhaps the last part of a setting."""
    paths = {section: section for section in sections}
    for section, values in resolve().shown().items():
        for name in values if isinstance(values, Mapping) else ():
            paths.setdefault(name, f"{section}.{name}")
    near = nearest(key, paths)
    hint = f"; did you mean '{paths[near]}'?" if near else "."
    return (
        f"settings: unknown key '{key}'{hint} Known: {', '.join(sorted(sections))}; "
        "`understudy train --show-settings` lists all settings"
    )


def read_recipe(path: Path) -> dict[str, Any]:
    """A recipe file: YAML with the sections of `TrainSettings`; ConfigError if it is not that."""
    return config.read_yaml(path, "sections such as optim and distill")


def difference(found: Any, wanted: Any, where: str = "") -> list[str]:
    """Where two nested mappings differ, one "a.b: found -> wanted" each."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        return [
            line
            for key in sorted({*found, *wanted})
            for line in difference(found.get(key), wanted.get(key), f"{where}.{key}".strip("."))
        ]
    return [] if found == wanted else [f"{where}: {found!r} -> {wanted!r}"]
