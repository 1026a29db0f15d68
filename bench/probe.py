"""Logistic regression on clip means: all labels at once against scikit-learn's label by label.

    python -m bench.probe [--small]

Ours is teacher_lr's own way: values of C on four fifths of the clips, small to large, until the
rest validate worse; the best refitted on all. scikit-learn fits the same values, and the best
again, to its default tolerance. `CPU s` is processor time over all threads, which other programs
disturb least. `excess` is the largest relative excess of the refit's objective over scikit-learn's
optimum, of any label (below 0: nearer to the optimum than scikit-learn). At full size scikit-learn
is timed on one label, and its figure multiplied.
"""

import time
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from understudy.evaluate.teacher_lr import Model, fit_chosen
from understudy.index import ClipIndex

SMALL, FULL = (2_000, 256, 10), (20_000, 2_048, 50)
TIMED_LABELS = 1
"""Of scikit-learn, at full size."""


def clips(n_clips: int, n_channels: int, n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated channels, labels on 1 to 20 % of the clips that depend on 40 directions."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((n_clips, n_channels), np.float32)
    decay = np.arange(1, n_channels + 1, dtype=np.float32) ** -0.5
    x = (hidden * decay) @ rng.standard_normal((n_channels, n_channels), np.float32)
    x += 0.02 * x.std() * rng.standard_normal(x.shape, np.float32)
    logits = hidden[:, :40] @ rng.standard_normal((40, n_labels)) * 0.4
    logits += rng.logistic(size=logits.shape)
    shares = rng.uniform(0.01, 0.2, n_labels)
    limits = [np.quantile(z, 1 - share) for z, share in zip(logits.T, shares, strict=True)]
    labels = np.where(logits > limits, 1, -1)
    labels[rng.random(labels.shape) < 0.1] = 0
    return (x - x.mean(axis=0)) / x.std(axis=0), labels


def objective(x: np.ndarray, y: np.ndarray, weight: np.ndarray, bias: float, c: float) -> float:
    losses = np.logaddexp(0, -y[y != 0] * (x[y != 0] @ weight + bias))
    return float(losses.sum() + weight @ weight / (2 * c))


def together(x: np.ndarray, y: np.ndarray) -> tuple[Model, dict[str, Any]]:
    rows = [str(row) for row in range(len(x))]
    names = tuple(str(k) for k in range(y.shape[1]))
    clips = pd.DataFrame({"clip_id": rows, "path": rows})
    index = ClipIndex("bench", clips, y.astype(np.int8), names, Path())
    n = len(x) * 4 // 5
    return fit_chosen((x[:n], y[:n]), (x[n:], y[n:]), index)


def one_by_one(x: np.ndarray, y: np.ndarray, grid: list[float], chosen: float):
    warnings.simplefilter("ignore", ConvergenceWarning)
    n = len(x) * 4 // 5

    def fit(c: float, x: np.ndarray, label: np.ndarray) -> LogisticRegression:
        known = label != 0
        return LogisticRegression(C=c, max_iter=2000).fit(x[known], label[known])

    for c in grid:
        for label in y.T:
            fit(c, x[:n], label[:n])
    return [fit(chosen, x, label) for label in y.T]


def timed(function, *arguments):
    wall, cpu = time.perf_counter(), time.process_time()
    result = function(*arguments)
    return result, time.perf_counter() - wall, time.process_time() - cpu


@click.command()
@click.option("--small", is_flag=True, help="Leave the full size out.")
def main(small: bool) -> None:
    """Print the table."""
    click.echo(f"{torch.get_num_threads()} threads")
    click.echo(f"{'clip, channel, label':>22} {'':>14} {'wall s':>8} {'CPU s':>8} {'excess':>9}")
    for shape in (SMALL,) if small else (SMALL, FULL):
        x, y = clips(*shape)
        (model, about), wall, cpu = timed(together, x, y)
        c, tried = about["c"], [entry["c"] for entry in about["grid"]]
        n_timed = shape[2] if shape == SMALL else TIMED_LABELS
        regressions, sk_wall, sk_cpu = timed(one_by_one, x, y[:, :n_timed], tried, c)
        scaled = (x - model.mean) / model.std
        excess = max(
            objective(scaled, y[:, k], model.weight[k], model.bias[k], c)
            / objective(x, y[:, k], sk.coef_[0], float(np.ravel(sk.intercept_)[0]), c)
            - 1
            for k, sk in enumerate(regressions)
        )
        click.echo(f"C of {', '.join(f'{value:g}' for value in tried)}; {c:g} is chosen")
        times = shape[2] / n_timed
        name = "scikit-learn" + (f" x{times:.0f}" if times > 1 else "")
        click.echo(f"{shape!s:>22} {'together':>14} {wall:8.1f} {cpu:8.1f} {excess:9.1e}")
        click.echo(f"{'':>22} {name:>14} {sk_wall * times:8.1f} {sk_cpu * times:8.1f}")


if __name__ == "__main__":
    main()
