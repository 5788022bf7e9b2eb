"""Pooling against windows cut out one by one, in float64."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from linsey.ops.pool import avg_pool, max_pool, min_pool


def windows(x, window, strides, pads, fill):
    """Cut out the windows: (batch, *output shape, features, *window)."""
    x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)
    rank = len(window)
    cut = np.lib.stride_tricks.sliding_window_view(x, window, tuple(range(1, rank + 1)))
    return cut[(slice(None), *(slice(None, None, stride) for stride in strides))]


@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=15)
def test_pooling_reduces_every_window(data):
    rank = data.draw(st.integers(1, 2))
    sizes = st.tuples(*[st.integers(1, 3)] * rank)
    window, strides = data.draw(sizes), data.draw(sizes)
    pads = data.draw(
        st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * rank)
    )
    x = np.random.default_rng(0).standard_normal((2, *[5] * rank, 3))
    x32 = jnp.asarray(x, jnp.float32)
    inner = tuple(range(-rank, 0))

    for pool, reduce, fill in (
        (max_pool, np.max, -np.inf),
        (min_pool, np.min, np.inf),
        (avg_pool, np.mean, 0.0),
    ):
        expected = reduce(windows(x, window, strides, pads, fill), axis=inner)
        found = pool(x32, window, strides, pads)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)

    inside = windows(np.ones_like(x), window, strides, pads, 0.0).sum(axis=inner)
    total = windows(x, window, strides, pads, 0.0).sum(axis=inner)
    expected = np.divide(
        total, inside, out=np.full_like(total, np.nan), where=inside > 0
    )
    found = avg_pool(x32, window, strides, pads, count_include_pad=False)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def reduced(x, window, strides, padding):
    """The maximum as XLA differentiates it."""
    full = ((1, *window, 1), (1, *strides, 1))
    pads = padding if isinstance(padding, str) else ((0, 0), *padding, (0, 0))
    return lax.reduce_window(x, np.asarray(-np.inf, x.dtype), lax.max, *full, pads)


@pytest.mark.thinned(9)
@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [
        ((2, 2), (2, 2), "VALID"),
        ((3, 3), (2, 2), "SAME"),
        ((3, 2), (1, 3), ((2, 0), (1, 1))),
        ((1, 1), (2, 1), "VALID"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gradient_of_a_maximum_is_that_of_xla(window, strides, padding, dtype):
    numbers = np.random.default_rng(0).integers(-2, 2, (2, 7, 6, 3))  # many ties
    x = jnp.asarray(numbers, dtype)
    results = []
    for pool in (reduced, max_pool):
        y, pull = jax.vjp(lambda x, pool=pool: pool(x, window, strides, padding), x)
        cotangent = jnp.arange(y.size, dtype=dtype).reshape(y.shape) % 8
        results.append((y, *pull(cotangent)))
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_derivatives_of_a_maximum_nest():
    with jax.enable_x64(True):
        x = jnp.asarray(
            np.random.default_rng(0).permutation(50).reshape(1, 5, 5, 2) * 1.0
        )
        take = lambda x: jnp.sin(max_pool(x, (3, 2), (2, 1), "SAME"))  # noqa: E731
        check_grads(jax.jit(take), (x,), order=2, modes=["fwd", "rev"], eps=1e-3)


def test_reverse_mode_keeps_a_byte_for_each_window():
    x = jnp.ones((2, 8, 8, 4))
    _, pull = jax.vjp(lambda x: max_pool(x, (2, 2), (2, 2)), x)
    kept = [leaf for leaf in jax.tree.leaves(pull) if leaf.size > 1]
    assert [(leaf.dtype, leaf.shape) for leaf in kept] == [(jnp.int8, (2, 4, 4, 4))]
