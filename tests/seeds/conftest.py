"""What the guides leave to the reader: data, a loop, and a classifier for the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey import datasets

Batch = dict[str, jax.Array]


@pytest.fixture(scope="session")
def digits() -> Batch:
    """All 1797 handwritten digits: image (1797, 64) in [0, 1], label (1797,)."""
    x_train, y_train, x_test, y_test = datasets.split(*datasets.digits())
    image = np.concatenate([x_train, x_test])
    label = np.concatenate([y_train, y_test])
    return {
        "image": jnp.asarray(image.reshape(-1, 64) / 16, jnp.float32),
        "label": jnp.asarray(label),
    }


class RegularClassifier(nn.Module):
    """The guides' model with the widths that ten classes of digits need."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(features=32)(x)
        x = nn.relu(x)
        x = nn.Dense(features=10)(x)
        return x


class BatchNormClassifier(nn.Module):
    """The guides' batch-normalized model with the widths that the digits need."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Dense(features=32)(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.relu(x)
        x = nn.Dense(features=10)(x)
        return x


@pytest.fixture
def regular_classifier() -> nn.Module:
    return RegularClassifier()


@pytest.fixture
def batch_norm_classifier() -> nn.Module:
    return BatchNormClassifier()


@pytest.fixture
def fit(digits: Batch) -> Callable[..., tuple[Any, float, float]]:
    """Runs a guide's `train_step` over shuffled batches; first and last mean losses."""

    def run(train_step: Callable, state: Any, steps: int = 300, size: int = 128):
        order = np.random.default_rng(1)
        losses = []
        for _ in range(steps):
            rows = order.choice(len(digits["label"]), size, replace=False)
            batch = {name: array[rows] for name, array in digits.items()}
            state, metrics = train_step(state, batch)
            losses.append(metrics["loss"])
        losses = np.asarray(jax.device_get(losses))
        return state, float(losses[:10].mean()), float(losses[-10:].mean())

    return run


@pytest.fixture
def settle(digits: Batch) -> Callable[..., Any]:
    """Feeds one batch to the running averages until they are that batch's statistics.

    With momentum 0.99, 2000 updates leave 0.99 ** 2000 = 2e-9 of what was there before.
    """

    def run(apply_fn: Callable, params: Any, batch_stats: Any, updates: int = 2000):
        def update(batch_stats, _):
            _, updated = apply_fn(
                {"params": params, "batch_stats": batch_stats},
                digits["image"],
                train=True,
                mutable=["batch_stats"],
            )
            return updated["batch_stats"], None

        scan = jax.jit(lambda stats: jax.lax.scan(update, stats, None, updates)[0])
        return scan(batch_stats)

    return run
