"""Batch norms are merged into the convolutions before them.

In evaluation a batch norm is a constant affine map. `fold` merges it into the kernel
and the bias of a neighbouring layer, and measures how much the outputs change.
"""

from __future__ import annotations

import jax

import linsey.linen as nn
from linsey.batch_stats import fold


class Model(nn.Module):
    """Two convolutions and a head."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Compute logits (batch, 3) from images (batch, height, width, channels)."""
        for _ in range(2):
            x = nn.Conv(8, (3, 3), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(3)(x.mean((1, 2)))


def main() -> tuple[int, int, float]:
    """Return the number of arrays before and after, and the largest difference."""
    model, x = Model(), jax.random.normal(jax.random.key(0), (16, 8, 8, 3))
    variables = model.init(jax.random.key(1), x, train=False)
    for _ in range(20):
        _, updates = model.apply(variables, x, train=True, mutable=["batch_stats"])
        variables = {**variables, **updates}
    apply, folded, report = fold(model, variables, x)
    print(report)
    before, after = len(jax.tree.leaves(variables)), len(jax.tree.leaves(folded))
    expected = model.apply(variables, x, train=False)
    difference = float(abs(apply(folded, x) - expected).max())
    print(f"{before} arrays before, {after} after; results differ by {difference:.1e}")
    return before, after, difference


if __name__ == "__main__":
    main()
