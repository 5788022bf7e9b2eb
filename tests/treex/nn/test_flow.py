"""Modules made of others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.treex as tx
from tests.treex.nn.agreement import normal


def test_sequential():
    model = tx.Sequential(tx.Linear(4), jax.nn.relu, tx.Linear(3), tx.Linear(2))
    model = model.init(0, normal(1, 2))
    assert isinstance(model.layers[1], tx.Lambda)
    assert len(jax.tree.leaves(model)) == 6 and model(normal(5, 2)).shape == (5, 2)
    x = normal(2, 2)
    assert tx.Sequential()(x) is x and tx.sequence()(x) is x
    assert tx.sequence(lambda x: x + 1, lambda x: 2 * x)(1) == 4
    with pytest.raises(TypeError):
        model(x, x)


def test_layers_in_a_sequence_keep_their_own_modes():
    x = normal(4, 3) + 2
    model = tx.Sequential(tx.BatchNorm(), tx.BatchNorm().eval()).init(0, x)
    model(x)
    assert model.layers[0].mean.any() and not model.layers[1].mean.any()


def test_mlp():
    model = tx.MLP([4, 3, 2], activation=jnp.tanh).init(0, normal(5, 2))
    assert model._subtrees == ("linear", "linear2", "linear3")
    x = normal(5, 2)
    expected = model.linear3(jnp.tanh(model.linear2(jnp.tanh(model.linear(x)))))
    np.testing.assert_array_equal(model(x), expected)
    with pytest.raises(ValueError):
        tx.MLP([])


def test_flatten():
    assert tx.Flatten()(normal(4)).shape == (4, 1)
    assert tx.Flatten()(normal(4, 3, 2)).shape == (4, 6)
