"""Teachers: fixed embeddings of audio windows, from networks of others or from plain DSP.

    teacher = teachers.build("mn04", weights="mn04_as_mAP_432.pt")
    timeline = teacher.embed(audio)             # (batch, samples) -> (batch, time, dim)

A teacher is a card in `cards` and a subclass of `base.Teacher` that makes its front end and its
network; `onnx:FILE` and `hear:MODULE` are teachers that others bring. Importing this package does
not import torch; building a teacher does.
"""

from typing import TYPE_CHECKING, Any

from understudy.errors import ConfigError, WeightsError, unknown
from understudy.registry import Registry
from understudy.teachers.card import TeacherCard, TeacherSpec
from understudy.teachers.cards import CARDS

if TYPE_CHECKING:
    from os import PathLike

    from understudy.teachers.base import Teacher

__all__ = ["TeacherCard", "TeacherSpec", "build", "card", "from_spec", "names"]

_EFFICIENTAT = "understudy.teachers.efficientat:EfficientAT"
_TEACHERS = Registry(
    "teacher",
    {
        "spectral": "understudy.teachers.spectral:Spectral",
        "discogs": "understudy.teachers.discogs:Discogs",
        "passt": "understudy.teachers.passt:Passt",
        "panns": "understudy.teachers.panns:Panns",
        "mule": "understudy.teachers.mule:Mule",
    }
    | {name: _EFFICIENTAT for name in CARDS if name.startswith("mn")},
)


_OPEN = Registry(
    "kind of teacher",
    {
        "onnx": "understudy.teachers.onnx_file:OnnxFile",
        "hear": "understudy.teachers.hear_module:HearModule",
    },
)
_OPEN_FORMS = ("onnx:FILE", "hear:MODULE")


def names() -> list[str]:
    """Names of the built-in teachers."""
    return _TEACHERS.names()


def require(name: str) -> None:
    """Raises ConfigError, with the nearest name, unless `name` is that of a teacher."""
    if name not in CARDS and not _opened(name):
        raise ConfigError(unknown("teacher", name, [*CARDS, *_OPEN_FORMS]))


def card(name: str) -> TeacherCard:
    """Card of teacher `name`; ConfigError for an unknown one.

    That of a `hear:` module is known only when the module has loaded its model.
    """
    require(name)
    if opened := _opened(name):
        return opened[0].describe(opened[1])
    return CARDS[name]


def _opened(name: str) -> tuple[Any, str] | None:
    """Implementation and reference of a name such as "onnx:FILE"; None for others."""
    prefix, _, reference = name.partition(":")
    return (_OPEN.get(prefix), reference) if prefix in _OPEN and reference else None


def build(
    name: str, weights: "str | PathLike[str] | None" = None, device: str = "cpu", **settings: Any
) -> "Teacher":
    """Builds a teacher, ready to embed.

    Args:
        name: One of `names()`, "onnx:FILE" (`onnx_file`) or "hear:MODULE" (`hear_module`).
        weights: A file; "random" for seeded random weights; None for the published file, from
            UNDERSTUDY_HOME/weights or else downloaded to there.
        device: Where it computes ("cpu", "cuda", "cuda:1").
        settings: `window_s` and `hop_s` (seconds) of its timeline in place of the card's; `seed`
            of random weights.

    Raises:
        ConfigError: An unknown teacher or setting, a window too short for the network.
        WeightsError: A weights file that is missing or belongs to another network.
    """
    require(name)
    if opened := _opened(name):
        return opened[0](opened[1], weights, device, settings)
    return _TEACHERS.get(name)(card(name), weights, device, settings)


def from_spec(spec: TeacherSpec, device: str = "cpu") -> "Teacher":
    """Builds the teacher that `spec` was taken from, on this machine.

    Raises:
        WeightsError: The weights found here are not those of the first teacher.
    """
    teacher = build(spec.name, spec.weights, device, **spec.settings)
    if teacher.weights_sha256 != spec.weights_sha256:
        raise WeightsError(
            f"teacher {spec.name}: wanted weights with sha256 {spec.weights_sha256}, "
            f"found {teacher.weights_sha256}"
        )
    return teacher
