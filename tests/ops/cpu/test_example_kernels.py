"""Examples normalized by kernels: the same results as their definition."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import linsey.linen as nn
from linsey.errors import ShapeError
from linsey.ops.cpu import dispatch, example_kernels
from linsey.ops.cpu.example_kernels import normalize_examples
from tests.ops.cpu.kernels import assert_near, kernels_in, need_kernels, normal

pytestmark = need_kernels

EPSILON = jnp.float32(1e-3)
NORM, GRADIENT = "linsey_example_norm", "linsey_example_cotangents"


def exact(x, scale, bias, dy, epsilon, centred):
    """The result and the gradients, in float64."""
    x, scale, bias, dy = (np.float64(v) for v in (x, scale, bias, dy))
    mean = partial(np.mean, axis=(1, 3), keepdims=True)
    x = x - mean(x) * centred
    rstd = 1 / np.sqrt(mean(x**2) + np.float64(epsilon))
    h, v = x * rstd, dy * scale
    dx = rstd * (v - h * mean(v * h) - mean(v) * centred)
    sums = ((dy * h).sum((0, 1), keepdims=True), dy.sum((0, 1), keepdims=True))
    return h * scale + bias, dx, *sums


def operands(shape, offset=0.0):
    x, dy = normal(0, *shape, loc=offset), normal(1, *shape)
    return x, normal(2, 1, 1, *shape[2:]), normal(3, 1, 1, *shape[2:]), dy


def by_kernel(x, scale, bias, dy, epsilon, centred):
    norm = partial(normalize_examples, epsilon=epsilon, centred=centred)
    run = partial(normalize_examples, centred=centred)
    y, pull = jax.vjp(lambda *v: run(*v, epsilon), x, scale, bias)
    assert kernels_in(lambda *v: norm(*v), x, scale, bias) == {NORM}
    return y, *pull(dy)


@settings(max_examples=20, deadline=None)
@given(
    st.tuples(*[st.integers(1, 5)] * 3, st.integers(1, 12)),
    st.sampled_from([0.0, 1000.0]),
    st.booleans(),
)
def test_results_against_float64(shape, offset, centred):
    x, *others = operands((*shape[:3], 8 * shape[3]), offset)
    found = by_kernel(x, *others, EPSILON, centred)
    # The sums of many signs may be far smaller than what is added.
    right = exact(x, *others, EPSILON, centred)
    assert_near(found, [np.float32(v) for v in right], 1e-6)


@pytest.mark.parametrize("shape", [(700, 1, 1, 256), (3, 900, 2, 48)])
def test_many_pieces_are_put_together(shape):
    found = by_kernel(*operands(shape, 100.0), EPSILON, True)
    right = exact(*operands(shape, 100.0), EPSILON, True)
    assert_near(found, [np.float32(v) for v in right], 1e-6)


@pytest.mark.parametrize("positions", [1, 3])
def test_large_and_equal_values_are_normalized(positions):
    x, scale, bias, _ = operands((3, positions, 1, 16))
    x = x.at[0].set(x[0] * 1e38 / jnp.abs(x[0]).max() * 3.0).at[1].set(7.0)
    x = x.at[2].set(x[2] * 1e-15)
    y = normalize_examples(x, scale, bias, jnp.float32(0))
    expected = exact(x[::2], scale, bias, x[::2], 0.0, True)[0]
    assert_near([y[::2], y[1]], [np.float32(expected), 0 * y[1] + bias[0]], 1e-6)


def test_an_example_that_is_not_finite_spoils_no_other():
    x, scale, bias, dy = operands((6, 1, 1, 32))
    x = x.at[1, 0, 0, 3].set(jnp.nan).at[4, 0, 0, 5].set(jnp.inf)
    y, pull = jax.vjp(lambda x: normalize_examples(x, scale, bias, EPSILON), x)
    for result in y, *pull(dy):
        rows = np.isfinite(result).all((1, 2, 3))
        assert np.flatnonzero(~rows).tolist() == [1, 4]


def loss(x, scale, bias, epsilon=EPSILON):
    return jnp.sum(jnp.sin(normalize_examples(x, scale, bias, epsilon)))


def gradient_of_gradient(x, scale, bias):
    def total(*v):
        return sum(jnp.sum(g**2) for g in jax.grad(loss, (0, 1, 2))(*v))

    return jax.grad(total, (0, 1, 2))(x, scale, bias)


def of_examples(x, *others):
    return jax.grad(lambda x, *v: jnp.sum(jax.vmap(loss, (0, None, None))(x, *v)))(
        jnp.stack([x, 2 * x]), *others
    )


@pytest.mark.thinned(4)
@pytest.mark.parametrize(
    "function",
    [
        lambda *v: jax.grad(loss, (0, 1, 2))(*v),
        gradient_of_gradient,
        of_examples,
        lambda *v: jax.jvp(loss, v, v),
        lambda *v: jax.grad(loss, 3)(*v, EPSILON),
        lambda *v: jax.jvp(jax.grad(loss, (0, 1, 2)), v, (v[0], v[2], v[1])),
        lambda *v: jax.vmap(jax.grad(loss, (0, 1, 2)), (3, None, None))(
            jnp.stack([v[0], v[0] * 2], 3), *v[1:]
        ),
        lambda *v: jax.vmap(loss)(*(jnp.stack([a, a + 1]) for a in v)),
        lambda *v: jax.grad(jax.checkpoint(loss), (0, 1))(*v),
    ],
)
def test_derivatives_and_batches_are_those_of_the_definition(function):
    values = operands((5, 3, 2, 16), 1.0)[:3]
    found = jax.jit(function)(*values)
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "kernels_usable", lambda: False)
        expected = jax.jit(lambda *v: function(*v))(*values)
    assert_near(found, expected, 1e-5)


def test_a_batch_of_examples_is_more_examples():
    x, scale, bias, _ = operands((2, 1, 1, 64))
    batched = jnp.stack([x, x + 1, x * 2], 2)
    one = partial(jax.vmap, in_axes=(2, None, None))

    def total(scale, x, bias):
        return jnp.sum(one(lambda *v: normalize_examples(*v, EPSILON))(x, scale, bias))

    assert kernels_in(jax.grad(total, (0, 1)), scale, batched, bias) >= {GRADIENT}


X = jnp.ones((4, 8, 8, 128))


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    "layer, kernels",
    [
        (nn.LayerNorm(), {NORM}),
        (nn.LayerNorm(reduction_axes=(-2, -1), feature_axes=-1), {NORM}),
        (nn.LayerNorm(reduction_axes=(1, 2, 3), feature_axes=(2, 3)), {NORM}),
        (nn.LayerNorm(use_bias=False, use_scale=False), {NORM}),
        (nn.RMSNorm(), {NORM}),
        (nn.GroupNorm(4), {NORM}),
        (nn.GroupNorm(64), set()),  # groups of two
        (nn.InstanceNorm(), set()),
        (nn.LayerNorm(feature_axes=2), set()),
        (nn.LayerNorm(reduction_axes=(1,)), set()),
        (nn.LayerNorm(dtype=jnp.bfloat16), set()),
        (nn.LayerNorm(param_dtype=jnp.bfloat16, dtype=jnp.bfloat16), set()),
    ],
)
def test_layers_that_normalize_the_last_axes_call_a_kernel(layer, kernels):
    variables = layer.init(jax.random.key(0), X)
    assert kernels_in(layer.apply, variables, X) == kernels
    half = jax.tree.map(lambda v: v.astype(jnp.bfloat16), (variables, X))
    assert not kernels_in(layer.apply, *half)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (nn.GroupNorm(4), (500, 64)),  # no positions
        (nn.LayerNorm(reduction_axes=-1, feature_axes=(-2, -1)), (50, 8, 64)),
    ],
)
def test_groups_that_are_the_axis_before_the_last(layer, shape):
    x = normal(0, *shape)
    variables = layer.init(jax.random.key(0), x)
    assert kernels_in(layer.apply, variables, x) == {NORM}
    groups = np.float64(x).reshape(shape[0], -1, 16 if len(shape) == 2 else 64)
    mean, var = groups.mean(-1, keepdims=True), groups.var(-1, keepdims=True)
    expected = ((groups - mean) / np.sqrt(var + 1e-6)).reshape(shape)
    assert_near(layer.apply(variables, x), np.float32(expected), 1e-6)


@pytest.mark.parametrize("shape", [(0, 8), (3, 0), (2, 0, 8), (2, 0, 0)])
def test_layers_take_arrays_without_entries(shape):
    layer = nn.LayerNorm(reduction_axes=-1, feature_axes=tuple(range(1, len(shape))))
    x = jnp.ones(shape)
    assert layer.apply(layer.init(jax.random.key(0), x), x).shape == shape


def test_masks_and_small_arrays_are_left_to_xla():
    layer, mask = nn.LayerNorm(), jnp.ones(X.shape, bool)
    variables = layer.init(jax.random.key(0), X)
    assert not kernels_in(lambda v, x: layer.apply(v, x, mask=mask), variables, X)
    if dispatch.LARGE_EXAMPLES:
        assert not kernels_in(layer.apply, variables, X[:1, :1])


def test_arrays_that_do_not_fit_are_refused():
    x, scale, bias, _ = operands((2, 1, 2, 8))
    with pytest.raises(ShapeError, match="values for each"):
        normalize_examples(x, scale[0], bias, EPSILON)
    with pytest.raises(ShapeError) as caught:
        example_kernels._bind_cotangents(x[1:], x, scale, EPSILON, centred=True)
    assert str(caught.value).splitlines() == [
        "`normalize_examples` got arrays of the shapes (1, 1, 2, 8) and (2, 1, 2, 8).",
        "Both are read by one shape.",
        "Reshape one of them before the call.",
    ]
