"""Teach small audio models with the cached embeddings of large ones.

Data flows one way: index -> audio -> teacher -> cache -> sampler -> student and losses ->
checkpoint -> evaluation -> report. The stages `understudy.extract`, `understudy.train` and
`understudy.evaluate` meet only on disk.
"""

from importlib.metadata import version

__version__ = version("understudy")
