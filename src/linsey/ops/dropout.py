"""Dropout: entries are zeroed at random and the rest are scaled to keep the mean."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array, lax, random

from linsey.errors.base import ArgumentTypeError
from linsey.errors.layers import AxisOutOfRangeError
from linsey.ops.sharding import is_split, leave_to_compiler, split_axes
from linsey.typing import PRNGKey

if TYPE_CHECKING:
    from jaxtyping import Inexact


def dropout(
    x: Inexact[Array, "*shape"],
    key: PRNGKey,
    rate: float,
    broadcast_dims: Sequence[int] = (),
) -> Inexact[Array, "*shape"]:
    """Drop entries at random: `y = mask * x / (1 - rate)`, `mask ~ B(1 - rate)`.

    Args:
        x: inputs of any shape, of an inexact dtype.
        key: a random key.
        rate: probability of dropping an entry, in [0, 1).
        broadcast_dims: axes along which all entries share one mask.

    Returns:
        An array like `x`.

    Raises:
        AxisOutOfRangeError: `x` has no such axis.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> y = dropout(jnp.ones((2, 6)), jax.random.key(0), 0.5, broadcast_dims=(0,))
        >>> y.tolist()[0] == y.tolist()[1], set(y.ravel().tolist()) == {0.0, 2.0}
        (True, True)

    References:
        Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise ArgumentTypeError(
            f"Entries to drop have dtype {x.dtype}.",
            "Kept entries are divided by `1 - rate`, which integers cannot represent.",
            "Convert them first: `x.astype(jnp.float32)`.",
        )
    keep = 1.0 - rate
    shape = list(x.shape)
    for axis in broadcast_dims:
        if not -x.ndim <= axis < x.ndim:
            raise AxisOutOfRangeError("Dropout", axis, x.shape)
        shape[axis] = 1
    if is_split(x):
        drop = partial(dropout, rate=rate, broadcast_dims=broadcast_dims)
        return leave_to_compiler(drop, split_axes(x), x, key)
    mask = random.bernoulli(key, p=keep, shape=tuple(shape))
    if broadcast_dims:
        mask = lax.broadcast_in_dim(mask, x.shape, range(x.ndim))
    return lax.select(mask, x / keep, lax.full_like(x, 0))
