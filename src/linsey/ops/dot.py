"""Linear maps: products over chosen axes, their biases, and table look-up.

A *kernel* has its contracted axes first and its feature axes last; batch axes, along
which each entry has its own kernel, come before both. A *table* has a row of features
for each integer. Shapes are static, so each function traces to exactly the equations
of its formula.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.ops.deferred import resolve
from linsey.ops.sharding import is_split, leave_to_compiler, split_axes
from linsey.promotion import promote
from linsey.typing import PrecisionLike

if TYPE_CHECKING:
    from jaxtyping import Integer, Num, Shaped


def add_bias(
    y: Num[Array, "*shape"], bias: Num[Array, "*last"]
) -> Num[Array, "*shape"]:
    """Add a bias to the last axes of an array: `y[..., f] + bias[f]`.

    Args:
        y: array of shape (..., *bias.shape).
        bias: array whose axes are the last ones of `y`, each of the same size or 1.

    Returns:
        An array of the shape of `y`, and of its dtype if `bias` has that dtype too.

    Example:
        >>> add_bias(jnp.zeros((2, 3)), jnp.array([1.0, 2.0, 3.0])).tolist()
        [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]
    """
    bias = resolve(bias)
    shape = bias.shape
    missing = y.ndim - len(shape)
    if missing:
        bias = lax.reshape(bias, (1,) * missing + shape)
    # A custom `dot_general` may return a dtype other than that of its operands.
    return lax.add(*promote(y, bias))


def dense(
    x: Num[Array, "*batch channels"],
    kernel: Num[Array, "channels features"],
    bias: Num[Array, " features"] | None = None,
    *,
    precision: PrecisionLike = None,
    dot_general: Callable[..., Array] = lax.dot_general,
) -> Num[Array, "*batch features"]:
    """Map the last axis linearly: `y[..., f] = sum_c x[..., c] kernel[c, f] + bias[f]`.

    Args:
        x: inputs of shape (..., channels).
        kernel: weights of shape (channels, features), of the dtype of `x`.
        bias: offsets of shape (features,). If `None`, nothing is added.
        precision: see `jax.lax.Precision`.
        dot_general: replacement for `jax.lax.dot_general`, with the same arguments.

    Returns:
        Outputs of shape (..., features).

    Example:
        >>> dense(jnp.ones((1, 3)), jnp.ones((3, 2)), jnp.array([0.0, 1.0])).tolist()
        [[3.0, 4.0]]
    """
    x, kernel, bias = resolve(x), resolve(kernel), resolve(bias)
    return _contract(x, kernel, bias, (x.ndim - 1,), (), precision, dot_general)


def dense_general(
    x: Num[Array, "*inputs"],
    kernel: Num[Array, "*kernel"],
    bias: Num[Array, "*bias"] | None = None,
    *,
    axes: Sequence[int],
    batch_axes: Sequence[int] = (),
    precision: PrecisionLike = None,
    dot_general: Callable[..., Array] = lax.dot_general,
) -> Num[Array, "*outputs"]:
    """Map several axes linearly, with its own kernel for each entry of batch axes.

    Args:
        x: inputs, of any rank.
        kernel: weights of shape (*batch, *contracted, *features), where `batch` and
            `contracted` are the sizes of `x` on `batch_axes` and `axes`.
        bias: offsets of shape (*batch, *features). If `None`, nothing is added.
        axes: the axes of `x` that are contracted, ascending, not negative.
        batch_axes: the leading axes of `x` whose entries have kernels of their own.
        precision: see `jax.lax.Precision`.
        dot_general: replacement for `jax.lax.dot_general`, with the same arguments.

    Returns:
        Outputs of shape (*batch, *remaining axes of x, *features).

    Example:
        >>> x, kernel = jnp.ones((2, 3, 4)), jnp.ones((2, 4, 5))
        >>> dense_general(x, kernel, axes=(2,), batch_axes=(0,)).shape
        (2, 3, 5)
    """
    x, kernel, bias = resolve(x), resolve(kernel), resolve(bias)
    axes, batch_axes = tuple(axes), tuple(batch_axes)
    return _contract(x, kernel, bias, axes, batch_axes, precision, dot_general)


def _contract(
    x: Array,
    kernel: Array,
    bias: Array | None,
    axes: tuple[int, ...],
    batch_axes: tuple[int, ...],
    precision: PrecisionLike,
    dot_general: Callable[..., Array],
) -> Array:
    is_plain = dot_general is lax.dot_general and not isinstance(precision, list)
    if is_plain and any(isinstance(v, jax.core.Tracer) for v in (x, kernel, bias)):
        return _equations_of_map(x, kernel, bias, axes, batch_axes, precision)
    return _map(x, kernel, bias, axes, batch_axes, precision, dot_general)


def _map(
    x: Array,
    kernel: Array,
    bias: Array | None,
    axes: tuple[int, ...],
    batch_axes: tuple[int, ...],
    precision: PrecisionLike,
    dot_general: Callable[..., Array] = lax.dot_general,
) -> Array:
    batch = len(batch_axes)
    contracted = tuple(range(batch, batch + len(axes)))
    numbers = (axes, contracted), (batch_axes, tuple(range(batch)))
    try:
        y = dot_general(x, kernel, numbers, precision=precision)
    except Exception:  # JAX raises if both are sharded along the contracted axis
        if not (dot_general is lax.dot_general and is_split(x, kernel)):
            raise
        product = partial(
            lax.dot_general, dimension_numbers=numbers, precision=precision
        )
        done = *batch_axes, *axes
        rest = [split for i, split in enumerate(split_axes(x)) if i not in done]
        of_kernel = split_axes(kernel)
        splits = *of_kernel[:batch], *rest, *of_kernel[batch + len(axes) :]
        y = leave_to_compiler(product, splits, x, kernel)
    if bias is None:
        return y
    if batch:
        shape = bias.shape
        between = (1,) * (y.ndim - len(shape))
        bias = lax.reshape(bias, shape[:batch] + between + shape[batch:])
    return add_bias(y, bias)


# Traced once per signature; the equations are inlined into the program of the caller.
_equations_of_map = jax.jit(_map, static_argnums=(3, 4, 5), inline=True)


def lookup(
    table: Shaped[Array, "rows features"], indices: Integer[Array, "*indices"]
) -> Shaped[Array, "*indices features"]:
    """Take rows of a table: `y[..., f] = table[indices[...], f]`.

    A negative index counts from the end. An index out of range gives NaN (or the
    extreme value of an integer dtype), never a wrong row.

    Args:
        table: array of shape (rows, features).
        indices: integers in [-rows, rows), of any shape.

    Returns:
        Rows, of shape (*indices.shape, features).

    Example:
        >>> table = jnp.array([[0.0], [10.0], [20.0]])
        >>> lookup(table, jnp.array([2, -3, 3])).tolist()
        [[20.0], [0.0], [nan]]
    """
    table, indices = resolve(table), resolve(indices)
    if is_split(table, indices):
        axes = *split_axes(indices), split_axes(table)[1]
        return leave_to_compiler(lookup, axes, table, indices)
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
            offset_dims=(indices.ndim,), collapsed_slice_dims=(0,), start_index_map=(0,)
        ),
        slice_sizes=(1, features),
        mode=lax.GatherScatterMode.FILL_OR_DROP,
    )


def attend(
    query: Num[Array, "*batch features"],
    table: Num[Array, "rows features"],
    *,
    precision: PrecisionLike = None,
) -> Num[Array, "*batch rows"]:
    """Score queries against rows: `y[..., r] = sum_f query[..., f] table[r, f]`.

    Args:
        query: array of shape (..., features).
        table: array of shape (rows, features), of the same dtype.
        precision: see `jax.lax.Precision`.

    Returns:
        Inner products, of shape (..., rows).

    Example:
        >>> attend(jnp.array([1.0, 2.0]), jnp.eye(2)).tolist()
        [1.0, 2.0]
    """
    over_features = (((query.ndim - 1,), (1,)), ((), ()))
    query, table = resolve(query), resolve(table)
    return lax.dot_general(query, table, over_features, precision=precision)
