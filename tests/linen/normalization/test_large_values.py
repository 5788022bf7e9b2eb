"""Normalization of values near the ends of the range of float32, against float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey.ops import moments

LARGEST = float(np.finfo(np.float32).max)
SMALLEST = float(np.finfo(np.float32).tiny)
EPSILON = 1e-5
TRAIN = nn.BatchNorm(use_running_average=False, epsilon=EPSILON)
LAYERS = {  # layer, shape, shape with groups, axes, whether the mean is subtracted
    "layer": (nn.LayerNorm(epsilon=EPSILON), (3, 6), (3, 6), (1,), True),
    "rms": (nn.RMSNorm(epsilon=EPSILON), (3, 6), (3, 6), (1,), False),
    "group": (nn.GroupNorm(2, epsilon=EPSILON), (3, 4, 4), (3, 4, 2, 2), (1, 3), True),
    "instance": (
        nn.InstanceNorm(epsilon=EPSILON),
        (2, 3, 4, 2),
        (2, 3, 4, 2),
        (1, 2),
        True,
    ),
    "batch": (TRAIN, (4, 3), (4, 3), (0,), True),
    "spatial": (TRAIN, (4, 2, 2, 3), (4, 2, 2, 3), (0, 1, 2), True),
    "renormalized": (TRAIN.clone(renorm=(1.0, 0.0)), (4, 3), (4, 3), (0,), True),
    "kernel": (TRAIN, (1024, 64), (1024, 64), (0,), True),  # that of a CPU, if any
}


def normalized(x, cotangent, axes, is_centred):
    """The formula and its gradient, in the most exact dtype of NumPy."""

    def mean(v):
        return v.mean(axes, keepdims=True)

    x, cotangent = np.longdouble(x), np.longdouble(cotangent)
    x = x - mean(x) * is_centred
    rstd = 1 / np.sqrt(mean(x * x) + EPSILON)
    y = x * rstd
    centred = cotangent - mean(cotangent) * is_centred
    return y, rstd * (centred - y * mean(cotangent * y))


def assert_close(found, expected, rtol=1e-5):
    found = np.longdouble(found).reshape(expected.shape)
    # What is below the normal numbers may be rounded to zero.
    allowed = rtol * np.abs(expected).max() + 4 * SMALLEST
    assert np.abs(found - expected).max() <= allowed


def values(shape, kind):
    z = np.random.default_rng(0).uniform(-1, 1, shape)
    return {"plain": z, "half zero": np.maximum(z, 0), "offset": 0.8 + 0.2 * z}[kind]


@pytest.mark.thinned(3)
@pytest.mark.parametrize("name", LAYERS)
def test_any_scale_gives_what_float64_gives(name):
    layer, shape, grouped, axes, is_centred = LAYERS[name]
    cotangent = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    variables = layer.init(jax.random.key(0), jnp.ones(shape))

    @jax.jit
    def both(x, cotangent):
        def call(x):
            return layer.apply(variables, x, mutable=["batch_stats"])[0]

        y, pull = jax.vjp(call, x)
        return y, *pull(cotangent)

    for scale in (1e-30, 1e20, 1e36, LARGEST):
        for kind in ("half zero", "offset"):
            x = np.float32(values(shape, kind) * scale)
            expected = normalized(
                x.reshape(grouped), cotangent.reshape(grouped), axes, is_centred
            )
            for a, b in zip(both(x, cotangent), expected, strict=True):
                assert_close(a, b, 1e-4)


@pytest.mark.parametrize("name", ["layer", "rms", "batch", "spatial"])
def test_sums_and_differences_beyond_the_range_are_never_taken(name):
    layer, shape, grouped, axes, is_centred = LAYERS[name]
    signs = np.where(np.arange(np.prod(shape)).reshape(shape) // 3 % 2, 1, -1)
    x = np.float32(signs * LARGEST)
    mask = jnp.ones(shape, bool)
    y = layer.init_with_output(jax.random.key(0), x)[0]
    masked = layer.init_with_output(jax.random.key(0), x, mask=mask)[0]
    expected, _ = normalized(x, x, axes, is_centred)
    assert_close(y, expected)
    assert_close(masked, expected)


def test_a_scale_that_differs_between_channels_shards_and_examples():
    scales = np.array([1e-3, 1.0, 1e25, LARGEST])
    x = np.float32(values((8, 4), "plain") * scales)
    expected, _ = normalized(x, x, (0,), True)
    assert_close(TRAIN.init_with_output(jax.random.key(0), x)[0], expected)
    expected, _ = normalized(x.T, x.T, (1,), True)
    y = LAYERS["layer"][0].init_with_output(jax.random.key(0), x.T)[0]
    assert_close(y, expected)
    # Two shards, the second much larger than the first.
    shards = np.float32(
        values((2, 4, 3), "plain") * np.array([1.0, 1e30])[:, None, None]
    )
    layer = nn.BatchNorm(use_running_average=False, epsilon=EPSILON, axis_name="shards")
    variables = layer.init(jax.random.key(0), shards[0])
    y, _ = jax.vmap(
        lambda x: layer.apply(variables, x, mutable=["batch_stats"]),
        axis_name="shards",
    )(shards)
    expected, _ = normalized(shards, shards, (0, 1), True)
    assert_close(y, expected)


def test_evaluation_after_training_on_large_values_is_finite():
    x = np.float32(values((4, 3), "plain") * np.array([1.0, 1e15, LARGEST]))
    variables = TRAIN.init(jax.random.key(0), x)
    _, updated = TRAIN.apply(variables, x, mutable=["batch_stats"])
    mean, var = (updated["batch_stats"][name] for name in ("mean", "var"))
    # The variance of the last channel is no number of float32: it is left out.
    assert_close(var, 0.99 + 0.01 * np.longdouble(x).var(0) * [1, 1, 0] + [0, 0, 0.01])
    assert mean[2] == 0
    y = nn.BatchNorm(use_running_average=True, epsilon=EPSILON).apply(
        variables | updated, x
    )
    assert np.isfinite(y).all()


def test_evaluation_subtracts_what_is_far_apart():
    stats = {"mean": np.float32([-3e38]), "var": np.float32([1e38])}
    layer = nn.BatchNorm(use_running_average=True, use_scale=False, use_bias=False)
    y = layer.apply({"batch_stats": stats}, np.float32([[3e38], [-3e38]]))
    assert_close(y, np.longdouble([[6e19], [0]]))


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_half_precision_at_its_largest(dtype):
    x = jnp.asarray(values((3, 6), "plain") * float(jnp.finfo(dtype).max), dtype)
    for name in ("layer", "rms"):
        layer, *_, axes, is_centred = LAYERS[name]
        y = layer.clone(dtype=jnp.float32).init_with_output(jax.random.key(0), x)[0]
        wide = np.asarray(x, np.float32)
        assert_close(y, normalized(wide, wide, axes, is_centred)[0])


def test_weights_of_any_scale():
    weights = np.float32(values((4, 3), "plain"))
    cotangent = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    for layer, options in (
        (nn.WeightNorm(nn.Dense(3, use_bias=False)), {}),
        (
            nn.SpectralNorm(nn.Dense(3, use_bias=False), n_steps=3),
            {"update_stats": False},
        ),
    ):
        variables = layer.init(jax.random.key(0), jnp.eye(4), **options)

        @jax.jit
        def both(kernel, layer=layer, options=options, variables=variables):
            def call(kernel):
                inner = {"layer_instance": {"kernel": kernel}}
                params = variables["params"] | inner
                return layer.apply(
                    variables | {"params": params}, jnp.eye(4), **options
                )

            y, pull = jax.vjp(call, kernel)
            return y, *pull(cotangent)

        expected = both(weights)
        for power in (60, 100, 120):
            y, gradient = both(weights * np.float32(2.0**power))
            assert_close(y, np.longdouble(expected[0]))
            assert_close(gradient, np.longdouble(expected[1]) / 2.0**power)


@pytest.mark.thinned(9)
@pytest.mark.parametrize("name", ["LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm"])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_under_vmap_are_those_of_each_example(name, masked):
    options = {"num_groups": 2} if name == "GroupNorm" else {}
    layer = getattr(nn, name)(use_scale=False, **options)
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 4))
    mask = jnp.arange(60).reshape(3, 5, 4) % 7 > 0 if masked else None

    def loss(v):
        return jnp.sum(layer.apply({}, v, mask=mask) ** 3)

    with jax.numpy_rank_promotion("allow"):
        if name != "RMSNorm":
            layer = layer.clone(use_bias=False)

        @jax.jit
        def gradients(x):
            found = jax.vmap(jax.grad(loss))(x)
            summed = jax.grad(lambda x: jnp.sum(jax.vmap(loss)(x)))(x)
            return found, summed, jnp.stack([jax.grad(loss)(v) for v in x])

        found, summed, expected = gradients(x)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-4)
    np.testing.assert_allclose(summed, expected, rtol=2e-4, atol=1e-4)


def test_mean_squares_are_differentiated_under_vmap_of_a_compiled_function():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4))

    def loss(v):
        return jnp.sum(jax.jit(lambda v: moments(v, -1, centred=False).var)(v))

    found = jax.grad(lambda x: jnp.sum(jax.vmap(loss)(x)))(x)
    np.testing.assert_allclose(found, 2 * x / 4, rtol=1e-6)
