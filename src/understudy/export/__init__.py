"""Trained students, made ready for use elsewhere.

    export("runs/dc_linear", "student", ["onnx"])     # a folder in the layout of Hugging Face's hub
    students.load("student")                          # the student again

`understudy export` on the command line. What such a folder holds: `understudy.students.folder`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from understudy.export.build import FORMATS, export

__all__ = ["FORMATS", "export"]


def __getattr__(name: str) -> Any:  # on first use: help on the command line needs no torch
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from understudy.export import build

    return getattr(build, name)
