"""Pooling against Flax."""

from __future__ import annotations

import flax.linen
import flax.linen.pooling
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
import linsey.linen.pooling
from linsey.errors.base import LinseyError
from linsey.errors.layers import InvalidPaddingError
from tests.linen.differential import assert_close, normal

POOLS = ["avg_pool", "max_pool", "min_pool"]


def pools(name):
    return [getattr(lib.linen.pooling, name) for lib in (flax, linsey)]


@pytest.mark.thinned(4)
@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize(
    ("padding", "strides"),
    [("VALID", None), ("SAME", (2, 1)), (((1, 1), (0, 2)), (2, 1))],
)
@pytest.mark.parametrize("shape", [(5, 6, 2), (2, 5, 6, 2), (2, 3, 5, 6, 2)])
def test_pooling_equals_flax(name, padding, strides, shape):
    theirs, ours = pools(name)
    x = normal(*shape)
    # Flax cannot combine explicit pairs with several batch axes.
    expected = theirs(x.reshape(-1, 5, 6, 2), (2, 3), strides, padding)
    found = ours(x, (2, 3), strides, padding)
    assert_close(expected.reshape(found.shape), found)


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.bfloat16, jnp.float16])
def test_pooling_returns_the_dtype_of_flax(name, dtype):
    theirs, ours = pools(name)
    x = (8 * normal(1, 4, 2)).astype(dtype)
    assert_close(theirs(x, (2,), (2,)), ours(x, (2,), (2,)), ulps=1)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32])
@pytest.mark.parametrize("shape", [(5, 6, 2), (2, 3, 5, 6, 2)])
def test_mean_without_the_padding_equals_flax(dtype, shape):
    x = (8 * normal(*shape)).astype(dtype)
    theirs, ours = pools("avg_pool")
    window = ((3, 2), (2, 2), ((1, 2), (0, 1)), False)
    found = ours(x, *window)
    expected = theirs(x.reshape(-1, 5, 6, 2), *window)
    assert_close(expected.reshape(found.shape), found, ulps=1)


def test_windows_of_padding_alone_have_no_mean():
    for pool in pools("avg_pool"):
        y = pool(jnp.ones((1, 2, 1)), (2,), None, [(2, 0)], count_include_pad=False)
        assert np.isnan(y).ravel().tolist() == [True, False, False]


@pytest.mark.parametrize("name", POOLS)
def test_pooling_has_the_gradient_of_flax(name):
    x = normal(1, 5, 2)
    expected, found = (
        jax.grad(lambda x, pool=pool: (pool(x, (3,), (2,), "SAME") ** 2).sum())(x)
        for pool in pools(name)
    )
    assert_close(expected, found)


@pytest.mark.parametrize(
    ("init", "reduce_fn"), [(0.0, lambda a, b: a + b * b), (1.0, jax.lax.mul)]
)
def test_pool_reduces_with_any_function(init, reduce_fn):
    x = normal(1, 4, 4, 2)
    theirs, ours = (
        pool(x, init, reduce_fn, (2, 2), (2, 2), "VALID") for pool in pools("pool")
    )
    assert_close(theirs, ours)


def test_pooling_of_booleans_is_any_and_all():
    x = jnp.array([True, False, False, False]).reshape(1, 4, 1)
    assert nn.max_pool(x, (2,), (2,)).ravel().tolist() == [True, False]
    minimum = linsey.linen.pooling.min_pool(x, (2,), (2,))
    assert minimum.ravel().tolist() == [False, False]


def test_a_number_pads_every_side():
    x = normal(1, 4, 4, 2)
    expected = nn.max_pool(x, (2, 2), padding=((1, 1), (1, 1)))
    np.testing.assert_array_equal(nn.max_pool(x, (2, 2), padding=1), expected)


@pytest.mark.parametrize(
    ("window", "strides", "match"),
    [
        ((2, 2), (2,), "strides \\(2,\\)"),
        ((2, 2), 2, "strides 2"),
        (2, None, "names no axes"),
        ((2, 2, 2, 2), None, "does not fit the input"),
    ],
)
def test_pooling_refuses_windows_that_do_not_fit(window, strides, match):
    x = normal(1, 4, 4, 2)
    theirs, ours = pools("max_pool")
    with pytest.raises(Exception) as refusal:  # noqa: PT011
        theirs(x, window, strides)
    with pytest.raises(LinseyError, match=match) as error:
        ours(x, window, strides)
    assert isinstance(error.value, type(refusal.value))


@pytest.mark.parametrize("padding", ["FOO", ((1, 1),), (1, 1), None])
def test_pooling_refuses_paddings_of_another_form(padding):
    with pytest.raises(InvalidPaddingError):
        nn.avg_pool(normal(1, 4, 4, 2), (2, 2), padding=padding)
