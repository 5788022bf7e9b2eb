"""Linear maps: matrix products over chosen axes, and the bias added to them.

A *kernel* has its contracted axes first and its feature axes last; batch axes, where
every entry has a kernel of its own, come before both. Shapes are static, so each
function traces to the equations of its formula and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jax import Array, lax


def add_bias(y: Array, bias: Array) -> Array:
    """Adds a bias to the last axes of an array: `y[..., f] + bias[f]`.

    Args:
        y: array of shape (..., *bias.shape).
        bias: array whose axes are the last ones of `y`, each of that size or 1.

    Returns:
        An array of the shape of `y`, and of its dtype if `bias` has the same.

    Example:
        >>> import jax.numpy as jnp
        >>> add_bias(jnp.zeros((2, 3)), jnp.array([1.0, 2.0, 3.0])).tolist()
        [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]
    """
    shape = bias.shape
    missing = y.ndim - len(shape)
    if missing:
        bias = lax.reshape(bias, (1,) * missing + shape)
    # A hook may return another dtype than it was given; `+` then promotes.
    return lax.add(y, bias) if y.dtype == bias.dtype else y + bias


def dense(
    x: Array,
    kernel: Array,
    bias: Array | None = None,
    *,
    precision: Any = None,
    dot_general: Callable[..., Array] = lax.dot_general,
) -> Array:
    """Maps the last axis: `y[..., f] = sum_c x[..., c] kernel[c, f] + bias[f]`.

    Args:
        x: inputs of shape (..., channels).
        kernel: weights of shape (channels, features), of the dtype of `x`.
        bias: offsets of shape (features,), or none.
        precision: see `jax.lax.Precision`.
        dot_general: what computes the product, called like `jax.lax.dot_general`.

    Returns:
        Outputs of shape (..., features).

    Example:
        >>> import jax.numpy as jnp
        >>> dense(jnp.ones((1, 3)), jnp.ones((3, 2)), jnp.array([0.0, 1.0])).tolist()
        [[3.0, 4.0]]
    """
    over_last = (((x.ndim - 1,), (0,)), ((), ()))
    y = dot_general(x, kernel, over_last, precision=precision)
    return y if bias is None else add_bias(y, bias)


def dense_general(
    x: Array,
    kernel: Array,
    bias: Array | None = None,
    *,
    axes: Sequence[int],
    batch_axes: Sequence[int] = (),
    precision: Any = None,
    dot_general: Callable[..., Array] = lax.dot_general,
) -> Array:
    """Maps several axes linearly, with a kernel for each entry of the batch axes.

    Args:
        x: inputs, of any rank.
        kernel: weights of shape (*batch, *contracted, *features), where `batch` and
            `contracted` are the sizes of `x` on `batch_axes` and `axes`.
        bias: offsets of shape (*batch, *features), or none.
        axes: the axes of `x` that are contracted, ascending, not negative.
        batch_axes: the leading axes of `x` that have kernels of their own.
        precision: see `jax.lax.Precision`.
        dot_general: what computes the product, called like `jax.lax.dot_general`.

    Returns:
        Outputs of shape (*batch, *remaining axes of x, *features).

    Example:
        >>> import jax.numpy as jnp
        >>> x, kernel = jnp.ones((2, 3, 4)), jnp.ones((2, 4, 5))
        >>> dense_general(x, kernel, axes=(2,), batch_axes=(0,)).shape
        (2, 3, 5)
    """
    batch = len(batch_axes)
    contracted = tuple(range(batch, batch + len(axes)))
    dimension_numbers = (
        (tuple(axes), contracted),
        (tuple(batch_axes), tuple(range(batch))),
    )
    y = dot_general(x, kernel, dimension_numbers, precision=precision)
    if bias is None:
        return y
    if batch:
        shape = bias.shape
        between = (1,) * (y.ndim - len(shape))
        bias = lax.reshape(bias, shape[:batch] + between + shape[batch:])
    return add_bias(y, bias)
