"""Optimizers: the updates of optax, on any pytree."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import linsey.treex as tx
from linsey.errors import (
    MismatchError,
    OptionError,
    UsageError,
)

X = jnp.ones((3, 2))


def equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    "transform",
    [
        optax.adam(0.1),
        optax.adamw(0.1),
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9)),
    ],
    ids=["adam", "adamw", "chain"],
)
@pytest.mark.parametrize("apply_updates", [True, False])
def test_updates_are_those_of_optax(transform, apply_updates):
    model = tx.Sequential(tx.Linear(4), tx.BatchNorm(), tx.Linear(1)).init(0, X)
    params = model.parameters()
    grads = jax.tree.map(jnp.ones_like, params)
    optimizer = tx.Optimizer(transform).init(params)
    state = transform.init(params)
    for _ in range(2):
        updates, state = transform.update(grads, state, params)
        found = optimizer.update(grads, params, apply_updates)
        applied = optax.apply_updates(params, updates)
        equal(found, applied if apply_updates else updates)
        equal(optimizer.opt_state, state)
        assert isinstance(found, tx.Sequential)
        params = applied


def test_init_makes_a_new_optimizer():
    first = tx.Optimizer(optax.adam(0.1))
    second = first.init({"w": X})
    assert (first.initialized, second.initialized) == (False, True)
    second.update({"w": X}, {"w": X})
    assert int(second.opt_state[0].count) == 1
    assert int(second.init({"w": X}).opt_state[0].count) == 0
    assert second.eval().initialized and first.opt_state is None


def test_misuse():
    optimizer = tx.Optimizer(optax.sgd(0.1))
    with pytest.raises(UsageError):
        optimizer.update(X, X)
    optimizer = optimizer.init([X])
    with pytest.raises(OptionError):
        optimizer.update([X])
    with pytest.raises(MismatchError, match="2 leaves.*with 1"):
        optimizer.update([X, X], [X])
    with pytest.raises(MismatchError, match="`params`"):
        optimizer.update([X], [X, X])
    equal(optimizer.update([X], apply_updates=False), [-0.1 * X])


def test_optimizers_travel_through_compiled_functions():
    traces = []

    @jax.jit
    def f(optimizer, grads, params):
        traces.append(1)
        return optimizer.update(grads, params), optimizer

    params = {"w": X, "none": tx.Nothing()}
    optimizer = tx.Optimizer(optax.adam(0.1)).init(params)
    for _ in range(3):
        params, optimizer = f(optimizer, params, params)
    assert len(traces) == 1 and params["none"] == tx.Nothing()
    assert int(optimizer.opt_state[0].count) == 3
