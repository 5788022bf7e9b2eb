"""BatchApply against Flax."""

from __future__ import annotations

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linsey.linen as nn
from linsey.errors.base import ShapeError
from tests.linen.differential import assert_same_bits, normal

LIBRARIES = (flax.linen, nn)
X = normal(2, 3, 4, 5)

CALLS = {
    "one": ((X,), {}),
    "trees": (({"a": X, "b": [jnp.ones((2, 3))]},), {"c": jnp.ones((2, 3, 7))}),
    "none": ((X, None), {}),
    "more axes": ((X,), {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_batch_apply_equals_flax(name):
    args, kwargs = CALLS[name]
    num_dims = 3 if name == "more axes" else 2
    found = []
    for lib in LIBRARIES:
        seen = []

        def f(*args, seen=seen, **kwargs):
            seen.append((args, kwargs))
            return args, kwargs

        found.append((seen, lib.BatchApply(f, num_dims)(*args, **kwargs)))
    assert_same_bits(*found)


def test_arrays_with_fewer_axes_are_passed_as_they_are():
    def f(x, scale, offset):
        return x * scale + offset[0]

    y = nn.BatchApply(f)(X, 2.0, jnp.ones(3))
    np.testing.assert_array_equal(y, X * 2.0 + 1.0)


def test_batch_apply_equals_vmap_of_vmap():
    dense = nn.Dense(2)
    variables = dense.init(jax.random.key(0), X)

    def f(x):
        return dense.apply(variables, x)

    np.testing.assert_allclose(
        nn.BatchApply(f)(X), jax.vmap(jax.vmap(f))(X), rtol=1e-5, atol=1e-6
    )


def test_modules_inside_have_the_names_of_flax():
    trees = []
    for lib in LIBRARIES:

        class Model(lib.Module):
            @lib.compact
            def __call__(self, x, lib=lib):
                return lib.BatchApply(lib.Dense(2))(x)

        trees.append(Model().init(jax.random.key(0), X))
    assert_same_bits(*trees)


@pytest.mark.parametrize("argument", [jnp.ones(2), 1.0, None])
def test_arguments_without_enough_axes_are_refused(argument):
    for lib in LIBRARIES:
        with pytest.raises(ValueError, match="at least one input with ndim >= 2"):
            lib.BatchApply(lambda x: x)(argument)
    with pytest.raises(ShapeError):
        nn.BatchApply(lambda x: x)(argument)


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.ndim_at_least(1.0, 0),
        lambda m: m.ndim_at_least(np.ones(2), 2),
        lambda m: m.arbitrary_mergeable_leaf(2, (1.0,), {"x": X}),
        lambda m: m.arbitrary_mergeable_leaf(9, (X,), {}) is None,
        lambda m: m.merge_leading_dims(3.0, 2),
        lambda m: m.merge_leading_dims(np.ones((2, 3, 4)), 2),
        lambda m: m.split_leading_dim(jnp.ones((6, 4)), (2, 3)),
    ],
    ids=range(7),
)
def test_helpers_equal_those_of_flax(call):
    expected, found = (call(lib.batch_apply) for lib in LIBRARIES)
    assert jnp.shape(found) == jnp.shape(expected)
    np.testing.assert_array_equal(found, expected)
