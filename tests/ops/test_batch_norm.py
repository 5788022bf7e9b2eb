"""Laws of batch normalization on arrays: accuracy, derivatives, what is kept."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from linsey.ops import batch_norm, ema, normalize, renorm_schedule
from linsey.ops.batch_norm import (
    UpdateRule,
    join_examples,
    shard_groups,
    split_examples,
    train_batch_norm,
)
from linsey.ops.moments import NormSpec

KINDS = ("none", "mask", "float")


def values(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def weights_of(kind, shape):
    generator = np.random.default_rng(5)
    if kind == "none":
        return None
    return generator.random(shape) < 0.7 if kind == "mask" else generator.random(shape)


def formula(x, scale, bias, weights):
    """The definition, for JAX to differentiate."""
    w = jnp.ones(x.shape) if weights is None else jnp.broadcast_to(weights, x.shape)
    axes = tuple(range(x.ndim - 1))
    count = w.sum(axes)
    mean = (w * x).sum(axes) / count
    var = (w * (x - mean) ** 2).sum(axes) / count
    return (x - mean) * scale / jnp.sqrt(var + 1e-5) + bias


def scalar(normalize, weights):
    """A loss of all arguments, nonlinear in the outputs."""

    def loss(arguments):
        x, scale, bias = arguments
        y = normalize(x, scale, bias, weights)
        return jnp.sum(jnp.sin(y) * jnp.cos(jnp.arange(y.size).reshape(y.shape)))

    return loss


def ours(x, scale, bias, weights):
    return batch_norm(x, scale, bias, weights)[0]


def transforms(point):
    direction = jax.tree.map(lambda v: jnp.cos(3 * v), point)
    return {
        "jvp": lambda f: jax.jvp(f, (point,), (direction,))[1],
        "linearize": lambda f: jax.linearize(f, point)[1](direction),
        "grad": lambda f: jax.grad(f)(point),
        "jacfwd": lambda f: jax.jacfwd(f)(point),
        "forward over reverse": lambda f: jax.jvp(jax.grad(f), (point,), (direction,)),
        "hessian": lambda f: jax.hessian(f)(point),
        "reverse over reverse": lambda f: jax.grad(
            lambda p: sum(map(jnp.vdot, jax.grad(f)(p), direction))
        )(point),
        "vmap of grad": lambda f: jax.vmap(jax.grad(f))(
            jax.tree.map(lambda v: jnp.stack([v, 2 * v]), point)
        ),
        "grad of checkpoint": lambda f: jax.grad(jax.checkpoint(f))(point),
    }


NAMES = list(transforms((jnp.ones(1),)))


@pytest.mark.thinned(8)
@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "none") for name in NAMES]
    + [(name, kind) for name in ("jvp", "grad", "hessian") for kind in KINDS[1:]],
)
def test_derivatives_are_those_of_the_formula(name, kind):
    with jax.enable_x64(True):
        point = (values(3, 2, 2) + 3, values(2, seed=1), values(2, seed=2))
        weights = weights_of(kind, (3, 2, 1))
        transform = jax.jit(transforms(point)[name], static_argnums=0)
        found = transform(scalar(ours, weights))
        expected = transform(scalar(formula, weights))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9),
            found,
            expected,
        )


@pytest.mark.parametrize(
    "kind", [pytest.param("mask", marks=pytest.mark.slow), "float"]
)
def test_derivatives_are_finite_differences(kind):
    with jax.enable_x64(True):
        point = (values(3, 2, 2) + 3, values(2, seed=1), values(2, seed=2))
        loss = jax.jit(scalar(ours, weights_of(kind, (3, 2, 1))))
        check_grads(loss, (point,), order=2, modes=["fwd", "rev"], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_derivatives_pass_through_synced_statistics(masked):
    with jax.enable_x64(True):
        x = values(2, 3, 2) + 3
        weights = weights_of("mask", (2, 3, 1)) if masked else None
        scale, bias = values(2, seed=1), values(2, seed=2)

        def synced(x, scale, bias, weights):
            return jax.vmap(
                lambda x, w: batch_norm(x, scale, bias, w, axis_name="parts")[0],
                axis_name="parts",
                in_axes=(0, None if weights is None else 0),
            )(x, weights)

        point = (x, scale, bias)
        for derive in (jax.grad, jax.hessian):
            found, expected = (
                jax.jit(derive(scalar(f, weights)))(point) for f in (synced, formula)
            )
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9),
                found,
                expected,
            )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_reverse_mode_keeps_the_input_and_values_per_channel(dtype):
    x = jnp.ones((8, 4, 4, 3), dtype)
    scale = jnp.ones(3, dtype)

    def take(x, scale):
        return batch_norm(x, scale, scale)[0]

    _, pullback = jax.vjp(take, x, scale)
    kept = [leaf for leaf in jax.tree.leaves(pullback) if leaf.size >= x.size]
    assert [leaf.dtype for leaf in kept] == [x.dtype]


@pytest.mark.parametrize("ratio", [1e3, 3e5])
def test_outputs_have_the_deviation_of_float64(ratio):
    x = np.random.default_rng(0).standard_normal((4096, 4)) * 0.01 + 0.01 * ratio
    x = x.astype(np.float32)
    y, (_, var, _) = batch_norm(x)
    exact = np.float64(x).var(0)
    np.testing.assert_allclose(var, exact, rtol=1e-4)
    expected = np.sqrt(exact / (exact + 1e-5))
    np.testing.assert_allclose(np.float64(y).std(0), expected, rtol=0.01)


def test_evaluation_is_normalization_by_given_moments():
    x = values(4, 3)
    y, (mean, var, _) = batch_norm(x, epsilon=0.1)
    np.testing.assert_allclose(normalize(x, mean, var, epsilon=0.1), y, rtol=1e-6)


def test_weights_of_zero_leave_the_running_moments_alone():
    running = jnp.full(3, 2.0), jnp.full(3, 4.0)
    x = values(4, 3).astype(jnp.float32)
    y, updated = train_batch_norm(
        NormSpec((0,), (1,)), UpdateRule(), x, jnp.zeros((4, 1)), None, None, 0.0,
        running, (0.9, 0.1),
    )  # fmt: skip
    np.testing.assert_array_equal(updated, running)
    np.testing.assert_allclose(y, (x - 2) / 2, rtol=1e-6)


# Ghost batches.


@pytest.mark.parametrize(("batch", "size"), [(8, 2), (7, 3), (9, 8), (3, 5), (5, 1)])
@pytest.mark.parametrize("masked", [False, True])
def test_examples_are_split_evenly_and_joined_again(batch, size, masked):
    x = values(batch, 2, 3)
    mask = jnp.asarray(np.arange(batch) % 3 != 0)[:, None, None] if masked else None
    parts, weights, order = split_examples(x, mask, size)
    np.testing.assert_array_equal(join_examples(parts, order), x)
    groups = -(-batch // size)
    kept = np.ones(parts.shape[:2]) if weights is None else np.array(weights[..., 0, 0])
    sizes = kept.sum(1)
    assert parts.shape[0] == groups
    if masked:
        assert sizes.sum() == np.sum(np.arange(batch) % 3 != 0)
    else:
        assert sizes.sum() == batch
        assert sizes.max() - sizes.min() <= 1
        assert sizes.max() <= size


def test_shards_are_grouped_by_neighbours():
    assert shard_groups(8, 4, 16) == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert shard_groups(8, 4, 15) == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert shard_groups(8, 4, 7) is None
    assert shard_groups(6, 1, 5) == ((0, 1, 2), (3, 4, 5))


# Averages, and bounds that widen.


def test_an_average_moves_where_it_is_valid():
    old, new = values(3), values(3, seed=1).at[1].set(jnp.nan)
    found = ema(old, new, 0.75, jnp.isfinite(new))
    expected = jnp.where(jnp.isnan(new), old, 0.75 * old + 0.25 * new)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_complement_of_a_momentum_near_one_keeps_its_digits():
    momentum = jnp.float32(1 - 1e-6)
    moved = ema(jnp.zeros(1), jnp.ones(1), momentum, complement=1e-6)
    np.testing.assert_allclose(moved, 1e-6, rtol=1e-6)


def test_bounds_of_renormalization_widen_linearly():
    limits = renorm_schedule(warmup=2, r_steps=6, d_steps=4, r_max=3.0, d_max=5.0)
    r_max, d_max = limits(jnp.array([0, 2, 3, 4, 6, 9]))
    np.testing.assert_allclose(r_max, [1, 1, 1.5, 2, 3, 3])
    np.testing.assert_allclose(d_max, [0, 0, 2.5, 5, 5, 5])
