"""A metric and batches that the tests of this folder share."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

import linsey.treex as tx

ONE = dict(target=jnp.zeros((2, 1)), preds=jnp.ones((2, 1)))


TWO = dict(target=jnp.zeros((2, 1)), preds=3 * jnp.ones((2, 1)))


class Count(tx.Metric):
    """Counts the entries of the targets."""

    total: Any = tx.MetricState.node()

    def __init__(self, on=None):
        super().__init__(on=on)
        self.total = jnp.array(0)

    def update(self, target, scale=1):
        self.total = self.total + target.size * scale

    def compute(self):
        return self.total
