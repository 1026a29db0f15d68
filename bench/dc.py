"""Distance correlation, forward and backward: the Gram form against one loop step per frame.

    python -m bench.dc

Methods take turns in every round; the smallest time of each counts. `error` is the largest
relative gradient error against the loop in float64.
"""

import time

import click
import torch
from torch import Tensor

from understudy.train import losses

SHAPES = ((16, 30, 512), (64, 30, 512), (64, 30, 768))
ROUNDS = 7


def loop(student: Tensor, teacher: Tensor) -> Tensor:
    """The definition, written out: all pairwise differences, step by step."""

    def centred(x: Tensor) -> Tensor:
        a = ((x[:, None] - x[None]).square().sum(-1) + 1e-12).sqrt()
        return a - a.mean(0) - a.mean(1, keepdim=True) + a.mean()

    terms = []
    for x, y in zip(student.unbind(1), teacher.unbind(1), strict=True):
        a, b = centred(x), centred(y)
        terms.append(1 - (a * b).mean() / ((a * a).mean() * (b * b).mean() + 1e-9).sqrt())
    return torch.stack(terms).mean()


METHODS = {"loop": loop, "gram": losses.dc}


def gradients(method, pair: list[Tensor]) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in pair]
    method(*leaves).backward()
    return [x.grad for x in leaves if x.grad is not None]


def table() -> list[str]:
    lines = [
        f"{'batch, step, channel':>22} {'loop ms':>9} {'gram ms':>9} {'ratio':>7} {'error':>9}"
    ]
    for shape in SHAPES:
        generator = torch.Generator().manual_seed(0)
        pair = [torch.randn(shape, generator=generator) for _ in range(2)]
        best = dict.fromkeys(METHODS, float("inf"))
        for _ in range(ROUNDS):
            for name, method in METHODS.items():
                start = time.perf_counter()
                gradients(method, pair)
                best[name] = min(best[name], time.perf_counter() - start)
        exact = gradients(loop, [x.double() for x in pair])
        found = gradients(losses.dc, pair)
        error = max(float((f - e).norm() / e.norm()) for f, e in zip(found, exact, strict=True))
        loop_ms, gram_ms = 1e3 * best["loop"], 1e3 * best["gram"]
        lines.append(
            f"{shape!s:>22} {loop_ms:9.2f} {gram_ms:9.2f} {loop_ms / gram_ms:6.1f}x {error:9.1e}"
        )
    return lines


if __name__ == "__main__":
    click.echo("\n".join(table()))
