"""Dropout as a function of a key."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from linsey.ops.dropout import dropout


def test_masks_are_those_of_bernoulli():
    x, key = jnp.ones((4, 5)), jax.random.key(3)
    mask = jax.random.bernoulli(key, 0.7, (4, 5))
    np.testing.assert_array_equal(dropout(x, key, 0.3), jnp.where(mask, x / 0.7, 0.0))


def test_gradients_pass_where_entries_are_kept():
    x, key = jnp.ones((4, 5)), jax.random.key(3)
    gradient = jax.grad(lambda x: dropout(x, key, 0.5).sum())(x)
    np.testing.assert_array_equal(gradient, dropout(x, key, 0.5))


def test_what_is_dropped_may_be_anything():
    x = jnp.array([1.0, np.nan, np.inf, 1.0])
    key = next(
        key
        for key in map(jax.random.key, range(100))
        if jax.random.bernoulli(key, 0.5, (4,)).tolist() == [True, False, False, True]
    )
    assert dropout(x, key, 0.5).tolist() == [2.0, 0.0, 0.0, 2.0]
