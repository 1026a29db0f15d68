"""Stage 1: recordings -> teachers -> cache.

    extract(index, ["mn04"], "cache")  ->  {"mn04": path of the store}

`run.py` is the path; `plan.py` decides, `worker.py` does.
"""

from understudy.extract.run import extract

__all__ = ["extract"]
