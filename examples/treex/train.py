"""A convolutional network with batch normalization for handwritten digits.

`python examples/treex/train.py [--steps N]`
"""

from __future__ import annotations

import argparse

import jax
import numpy as np
import optax

import linsey.treex as tx
from linsey import datasets


class CNN(tx.Module):
    """Two normalized convolutions, and a linear layer on their spatial average."""

    @tx.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Compute logits (batch, 10) from images (batch, 8, 8, 1)."""
        for features, strides in ((16, 1), (32, 2)):
            x = tx.Conv(features, (3, 3), strides=strides)(x)
            x = tx.BatchNorm(momentum=0.9)(x)
            x = jax.nn.relu(x)
        x = tx.Dropout(0.1)(x)
        x = x.mean(axis=(1, 2))  # (batch, 32)
        return tx.Linear(10)(x)


def logs() -> tx.LossAndLogs:
    """Return the loss to minimize and the metric to report."""
    return tx.LossAndLogs(tx.losses.Crossentropy(), tx.metrics.Accuracy())


@jax.jit
def train_step(model, optimizer, logger, x, y):
    """Update parameters, running statistics, keys, optimizer and metrics once."""

    def loss_fn(params, model, logger):
        model = model.merge(params)
        loss, *_ = logger.batch_loss_epoch_logs(target=y, preds=model(x))
        return loss, (model, logger)

    params = model.parameters()
    grads, (model, logger) = jax.grad(loss_fn, has_aux=True)(params, model, logger)
    params = optimizer.update(grads, params)
    return model.merge(params), optimizer, logger


@jax.jit
def accuracy(model: CNN, x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the fraction of correct predictions of a model in evaluation mode."""
    return (model(x).argmax(axis=-1) == y).mean()


def main(arguments: list[str] | None = None) -> float:
    """Train the model; return its test accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    steps = parser.parse_args(arguments).steps

    x_train, y_train, x_test, y_test = datasets.split(*datasets.digits())
    x_train, x_test = (x / np.float32(16) for x in (x_train, x_test))
    model = CNN().init(42, x_train[:1])
    optimizer = tx.Optimizer(optax.adam(3e-3)).init(model.parameters())
    logger = logs()
    order = np.random.default_rng(0)
    for step in range(1, steps + 1):
        rows = order.choice(len(x_train), 64, replace=False)
        model, optimizer, logger = train_step(
            model, optimizer, logger, x_train[rows], y_train[rows]
        )
        if step % max(steps // 8, 1) == 0:
            loss, _, metrics = logger.compute()
            print(f"step {step:4}  loss {loss:.3f}  "
                  f"accuracy {metrics['accuracy']:.3f}")  # fmt: skip
            logger.reset()
    final = float(accuracy(model.eval(), x_test, y_test))
    print(f"test accuracy {final:.3f}")
    return final


if __name__ == "__main__":
    main()
