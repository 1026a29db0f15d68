"""Students: small networks that turn 16 kHz audio into logits and one feature map.

student = build("sc-cnn", n_classes=50)
output = student(audio)              # logits (batch, label), feature_map (batch, step, channel)
student = load("exported")           # a trained one, from the folder that `understudy export` made
"""

from typing import TYPE_CHECKING, Any, cast

from understudy.errors import ConfigError
from understudy.registry import Registry

if TYPE_CHECKING:
    from os import PathLike

    from understudy.students.base import Student

_REGISTRY = Registry(
    "student",
    {
        "sc-cnn": "understudy.students.sc_cnn:ScCnn",
        "hcnn": "understudy.students.hcnn:Hcnn",
    },
)


def names() -> list[str]:
    """Names that `build` knows."""
    return _REGISTRY.names()


def kind(name: str) -> "type[Student]":
    """The class behind `name`: what is known of a student before it is built."""
    return cast("type[Student]", _REGISTRY.get(name))


def build(name: str, n_classes: int, **settings: Any) -> "Student":
    """A student with weights drawn from torch's global generator (seeding it is the caller's part).

    Args:
        name: One of `names()`.
        n_classes: Number of labels.
        settings: Fields of the student's settings class, such as `width` or `tap`.

    Raises:
        ConfigError: An unknown name or setting (the nearest is named), or a value out of range.
    """
    student = kind(name)
    if n_classes < 1:
        raise ConfigError(f"student {name}: wanted at least 1 class, found {n_classes}")
    return student(n_classes, **settings)


def load(folder: "str | PathLike[str]") -> "Student":
    """The trained student in `folder`, on the CPU, in eval mode, with `label_names` and `task`.

    Args:
        folder: What `understudy export` made, or a copy of it from a model hub.

    Raises:
        WeightsError: It is no exported student, or an altered one; the message says what is wrong.
    """
    from understudy.students import folder as exported

    return exported.load(folder)
