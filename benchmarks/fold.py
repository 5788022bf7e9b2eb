"""What folding batch norms into convolutions saves in evaluation.

ResNet-50 on float32, compiled. Run with `python -m benchmarks.fold`.
"""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp

from benchmarks import harness
from benchmarks.models import convolutional as models
from benchmarks.models import large

RIVALS = tuple(
    f"{library}{option}"
    for library in ("linsey", "flax", "torch")
    for option in ("", " folded")
)
SIZES = (large.Sizes(batch=8, side=64), large.Sizes(batch=1, side=224))


def run(rounds: int) -> list[harness.Row]:
    """Both sizes by all rivals, with and without folding."""
    rows = []
    for sizes in SIZES:
        makers = {rival: partial(_prepare, rival, sizes) for rival in RIVALS}
        task = f"ResNet-50, batch {sizes.batch}, {sizes.side} x {sizes.side}"
        cases = harness.available(makers)
        rows += harness.measure(task, cases, rounds, "linsey", clock=models.CLOCK)
    return rows


def _prepare(rival: str, sizes: large.Sizes):
    call = large.evaluation(rival, sizes, jnp.float32)[1]
    return lambda: call


if __name__ == "__main__":
    harness.main("fold", "evaluation with batch norms folded", run, rounds=15)
