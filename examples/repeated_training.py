"""Train many students against one cache: does the weight of the distance matter?

    python examples/repeated_training.py

The teacher runs once; every student after that costs what a plain one costs. Students of one seed
share initial weights, batches and crops, so they are compared in pairs. `understudy study` does the
same from a YAML file, with all students of a seed trained over one stream.
"""

# %% Once
import json
from pathlib import Path

import matplotlib.pyplot as plt

from understudy import datasets
from understudy.evaluate.score import score
from understudy.extract import extract
from understudy.train import train

OUT = Path("runs/examples")
CLIPS, STEPS, WIDTH = 150, 100, 8
WEIGHTS = (0.2, 0.6, 0.9)
SEEDS = (1, 2)

index = datasets.load("toy-studio", OUT / "toy-studio-150", n_clips=CLIPS)
extract(index, ["spectral"], OUT / "cache-150", audio=True)

# %% Many times; run again, finished runs are kept
values: dict[str, list[float]] = {}
for seed in SEEDS:
    for name, system, weight in [
        ("baseline", "baseline", 0.0),
        *((f"dc_linear, w={weight}", "dc_linear", weight) for weight in WEIGHTS),
    ]:
        settings = {
            "student": {"width": WIDTH},
            "optim": {"lr": 2e-3, "max_steps": STEPS, "seed": seed},
            "distill": {"distance_weight": weight} if weight else {},
            "threads": 1,
        }
        run = train(
            index,
            system=system,
            teacher="spectral" if weight else None,
            cache=OUT / "cache-150",
            run_dir=OUT / "weights" / f"{name}-{seed}",
            settings=settings,
        )
        result = json.loads(score(run).read_text())
        values.setdefault(name, []).append(result["value"])

# %% In pairs
baseline = values.pop("baseline")
print(f"baseline: mAP {sum(baseline) / len(baseline):.3f}")
for name, found in values.items():
    gains = [value - base for value, base in zip(found, baseline, strict=True)]
    print(f"{name}: " + ", ".join(f"{gain:+.3f}" for gain in gains) + " against the baseline")
    plt.plot(gains, [name] * len(gains), "o")
plt.axvline(0, color="gray")
plt.xlabel("mAP minus the baseline's, one dot a seed")
plt.tight_layout()
plt.savefig(OUT / "weights.png", dpi=120)
print(f"Picture: {OUT / 'weights.png'}   ({STEPS} steps show how it is done; they decide nothing)")
