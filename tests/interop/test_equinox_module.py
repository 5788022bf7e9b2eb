"""Equinox modules are Linen modules and objects, and train as in Equinox."""

from __future__ import annotations

import copy
import functools
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import linsey.linen as nn
import linsey.treex as tx
from linsey.batch_stats.calls import find_call
from linsey.errors import MismatchError, ModifyScopeVariableError
from linsey.interop import from_equinox
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


class Net(eqx.Module):
    """Two layers with a batch norm between them, in Equinox's way."""

    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    layers: list

    def __init__(self, key):
        keys = jax.random.split(key)
        self.first = eqx.nn.Linear(3, 4, key=keys[0])
        self.norm = eqx.nn.BatchNorm(4, axis_name="batch", mode="batch", momentum=0.9)
        self.layers = [jax.nn.relu, eqx.nn.Linear(4, 1, key=keys[1])]

    def __call__(self, x, state):
        x, state = self.norm(self.first(x), state)
        for layer in self.layers:
            x = layer(x)
        return x, state


class Noisy(eqx.Module):
    """A dropout, an integer and a random key among the arrays."""

    weight: jax.Array
    order: jax.Array
    seed: jax.Array
    table: np.ndarray
    dropout: eqx.nn.Dropout

    def __init__(self, key):
        self.weight = jax.random.normal(key, (3,))
        self.order = jnp.array([2, 0, 1])
        self.seed = jax.random.key(5)
        self.table = np.ones(3, np.float32)
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x, *, key=None):
        return self.dropout(x[self.order] * self.weight * self.table, key=key)


class Last(eqx.Module):
    """A module with arrays that `Net` has not."""

    last: eqx.nn.Linear

    def __init__(self, key):
        self.last = eqx.nn.Linear(3, 1, key=key)


make = eqx.nn.make_with_state(Net)
module = from_equinox(Net)


@functools.cache
def made():
    return eqx.filter_jit(make)(KEY)


def initial():
    return module.split(*made())


init = jax.jit(module.init)
apply = jax.jit(module.apply)


@functools.cache
def trained():
    return train(module, initial(), training=True)


def mapped(model, state):
    call = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    return call(X, state)


def test_names_are_the_paths_of_the_tree():
    made = jax.eval_shape(lambda: module.init(KEY, X))
    shapes = jax.tree.map(jnp.shape, made)
    linear = {"weight": (4, 3), "bias": (4,)}
    assert shapes["params"] == {
        "first": linear,
        "norm": {"weight": (4,), "bias": (4,)},
        "layers": {"1": {"weight": (1, 4), "bias": (1,)}},
    }
    assert [*shapes["batch_stats"]] == ["norm"]
    assert sorted(shapes) == ["batch_stats", "params"]


def test_training_has_the_losses_and_arrays_of_equinox():
    @eqx.filter_jit
    def step(model, state, opt_state):
        def loss_fn(model, state):
            outputs, state = mapped(model, state)
            return loss_of(outputs), state

        (loss, state), grads = eqx.filter_value_and_grad(loss_fn, has_aux=True)(
            model, state
        )
        steps, opt_state = OPTIMIZER.update(grads, opt_state)
        return loss, eqx.apply_updates(model, steps), state, opt_state

    model, state = made()
    opt_state = OPTIMIZER.init(eqx.filter(model, eqx.is_inexact_array))
    expected, (model, state, _) = descend(step, model, state, opt_state)
    losses, variables = trained()
    np.testing.assert_allclose(losses, expected, 1e-6)
    assert_close(variables, module.split(model, state))
    # In evaluation too.
    outputs, _ = mapped(eqx.nn.inference_mode(model), state)
    np.testing.assert_allclose(apply(variables, X), outputs, 1e-5, 1e-6)


@pytest.mark.slow
def test_an_object_is_trained_alike():
    expected, variables = trained()
    losses, model = train_object(tx.from_linen(module, initial()))
    np.testing.assert_allclose(losses, expected, 1e-6)
    assert_close(model.to_linen()[1], variables)
    outputs = apply(variables, X)
    np.testing.assert_allclose(model.eval()(X), outputs, 1e-5, 1e-6)


@pytest.mark.slow
def test_merge_is_the_inverse_of_split():
    variables = init(KEY, X)
    model, state = module.merge(variables)
    assert_equal(module.split(model, state), variables)
    outputs, _ = mapped(eqx.nn.inference_mode(model), state)
    np.testing.assert_allclose(apply(variables, X), outputs, 1e-5, 1e-6)


@pytest.mark.slow
def test_a_function_may_return_the_state_as_well():
    assert_equal(jax.jit(from_equinox(make).init)(KEY, X), init(KEY, X))


@pytest.mark.slow
def test_an_object_is_initialized_by_itself():
    model = tx.FlaxModule(module).init(3, X)
    before = model.batch_stats_
    model.eval()(X)
    assert model.batch_stats_ is before
    model(X)
    counts = zip(jax.tree.leaves(before), jax.tree.leaves(model.batch_stats_))
    assert any(jnp.any(a != b) for a, b in counts)


def test_statistics_change_in_training_alone():
    variables = initial()
    _, updates = module.apply(variables, X, mutable=["batch_stats"])
    assert_equal(updates["batch_stats"], variables["batch_stats"])
    with pytest.raises(ModifyScopeVariableError):
        module.apply(variables, X, training=True)
    call = find_call(module, variables, X)
    assert call.flags == {"training": True}


def test_checkpoints_bring_variables_back(tmp_path):
    _, variables = trained()
    assert_survives(variables, tmp_path)
    read = jax.tree.map(np.asarray, variables)
    model, state = module.merge(read)
    arrays = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
    assert len(arrays) == len(jax.tree.leaves(variables["params"]))
    assert_equal(module.split(model, state), variables)


@pytest.mark.slow
def test_vmap_over_variables_equals_one_call_each():
    keys = jax.random.split(KEY, 3)
    stacked = jax.jit(jax.vmap(module.init, (0, None)))(keys, X)
    outputs = jax.jit(jax.vmap(module.apply, (0, None)))(stacked, X)
    for i, key in enumerate(keys):
        np.testing.assert_allclose(outputs[i], apply(init(key, X), X), 1e-5, 1e-6)


class Around(nn.Module):
    """A Linen model with a module of Equinox in it, as it is or lifted."""

    lift: object = staticmethod(lambda cls: cls)

    @nn.compact
    def __call__(self, x, training=False):
        inner = self.lift(type(module))(module.blueprint, name="inner")
        flags = {"training": True} if training else {}  # not traced by `nn.jit`
        return nn.Dense(1)(inner(x, **flags))


@pytest.mark.slow
def test_inside_of_linen_models():
    variables = jax.jit(Around().init)(KEY, X)
    losses, variables = train(Around(), variables, training=True)
    assert sorted(variables["params"]["inner"]) == ["first", "layers", "norm"]
    expected, *outputs = jax.jit(
        lambda v: [m.apply(v, X) for m in map(Around, (lambda c: c, nn.jit, nn.remat))]
    )(variables)
    for found in outputs:
        assert_close(found, expected)


@pytest.mark.slow
def test_lifted_vmap_makes_ensembles():
    many = nn.vmap(
        type(module), variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True}, in_axes=None, axis_size=2,
    )  # fmt: skip
    ensemble = many(module.blueprint)
    variables = jax.jit(ensemble.init)(KEY, X)
    assert jnp.shape(variables["params"]["first"]["weight"]) == (2, 4, 3)
    single = jax.tree.map(lambda x: x[1], variables)
    outputs = jax.jit(ensemble.apply)(variables, X)
    np.testing.assert_allclose(outputs[1], apply(single, X), 1e-5, 1e-6)


@pytest.mark.slow
def test_dropout_and_arrays_without_gradient():
    noisy = from_equinox(Noisy)
    variables = noisy.init(KEY, X)
    assert sorted(variables) == ["constants", "params"]
    assert sorted(variables["constants"]) == ["order", "seed"]
    assert sorted(variables["params"]) == ["weight"]
    kept = X[:, variables["constants"]["order"]] * variables["params"]["weight"]
    np.testing.assert_allclose(noisy.apply(variables, X), kept, 1e-6)

    def train(key):
        return noisy.apply(variables, X, training=True, rngs={"dropout": key})

    dropped = train(KEY)
    np.testing.assert_array_equal(dropped, train(KEY))
    assert jnp.any(dropped != train(jax.random.key(1)))
    zeros = dropped == 0
    assert 0 < zeros.mean() < 1 and jnp.any(zeros[0] != zeros[1])
    np.testing.assert_allclose(jnp.where(zeros, kept, dropped / 2), kept, 1e-6)


@pytest.mark.slow
def test_without_an_axis_the_module_takes_arguments_as_they_are():
    single = from_equinox(lambda key: eqx.nn.Linear(3, 2, key=key), axis_name=None)
    variables = single.init(KEY, X[0])
    expected = eqx.nn.Linear(3, 2, key=KEY)
    assert single.apply(variables, X[0]).shape == (2,)
    variables = single.split(expected)
    np.testing.assert_array_equal(single.apply(variables, X[0]), expected(X[0]))


@pytest.mark.slow
def test_spectral_norm_and_tied_weights():
    class Tied(eqx.Module):
        layers: eqx.nn.Shared
        norm: eqx.nn.SpectralNorm

        def __init__(self, key):
            layers = [eqx.nn.Linear(3, 3, key=key), eqx.nn.Linear(3, 3, key=key)]
            self.layers = eqx.nn.Shared(
                layers, where=lambda x: x[1].weight, get=lambda x: x[0].weight
            )
            self.norm = eqx.nn.SpectralNorm(layers[0], "weight", key=key)

        def __call__(self, x, state):
            for layer in self.layers():
                x = layer(x)
            return self.norm(x, state)

    tied = from_equinox(Tied)
    variables = tied.init(KEY, X)
    params = variables["params"]["layers"]["pytree"]
    assert [*params["0"]] == ["weight", "bias"] and [*params["1"]] == ["bias"]
    outputs, updates = tied.apply(variables, X, training=True, mutable=["batch_stats"])
    model, state = eqx.nn.make_with_state(Tied)(KEY)
    variables = tied.split(model, state)
    call = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    expected, after = call(X, state)
    outputs, updates = tied.apply(variables, X, training=True, mutable=["batch_stats"])
    np.testing.assert_allclose(outputs, expected, 1e-6)
    assert_close(updates["batch_stats"], tied.split(model, after)["batch_stats"])


def test_the_state_may_live_in_another_collection():
    other = from_equinox(Net, collection="running")
    assert sorted(jax.eval_shape(other.init, KEY, X)) == ["params", "running"]


def test_variables_of_another_module_are_refused():
    variables = initial()
    with pytest.raises(MismatchError, match="`params/last/weight` is missing among"):
        from_equinox(Last).merge(variables)
    variables["params"]["first"]["weight"] = jnp.ones((5, 3))
    with pytest.raises(MismatchError) as caught:
        module.apply(variables, X)
    assert str(caught.value) == (
        "`params/first/weight` has shape (5, 3) among the variables.\n"
        "The module of Equinox has an array of shape (4, 3) there.\n"
        "Pass all variables, from `init` or `split(model, state)` of this module."
    )


def test_copies_are_modules_of_the_same_arrays():
    variables = initial()
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        np.testing.assert_array_equal(
            other.apply(variables, X), module.apply(variables, X)
        )


@pytest.mark.slow
def test_initialization_is_pure_of_the_data():
    abstract = module.lazy_init(KEY, jax.ShapeDtypeStruct(X.shape, X.dtype))
    assert_close(abstract, init(KEY, 2 * X))
    assert optax.tree.size(abstract["params"]) == 29
