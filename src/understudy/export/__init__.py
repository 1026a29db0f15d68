"""Trained students, made ready for use elsewhere.

    export("runs/dc_linear", "student", ["onnx"])     # a folder in the layout of Hugging Face's hub
    students.load("student")                          # the student again

`understudy export` on the command line. What such a folder holds: `understudy.students.folder`.
"""

from understudy.export.build import FORMATS, export

__all__ = ["FORMATS", "export"]
