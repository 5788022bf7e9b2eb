"""What a training step of a convolutional network costs.

Six convolutions with batch normalization and relu (32, 32, 64, 64, 128, 128 channels),
2x2 pooling after each pair, batch 64, 32 x 32 images, float32, compiled; and the
gradient of four convolutions that are lifted by a scan, batch 16, 16 x 16, 32 channels.
Run with `python -m benchmarks.step`.
"""

from __future__ import annotations

from functools import partial

from benchmarks import harness
from benchmarks.models import convolutional as models

RIVALS = ("linsey", "flax", "haiku", "torch")


def run(rounds: int) -> list[harness.Row]:
    """Time the step by all rivals, the scan by those with lifted transforms."""
    cases = harness.available({rival: partial(_prepare, rival) for rival in RIVALS})
    goals = {"linsey": "<= 0.55"}
    rows = harness.measure("training step", cases, rounds, "flax", goals, models.CLOCK)
    lifted = {name: partial(_prepare_scan, name) for name in ("linsey", "flax")}
    cases = harness.available(lifted)
    task = "gradient of a scan of convolutions"
    return rows + harness.measure(task, cases, rounds, "flax", clock=models.CLOCK)


def _prepare(rival: str):
    call = models.training_step(rival)
    return lambda: call


def _prepare_scan(rival: str):
    call = models.scan_gradient(rival)
    return lambda: call


if __name__ == "__main__":
    harness.main("step", "training step of a conv-BN network", run, rounds=15)
