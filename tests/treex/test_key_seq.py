"""Sequences of random keys."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.treex as tx


def test_key_seq_splits_its_key():
    keys = tx.KeySeq().init(42)
    key, _ = jax.random.split(jax.random.PRNGKey(42))
    np.testing.assert_array_equal(keys.key, key)
    for _ in range(2):
        out, key = jax.random.split(key)
        np.testing.assert_array_equal(keys(), out)
    out, key = jax.random.split(key)
    got, keys = jax.jit(lambda k: (k(), k))(keys)
    np.testing.assert_array_equal(got, out)
    np.testing.assert_array_equal(keys.key, key)


def test_key_seq_with_a_key_keeps_it():
    for key in (7, jax.random.PRNGKey(7), np.array([0, 7], "u4")):
        np.testing.assert_array_equal(tx.KeySeq(key).init(1).key, [0, 7])
    assert tx.KeySeq(jax.random.key(7))().dtype == jax.random.key(7).dtype
    with pytest.raises(RuntimeError):
        tx.KeySeq()()
    with pytest.raises(TypeError):
        tx.KeySeq("key")


def test_key_seq_along_an_axis():
    def draw(_, **kwargs):
        return tx.KeySeq(7, **kwargs)(axis_name=None if kwargs else "i")

    for kwargs in ({}, {"axis_name": "i"}):
        drawn = jax.vmap(lambda i, kw=kwargs: draw(i, **kw), axis_name="i")(
            jnp.arange(2)
        )
        assert not jnp.all(drawn[0] == drawn[1])
