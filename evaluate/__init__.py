"""Stage 3: from trained students (and cached embeddings) to numbers and a report.

Each part writes RUN/evaluation/<name>.json; `report` reads those files alone.
"""
