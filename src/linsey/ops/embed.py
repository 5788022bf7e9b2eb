"""Look-up of rows in a table, and its transpose: scores of queries against rows."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def lookup(table: Array, indices: Array) -> Array:
    """Takes rows of a table: `y[..., f] = table[indices[...], f]`.

    A negative index counts from the end. An index out of range gives NaN (or the
    extreme value of an integer dtype), never a wrong row.

    Args:
        table: array of shape (rows, features).
        indices: integers in [-rows, rows), of any shape.

    Returns:
        Rows, of shape (*indices.shape, features).

    Example:
        >>> import jax.numpy as jnp
        >>> table = jnp.array([[0.0], [10.0], [20.0]])
        >>> lookup(table, jnp.array([2, -3, 3])).tolist()
        [[20.0], [0.0], [nan]]
    """
    rows, features = table.shape
    if jnp.issubdtype(indices.dtype, jnp.signedinteger):
        if rows > jnp.iinfo(indices.dtype).max:
            indices = lax.convert_element_type(indices, jnp.int32)
        from_end = lax.add(indices, np.asarray(rows, indices.dtype))
        negative = lax.lt(indices, np.asarray(0, indices.dtype))
        indices = lax.select(negative, from_end, indices)
    return lax.gather(
        table,
        lax.expand_dims(indices, (indices.ndim,)),
        lax.GatherDimensionNumbers(
            offset_dims=(indices.ndim,),
            collapsed_slice_dims=(0,),
            start_index_map=(0,),
        ),
        slice_sizes=(1, features),
        mode=lax.GatherScatterMode.FILL_OR_DROP,
    )


def attend(query: Array, table: Array, *, precision: Any = None) -> Array:
    """Scores queries against rows: `y[..., r] = sum_f query[..., f] table[r, f]`.

    Args:
        query: array of shape (..., features).
        table: array of shape (rows, features), of the same dtype.
        precision: see `jax.lax.Precision`.

    Returns:
        Inner products, of shape (..., rows).

    Example:
        >>> import jax.numpy as jnp
        >>> attend(jnp.array([1.0, 2.0]), jnp.eye(2)).tolist()
        [1.0, 2.0]
    """
    over_features = (((query.ndim - 1,), (1,)), ((), ()))
    return lax.dot_general(query, table, over_features, precision=precision)
