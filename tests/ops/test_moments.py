"""Laws of moments: right at any offset, with any weights, in any split."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from linsey.errors import ShapeError
from linsey.ops import merge_moments, moments
from linsey.ops.moments import moments as unchecked_moments

few = settings(max_examples=12)
WEIGHTS = ("none", "mask", "float")


def reference(x, axes, weights=None):
    """Mean, biased variance and count in float64, of entries that count only."""
    wide = np.complex128 if np.iscomplexobj(x) else np.float64
    x = np.asarray(x).astype(wide)
    w = np.ones(x.shape) if weights is None else np.broadcast_to(weights, x.shape)
    w = w.astype(np.float64)
    x = np.where(w != 0, x, 0)
    count = w.sum(axes)
    divisor = np.where(count > 0, count, 1)
    mean = (w * x).sum(axes) / divisor
    spread = np.abs(x - np.expand_dims(mean, axes)) ** 2
    return mean, (w * spread).sum(axes) / divisor, count


def weights_of(kind, shape, seed=0):
    generator = np.random.default_rng(seed)
    if kind == "none":
        return None
    if kind == "mask":
        return generator.random(shape) < 0.7
    return np.where(generator.random(shape) < 0.2, 0.0, generator.random(shape) + 0.1)


@st.composite
def problems(draw):
    """An array, axes to reduce and weights of a shape that broadcasts to it."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    axes = draw(st.sets(st.integers(0, len(shape) - 1)))
    dtype = draw(st.sampled_from(["float32", "bfloat16", "float16", "complex64"]))
    offset = draw(st.sampled_from([0.0, -7.0, 300.0]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = generator.standard_normal(shape) + offset
    if dtype == "complex64":
        x = x + 1j * generator.standard_normal(shape)
    part = tuple(size if draw(st.booleans()) else 1 for size in shape)
    kind = draw(st.sampled_from(WEIGHTS))
    weights = weights_of(kind, part[draw(st.integers(0, len(part))) :], 1)
    return jnp.asarray(x, dtype), tuple(sorted(axes)), weights


@few
@given(problems())
def test_moments_are_those_of_float64(problem):
    x, axes, weights = problem
    found = moments(x, axes, weights)
    mean, var, count = reference(x, axes, weights)
    wide = jnp.complex64 if jnp.iscomplexobj(x) else jnp.float32
    assert found.mean.dtype == wide
    assert found.var.dtype == found.count.dtype == jnp.float32
    eps = np.finfo(np.float32).eps
    largest = np.abs(np.asarray(x).astype(np.complex64)).max()
    np.testing.assert_allclose(found.mean, mean, rtol=0, atol=8 * eps * largest)
    np.testing.assert_allclose(
        found.var, var, rtol=32 * eps, atol=8 * eps**2 * largest**2
    )
    np.testing.assert_allclose(found.count, count, rtol=8 * eps)


@pytest.mark.thinned(12)
@pytest.mark.parametrize("ratio", [1e2, 1e3, 1e4, 1e5])
@pytest.mark.parametrize("shape", [(512, 3), (8, 7, 9, 3), (4, 200, 3)])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_large_mean_costs_no_digits_of_the_variance(ratio, shape, weighted):
    x = np.random.default_rng(0).standard_normal(shape) * 0.03 + 0.03 * ratio
    x = x.astype(np.float32)
    axes = tuple(range(len(shape) - 1))
    weights = weights_of("mask", (*shape[:-1], 1)) if weighted else None
    found = moments(jnp.asarray(x), axes, weights)
    mean, var, _ = reference(x, axes, weights)
    np.testing.assert_allclose(found.var, var, rtol=1e-4)
    np.testing.assert_allclose(found.mean, mean, rtol=2 * np.finfo(np.float32).eps)


def test_outliers_where_the_shift_is_taken_cost_few_digits():
    x = np.random.default_rng(0).standard_normal((16, 8, 8, 1)).astype(np.float32)
    x[0, 4, 4] = 1e4
    found = moments(jnp.asarray(x), (0, 1, 2))
    np.testing.assert_allclose(found.var, reference(x, (0, 1, 2))[1], rtol=1e-5)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("rubbish", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("kind", ["mask", "float"])
def test_masked_entries_may_hold_anything(rubbish, kind):
    x = np.random.default_rng(0).standard_normal((4, 5, 3)).astype(np.float32)
    weights = weights_of(kind, (4, 5, 1))
    spoiled = jnp.asarray(np.where(weights == 0, rubbish, x))
    clean = jnp.asarray(np.where(weights == 0, 0, x))

    def loss(x, weights=weights):
        mean, var, _ = moments(x, (0, 1), weights)
        return jnp.sum(mean**3) + jnp.sum(jnp.sin(var))

    for a, b in zip(
        moments(spoiled, (0, 1), weights), moments(clean, (0, 1), weights), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(jax.grad(loss)(spoiled), jax.grad(loss)(clean))
    if kind == "float":
        by_weight = jax.grad(loss, argnums=1)
        found = by_weight(spoiled, jnp.asarray(weights, jnp.float32))
        expected = by_weight(clean, jnp.asarray(weights, jnp.float32))
        np.testing.assert_array_equal(found, expected)


def test_a_whole_weight_is_a_repetition():
    x = np.random.default_rng(0).standard_normal((6, 2)).astype(np.float32)
    weights = np.array([3, 0, 1, 2, 0, 4])
    found = moments(x, 0, weights[:, None])
    expected = moments(np.repeat(x, weights, axis=0), 0)
    assert float(found.count[0]) == float(expected.count) == 10
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.var, expected.var, rtol=1e-6)


@pytest.mark.parametrize("x", [jnp.zeros((0, 3)), jnp.full((4, 3), jnp.nan)])
def test_where_nothing_is_counted_moments_are_zero(x):
    weights = None if x.size == 0 else jnp.zeros((4, 1), bool)
    mean, var, count = moments(x, 0, weights)
    assert not np.any(mean)
    assert not np.any(var)
    assert not np.any(count)
    gradient = jax.grad(lambda x: jnp.sum(moments(x, 0, weights).var))(x)
    assert not np.any(gradient)


def test_the_variance_of_equal_values_is_zero():
    x = jnp.full((7, 5, 3), 1e6 / 3)
    assert not np.any(moments(x, (0, 1)).var)


def test_uncentred_moments_are_mean_squares():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 5)), jnp.float32)
    mean, var, _ = moments(x, 1, centred=False)
    assert not np.any(mean)
    np.testing.assert_allclose(var, np.mean(np.square(x), 1), rtol=1e-6)


def test_weights_must_broadcast():
    for weights in (jnp.ones(4), jnp.ones((1, 4, 3))):
        with pytest.raises(ShapeError, match="do not broadcast"):
            unchecked_moments(jnp.ones((4, 3)), 0, weights)
    with pytest.raises(ShapeError, match="do not broadcast"):
        unchecked_moments(jnp.ones((1, 3)), 0, jnp.ones((4, 3)))


@few
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=5),
    st.sampled_from([0.0, 1e4]),
    st.integers(0, 99),
)
def test_merged_moments_are_those_of_the_whole(sizes, offset, seed):
    x = np.random.default_rng(seed).standard_normal(sum(sizes)) + offset
    parts = np.split(x.astype(np.float32), np.cumsum(sizes)[:-1])
    taken = [moments(jnp.asarray(part)) for part in parts]
    mean, var, count = merge_moments(*(jnp.stack(v) for v in zip(*taken, strict=True)))
    assert count == len(x)
    if len(x):
        whole = np.concatenate(parts).astype(np.float64)
        eps = np.finfo(np.float32).eps
        rounding = 8 * eps * (1 + offset)  # of the means of the parts
        np.testing.assert_allclose(mean, whole.mean(), atol=rounding)
        atol = rounding * (whole.std() + rounding)
        np.testing.assert_allclose(var, whole.var(), rtol=1e-5, atol=atol)


# Derivatives, in float64.


def formula(x, axes, weights):
    """The moments written down, for JAX to differentiate."""
    w = jnp.ones(x.shape) if weights is None else jnp.broadcast_to(weights, x.shape)
    count = jnp.sum(w, axes)
    mean = jnp.sum(w * x, axes) / count
    return mean, jnp.sum(w * (x - mean) ** 2, axes) / count


def scalar(take):
    def loss(x):
        mean, var = take(x)
        return jnp.sum(jnp.sin(mean) * var) + jnp.sum(var**2)

    return loss


def transforms(x):
    direction = jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)
    return {
        "jvp": lambda f: jax.jvp(f, (x,), (direction,))[1],
        "linearize": lambda f: jax.linearize(f, x)[1](direction),
        "grad": lambda f: jax.grad(f)(x),
        "jacfwd": lambda f: jax.jacfwd(f)(x),
        "forward over reverse": lambda f: jax.jvp(jax.grad(f), (x,), (direction,))[1],
        "reverse over forward": lambda f: jax.grad(
            lambda x: jax.jvp(f, (x,), (direction,))[1]
        )(x),
        "reverse over reverse": lambda f: jax.grad(
            lambda x: jnp.vdot(jax.grad(f)(x), direction)
        )(x),
        "hessian": lambda f: jax.hessian(f)(x),
        "vmap of grad": lambda f: jax.vmap(jax.grad(f))(jnp.stack([x, 2 * x])),
        "grad of checkpoint": lambda f: jax.grad(jax.checkpoint(f))(x),
        "grad in jit": lambda f: jax.jit(jax.grad(f))(x),
    }


@pytest.mark.thinned(6)
@pytest.mark.parametrize(
    ("kind", "name"),
    [("none", name) for name in transforms(jnp.ones(1))]
    + [(kind, name) for kind in WEIGHTS[1:] for name in ("jvp", "grad", "hessian")],
)
def test_derivatives_are_those_of_the_formula(kind, name):
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 2)) + 3)
        weights = weights_of(kind, (3, 4, 1))
        transform = transforms(x)[name]
        found = transform(scalar(lambda x: moments(x, (0, 1), weights)[:2]))
        expected = transform(scalar(lambda x: formula(x, (0, 1), weights)))
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_derivatives_are_finite_differences(kind):
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 2)) + 3)
        weights = weights_of(kind, (3, 4, 1))
        take = lambda x: moments(x, (0, 1), weights)[:2]  # noqa: E731
        check_grads(take, (x,), order=2, modes=["fwd", "rev"], atol=1e-6, rtol=1e-6)


def test_weights_have_derivatives():
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 2)))
        weights = jnp.asarray(np.random.default_rng(1).random((5, 1)) + 0.1)
        take = lambda w: tuple(moments(x, 0, w))  # noqa: E731
        check_grads(take, (weights,), order=2, modes=["fwd", "rev"])


@pytest.mark.slow
def test_complex_values_have_real_variances_and_derivatives():
    with jax.enable_x64(True):
        generator = np.random.default_rng(0)
        z = generator.standard_normal((6, 2)) + 1j * generator.standard_normal((6, 2))
        mean, var, _ = moments(z, 0)
        assert var.dtype == jnp.float64
        np.testing.assert_allclose(var, z.real.var(0) + z.imag.var(0), rtol=1e-12)

        def loss(real, imaginary):
            mean, var, _ = moments(real + 1j * imaginary, 0)
            return jnp.sum(jnp.abs(mean) ** 2 * jnp.sin(var))

        check_grads(loss, (z.real, z.imag), order=2, modes=["fwd", "rev"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_reverse_mode_keeps_the_input_and_nothing_else_of_its_size(dtype):
    x = jnp.ones((8, 4, 4, 3), dtype)
    take = lambda x: moments(x, (0, 1, 2))[:2]  # noqa: E731
    for function in (take, jax.jit(take)):
        _, pullback = jax.vjp(function, x)
        kept = [leaf for leaf in jax.tree.leaves(pullback) if leaf.size >= x.size]
        assert [leaf.dtype for leaf in kept] == [x.dtype]


# Named axes; shards on devices are tested in `test_sharded_norms`.


@pytest.mark.thinned(3)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_mapped_axis_is_an_axis_like_others(kind):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4, 5)), jnp.float32)
    weights = weights_of(kind, (2, 3, 4, 1))

    def take(x, weights):
        return moments(x, 0, weights, axis_name=("outer", "inner"))

    sharded = jax.vmap(jax.vmap(take, axis_name="inner"), axis_name="outer")
    if weights is None:
        found = jax.vmap(
            jax.vmap(lambda x: take(x, None), axis_name="inner"), axis_name="outer"
        )(x)
    else:
        found = sharded(x, weights)
    expected = moments(x, (0, 1, 2), weights)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, np.broadcast_to(b, a.shape), rtol=1e-5, atol=1e-6)


def test_derivatives_pass_through_a_mapped_axis():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 2)), jnp.float32)
    weights = jnp.asarray(weights_of("mask", (3, 4, 1)))

    def sharded(x):
        take = jax.vmap(
            lambda x, w: moments(x, 0, w, axis_name="shard")[:2], axis_name="shard"
        )
        mean, var = take(x, weights)
        return mean[0], var[1]

    whole = lambda x: moments(x, (0, 1), weights)[:2]  # noqa: E731
    along = lambda f: lambda x: jax.jvp(jax.grad(f), (x,), (x,))[1]  # noqa: E731
    for derive in (jax.grad, along):
        np.testing.assert_allclose(
            derive(scalar(sharded))(x),
            derive(scalar(whole))(x),
            rtol=1e-4,
            atol=1e-6,
        )
