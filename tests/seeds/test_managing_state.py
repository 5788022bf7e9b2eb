"""The guide "Managing Parameters and State": its models, mutable state and `vmap`.

Every snippet in the page's order. The page trains with `optim.sgd.GradientDescent`, an
optimizer object that holds the parameters; here `optax.sgd` does the same update, and
the lines that this changes are marked "optax".
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

from linsey import config
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


def test_state_is_split_from_parameters_and_updated():
    dummy_input = jnp.ones((3, 4))
    num_epochs = 20  # the page runs one; the loss needs some to fall

    tx = optax.sgd(learning_rate=0.02)  # optax

    def update_step(apply_fn, x, optimizer, state):
        params, opt_state = optimizer  # optax

        def loss(params):
            y, updated_state = apply_fn(
                {"params": params, **state}, x, mutable=list(state.keys())
            )
            l = ((x - y) ** 2).sum()  # noqa: E741  the page's name
            return l, updated_state

        (l, updated_state), grads = jax.value_and_grad(  # noqa: E741
            loss, has_aux=True
        )(params)
        updates, opt_state = tx.update(grads, opt_state)  # optax
        optimizer = optax.apply_updates(params, updates), opt_state  # optax
        return optimizer, updated_state, l  # the loss too, to see it fall

    model = BiasAdderWithRunningMean()
    variables = model.init(random.PRNGKey(0), dummy_input)
    state, params = variables.pop("params")
    assert jax.tree.map(jnp.shape, params) == FrozenDict({"bias": (4,)})
    assert jax.tree.map(jnp.shape, state) == FrozenDict({"batch_stats": {"mean": (4,)}})
    del variables
    optimizer = params, tx.init(params)  # optax

    losses = []
    for _ in range(num_epochs):
        optimizer, state, loss = update_step(model.apply, dummy_input, optimizer, state)
        losses.append(float(loss))

    # The inputs are ones, so the running mean is 1 - 0.9 ** epochs. `keepdims` makes
    # the updated mean one row, as the page has it.
    mean = state["batch_stats"]["mean"]
    assert mean.shape == (1, 4)
    np.testing.assert_allclose(mean, 1 - 0.9**num_epochs, rtol=1e-5)
    assert losses[-1] < losses[0] / 10


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
            axis_name="batch",
        )

        x = nn.Dense(self.hidden_size)(x)
        x = norm()(x)
        x = nn.relu(x)
        x = nn.Dense(self.hidden_size)(x)
        x = norm()(x)
        x = nn.relu(x)
        y = nn.Dense(self.out_size)(x)

        return y


def update_step(tx, apply_fn, x_batch, y_batch, optimizer, state):
    """The page's `update_step`; `tx` and the split optimizer are optax's way."""
    params, opt_state = optimizer  # optax

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

    (loss, updated_state), grads = jax.value_and_grad(batch_loss, has_aux=True)(params)

    updates, opt_state = tx.update(grads, opt_state)  # optax
    optimizer = optax.apply_updates(params, updates), opt_state  # optax
    return optimizer, updated_state, loss


@pytest.fixture
def vmap_example():
    dummy_input = jnp.ones((100,))
    key1, key2 = random.split(random.PRNGKey(0), num=2)
    batch_size = 64
    X = random.normal(key1, (batch_size, 100))
    Y = random.normal(key2, (batch_size, 1))

    model = MLP(hidden_size=10, out_size=1)
    variables = model.init(random.PRNGKey(0), dummy_input)
    state, params = variables.pop("params")
    del variables
    return model, params, state, X, Y


def test_vmap_over_the_batch_as_printed(vmap_example):
    """As printed, `train` stays False: the averages are used and never updated."""
    model, params, state, X, Y = vmap_example
    num_epochs = 5
    before = jax.device_get(state)
    tx = optax.sgd(learning_rate=0.02)  # optax
    optimizer = params, tx.init(params)  # optax
    step = jax.jit(partial(update_step, tx, model.apply))

    losses = []
    for _ in range(num_epochs):
        optimizer, state, loss = step(X, Y, optimizer, state)
        losses.append(float(loss))

    assert losses == sorted(losses, reverse=True)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, jax.device_get(state)))


def test_vmap_over_the_batch_in_training_mode(vmap_example):
    """With `train=True` the state stays unbatched and follows the whole batch."""
    model, params, state, X, Y = vmap_example
    num_epochs = 20
    tx = optax.sgd(learning_rate=0.02)  # optax
    step = jax.jit(partial(update_step, tx, partial(model.apply, train=True)))

    optimizer = params, tx.init(params)  # optax
    optimizer, state, loss = step(X, Y, optimizer, state)

    kernel, bias = params["Dense_0"]["kernel"], params["Dense_0"]["bias"]
    hidden = np.float64(X) @ np.float64(kernel) + np.float64(bias)  # (batch, hidden)
    stats = state["batch_stats"]["BatchNorm_0"]
    # float32 sums of 100 products, then of 64 rows: well inside 1e-5.
    np.testing.assert_allclose(stats["mean"], 0.1 * hidden.mean(0), atol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * hidden.var(0), rtol=1e-5)

    first = float(loss)
    for _ in range(num_epochs):
        optimizer, state, loss = step(X, Y, optimizer, state)
    assert float(loss) < first
    assert stats["mean"].shape == state["batch_stats"]["BatchNorm_0"]["mean"].shape
