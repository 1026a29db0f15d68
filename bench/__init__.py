"""Speed and memory, as ratios against what one would otherwise run.

Both sides of a ratio run in one process, on the same buffers, interleaved; the minimum of several
rounds counts. `python -m bench [NAME ...]` prints one table a benchmark, headed by the machine.
"""
