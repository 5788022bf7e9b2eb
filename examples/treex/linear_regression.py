"""Linear regression with a layer written by hand.

`python examples/treex/linear_regression.py [--steps N]`
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import linsey.treex as tx


class Linear(tx.Module):
    """The layer y = x @ w + b, with shapes taken from the first input."""

    w: jax.Array | None = tx.Parameter.node()
    b: jax.Array | None = tx.Parameter.node()

    def __init__(self, features: int):
        self.features = features
        self.w = None
        self.b = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (batch, channels) to (batch, features)."""
        if self.initializing():
            shape = (x.shape[-1], self.features)
            self.w = jax.random.normal(tx.next_key(), shape) * 0.1
            self.b = jnp.zeros(self.features)
        return x @ self.w + self.b


@jax.value_and_grad
def loss_fn(params: Linear, model: Linear, x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the mean squared error of the model with these parameters."""
    return jnp.mean((model.merge(params)(x) - y) ** 2)


@jax.jit
def train_step(model: Linear, x: jax.Array, y: jax.Array) -> tuple[Linear, jax.Array]:
    """Make one step of gradient descent."""
    params = model.parameters()
    loss, grads = loss_fn(params, model, x, y)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    return model.merge(params), loss


def main(arguments: list[str] | None = None) -> tuple[float, float]:
    """Fit y = 1.4 x - 0.3 plus noise; return the fitted slope and offset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args(arguments).steps

    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=(200, 1)).astype(np.float32)
    y = 1.4 * x - 0.3 + rng.normal(scale=0.05, size=x.shape).astype(np.float32)
    model = Linear(1).init(42, x)
    for step in range(steps):
        model, loss = train_step(model, x, y)
        if step % 50 == 0:
            print(f"step {step:4}  loss {loss:.5f}")
    slope, offset = float(model.w[0, 0]), float(model.b[0])
    print(f"y = {slope:.2f} x + {offset:.2f}")
    return slope, offset


if __name__ == "__main__":
    main()
