"""Arrays that are split over a mesh with explicit axes.

On such axes (`jax.sharding.AxisType.Explicit`) the sharding of an array is part of its
type, and most operations of JAX infer the sharding of their result. Some do not, or
require all operands to be split alike. These are left to the compiler, as on a mesh
with automatic axes, and only their result has an explicit sharding again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

if TYPE_CHECKING:
    from jax.typing import ArrayLike

T = TypeVar("T")
MeshAxis = str | tuple[str, ...] | None
Axes = tuple[MeshAxis, ...]


def split_axes(x: ArrayLike) -> Axes:
    """Return the explicit axes of a mesh that each axis of an array is split over.

    Example:
        >>> import jax.numpy as jnp
        >>> split_axes(jnp.ones((2, 3)))
        (None, None)
    """
    if not isinstance(x, Array):  # a deferred value is not computed for this
        return (None,) * np.ndim(x)
    return tuple(jax.typeof(x).sharding.spec)


def is_split(*arrays: ArrayLike | None) -> bool:
    """Return whether one of these arrays is split over an explicit axis of a mesh.

    Example:
        >>> import jax.numpy as jnp
        >>> is_split(jnp.ones(3), None)
        False
    """
    # Runs at every call of a layer: a loop takes half the time of a generator.
    for x in arrays:
        if isinstance(x, Array) and any(jax.typeof(x).sharding.spec):
            return True
    return False


def leave_to_compiler(
    function: Callable[..., T], axes: Axes | list[Axes], *operands: Any
) -> T:
    """Call a function of arrays and let the compiler choose the shardings inside it.

    Args:
        function: takes the operands and returns an array, or several.
        axes: the mesh axes that each axis of the result is split over, or a list of
            these for several results. If a mesh axis occurs twice, the first counts.
        *operands: arrays, at least one of them split, or trees of arrays.

    Returns:
        The result of the function, with that sharding.

    Example:
        >>> import jax.numpy as jnp
        >>> kind = jax.sharding.AxisType.Explicit
        >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(kind,))
        >>> sharding = jax.NamedSharding(mesh, PartitionSpec("data"))
        >>> x = jax.device_put(jnp.ones((2, 3)), sharding)
        >>> jax.typeof(leave_to_compiler(jnp.sin, ("data", None), x))
        ShapedArray(float32[2@data,3])
    """
    spec = (
        tuple(map(_specification, axes))
        if isinstance(axes, list)
        else _specification(axes)
    )
    automatic: Any = jax.sharding.auto_axes(function, out_sharding=spec)
    return automatic(*operands)


def _specification(axes: Axes) -> PartitionSpec:
    """Convert mesh axes to a specification, using each only where it comes first."""
    used: set[str] = set()
    parts: list[MeshAxis] = []
    for part in axes:
        names = (part,) if isinstance(part, str) else part or ()
        free = tuple(name for name in names if name not in used)
        used.update(free)
        parts.append(part if free == names else free or None)
    return PartitionSpec(*parts)


def begin_loop(carry: T, batch: Axes, inputs: Array, others: object = None) -> T:
    """Give the first carry of a loop the sharding that later carries will have.

    Args:
        carry: a tree of arrays, whose first axes are those of the batch.
        batch: the mesh axes that the batch axes of the inputs are split over.
        inputs: array that the loop runs over. Inside `jax.shard_map`, the carry varies
            over the same axes as the inputs.
        others: a tree of other arrays that the loop uses; the carry varies over their
            axes too.

    Returns:
        The carry.

    Example:
        >>> import jax.numpy as jnp
        >>> begin_loop(jnp.zeros(2), (None,), jnp.ones((2, 3))).tolist()
        [0.0, 0.0]
    """
    manual = jax.sharding.get_abstract_mesh().manual_axes
    varying: frozenset[str] = frozenset()
    for leaf in jax.tree.leaves((inputs, others)) if manual else ():
        varying |= _varying(leaf)

    def begin(value: Array) -> Array:
        missing = varying - _varying(value) if varying else ()
        if missing:
            value = jax.lax.pcast(value, tuple(missing), to="varying")
        axes = split_axes(value)
        first = (own or of_batch for own, of_batch in zip(axes, batch, strict=False))
        wanted = (*first, *axes[len(batch) :])
        return value if wanted == axes else _split(value, wanted, inputs)

    return jax.tree.map(begin, carry) if varying or any(batch) else carry


def repeat_like(
    values: Array,
    axes: tuple[int, ...],
    other: Array,
    onto: tuple[int, ...] | None = None,
) -> Array:
    """Repeat values along axes of another array, sharded as that array is.

    JAX would shard them only where the two arrays meet, after the repetition. Reverse
    mode would then send whole arrays of that size: added up over all devices of a
    `jax.shard_map`, at the point where values begin to differ between devices, or
    gathered on a mesh with explicit axes.

    Args:
        values: array.
        axes: the axes of `other` that those of `values` belong to.
        other: array.
        onto: the axes of `other` that the result has. If `None`, all.

    Example:
        >>> import jax.numpy as jnp
        >>> repeat_like(jnp.array([1.0, 2.0]), (1,), jnp.ones((2, 2))).tolist()
        [[1.0, 2.0], [1.0, 2.0]]
    """
    if onto is None:
        onto = tuple(range(other.ndim))
    if axes == onto:
        return values
    varying, split, out_sharding = _varying(other), split_axes(other), None
    if varying and (missing := varying - _varying(values)):
        values = jax.lax.pcast(values, tuple(missing), to="varying")
    if any(split):
        own = dict(zip(axes, split_axes(values), strict=True))
        spec = _specification(tuple(own.get(axis, split[axis]) for axis in onto))
        out_sharding = NamedSharding(jax.typeof(other).sharding.mesh, spec)
    shape = [other.shape[axis] for axis in onto]
    return jax.lax.broadcast_in_dim(
        values, shape, [onto.index(axis) for axis in axes], out_sharding=out_sharding
    )


def split_like(value: Any, other: Array) -> Array:
    """Split an array like another one of the same rank.

    Example:
        >>> import jax.numpy as jnp
        >>> split_like(jnp.ones(2), jnp.zeros(2)).tolist()
        [1.0, 1.0]
    """
    axes = split_axes(other)
    return value if split_axes(value) == axes else _split(value, axes, other)


def _split(value: Array, axes: Axes, on_mesh: Array) -> Array:
    """Split an array over the mesh of another one."""
    return leave_to_compiler(lambda value, _: value, axes, value, on_mesh)


def _varying(x: ArrayLike) -> frozenset[str]:
    """Return the axes of a `jax.shard_map` over which a value differs by device."""
    kind = jax.typeof(x)
    # The name of the attribute depends on the version of JAX.
    return kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying
