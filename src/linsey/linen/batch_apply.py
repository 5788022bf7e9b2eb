"""Application of a function to inputs with more batch axes than it expects."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from linsey.errors.base import ShapeError
from linsey.ops.deferred import Deferred, resolve


class BatchApply:
    """Merge leading axes, call a function, and split the leading axis again.

    Arguments that are arrays with fewer axes are passed unchanged.

    Args:
        f: the function or module.
        num_dims: number of leading axes to merge. All arrays with at least this many
            axes must agree in them.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> shapes = []
        >>> def f(x):
        ...     shapes.append(x.shape)
        ...     return x
        >>> nn.BatchApply(f)(jnp.ones((2, 3, 4))).shape, shapes
        ((2, 3, 4), [(6, 4)])
    """

    def __init__(self, f: Callable[..., Any], num_dims: int = 2) -> None:
        self._f = f
        self.num_dims = num_dims

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Call the function with merged arguments.

        Args:
            *args: trees of arrays.
            **kwargs: trees of arrays.

        Returns:
            The result of the function, with the leading axis of each array split.

        Raises:
            ShapeError: no argument has enough axes.
        """
        args, kwargs = jax.tree.map(
            resolve, (args, kwargs), is_leaf=lambda x: isinstance(x, Deferred)
        )
        leaf = arbitrary_mergeable_leaf(self.num_dims, args, kwargs)
        if leaf is None:
            raise ShapeError(
                f"BatchApply requires at least one input with ndim >= {self.num_dims}.",
                f"The first {self.num_dims} axes are merged into one before the call.",
                "Call the function itself, or give `num_dims` the number of batch "
                "axes.",
            )
        merged_args, merged_kwargs = jax.tree.map(
            lambda x: merge_leading_dims(x, self.num_dims), (args, kwargs)
        )
        outputs = self._f(*merged_args, **merged_kwargs)
        leading = jnp.shape(leaf)[: self.num_dims]
        return jax.tree.map(lambda x: split_leading_dim(x, leading), outputs)


def ndim_at_least(x: ArrayLike, num_dims: int) -> bool:
    """Tell whether an array, or a number, has at least `num_dims` axes.

    Example:
        >>> ndim_at_least(jnp.ones((2, 3)), 2), ndim_at_least(1.0, 1)
        (True, False)
    """
    return jnp.asarray(x).ndim >= num_dims


def arbitrary_mergeable_leaf(
    min_num_dims: int, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> ArrayLike | None:
    """Return the first array among the arguments that has enough axes, or `None`.

    Example:
        >>> arbitrary_mergeable_leaf(2, (1.0, jnp.ones((2, 3))), {}).shape
        (2, 3)
    """
    leaves = jax.tree.leaves((args, kwargs))
    return next((x for x in leaves if ndim_at_least(x, min_num_dims)), None)


def merge_leading_dims(x: ArrayLike, num_dims: int) -> jax.Array:
    """Merge the leading axes of an array; return one with fewer axes unchanged.

    Example:
        >>> merge_leading_dims(jnp.ones((2, 3, 4)), 2).shape
        (6, 4)
    """
    x = jnp.asarray(x)
    if x.ndim < num_dims:
        return x
    return x.reshape(math.prod(x.shape[:num_dims]), *x.shape[num_dims:])


def split_leading_dim(x: jax.Array, to_dim: tuple[int, ...]) -> jax.Array:
    """Split the leading axis of an array into several.

    Example:
        >>> split_leading_dim(jnp.ones((6, 4)), (2, 3)).shape
        (2, 3, 4)
    """
    return x.reshape(*to_dim, *jnp.shape(x)[1:])
