"""The products of attention against numpy in float64, and their equations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey.errors.base import OptionError
from linsey.ops.attention import (
    attended_axes,
    attention_scores,
    divide_heads,
    mask_scores,
    merge_axes,
    softmax,
    weighted_values,
)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def as_float32(*arrays):
    return [jnp.asarray(array, jnp.float32) for array in arrays]


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_scores_and_averages_equal_numpy(batch):
    query, key = normal(0, *batch, 4, 2, 8), normal(1, *batch, 5, 2, 8)
    value = normal(2, *batch, 5, 2, 3)
    scores = np.einsum("...qhd,...khd->...hqk", query, key)
    found = attention_scores(*as_float32(query, key))
    np.testing.assert_allclose(found, scores, rtol=0, atol=1e-5)
    averages = np.einsum("...hqk,...khd->...qhd", scores, value)
    found = weighted_values(*as_float32(scores, value))
    np.testing.assert_allclose(found, averages, rtol=0, atol=1e-4)


def test_weights_with_one_more_batch_axis_give_averages_with_it():
    weights, value = normal(0, 6, 2, 4, 5), normal(1, 5, 2, 3)
    expected = np.einsum("bhqk,khd->bqhd", weights, value)
    found = weighted_values(*as_float32(weights, value))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_softmax_is_a_distribution_however_large_the_scores(dtype):
    scores = jnp.asarray(1e4 * normal(0, 3, 64), dtype)
    weights = softmax(scores)
    assert weights.dtype == dtype
    exact = np.exp(np.float64(scores) - np.float64(scores).max(-1, keepdims=True))
    exact /= exact.sum(-1, keepdims=True)
    atol = 2 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.float64(weights), exact, rtol=0, atol=atol)


def test_where_all_keys_are_masked_they_have_equal_weights():
    scores = jnp.asarray(normal(0, 1, 2, 4), jnp.float32)
    mask = jnp.array([[True, False, True, False], [False] * 4])
    weights = softmax(mask_scores(scores, mask))
    assert (weights[0, 0, 1::2] == 0).all()
    np.testing.assert_array_equal(weights[0, 1], 0.25)


@pytest.mark.parametrize("function", [attention_scores, weighted_values])
def test_a_product_is_one_contraction(function):
    shapes = {
        attention_scores: [(1, 4, 2, 8), (1, 5, 2, 8)],
        weighted_values: [(1, 2, 4, 5), (1, 5, 2, 8)],
    }[function]
    jaxpr = jax.make_jaxpr(function)(*map(jnp.ones, shapes))
    names = [equation.primitive.name for equation in jaxpr.jaxpr.eqns]
    assert [name for name in names if name != "transpose"] == ["dot_general"]


def test_merged_axes_are_in_the_order_of_the_axes():
    x = normal(0, 2, 3, 4, 5)
    expected = np.float32(x).transpose(0, 2, 1, 3).reshape(2, 12, 5)
    np.testing.assert_array_equal(merge_axes(jnp.asarray(x), (2, 1), 1), expected)


@pytest.mark.parametrize("axis", [0, -1, (1, 3)])
def test_the_batch_axis_and_the_last_two_are_not_attended_over(axis):
    with pytest.raises(OptionError, match="Choose among the axes 1 to 2"):
        attended_axes(axis, 5)


def test_heads_divide_the_features():
    assert divide_heads(12, 3) == (3, 4)
    with pytest.raises(AssertionError, match="`qkv_features=12`"):
        divide_heads(10, 3)
