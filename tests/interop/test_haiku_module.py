"""Haiku functions are Linen modules and objects, and train as in Haiku."""

from __future__ import annotations

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import linsey.linen as nn
import linsey.treex as tx
from linsey.batch_stats.calls import find_call
from linsey.errors import MismatchError, ModifyScopeVariableError
from linsey.interop import from_haiku
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
    train_object,
)


def net(x, is_training):
    x = hk.BatchNorm(True, True, 0.9)(hk.Linear(4)(x), is_training)
    return hk.nets.MLP([4, 1])(jax.nn.relu(x))


theirs = hk.transform_with_state(net)
module = from_haiku(net)


@functools.cache
def initial():
    params, state = jax.jit(theirs.init, static_argnums=2)(KEY, X, True)
    return {"params": params, "batch_stats": state}


@functools.cache
def trained():
    return train(module, initial(), is_training=True)


def test_names_are_those_of_haiku():
    made = jax.eval_shape(lambda: module.init(KEY, X, True))
    shapes = jax.tree.map(jnp.shape, made)
    assert shapes == jax.tree.map(jnp.shape, initial())
    assert shapes["params"]["mlp/~/linear_1"] == {"w": (4, 1), "b": (1,)}
    assert "batch_norm/~/mean_ema" in shapes["batch_stats"]


def test_training_has_the_losses_and_arrays_of_haiku():
    @jax.jit
    def step(params, state, opt_state):
        def loss_fn(params):
            outputs, after = theirs.apply(params, state, None, X, is_training=True)
            return loss_of(outputs), after

        (loss, after), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        steps, opt_state = OPTIMIZER.update(grads, opt_state)
        return loss, optax.apply_updates(params, steps), after, opt_state

    params, state = initial().values()
    expected, (params, state, _) = descend(step, params, state, OPTIMIZER.init(params))
    losses, variables = trained()
    np.testing.assert_allclose(losses, expected, 1e-6)
    assert_close(variables, {"params": params, "batch_stats": state})
    outputs, _ = theirs.apply(params, state, None, X, False)
    np.testing.assert_allclose(module.apply(variables, X, False), outputs, 1e-5, 1e-6)


@pytest.mark.slow
def test_objects_are_trained_alike():
    """An object of Haiku, and one of any Linen module."""
    start, (expected, variables) = initial(), trained()
    outputs = module.apply(variables, X, False)
    objects = [
        (tx.HaikuModule(net, start["params"], start["batch_stats"]).init(0), True),
        (tx.from_linen(module, start), True),
    ]
    for model, flag in objects:
        losses, model = train_object(model, flag)
        np.testing.assert_allclose(losses, expected, 1e-6)
        np.testing.assert_allclose(model.eval()(X, False), outputs, 1e-5, 1e-6)


def test_what_was_transformed_is_taken_too():
    outputs = from_haiku(theirs).apply(initial(), X, False)
    np.testing.assert_array_equal(outputs, module.apply(initial(), X, False))
    stateless = hk.transform(lambda x: hk.Linear(2)(x))
    bridged = from_haiku(stateless)
    variables = bridged.init(KEY, X)
    assert [*variables] == ["params"]
    expected = stateless.apply(variables["params"], None, X)
    np.testing.assert_array_equal(bridged.apply(variables, X), expected)


def test_statistics_change_in_training_alone():
    variables = initial()
    _, updates = module.apply(variables, X, False, mutable=["batch_stats"])
    assert_equal(updates["batch_stats"], variables["batch_stats"])
    with pytest.raises(ModifyScopeVariableError):
        module.apply(variables, X, True)
    with pytest.raises(MismatchError) as caught:
        module.apply({"params": variables["params"]}, X, True)
    assert str(caught.value) == (
        "`batch_stats/batch_norm/~/mean_ema` is missing among the variables.\n"
        "The function of Haiku has a state of this name, and would start anew.\n"
        "Pass all variables, as `init` returned them."
    )
    assert find_call(module, variables, X).flags == {"is_training": True}


@pytest.mark.slow
def test_under_remat_the_same_is_computed_and_evaluation_changes_no_state():
    def remat(x, is_training):
        return hk.remat(lambda x: net(x, is_training))(x)

    kept, bridged = initial(), from_haiku(remat)
    expected = module.apply(kept, X, False)

    def loss(params, model):
        return loss_of(model.apply({**kept, "params": params}, X, False))

    np.testing.assert_array_equal(bridged.apply(kept, X, False), expected)
    assert_close(*(jax.grad(loss)(kept["params"], m) for m in (bridged, module)))
    with pytest.raises(ModifyScopeVariableError):
        bridged.apply(kept, X, True)
    updates = [
        m.apply(kept, X, True, mutable=["batch_stats"])[1] for m in (bridged, module)
    ]
    assert_close(*updates)


def test_checkpoints_bring_variables_back(tmp_path):
    _, variables = trained()
    assert_survives(variables, tmp_path)


@pytest.mark.slow
def test_vmap_over_variables_equals_one_call_each():
    keys = jax.random.split(KEY, 3)
    init = jax.jit(lambda key: module.init(key, X, True))
    evaluate = jax.jit(lambda one: module.apply(one, X, False))
    outputs = jax.jit(jax.vmap(evaluate))(jax.jit(jax.vmap(init))(keys))
    for i, key in enumerate(keys):
        np.testing.assert_allclose(outputs[i], evaluate(init(key)), 1e-5, 1e-6)


class Around(nn.Module):
    """A Linen model with a function of Haiku in it, as it is or lifted."""

    lift: object = staticmethod(lambda cls: cls)

    @nn.compact
    def __call__(self, x, training=False):
        inner = self.lift(type(module))(module.transformed, name="inner")
        return nn.Dense(1)(inner(x, training))


@pytest.mark.slow
def test_inside_of_linen_models():
    variables = jax.jit(lambda: Around().init(KEY, X, training=True))()
    _, variables = train(Around(), variables, training=True)
    assert "mlp/~/linear_0" in variables["params"]["inner"]
    jitted = functools.partial(nn.jit, static_argnums=2)
    found, expected = jax.jit(
        lambda v: [m.apply(v, X) for m in (Around(jitted), Around())]
    )(variables)
    assert_close(found, expected)


@pytest.mark.slow
def test_random_keys_come_from_the_stream_dropout():
    def noisy(x):
        return hk.dropout(hk.next_rng_key(), 0.5, hk.Linear(3)(x))

    bridged = from_haiku(noisy)
    variables = bridged.init(KEY, X)

    def call(key):
        return bridged.apply(variables, X, rngs={"dropout": key})

    np.testing.assert_array_equal(call(KEY), call(KEY))
    assert jnp.any(call(KEY) != call(jax.random.key(1)))
