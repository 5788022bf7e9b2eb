"""The exact gradient of a batch from four microbatches, with batch normalization.

If the gradients of microbatches are simply averaged, each microbatch is normalized by
its own moments, which is a different function. `accumulate` computes the gradient of
the undivided batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

import linsey.linen as nn
from linsey.batch_stats import accumulate


class Model(nn.Module):
    """Two hidden layers."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Compute values (batch,) from inputs (batch, features)."""
        for _ in range(2):
            x = nn.Dense(16, use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(1)(x)[:, 0]


def main() -> tuple[float, float]:
    """Return the errors of both ways, relative to the gradient of the whole batch."""
    model, x = Model(), jax.random.normal(jax.random.key(0), (64, 4))
    batch = {"x": x, "y": jnp.sin(x[:, 0])}
    variables = model.init(jax.random.key(1), x, train=False)
    params, stats = variables["params"], variables["batch_stats"]

    def loss_fn(params, stats, batch):
        variables = {"params": params, "batch_stats": stats}
        y, updates = model.apply(
            variables, batch["x"], train=True, mutable=["batch_stats"]
        )
        return ((y - batch["y"]) ** 2).mean(), updates["batch_stats"]

    gradient = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    _, whole = gradient(params, stats, batch)
    parts = [jax.tree.map(lambda a, i=i: a[i::4], batch) for i in range(4)]
    added = [gradient(params, stats, part)[1] for part in parts]
    naive = jax.tree.map(lambda *grads: sum(grads) / 4, *added)
    _, exact = jax.jit(accumulate(loss_fn, k=4))(params, stats, batch)

    def distance(grads) -> float:
        """Return the largest difference, relative to the largest entry of `whole`."""
        pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(whole), strict=True)
        scale = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(whole))
        return max(float(abs(a - b).max()) for a, b in pairs) / scale

    print(f"gradients added up are off by {distance(naive):.1%} of the largest entry")
    print(f"accumulate(loss_fn, k=4) by {distance(exact):.1e}")
    return distance(naive), distance(exact)


if __name__ == "__main__":
    main()
