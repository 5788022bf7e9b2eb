"""The guide "Managing Parameters and State": its models, optimizer and `vmap`.

Every snippet in the page's order, as printed but for `linsey` in place of `flax`.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from linsey import config, optim
from linsey import linen as nn
from linsey.core import FrozenDict


@pytest.fixture(autouse=True)
def frozen_variables():
    """The page splits with `variables.pop`: a `FrozenDict` answers in two parts."""
    with config.temp_flip_flag("return_frozendict", True):
        yield


class BiasAdderWithRunningMean(nn.Module):
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x):
        is_initialized = self.has_variable("batch_stats", "mean")
        mean = self.variable("batch_stats", "mean", jnp.zeros, x.shape[1:])
        bias = self.param("bias", lambda rng, shape: jnp.zeros(shape), x.shape[1:])
        if is_initialized:
            mean.value = self.momentum * mean.value + (1.0 - self.momentum) * jnp.mean(
                x, axis=0, keepdims=True
            )
        return mean.value + bias


def bias_adder_update_step(apply_fn, x, optimizer, state):
    """The page's first `update_step`; it returns the loss too, to see it fall."""

    def loss(params):
        y, updated_state = apply_fn(
            {"params": params, **state}, x, mutable=list(state.keys())
        )
        l = ((x - y) ** 2).sum()  # noqa: E741  the page's name
        return l, updated_state

    (l, updated_state), grads = jax.value_and_grad(  # noqa: E741
        loss, has_aux=True
    )(optimizer.target)
    optimizer = optimizer.apply_gradient(grads)
    return optimizer, updated_state, l


def bias_adder():
    """The page's lines before the loop."""
    dummy_input = jnp.ones((3, 4))
    model = BiasAdderWithRunningMean()
    variables = model.init(random.PRNGKey(0), dummy_input)
    state, params = variables.pop("params")  # Split state and params to optimize for
    del variables  # Delete variables to avoid wasting resources
    optimizer = optim.sgd.GradientDescent(learning_rate=0.02).create(params)
    return model, dummy_input, optimizer, state


def test_one_epoch_as_printed_gives_the_numbers_of_the_original():
    model, dummy_input, optimizer, state = bias_adder()
    assert jax.tree.map(jnp.shape, optimizer.target) == {"bias": (4,)}
    assert jax.tree.map(jnp.shape, state) == {"batch_stats": {"mean": (4,)}}
    num_epochs = 1

    for _ in range(num_epochs):
        optimizer, state, _ = bias_adder_update_step(
            model.apply, dummy_input, optimizer, state
        )

    # The mean is 0.1, so each of 3 rows is short by 0.9: 0.02 * 2 * 3 * 0.9.
    np.testing.assert_allclose(optimizer.target["bias"], np.full(4, 0.108), rtol=1e-6)
    mean = state["batch_stats"]["mean"]
    # `keepdims` makes the updated mean one row, as the page has it.
    np.testing.assert_allclose(mean, np.full((1, 4), 0.1), rtol=1e-6)
    assert optimizer.state.step == 1
    assert type(optimizer.target) is FrozenDict
    assert type(optimizer.state.param_states) is FrozenDict


@pytest.mark.parametrize("run", [lambda f, **_: f, jax.jit])
def test_state_is_split_from_parameters_and_updated(run):
    model, dummy_input, optimizer, state = bias_adder()
    num_epochs = 20  # the page runs one; the loss needs some to fall
    update_step = run(bias_adder_update_step, static_argnums=0)

    bias, mean, losses = 0.0, 0.0, []
    for _ in range(num_epochs):
        optimizer, state, loss = update_step(model.apply, dummy_input, optimizer, state)
        losses.append(float(loss))
        mean = 0.9 * mean + 0.1
        np.testing.assert_allclose(loss, 12 * (1 - mean - bias) ** 2, atol=1e-5)
        bias -= 0.02 * 2 * 3 * (mean + bias - 1)
        # Sums of a few roundings of float32 in each epoch.
        np.testing.assert_allclose(state["batch_stats"]["mean"], [[mean] * 4], 1e-5)
        np.testing.assert_allclose(optimizer.target["bias"], [bias] * 4, rtol=1e-5)
    assert losses[-1] < losses[0] / 10
    assert optimizer.state.step == num_epochs


class MLP(nn.Module):
    hidden_size: int
    out_size: int

    @nn.compact
    def __call__(self, x, train=False):
        norm = partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            axis_name="batch",  # Name batch dim
        )

        x = nn.Dense(self.hidden_size)(x)
        x = norm()(x)
        x = nn.relu(x)
        x = nn.Dense(self.hidden_size)(x)
        x = norm()(x)
        x = nn.relu(x)
        y = nn.Dense(self.out_size)(x)

        return y


def update_step(apply_fn, x_batch, y_batch, optimizer, state):
    """The page's second `update_step`."""

    def batch_loss(params):
        def loss_fn(x, y):
            pred, updated_state = apply_fn(
                {"params": params, **state}, x, mutable=list(state.keys())
            )
            return (pred - y) ** 2, updated_state

        loss, updated_state = jax.vmap(
            loss_fn,
            out_axes=(0, None),  # Exclude state from mapping
            axis_name="batch",  # Name batch dim
        )(x_batch, y_batch)
        return jnp.mean(loss), updated_state

    (loss, updated_state), grads = jax.value_and_grad(batch_loss, has_aux=True)(
        optimizer.target
    )

    optimizer = optimizer.apply_gradient(grads)
    return optimizer, updated_state, loss


@pytest.fixture
def vmap_example():
    """The page's lines before the loop."""
    dummy_input = jnp.ones((100,))
    key1, key2 = random.split(random.PRNGKey(0), num=2)
    batch_size = 64
    X = random.normal(key1, (batch_size, 100))
    Y = random.normal(key2, (batch_size, 1))

    model = MLP(hidden_size=10, out_size=1)
    variables = model.init(random.PRNGKey(0), dummy_input)
    state, params = variables.pop("params")  # Split state and params to optimize for
    del variables  # Delete variables to avoid wasting resources
    optimizer = optim.sgd.GradientDescent(learning_rate=0.02).create(params)
    return model, optimizer, state, X, Y


def test_vmap_over_the_batch_as_printed(vmap_example):
    """As printed, `train` stays False: the averages are used and never updated."""
    model, optimizer, state, X, Y = vmap_example
    num_epochs = 5
    before = jax.device_get(state)

    losses = []
    for _ in range(num_epochs):
        optimizer, state, loss = update_step(model.apply, X, Y, optimizer, state)
        losses.append(float(loss))

    assert losses == sorted(losses, reverse=True)
    assert optimizer.state.step == num_epochs
    assert jax.tree.all(jax.tree.map(np.array_equal, before, jax.device_get(state)))


def batch_statistics(params, X):
    """Means and variances of each layer over the batch, in float64 by NumPy."""
    x, found = np.float64(X), {}
    for i in range(2):
        dense, norm = params[f"Dense_{i}"], params[f"BatchNorm_{i}"]
        x = x @ np.float64(dense["kernel"]) + np.float64(dense["bias"])
        mean, var = x.mean(0), x.var(0)
        found[f"BatchNorm_{i}"] = {"mean": mean, "var": var}
        x = (x - mean) / np.sqrt(var + 1e-5)
        x = np.maximum(x * np.float64(norm["scale"]) + np.float64(norm["bias"]), 0)
    return found


def test_vmap_over_the_batch_in_training_mode(vmap_example):
    """With `train=True` the state stays unbatched and follows the whole batch."""
    model, optimizer, state, X, Y = vmap_example
    num_epochs = 20
    step = jax.jit(partial(update_step, partial(model.apply, train=True)))
    expected = jax.tree.map(np.float64, state["batch_stats"].unfreeze())

    losses = []
    for _ in range(num_epochs):
        now = batch_statistics(optimizer.target, X)
        optimizer, state, loss = step(X, Y, optimizer, state)
        losses.append(float(loss))
        expected = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, expected, now)
        # float32 sums of 100 products, then of 64 rows: well inside 1e-5.
        jax.tree.map(
            partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5),
            state["batch_stats"].unfreeze(),
            expected,
        )
    assert losses[-1] < losses[0] / 2
