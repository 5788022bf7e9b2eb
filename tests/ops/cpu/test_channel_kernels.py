"""Sums per channel by kernels: the same results as their definition."""

from __future__ import annotations

from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from linsey.errors import ShapeError
from linsey.ops.batch_norm import UpdateRule, batch_norm, train_batch_norm
from linsey.ops.cpu import channel_kernels, dispatch
from linsey.ops.moments import NormSpec
from linsey.ops.normalize import standardize_channels
from tests.ops.cpu.kernels import (
    assert_near,
    kernels_in,
    need_kernels,
    normal,
)

pytestmark = need_kernels


def test_values_of_other_channels_are_refused():
    x = jnp.ones((200, 64))
    for call in (
        lambda: channel_kernels.channel_moments(x, jnp.ones(32)),
        lambda: channel_kernels.channel_products(x[1:], x, x[0]),
        lambda: channel_kernels.channel_spread(x[0], x[0, :1], x, x[0]),
        lambda: channel_kernels.standardized_tangent(
            x[1:], *[x[0]] * 2, x, *[x[0]] * 3
        ),
    ):
        with pytest.raises(ShapeError, match="of its last axis"):
            call()
    with pytest.raises(ShapeError) as caught:
        channel_kernels.channel_products(x[1:], x, x[0])
    assert str(caught.value).splitlines() == [
        "`sums per channel` got arrays of the shapes (199, 64), (200, 64), (64,), "
        "(64,).",
        "They have to be 2 of one shape, and 2 of its last axis: a kernel reads "
        "memory by these shapes.",
        "Reshape or broadcast the arrays before the call.",
    ]


@pytest.mark.thinned(5)
@pytest.mark.parametrize("rows", [1, 63, 64, 65, 1000])
@pytest.mark.parametrize("channels", [16, 48, 64, 96, 320])
def test_sums_against_float64(rows, channels):
    x = normal(0, rows, channels, loc=1000.0)
    a, origin = normal(1, rows, channels), x[0]
    moments = jax.jit(channel_kernels.channel_moments)(x, origin)
    products = jax.jit(channel_kernels.channel_products)(a, x, origin)
    wide, shifted = np.float64(a), np.float64(x) - np.float64(origin)
    exact = [shifted.sum(0), (shifted**2).sum(0), wide.sum(0), (wide * shifted).sum(0)]
    sizes = [abs(shifted), shifted**2, abs(wide), abs(wide * shifted)]
    for found, right, size in zip((*moments, *products), exact, sizes, strict=True):
        # 64 rows are added up in float32.
        assert np.all(np.abs(np.float64(found) - right) <= 1e-6 * size.sum(0))


def test_a_channel_that_is_not_finite_spoils_no_other():
    x = normal(0, 200, 64).at[7, 3].set(jnp.nan).at[9, 5].set(jnp.inf)
    for sums in channel_kernels.channel_moments(x, jnp.zeros(64)):
        bad = np.flatnonzero(~np.isfinite(sums))
        assert bad.tolist() == [3, 5]


def in_training(switched_on, function, *arguments):
    """Results with kernels, or without."""
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        if not switched_on:
            patch.setattr(dispatch, "kernels_usable", lambda: False)
        results = jax.jit(function)(*arguments)
    jax.clear_caches()
    return results


X = normal(3, 4, 5, 6, 32, loc=3.0)
SCALE, BIAS = normal(4, 32), normal(5, 32)
RUNNING = (jnp.zeros(32), jnp.ones(32))
SPEC = NormSpec((0, 1, 2), (3,))


def train(x, scale, bias, epsilon=1e-5):
    return train_batch_norm(
        SPEC, UpdateRule(), x, None, scale, bias, epsilon, RUNNING, (0.9, 0.1)
    )


def loss(x, scale, bias, epsilon=1e-5):
    y, (mean, var) = train(x, scale, bias, epsilon)
    return jnp.sum(jnp.sin(y)) + jnp.sum(mean * var)


def hessian_product(x, scale, bias):
    gradient = jax.grad(loss, (0, 1, 2))
    return jax.jvp(gradient, (x, scale, bias), (jnp.cos(x), bias, scale))


def gradient_of_gradient(x, scale, bias):
    def total(*v):
        return sum(jnp.sum(g**2) for g in jax.grad(loss, (0, 1, 2))(*v))

    return jax.grad(total, (0, 1, 2))(x, scale, bias)


@pytest.mark.thinned(6)
@pytest.mark.parametrize(
    "function",
    [
        train,
        lambda *v: train(v[0], None, None),
        lambda *v: jax.value_and_grad(loss, (0, 1, 2))(*v),
        lambda *v: jax.grad(loss)(v[0], None, None),
        lambda *v: jax.grad(loss, (1, 2))(*v),
        lambda *v: jax.grad(loss, 3)(*v, 1e-2),
        lambda *v: jax.jvp(loss, v, v),
        lambda *v: jax.linearize(loss, *v)[1](*v),
        hessian_product,
        gradient_of_gradient,
        lambda *v: jax.vmap(jax.grad(loss), (0, None, None))(
            jnp.stack([v[0], v[0] * 2]), *v[1:]
        ),
        lambda *v: jax.grad(jax.checkpoint(loss), (0, 1))(*v),
        lambda *v: jax.grad(lambda *v: jnp.sum(jnp.sin(batch_norm(*v)[0])), (0, 1, 2))(
            *v
        ),
        lambda *v: jax.jvp(lambda x: batch_norm(x)[1][:2], v[:1], v[:1]),
    ],
)
def test_training_is_the_same_with_kernels(small, function):
    found = in_training(True, function, X, SCALE, BIAS)
    assert_near(found, in_training(False, function, X, SCALE, BIAS), 1e-4)


def test_training_reads_for_two_sums_at_once(small):
    assert kernels_in(jax.grad(loss), X, SCALE, BIAS) == {
        "linsey_channel_moments",
        "linsey_channel_products",
        "linsey_channel_combine",
    }


def test_half_precision_is_left_to_xla(small):
    def total(x, dtype):
        y, (mean, var) = train_batch_norm(
            SPEC._replace(dtype=dtype),
            UpdateRule(),
            x,
            None,
            None,
            None,
            0,
            RUNNING,
            (0, 1),
        )
        return jnp.sum(y.astype(jnp.float32) ** 3) + jnp.sum(mean * var)

    for dtype in None, jnp.float32, jnp.bfloat16:
        half = jax.grad(partial(total, dtype=dtype))
        assert not kernels_in(half, X.astype(jnp.bfloat16))


@pytest.mark.slow
@pytest.mark.parametrize("size", [2**20, 2**22])
def test_gradients_of_large_arrays(size):
    x = normal(0, size // 64, 64, loc=2.0)
    dy = normal(1, *x.shape)
    pull = jax.vjp(lambda x: standardize_channels(x, None, None, 0.0)[0], x)[1]
    wide = np.float64(x)
    deviation = wide.std(0)
    z = (wide - wide.mean(0)) / deviation
    exact = (dy - np.mean(dy, 0) - z * np.mean(dy * z, 0)) / deviation
    assert_near(pull(dy), [np.float32(exact)])
