"""Trained students, made ready for use elsewhere.

    export("runs/dc_linear", "student", ["onnx"])     # a folder in the layout of Hugging Face's hub
    students.load("student")                          # the student again

`understudy export` on the command line. What such a folder holds: `understudy.students.folder`.
"""

from typing import TYPE_CHECKING

from understudy.registry import on_first_use

if TYPE_CHECKING:
    from understudy.export.build import FORMATS, export

__all__ = ["FORMATS", "export"]

# Help on the command line needs no torch.
__getattr__ = on_first_use("understudy.export.build", __all__)
