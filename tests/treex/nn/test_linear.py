"""Linear maps and look-up tables."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

import linsey.linen as nn
import linsey.treex as tx
from linsey.errors import (
    LinseyError,
)
from tests.treex.nn.agreement import agree, few, inits, kernels, normal


@few
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    features=st.integers(1, 4),
    use_bias=st.booleans(),
    dtype=st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16]),
    kernel_init=kernels,
    bias_init=inits,
)
def test_linear(shape, features, use_bias, dtype, kernel_init, bias_init):
    if len(shape) == 1:
        shape = [2, *shape]
    given_ = dict(use_bias=use_bias, dtype=dtype, kernel_init=kernel_init,
                  bias_init=bias_init)  # fmt: skip
    agree(tx.Linear(features, **given_), nn.Dense(features, **given_), normal(*shape))


@few
@given(rows=st.integers(2, 5), features=st.integers(1, 4), rank=st.integers(0, 2))
def test_embed(rows, features, rank):
    x = jnp.ones((2,) * rank, int)
    layer, linen = tx.Embed(rows, features), nn.Embed(rows, features, dtype=jnp.float32)
    layer = agree(layer, linen, x)
    assert jnp.isnan(layer(jnp.array(rows + 1))).all()
    with pytest.raises(ValueError):
        layer(jnp.ones(2))


def test_a_linear_layer_of_one_vector_and_of_the_wrong_one():
    layer = tx.Linear(3).init(0, normal(2))
    assert layer(normal(2)).shape == (3,)
    with pytest.raises((TypeError, ValueError, LinseyError)):
        layer(normal(4, 5))
