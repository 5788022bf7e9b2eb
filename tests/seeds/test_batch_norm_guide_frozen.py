"""The batch-norm guide, first and Korean editions: `FrozenDict` variables, `PRNGKey`.

The two pages print the same snippets but for their layout. All are here in the pages'
order, as printed but for the lines marked "corrected".
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import linsey.linen as nn
from linsey import config
from linsey.core import FrozenDict
from linsey.training import train_state


@pytest.fixture(autouse=True)
def frozen_variables():
    """The edition is of the time when `init` and `apply` returned `FrozenDict`."""
    with config.temp_flip_flag("return_frozendict", True):
        yield


def test_regular_code(regular_classifier, digits, fit):
    # Defining the model
    class MLP(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(features=4)(x)

            x = nn.relu(x)
            x = nn.Dense(features=1)(x)
            return x

    # The batch_stats collection
    mlp = MLP()
    x = jnp.ones((1, 3))
    variables = mlp.init(jax.random.PRNGKey(0), x)
    params = variables["params"]

    assert jax.tree_util.tree_map(jnp.shape, variables) == FrozenDict(
        {
            "params": {
                "Dense_0": {
                    "bias": (4,),
                    "kernel": (3, 4),
                },
                "Dense_1": {
                    "bias": (1,),
                    "kernel": (4, 1),
                },
            },
        }
    )

    # Calling apply
    y = mlp.apply(
        {"params": params},
        x,
    )
    assert y.shape == (1, 1)

    # Training and evaluation
    state = train_state.TrainState.create(
        apply_fn=mlp.apply,
        params=params,
        tx=optax.adam(1e-3),
    )
    assert state.step == 0
    assert state.params is params

    @jax.jit
    def train_step(state: train_state.TrainState, batch):  # corrected: no TrainState
        """Train for a single step."""

        def loss_fn(params):
            logits = state.apply_fn({"params": params}, x=batch["image"])
            loss = optax.softmax_cross_entropy_with_integer_labels(
                logits=logits, labels=batch["label"]
            ).mean()  # corrected: value_and_grad needs a scalar
            return loss, logits

        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, logits), grads = grad_fn(state.params)
        state = state.apply_gradients(grads=grads)

        metrics = {
            "loss": loss,
            "accuracy": jnp.mean(jnp.argmax(logits, -1) == batch["label"]),
        }
        return state, metrics

    @jax.jit
    def eval_step(state: train_state.TrainState, batch):  # corrected: no TrainState
        """Train for a single step."""
        logits = state.apply_fn(
            {"params": state.params},  # corrected: the trained, not the outer params
            x=batch["image"],
        )
        loss = optax.softmax_cross_entropy_with_integer_labels(
            logits=logits, labels=batch["label"]
        ).mean()  # corrected: one loss, as in train_step
        metrics = {
            "loss": loss,
            "accuracy": jnp.mean(jnp.argmax(logits, -1) == batch["label"]),
        }
        return state, metrics

    # Ten classes need more than one output: the same model, wider, on real data.
    model = regular_classifier
    params = model.init(jax.random.PRNGKey(0), digits["image"])["params"]
    state = train_state.TrainState.create(
        apply_fn=model.apply, params=params, tx=optax.adam(1e-2)
    )
    state, first, last = fit(train_step, state)
    assert isinstance(state.params, FrozenDict)
    assert last < first / 2

    same_state, metrics = eval_step(state, digits)
    assert int(same_state.step) == int(state.step) == 300
    assert float(metrics["accuracy"]) > 0.9


def test_with_batch_norm(batch_norm_classifier, digits, fit, settle):
    # Defining the model
    class MLP(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool):
            x = nn.Dense(features=4)(x)
            x = nn.BatchNorm(use_running_average=not train)(x)
            x = nn.relu(x)
            x = nn.Dense(features=1)(x)
            return x

    # The batch_stats collection
    mlp = MLP()
    x = jnp.ones((1, 3))
    variables = mlp.init(jax.random.PRNGKey(0), x, train=False)
    params = variables["params"]
    batch_stats = variables["batch_stats"]

    assert jax.tree_util.tree_map(jnp.shape, variables) == FrozenDict(
        {
            "batch_stats": {
                "BatchNorm_0": {
                    "mean": (4,),
                    "var": (4,),
                },
            },
            "params": {
                "BatchNorm_0": {
                    "bias": (4,),
                    "scale": (4,),
                },
                "Dense_0": {
                    "bias": (4,),
                    "kernel": (3, 4),
                },
                "Dense_1": {
                    "bias": (1,),
                    "kernel": (4, 1),
                },
            },
        }
    )

    # Calling apply
    y, updates = mlp.apply(
        {"params": params, "batch_stats": batch_stats},
        x,
        train=True,
        mutable=["batch_stats"],
    )
    batch_stats = updates["batch_stats"]
    assert y.shape == (1, 1)
    assert isinstance(updates, FrozenDict)
    # One example has no spread: the variance decays from 1 with momentum 0.99.
    np.testing.assert_allclose(batch_stats["BatchNorm_0"]["var"], 0.99, rtol=1e-6)

    # Training and evaluation
    class TrainState(train_state.TrainState):
        batch_stats: Any

    state = TrainState.create(
        apply_fn=mlp.apply,
        params=params,
        batch_stats=batch_stats,
        tx=optax.adam(1e-3),
    )
    assert state.batch_stats is batch_stats

    @jax.jit
    def train_step(state: TrainState, batch):
        """Train for a single step."""

        def loss_fn(params):
            logits, updates = state.apply_fn(
                {"params": params, "batch_stats": state.batch_stats},
                x=batch["image"],
                train=True,
                mutable=["batch_stats"],
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(
                logits=logits, labels=batch["label"]
            ).mean()  # corrected: value_and_grad needs a scalar
            return loss, (logits, updates)

        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (logits, updates)), grads = grad_fn(state.params)
        state = state.apply_gradients(grads=grads)
        state = state.replace(batch_stats=updates["batch_stats"])
        metrics = {
            "loss": loss,
            "accuracy": jnp.mean(jnp.argmax(logits, -1) == batch["label"]),
        }
        return state, metrics

    @jax.jit
    def eval_step(state: TrainState, batch):
        """Train for a single step."""
        logits = state.apply_fn(
            # corrected: the trained, not the outer params
            {"params": state.params, "batch_stats": state.batch_stats},
            x=batch["image"],
            train=False,
        )
        loss = optax.softmax_cross_entropy_with_integer_labels(
            logits=logits, labels=batch["label"]
        ).mean()  # corrected: one loss, as in train_step
        metrics = {
            "loss": loss,
            "accuracy": jnp.mean(jnp.argmax(logits, -1) == batch["label"]),
        }
        return state, metrics

    # Ten classes need more than one output: the same model, wider, on real data.
    model = batch_norm_classifier
    variables = model.init(jax.random.PRNGKey(0), digits["image"], train=False)
    state = TrainState.create(
        apply_fn=model.apply,
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        tx=optax.adam(1e-2),
    )
    state, first, last = fit(train_step, state)
    assert isinstance(state.batch_stats, FrozenDict)
    assert last < first / 2
    assert float(eval_step(state, digits)[1]["accuracy"]) > 0.9

    # Averages that have settled on these data evaluate as training mode does; 1e-4
    # is float32 rounding, enlarged 100 times by the average with momentum 0.99.
    settled = state.replace(
        batch_stats=settle(state.apply_fn, state.params, state.batch_stats)
    )
    _, evaluated = eval_step(settled, digits)
    _, trained = train_step(settled, digits)
    np.testing.assert_allclose(evaluated["loss"], trained["loss"], rtol=1e-4)
    assert evaluated["accuracy"] == trained["accuracy"]
