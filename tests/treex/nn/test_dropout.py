"""Dropout."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import linsey.linen as nn
import linsey.treex as tx
from tests.treex.nn.agreement import KEY, few, normal


@few
@given(
    rate=st.floats(0, 1),
    dims=st.sampled_from([(), (0,), (-1,)]),
    training=st.booleans(),
    frozen=st.booleans(),
)
def test_dropout(rate, dims, training, frozen):
    x = normal(3, 4)
    layer = tx.Dropout(rate, dims).train(training).freeze(frozen).init(42)
    key = jax.random.split(layer.next_key.key)[0]
    np.testing.assert_array_equal(layer.next_key.key, KEY)
    expected = nn.Dropout(rate, dims).apply(
        {}, x, deterministic=frozen or not training, rngs={"dropout": key}
    )
    np.testing.assert_array_equal(layer(x), expected)


def test_keys_of_dropout():
    x = jnp.ones(20)
    layer = tx.Dropout(0.5).init(0)
    assert jnp.any(layer(x) != layer(x))
    before = layer.next_key.key
    for quiet in (
        lambda: layer(x, deterministic=True),
        lambda: layer(x, rng=jax.random.key(0)),
        lambda: layer.eval()(x),
    ):
        quiet()
        np.testing.assert_array_equal(layer.next_key.key, before)
    assert jnp.any(layer.eval()(x, deterministic=False) != x)
    np.testing.assert_array_equal(tx.Dropout(0.5).eval()(x), x)
    assert len(jax.tree.leaves(layer.states())) == 1
    assert len(jax.tree.leaves(layer.parameters())) == 0
    with pytest.raises(RuntimeError):
        tx.Dropout(0.5)(x)
    after = jax.jit(lambda m: (m(x), m)[1])(layer)
    assert jnp.any(after.next_key.key != before)
