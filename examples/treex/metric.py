"""A metric with its own state: a confusion matrix that passes through `jax.jit`.

`python examples/treex/metric.py [--batches N]`
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import linsey.treex as tx


class ConfusionMatrix(tx.Metric):
    """Counts how often class i was predicted as class j."""

    counts: jax.Array = tx.MetricState.node()

    def __init__(self, classes: int, **options):
        super().__init__(**options)
        self.counts = jnp.zeros((classes, classes), jnp.int32)

    def update(self, target: jax.Array, preds: jax.Array) -> None:
        """Add labels (batch,) and predicted labels (batch,)."""
        self.counts = self.counts.at[target, preds].add(1)

    def compute(self) -> jax.Array:
        """Return, for each class, the fractions of the predicted classes."""
        return self.counts / jnp.maximum(self.counts.sum(axis=1, keepdims=True), 1)


@jax.jit
def evaluate(metrics: tx.metrics.Metrics, target: jax.Array, preds: jax.Array):
    """Add a batch; return the values for the batch and the updated metrics."""
    return metrics(target=target, preds=preds), metrics


def main(arguments: list[str] | None = None) -> np.ndarray:
    """Evaluate a classifier that confuses classes 1 and 2; return the matrix."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=20)
    batches = parser.parse_args(arguments).batches

    rng = np.random.default_rng(0)
    metrics = tx.metrics.Metrics(
        [ConfusionMatrix(3), tx.metrics.Accuracy(num_classes=3)]
    )
    for _ in range(batches):
        target = rng.integers(0, 3, size=50)
        swapped = np.array([0, 2, 1])[target]
        preds = np.where(rng.uniform(size=50) < 0.3, swapped, target)
        batch, metrics = evaluate(metrics, target, preds)
    values = metrics.compute()
    print(f"accuracy of the last batch {batch['accuracy']:.2f}")
    print(f"accuracy of all batches    {values['accuracy']:.2f}")
    matrix = np.asarray(values["confusion_matrix"])
    print(matrix.round(2))
    return matrix


if __name__ == "__main__":
    main()
