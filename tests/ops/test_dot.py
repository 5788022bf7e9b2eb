"""Linear maps against numpy in float64, their equations, and look-up of rows."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey.ops.dot import add_bias, attend, dense, dense_general, lookup
from tests.jaxprs import primitive_names

TABLE = jnp.arange(300.0)[:, None]


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


TRANSFORMS = {
    "none": lambda function: function,
    "jit": lambda function: jax.jit(function, inline=True),
    "grad": lambda function: jax.grad(lambda *v: function(*v).sum(), (0, 1, 2)),
    "vmap": lambda function: jax.vmap(function, (0, None, None)),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("precision", [None, "highest", ["highest", "highest"]])
def test_traced_maps_are_the_equations_of_the_formula(transform, precision):
    def formula(x, kernel, bias):
        numbers = (((x.ndim - 1,), (0,)), ((), ()))
        y = jax.lax.dot_general(x, kernel, numbers, precision=precision)
        return y + jax.lax.reshape(bias, (1,) * (x.ndim - 1) + bias.shape)

    operands = jnp.ones((2, 4, 3)), jnp.ones((3, 5)), jnp.ones(5)
    found, expected = (
        sorted(primitive_names(jax.make_jaxpr(TRANSFORMS[transform](f))(*operands)))
        for f in (partial(dense, precision=precision), formula)
    )
    assert found == expected


def test_a_bias_of_another_dtype_promotes():
    y = add_bias(jnp.ones((2, 3), jnp.bfloat16), jnp.ones(3))
    assert y.dtype == jnp.float32


def test_a_bias_of_the_full_shape_is_one_addition():
    jaxpr = jax.make_jaxpr(add_bias)(jnp.ones((2, 3)), jnp.ones((2, 3)))
    assert [equation.primitive.name for equation in jaxpr.jaxpr.eqns] == ["add"]


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.int16, jnp.int32])
def test_negative_indices_count_from_the_end_in_every_width(dtype):
    # In eight bits 300 - 1 does not exist; jnp.take returns row 43 for it.
    rows = lookup(TABLE, jnp.array([0, 127, -1, -128], dtype))
    assert rows.ravel().tolist() == [0.0, 127.0, 299.0, 172.0]


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.uint32])
def test_unsigned_indices_are_used_as_they_are(dtype):
    indices = jnp.array([0, 255], dtype)
    assert lookup(TABLE, indices).ravel().tolist() == [0.0, 255.0]
    jaxpr = jax.make_jaxpr(lookup)(TABLE, indices)
    assert "select_n" not in [e.primitive.name for e in jaxpr.jaxpr.eqns]


def test_rows_outside_the_table_are_nan_or_extreme():
    outside = jnp.array([300, -301])
    assert np.isnan(lookup(TABLE, outside)).all()
    whole = lookup(TABLE.astype(jnp.int32), outside)
    assert whole.ravel().tolist() == [np.iinfo(np.int32).min] * 2


def test_gradients_add_up_over_repeated_rows():
    table = jnp.ones((3, 2))
    gradient = jax.grad(lambda t: lookup(t, jnp.array([0, 2, 2, 5])).sum())(table)
    assert gradient.tolist() == [[1.0, 1.0], [0.0, 0.0], [2.0, 2.0]]


def test_attend_is_the_product_with_the_transpose():
    query, table = jnp.arange(6.0).reshape(2, 3), jnp.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(attend(query, table), query @ table.T)
