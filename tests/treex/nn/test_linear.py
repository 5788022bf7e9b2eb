"""Linear maps, convolutions, and look-up tables."""

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
from tests.treex.nn.agreement import agree, equal, few, inits, kernels, normal


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


@pytest.mark.slow
@few
@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.sampled_from([None, 1, 2, (2, 1)]),
    padding=st.sampled_from(["SAME", "VALID", "CIRCULAR", [(1, 0), (0, 1)]]),
    groups=st.sampled_from([1, 2]),
    use_bias=st.booleans(),
    batch=st.sampled_from([(), (2,), (2, 1)]),
)
def test_conv(size, strides, padding, groups, use_bias, batch):
    given_ = dict(kernel_size=size, strides=strides, padding=padding,
                  feature_group_count=groups, use_bias=use_bias)  # fmt: skip
    linen = nn.Conv(4, **given_, dtype=jnp.float32)
    agree(tx.Conv(4, **given_), linen, normal(*batch, 5, 4, 2))


@pytest.mark.slow
@few
@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.sampled_from([None, (2, 2), (2, 1)]),
    padding=st.sampled_from(["SAME", "VALID", "CIRCULAR"]),
    use_bias=st.booleans(),
)
def test_conv_transpose(size, strides, padding, use_bias):
    given_ = dict(kernel_size=size, strides=strides, padding=padding,
                  use_bias=use_bias)  # fmt: skip
    linen = nn.ConvTranspose(3, **given_, dtype=jnp.float32)
    agree(tx.ConvTranspose(3, **given_), linen, normal(2, 5, 4, 2))


@pytest.mark.parametrize("layer", [tx.Conv, tx.ConvTranspose])
def test_a_number_is_the_window_of_one_axis(layer):
    x = normal(1, 6, 2)
    done = layer(3, 3).init(42, x)
    equal(done.kernel, layer(3, [3]).init(42, x).kernel)
    assert done.kernel.shape == (3, 2, 3)


@pytest.mark.parametrize("layer", [tx.Conv, tx.ConvTranspose])
def test_parameters_have_their_own_dtype(layer):
    x = normal(1, 6, 2)
    done = layer(3, 3, dtype=jnp.bfloat16).init(42, x)
    assert (done.kernel.dtype, done(x).dtype) == (jnp.float32, jnp.bfloat16)
    assert layer(3, 3, param_dtype=jnp.float16).init(42, x).kernel.dtype == jnp.float16
