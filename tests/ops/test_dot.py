"""Linear maps against numpy in float64, and the equations they trace to."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey.ops.dot import add_bias, dense, dense_general


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 4, 3)])
def test_dense_equals_numpy(shape):
    x, kernel, bias = normal(0, *shape), normal(1, 3, 5), normal(2, 5)
    found = dense(*(jnp.asarray(a, jnp.float32) for a in (x, kernel, bias)))
    np.testing.assert_allclose(found, x @ kernel + bias, rtol=0, atol=2e-6)


def test_dense_general_has_a_kernel_and_a_bias_per_batch_entry():
    x, kernel, bias = normal(0, 2, 3, 4), normal(1, 2, 4, 5), normal(2, 2, 5)
    arrays = (jnp.asarray(a, jnp.float32) for a in (x, kernel, bias))
    found = dense_general(*arrays, axes=(2,), batch_axes=(0,))
    expected = np.einsum("bic,bcf->bif", x, kernel) + bias[:, None]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_a_bias_of_another_dtype_promotes():
    y = add_bias(jnp.ones((2, 3), jnp.bfloat16), jnp.ones(3))
    assert y.dtype == jnp.float32


def test_a_bias_of_the_full_shape_is_one_addition():
    jaxpr = jax.make_jaxpr(add_bias)(jnp.ones((2, 3)), jnp.ones((2, 3)))
    assert [equation.primitive.name for equation in jaxpr.jaxpr.eqns] == ["add"]
