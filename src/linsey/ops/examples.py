"""Examples normalized by their own moments: layer, RMS, group and instance norms.

These are `normalize.standardize` without the moments in the result. If scale and bias
belong to the last axes, a CPU kernel reads each example only once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from linsey.ops.axes import other_axes
from linsey.ops.cpu.dispatch import takes_examples
from linsey.ops.moments import NormSpec
from linsey.ops.normalize import is_single, standardize
from linsey.ops.sharding import leave_to_compiler, split_axes


def standardize_examples(
    spec: NormSpec,
    x: Array,
    weights: Array | None,
    scale: Array | None,
    bias: Array | None,
    epsilon: ArrayLike,
) -> Array:
    """Normalize an array by its own moments, as `standardize`, without returning them.

    Example:
        >>> spec = NormSpec(axes=(1,), features=(1,))
        >>> x = jnp.array([[1.0, 3.0], [10.0, 30.0]])
        >>> standardize_examples(spec, x, None, None, None, 0.0).tolist()
        [[-1.0, 1.0], [-1.0, 1.0]]
    """
    shape = _shape_of_examples(spec, x)
    if weights is None and shape is not None and is_single(spec, x, scale, bias):
        if takes_examples(x, shape[3]):
            return _normalize_examples(spec, x, scale, bias, epsilon, shape)
    return standardize(spec, x, weights, scale, bias, epsilon)[0]


# Traced once for each shape, however many layers of that shape a model has.
standardize_examples_jit = jax.jit(standardize_examples, static_argnums=0)


@partial(jax.jit, static_argnums=(0, 1))
def standardize_groups(
    spec: NormSpec,
    num_groups: int,
    x: Array,
    weights: Array | None,
    scale: Array | None,
    bias: Array | None,
    epsilon: ArrayLike,
) -> Array:
    """Normalize an array whose last axis is split into groups of features.

    Args:
        spec: the axes of `x`; those reduced include the last one.
        num_groups: number of groups, a divisor of the number of features.
        x: array of shape (..., features).
        weights: mask or weights of the rank of `x`, or `None`.
        scale: factors of shape (features,), or `None`.
        bias: offsets of the same shape, or `None`.
        epsilon: number added to the variance.

    Returns:
        An array of the shape of `x`.

    Example:
        >>> spec = NormSpec(axes=(1,), features=(1,))
        >>> x = jnp.array([[1.0, 3.0, 10.0, 30.0]])
        >>> standardize_groups(spec, 2, x, None, None, None, 0.0).tolist()
        [[-1.0, 1.0, -1.0, 1.0]]
    """
    last = x.ndim - 1
    if split_axes(x)[last]:  # groups do not follow the shards: leave the sharding open
        function = partial(standardize_groups, spec, num_groups)
        inputs = x, weights, scale, bias, epsilon
        return leave_to_compiler(function, split_axes(x), *inputs)
    spec = spec._replace(axes=(*spec.axes[:-1], last + 1), features=(last, last + 1))
    split = partial(_split_last, num_groups=num_groups)
    weights, scale, bias = jax.tree.map(split, (weights, scale, bias))
    y = standardize_examples(spec, split(x), weights, scale, bias, epsilon)
    return lax.reshape(y, x.shape)


def _split_last(values: Array, num_groups: int) -> Array:
    *rest, size = values.shape
    split = (num_groups, size // num_groups) if size > 1 else (1, 1)
    return lax.reshape(values, (*rest, *split))


def _shape_of_examples(spec: NormSpec, x: Array) -> tuple[int, int, int, int] | None:
    """Return (examples, spatial, groups, depth) of an array, or `None` if not possible.

    The axes that are kept have to be leading ones, and perhaps the first of those that
    scale and bias belong to.
    """
    first = x.ndim - len(spec.features)
    if spec.features != tuple(range(first, x.ndim)) or x.ndim - 1 not in spec.axes:
        return None
    kept = other_axes(spec.axes, x.ndim)
    leading = len([axis for i, axis in enumerate(kept) if axis == i < first])
    groups = kept[leading:]
    if groups not in ((), (first,)):
        return None

    def size(axes: Iterable[int]) -> int:
        return math.prod(x.shape[axis] for axis in axes)

    depth = spec.features[len(groups) :]
    spatial = range(leading, first)
    return size(range(leading)), size(spatial), size(groups), size(depth)


def _normalize_examples(
    spec: NormSpec,
    x: Array,
    scale: Array | None,
    bias: Array | None,
    epsilon: ArrayLike,
    shape: tuple[int, int, int, int],
) -> Array:
    """Normalize an array of examples with a CPU kernel."""
    from linsey.ops.cpu.example_kernels import normalize_examples

    features = (1, 1, *shape[2:])
    scale = jnp.ones(features) if scale is None else lax.reshape(scale, features)
    bias = jnp.zeros(features) if bias is None else lax.reshape(bias, features)
    epsilon = jnp.asarray(epsilon, jnp.float32)
    y = normalize_examples(lax.reshape(x, shape), scale, bias, epsilon, spec.centred)
    return lax.reshape(y, x.shape)
