"""Train on one collection, test on another, without fine-tuning.

    python examples/generalizability.py

`toy-field` holds the sounds of `toy-studio` as a field recorder would hear them. With real data,
the same two calls take a student from MagnaTagATune to OpenMIC through a label map.
"""

# %% Two collections, one cache
import json
from pathlib import Path

from understudy import datasets
from understudy.evaluate import teacher_lr
from understudy.evaluate.report import report
from understudy.evaluate.score import score
from understudy.evaluate.transfer import transfer
from understudy.extract import extract
from understudy.train import train

OUT = Path("runs/examples")
CLIPS, STEPS, WIDTH = 150, 100, 8

studio = datasets.load("toy-studio", OUT / "toy-studio-150", n_clips=CLIPS)
field = datasets.load("toy-field", OUT / "toy-field", n_clips=CLIPS * 2 // 3)
for index in (studio, field):
    extract(index, ["spectral"], OUT / "cache-150", audio=True)

# %% A student on its own, one with a teacher, and the teacher itself
source = {"teacher": "spectral", "cache": OUT / "cache-150"}
settings = {"student": {"width": WIDTH}, "optim": {"lr": 2e-3, "max_steps": STEPS}, "threads": 1}
runs = [teacher_lr.train(studio, run_dir=OUT / "transfer" / "teacher_lr", **source)]
for system in ("baseline", "dc_linear"):
    run_dir = OUT / "transfer" / system
    runs.append(train(studio, system=system, run_dir=run_dir, settings=settings, **source))

# %% At home, and away
for run in runs:
    home = json.loads(score(run).read_text())
    away = json.loads(transfer(run, "toy-field").read_text())
    print(f"{run.name:10} mAP {home['value']:.3f} at home, {away['value']:.3f} away")

# %% One page
print(f"Report: {report(runs, OUT / 'report', title='At home, and away')}")
