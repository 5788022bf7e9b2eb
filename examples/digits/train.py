"""A batch-normalized perceptron on handwritten digits, and the same one without.

This is the complete program from the batch normalization guide, on the data that ships
with linsey: `python examples/digits/train.py [--steps N]`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import linsey.linen as nn
from linsey import datasets
from linsey.training import train_state

Batch = dict[str, Any]


class Classifier(nn.Module):
    """Two hidden layers, with batch normalization if `normalize` is true."""

    normalize: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Compute logits (batch, 10) from images (batch, 64)."""
        for _ in range(2):
            # Batch normalization would subtract a bias again, so none is needed.
            x = nn.Dense(features=64, use_bias=not self.normalize)(x)
            if self.normalize:
                x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            x = nn.relu(x)
        return nn.Dense(features=10)(x)


class TrainState(train_state.TrainState):
    """Parameters, optimizer and running statistics."""

    batch_stats: Any


@jax.jit
def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
    """Make one update; return the new state and the loss."""

    def loss_fn(params):
        logits, updates = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            batch["image"],
            train=True,
            mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return losses.mean(), updates

    (loss, updates), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    state = state.apply_gradients(grads=grads)
    return state.replace(batch_stats=updates["batch_stats"]), loss


@jax.jit
def accuracy(state: TrainState, batch: Batch) -> jax.Array:
    """Return the fraction of correct predictions for a batch, in evaluation mode."""
    logits = state.apply_fn(
        {"params": state.params, "batch_stats": state.batch_stats},
        batch["image"],
        train=False,
    )
    return jnp.mean(logits.argmax(axis=-1) == batch["label"])


def load() -> tuple[Batch, Batch]:
    """Return training and test data, with images (examples, 64) in [0, 1]."""
    x_train, y_train, x_test, y_test = datasets.split(*datasets.digits())

    def batch(x: np.ndarray, y: np.ndarray) -> Batch:
        return {"image": (x.reshape(len(x), 64) / 16).astype(np.float32), "label": y}

    return batch(x_train, y_train), batch(x_test, y_test)


def train(
    normalize: bool,
    learning_rate: float,
    steps: int,
    data: Batch,
    report: Callable[[int, TrainState], None],
) -> TrainState:
    """Train one classifier; call `report(step, state)` ten times during training."""
    model = Classifier(normalize)
    variables = model.init(jax.random.key(0), data["image"][:1], train=False)
    state = TrainState.create(
        apply_fn=model.apply,
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),  # none without normalization
        tx=optax.sgd(learning_rate),
    )
    order = np.random.default_rng(0)
    for step in range(1, steps + 1):
        rows = order.choice(len(data["label"]), 64, replace=False)
        state, _ = train_step(state, {name: x[rows] for name, x in data.items()})
        if step % max(steps // 10, 1) == 0:
            report(step, state)
    return state


def main(arguments: list[str] | None = None) -> dict[tuple[bool, float], float]:
    """Train with and without batch normalization at two learning rates.

    Returns:
        The final test accuracy by (normalized, learning rate).
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args(arguments).steps

    data, test = load()
    final = {}
    for learning_rate in (0.01, 0.3):
        for normalize in (False, True):
            curve = []
            state = train(
                normalize,
                learning_rate,
                steps,
                data,
                lambda step, state, curve=curve: curve.append(
                    float(accuracy(state, test))
                ),
            )
            final[normalize, learning_rate] = float(accuracy(state, test))
            name = "batch norm" if normalize else "plain     "
            points = " ".join(f"{value:.2f}" for value in curve)
            print(f"learning rate {learning_rate:<5} {name}  {points}")
    return final


if __name__ == "__main__":
    main()
