"""Whole studies from one file: a grid of runs, planned, trained in groups, scored, compared.

file -> cells -> groups over one stream each -> runs and scores -> table and report

`run.py` is the path to read. A study stands above the stages and holds no method of its own: its
runs are those of `understudy train` and `understudy evaluate`.
"""

from typing import TYPE_CHECKING

from understudy.registry import on_first_use

if TYPE_CHECKING:
    from understudy.study.run import study

__all__ = ["study"]

# Help on the command line needs no torch.
__getattr__ = on_first_use("understudy.study.run", __all__)
