"""Linen modules are layers of Equinox, and train there as in Linen."""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey.interop import to_equinox
from tests.interop.training import (
    KEY,
    OPTIMIZER,
    X,
    assert_close,
    assert_equal,
    assert_survives,
    descend,
    loss_of,
    train,
)


class Net(nn.Module):
    axis_name: str | None = None
    rate: float = 0.0

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(4)(x)
        norm = nn.BatchNorm(
            use_running_average=not train, momentum=0.9, axis_name=self.axis_name
        )
        x = nn.Dropout(self.rate, deterministic=not train)(nn.relu(norm(x)))
        return nn.Dense(1)(x)


NET = Net()
VARIABLES = jax.jit(NET.init)(KEY, X)
make = eqx.nn.make_with_state(to_equinox)


@eqx.filter_jit
def train_step(model, state, opt_state):
    def loss_fn(model, state):
        outputs, state = model(X, state)
        return loss_of(outputs), state

    found = eqx.filter_value_and_grad(loss_fn, has_aux=True)(model, state)
    (loss, state), grads = found
    steps, opt_state = OPTIMIZER.update(grads, opt_state)
    return loss, eqx.apply_updates(model, steps), state, opt_state


@functools.cache
def trained():
    model, state = make(NET, VARIABLES)
    opt_state = OPTIMIZER.init(eqx.filter(model, eqx.is_inexact_array))
    losses, (model, state, _) = descend(train_step, model, state, opt_state)
    return losses, model, state


def test_training_has_the_losses_and_arrays_of_linen():
    losses, model, state = trained()
    expected, variables = train(NET, VARIABLES, train=True)
    np.testing.assert_allclose(losses, expected, 1e-6)
    assert_close(model.variables(state), variables)
    model = eqx.nn.inference_mode(model)
    outputs, after = eqx.filter_jit(model)(X, state)
    np.testing.assert_allclose(outputs, NET.apply(variables, X), 1e-5, 1e-6)
    assert_equal(model.variables(after), model.variables(state))


def test_parameters_alone_are_differentiated():
    model, state = make(NET, VARIABLES)
    grads = eqx.filter_eval_shape(
        eqx.filter_grad(lambda model: model(X, state)[0].sum()), model
    )
    shapes = [x.shape for x in jax.tree.leaves(grads)]
    assert shapes == [x.shape for x in jax.tree.leaves(VARIABLES["params"])]


def test_checkpoints_bring_model_and_state_back(tmp_path):
    _, model, state = trained()
    assert_survives(model.variables(state), tmp_path / "steps")
    eqx.tree_serialise_leaves(tmp_path / "model.eqx", (model, state))
    fresh = make(NET, VARIABLES)
    model_, state_ = eqx.tree_deserialise_leaves(tmp_path / "model.eqx", fresh)
    assert_equal(model_.variables(state_), model.variables(state))


@pytest.mark.slow
def test_vmap_over_models_equals_one_call_each():
    keys = jax.random.split(KEY, 3)
    models, states = eqx.filter_jit(
        eqx.filter_vmap(lambda key: make(NET, NET.init(key, X)))
    )(keys)
    outputs, _ = eqx.filter_jit(eqx.filter_vmap(lambda m, s: m(X, s)))(models, states)

    @jax.jit
    def alone(key):
        return NET.apply(NET.init(key, X), X, train=True, mutable=["batch_stats"])

    for i, key in enumerate(keys):
        expected = alone(key)
        np.testing.assert_allclose(outputs[i], expected[0], 1e-5, 1e-6)


@pytest.mark.slow
def test_vmap_over_examples_normalizes_by_the_named_axis():
    model, state = make(Net(axis_name="batch"), VARIABLES)
    call = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    outputs, after = call(X, state)
    expected, updates = NET.apply(VARIABLES, X, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(outputs, expected, 1e-5, 1e-6)
    assert_close(model.variables(after)["batch_stats"], updates["batch_stats"])


@pytest.mark.slow
def test_a_layer_is_part_of_a_larger_model():
    class Outer(eqx.Module):
        inner: eqx.Module
        norm: eqx.nn.BatchNorm
        last: eqx.nn.Linear

        def __init__(self, key):
            self.inner = to_equinox(NET, VARIABLES)
            self.norm = eqx.nn.BatchNorm(1, "batch", mode="batch")
            self.last = eqx.nn.Linear(1, 1, key=key)

        def __call__(self, x, state):
            x, state = self.inner(x, state)
            norm = jax.vmap(self.norm, axis_name="batch", in_axes=(0, None),
                            out_axes=(0, None))  # fmt: skip
            x, state = norm(x, state)
            return jax.vmap(self.last)(x), state

    model, state = eqx.nn.make_with_state(Outer)(KEY)
    opt_state = OPTIMIZER.init(eqx.filter(model, eqx.is_inexact_array))
    _, (model, after, _) = descend(train_step, model, state, opt_state)
    before = model.inner.variables(state)["batch_stats"]
    pairs = zip(
        jax.tree.leaves(before),
        jax.tree.leaves(model.inner.variables(after)["batch_stats"]),
        strict=True,
    )
    assert all(jnp.any(a != b) for a, b in pairs)
    sequence, state = eqx.nn.make_with_state(
        lambda: eqx.nn.Sequential([to_equinox(NET, VARIABLES), eqx.nn.Lambda(jnp.tanh)])
    )()
    outputs, _ = eqx.nn.inference_mode(sequence)(X, state)
    np.testing.assert_allclose(outputs, jnp.tanh(NET.apply(VARIABLES, X)), 1e-6)


@pytest.mark.slow
def test_a_key_serves_all_random_streams():
    model, state = make(Net(rate=0.5), VARIABLES)
    call = eqx.filter_jit(model)  # which leaves `state` usable
    first, second = (call(X, state, key=jax.random.key(i))[0] for i in range(2))
    assert jnp.any(first != second)
    again, _ = call(X, state, key=KEY)
    np.testing.assert_array_equal(first, again)
    quiet = eqx.nn.inference_mode(model)
    np.testing.assert_array_equal(quiet(X, state)[0], NET.apply(VARIABLES, X))


@pytest.mark.slow
def test_flags_that_are_false_in_training_and_modules_without_any():
    layer = nn.BatchNorm(momentum=0.5)
    variables = layer.init(KEY, X, use_running_average=True)
    model, state = make(layer, variables)
    outputs, state = model(X, state)
    np.testing.assert_allclose(outputs.mean(0), jnp.zeros(3), atol=1e-5)
    mean = model.variables(state)["batch_stats"]["mean"]
    np.testing.assert_allclose(mean, X.mean(0) / 2, 1e-5)
    dense = nn.Dense(2)
    variables = dense.init(KEY, X)
    model, state = make(dense, variables)
    outputs, state = model(X, state)
    np.testing.assert_array_equal(outputs, dense.apply(variables, X))
    assert_equal(model.variables(state), variables)
