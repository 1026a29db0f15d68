"""Whole studies from one file: a grid of runs, planned, trained in groups, scored, compared.

file -> cells -> groups over one stream each -> runs and scores -> table and report

`run.py` is the path to read. A study stands above the stages and holds no method of its own: its
runs are those of `understudy train` and `understudy evaluate`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from understudy.study.run import study

__all__ = ["study"]


def __getattr__(name: str) -> Any:  # on first use: help on the command line needs no torch
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from understudy.study import run

    return getattr(run, name)
