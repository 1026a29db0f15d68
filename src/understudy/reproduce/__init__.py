"""The paper's tables and its Figure 3, filled with what is measured here.

paper and scale -> what is missing -> extraction -> study -> complexity -> tables -> report

`run.reproduce` is the path to read; `ding2024.yaml` holds every number of the paper.
"""
