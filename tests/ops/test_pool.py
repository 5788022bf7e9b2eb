"""Pooling against windows cut out one by one, in float64."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np

from linsey.ops.pool import avg_pool, max_pool, min_pool


def windows(x, window, strides, pads, fill):
    """Cuts out the windows: (batch, *positions, features, *window)."""
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
