"""Laws of normalization by given moments."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey.ops import moments, normalize


def values(*shape, seed=0):
    drawn = np.random.default_rng(seed).standard_normal(shape)
    return jnp.asarray(drawn, jnp.float32)


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    ("axis", "feature_axis"),
    [(-1, None), (1, None), ((0, 2), None), (0, (1, 2)), ((0, 1), 2), (0, 0)],
)
def test_the_formula_holds_for_all_axes(axis, feature_axis):
    x = values(2, 3, 4) + 3
    kept = (axis,) if isinstance(axis, int) else axis
    features = kept if feature_axis is None else feature_axis
    features = (features,) if isinstance(features, int) else features
    reduced = tuple(i for i in range(3) if i not in {a % 3 for a in kept})
    mean, var, _ = moments(x, reduced)
    shape = [x.shape[i] for i in features]
    scale, bias = values(*shape, seed=1), values(*shape, seed=2)
    found = normalize(x, mean, var, scale, bias, axis=axis, feature_axis=feature_axis)

    def spread(v, axes):
        return v.reshape([x.shape[i] if i in axes else 1 for i in range(3)])

    kept, features = ([a % 3 for a in axes] for axes in (kept, features))
    exact = (np.float64(x) - spread(mean, kept)) / np.sqrt(spread(var, kept) + 1e-5)
    exact = exact * spread(scale, features) + spread(bias, features)
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)


def test_the_dtype_is_the_one_given_or_promoted():
    x, one = values(4, 3).astype("bfloat16"), jnp.ones(3, "bfloat16")
    found = [
        normalize(x, one, one).dtype,
        normalize(x, one, one, values(3)).dtype,
        normalize(x, one, one, dtype="float16").dtype,
        normalize(jnp.arange(3), 1.0 * jnp.arange(3), jnp.ones(3)).dtype,
    ]
    assert found == ["bfloat16", "float32", "float16", "float32"]


@pytest.mark.thinned(2)
@pytest.mark.parametrize("argument", range(5))
def test_derivatives_are_those_of_the_formula(argument):
    def formula(x, mean, var, scale, bias):
        return (x - mean) * scale / jnp.sqrt(var + 1e-5) + bias

    with jax.enable_x64(True):
        generator = np.random.default_rng(3)
        arguments = [generator.random((4, 3)), *generator.random((4, 3)) + 0.5]
        arguments = [jnp.asarray(v) for v in arguments]

        def total(function, *arguments):
            return jnp.sum(jnp.sin(function(*arguments)))

        for derive in (jax.grad, jax.jacfwd, jax.hessian):
            found, expected = (
                derive(lambda *v, f=f: total(f, *v), argument)(*arguments)
                for f in (normalize, formula)
            )
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
