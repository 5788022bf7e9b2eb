"""Look-up of rows with integers of every width."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from linsey.ops.embed import attend, lookup

TABLE = jnp.arange(300.0)[:, None]


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
