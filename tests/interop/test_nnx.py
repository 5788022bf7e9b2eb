"""linsey's modules in Flax NNX, by the conventions of its bridge to Linen."""

from __future__ import annotations

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from tests.interop.training import (
    OPTIMIZER,
    X,
    assert_close,
    assert_survives,
    descend,
    loss_of,
    train,
)

# A real one: `linsey.compat` puts linsey in place of `flax` for programs.
nnx = importlib.import_module("flax.nnx")


class Net(nn.Module):
    rate: float = 0.0

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(4)(x)
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.9)
        x = nn.Dropout(self.rate, deterministic=not train)(nn.relu(norm(x)))
        return nn.Dense(1)(x)

    def double(self, x):
        self.sow("intermediates", "twice", 2 * x)
        return self(x) * 2


NET = Net()


def wrapped(module=NET, seed=0):
    return nnx.bridge.ToNNX(module, rngs=nnx.Rngs(seed)).lazy_init(X)


def variables_of(model):
    """The variables of the Linen module inside, by collection."""
    kinds = {"params": nnx.Param, "batch_stats": nnx.BatchStat}
    states = {name: nnx.state(model, kind) for name, kind in kinds.items()}
    return {name: nnx.to_pure_dict(state) for name, state in states.items()}


@nnx.jit
def train_step(model, optimizer):
    def loss_fn(model):
        return loss_of(model(X, train=True, mutable=["batch_stats"]))

    loss, grads = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, grads)
    return loss


@functools.cache
def trained():
    model = wrapped()
    optimizer = nnx.Optimizer(model, OPTIMIZER, wrt=nnx.Param)
    losses, _ = descend(lambda: [train_step(model, optimizer)])
    return losses, model


def test_training_has_the_losses_and_arrays_of_linen():
    start = variables_of(wrapped())
    losses, model = trained()
    expected, variables = train(NET, start, train=True)
    np.testing.assert_allclose(losses, expected, 1e-6)
    assert_close(variables_of(model), variables)
    np.testing.assert_allclose(model(X), NET.apply(variables, X), 1e-5, 1e-6)


def test_checkpoints_bring_variables_back(tmp_path):
    _, model = trained()
    variables = variables_of(model)
    assert_survives(variables, tmp_path)
    other = wrapped(seed=7)
    nnx.update(other, nnx.state(model, nnx.Param), nnx.state(model, nnx.BatchStat))
    np.testing.assert_array_equal(other(X), model(X))


@pytest.mark.slow
def test_vmap_over_models_equals_one_call_each():
    rngs = nnx.Rngs(0).split(3)
    models = nnx.vmap(lambda rngs: nnx.bridge.ToNNX(NET, rngs=rngs).lazy_init(X))(rngs)
    outputs = nnx.vmap(lambda model, x: model(x), in_axes=(0, None))(models, X)
    for i in range(3):
        variables = jax.tree.map(lambda x: x[i], variables_of(models))
        np.testing.assert_allclose(outputs[i], NET.apply(variables, X), 1e-5, 1e-6)


@pytest.mark.slow
def test_inside_of_a_module_of_nnx():
    class Outer(nnx.Module):
        def __init__(self, rngs):
            self.inner = nnx.bridge.ToNNX(NET, rngs=rngs)
            self.last = nnx.Linear(1, 1, rngs=rngs)

        def __call__(self, x, **options):
            return self.last(self.inner(x, **options))

    model = Outer(nnx.Rngs(0))
    nnx.bridge.lazy_init(model, X)
    before = variables_of(model)["batch_stats"]["inner"]
    optimizer = nnx.Optimizer(model, OPTIMIZER, wrt=nnx.Param)
    descend(lambda: [train_step(model, optimizer)])
    after = variables_of(model)["batch_stats"]["inner"]
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    assert all(jnp.any(a != b) for a, b in pairs)


@pytest.mark.slow
def test_other_methods_sown_values_and_random_streams():
    model = wrapped()
    twice = model(X, method="double", mutable=["intermediates"])
    np.testing.assert_allclose(twice, 2 * model(X), 1e-6)
    (sown,) = jax.tree.leaves(nnx.state(model, nnx.Intermediate))
    np.testing.assert_array_equal(sown, 2 * X)
    noisy = nnx.bridge.ToNNX(Net(0.5), rngs=nnx.Rngs(0, dropout=1)).lazy_init(X)
    first, second = (noisy(X, train=True, mutable=["batch_stats"]) for _ in range(2))
    assert jnp.any(first != second)


def test_boxes_of_axis_names_stay_boxes():
    kernel_init = nn.with_partitioning(nn.initializers.ones, (None, "model"))
    model = wrapped(nn.Dense(4, kernel_init=kernel_init))
    box = model.kernel.get_value()
    assert isinstance(box, nn.Partitioned) and box.names == (None, "model")
    np.testing.assert_allclose(model(X), X.sum(1, keepdims=True).repeat(4, 1), 1e-5)
