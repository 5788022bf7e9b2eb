"""A multilayer perceptron that is fitted to a curve with an optimizer.

`python examples/treex/mlp.py [--steps N]`
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax

import linsey.treex as tx


class MLP(tx.Module):
    """Two layers, built where they are used."""

    def __init__(self, hidden: int, features: int):
        self.hidden = hidden
        self.features = features

    @tx.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (batch, channels) to (batch, features)."""
        x = tx.Linear(self.hidden)(x)
        x = tx.BatchNorm(momentum=0.9)(x)
        x = jax.nn.relu(x)
        return tx.Linear(self.features)(x)


@jax.jit
def train_step(model, optimizer, x, y):
    """Make one update; the new model also has updated running statistics."""

    def loss_fn(params, model):
        model = model.merge(params)
        return jnp.mean((model(x) - y) ** 2), model

    params = model.parameters()
    (loss, model), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, model)
    params = optimizer.update(grads, params)
    return model.merge(params), optimizer, loss


def main(arguments: list[str] | None = None) -> float:
    """Fit a parabola; return the mean squared error in evaluation mode."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    steps = parser.parse_args(arguments).steps

    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=(256, 1)).astype(np.float32)
    y = 1.4 * x**2 - 0.3 + rng.normal(scale=0.05, size=x.shape).astype(np.float32)
    model = MLP(32, 1).init(42, x)
    optimizer = tx.Optimizer(optax.adam(1e-2)).init(model.parameters())
    for step in range(steps):
        rows = rng.choice(len(x), 64, replace=False)
        model, optimizer, loss = train_step(model, optimizer, x[rows], y[rows])
        if step % 100 == 0:
            print(f"step {step:4}  loss {loss:.5f}")
    error = float(jnp.mean((model.eval()(x) - y) ** 2))
    print(f"error in evaluation {error:.5f}")
    return error


if __name__ == "__main__":
    main()
