"""Boxes: values that carry metadata about their axes through transforms.

An `AxisMetadata` box takes the place of an array in a variable tree. Lifted transforms
that add an axis to a variable (`vmap`, `scan`) tell the box, which updates its
metadata; modules read the value inside. The metadata of a `Partitioned` box is the name
of a mesh axis for each axis of the array.

Example:
    >>> import jax
    >>> init = with_partitioning(jax.nn.initializers.ones, ("data", None))
    >>> box = init(jax.random.key(0), (2, 3))
    >>> box.names
    ('data', None)
    >>> get_partition_spec({"kernel": box})
    {'kernel': P('data', None)}
    >>> unbox({"kernel": box})["kernel"].shape
    (2, 3)
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable
from typing import Any, Generic, Self, TypeGuard, TypeVar

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from linsey import errors, struct

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")

LogicalNames = tuple[str | None, ...]
Params = dict[Any, Any]

PARTITION_NAME = "partition_name"
"""The key in `metadata_params` for the name of the axis that a transform adds."""


class AxisMetadata(Generic[A], metaclass=abc.ABCMeta):
    """A box around a value, with metadata about the axes of the value.

    A subclass must be a pytree, because transforms act on the value inside.
    """

    @abc.abstractmethod
    def unbox(self) -> A:
        """Return the value inside."""

    @abc.abstractmethod
    def replace_boxed(self, val: B) -> AxisMetadata[B]:
        """Return a box with the same metadata around another value.

        Args:
            val: the new value.
        """

    @abc.abstractmethod
    def add_axis(self, index: int, params: Params) -> Self:
        """Return a box with metadata for a new axis, which the value already has.

        Args:
            index: where the axis was inserted.
            params: the `metadata_params` of the transform.
        """

    @abc.abstractmethod
    def remove_axis(self, index: int, params: Params) -> Self:
        """Return a box without the metadata of an axis that the value is about to lose.

        Args:
            index: where the axis was.
            params: the `metadata_params` of the transform.
        """


def is_axis_metadata(val: object) -> TypeGuard[AxisMetadata[Any]]:
    """Return whether a value is a box."""
    return isinstance(val, AxisMetadata)


def map_axis_meta(fn: Callable[[AxisMetadata[Any]], object], tree: object) -> Any:
    """Apply a function to the boxes of a tree and leave the rest unchanged.

    Args:
        fn: takes a box; it has to handle boxes inside that box.
        tree: any pytree.
    """

    def change(x: object) -> object:
        return fn(x) if isinstance(x, AxisMetadata) else x

    return jax.tree.map(change, tree, is_leaf=is_axis_metadata)


def add_axis(tree: T, index: int, params: Params) -> T:
    """Add an axis to all boxes of a tree; see `AxisMetadata.add_axis`."""
    return map_axis_meta(lambda box: box.add_axis(index, params), tree)


def remove_axis(tree: T, index: int, params: Params) -> T:
    """Remove an axis from all boxes of a tree; see `AxisMetadata.remove_axis`."""
    return map_axis_meta(lambda box: box.remove_axis(index, params), tree)


def unbox(tree: object) -> Any:
    """Take all values of a tree out of their boxes, including nested ones."""
    if isinstance(tree, jax.Array):
        return tree
    return map_axis_meta(lambda box: unbox(box.unbox()), tree)


def replace_boxed(tree: object, updates: object) -> Any:
    """Return new values in the boxes of a tree.

    Args:
        tree: a pytree with boxes.
        updates: a pytree of the same structure without boxes.
    """

    def put(old: object, new: object) -> object:
        if not isinstance(old, AxisMetadata):
            return new
        return old.replace_boxed(replace_boxed(old.unbox(), new))

    return jax.tree.map(put, tree, updates, is_leaf=is_axis_metadata)


def keep_boxes(boxed: object, value: object) -> object:
    """Put `value` into the boxes of `boxed` if their structures match without boxes.

    A value that has boxes of its own, or another structure, is returned unchanged.
    """
    before = jax.tree_util.tree_structure(boxed, is_axis_metadata)
    after = jax.tree_util.tree_structure(value, is_axis_metadata)
    return replace_boxed(boxed, value) if before == after else value


# The types found to be plain so far: a look-up here avoids `isinstance`.
PLAIN_TYPES: set[type] = set()


def is_plain_array(value: object) -> bool:
    """Return whether a value is an array or scalar, which contains no box."""
    plain = isinstance(value, (jax.Array, np.ndarray, np.generic, float, int))
    if plain:
        PLAIN_TYPES.add(type(value))
    return plain


def unbox_fast(value: object) -> Any:
    """Do what `unbox` does, at the cost of one set look-up for an array."""
    plain = type(value) in PLAIN_TYPES or is_plain_array(value)
    return value if plain else unbox(value)


class Partitioned(struct.PyTreeNode, AxisMetadata[A]):
    """A box with the name of the mesh axis over which each array axis is split.

    Args:
        value: the array.
        names: one mesh axis name for each axis of `value`, or `None` for an axis that
            is not split.
        mesh: the mesh on which the value is sharded when it is read. If `None`, the
            mesh set with `jax.set_mesh`, if any.
    """

    value: Any
    names: LogicalNames = struct.field(pytree_node=False)
    mesh: Mesh | None = struct.field(default=None, pytree_node=False)

    def unbox(self, apply_constraint: bool = True) -> A:
        """Return the value, constrained to its sharding if there is a mesh.

        Args:
            apply_constraint: whether to tell the compiler the sharding.
        """
        if apply_constraint and (self.mesh or global_mesh_defined()):
            return self._constrained()
        return self.value

    def _constrained(self) -> A:
        return constrain(self.value, self.get_partition_spec(), self.mesh)

    def replace_boxed(self, val: B) -> Partitioned[B]:
        """Return a box with the same names around another value."""
        return self.replace(value=val)  # pyrefly: ignore

    def add_axis(self, index: int, params: Params) -> Self:
        """Return a box with the name in `params` inserted at `index`.

        Raises:
            PartitioningUnspecifiedError: if `params` has no `PARTITION_NAME`.
        """
        name, names = self._partition_name(params), list(self.names)
        if index < 0:
            # A negative index counts in the array that has the axis: -1 is the last.
            index += len(names) + 1
        names += [None] * (index - len(names))
        names.insert(index, name)
        return self.replace(names=tuple(names))

    def remove_axis(self, index: int, params: Params) -> Self:
        """Return a box without the name at `index`, which `params` must name.

        Raises:
            PartitioningUnspecifiedError: if `params` has no `PARTITION_NAME`.
            OptionError: if the axis has another name.
        """
        name, names = self._partition_name(params), list(self.names)
        if names.pop(index) != name:
            raise errors.OptionError(
                f"Axis {index} of the variable with {self.names} is not {name!r}.",
                "A transform takes away the axis that it added, by the same name.",
                "Give both the same axis and the same `metadata_params`.",
            )
        return self.replace(names=tuple(names))

    def _partition_name(self, params: Params) -> str | None:
        if PARTITION_NAME not in params:
            raise errors.PartitioningUnspecifiedError(self)
        return params[PARTITION_NAME]

    def get_partition_spec(self) -> PartitionSpec:
        """Return the names as a partition specification."""
        return PartitionSpec(*self.names)

    def get_sharding(self, mesh: Mesh) -> jax.sharding.Sharding:
        """Return the sharding over a mesh that the names specify."""
        return NamedSharding(mesh, self.get_partition_spec())


def with_partitioning(
    fn: Callable[..., object], names: LogicalNames, mesh: Mesh | None = None
) -> Callable[..., Partitioned[Any]]:
    """Wrap an initializer so that its result is partitioned.

    Args:
        fn: an initializer.
        names: one mesh axis name, or `None`, for each axis of the result.
        mesh: see `Partitioned`.

    Returns:
        An initializer that returns `Partitioned` boxes.
    """
    return box_results(fn, functools.partial(Partitioned, names=names, mesh=mesh))


def box_results(fn: Callable[..., B], box: Callable[[B], A]) -> Callable[..., A]:
    """Return a function that puts the result of `fn` into a box."""

    @functools.wraps(fn)
    def wrapper(*args: object, **kwargs: object) -> A:
        return box(fn(*args, **kwargs))

    return wrapper


def get_partition_spec(tree: object) -> Any:
    """Return the partition specification of each value of a tree.

    Args:
        tree: a pytree with boxes; its arrays may be abstract.

    Returns:
        A tree with a specification for each box that has one, an empty one (no axis is
        split) for each other array, and `None` for a leaf that is not an array.
    """
    return jax.tree.map(_leaf_spec, tree, is_leaf=is_axis_metadata)


def get_sharding(tree: object, mesh: Mesh) -> Any:
    """Return the sharding over a mesh of each value of a tree.

    Args:
        tree: a pytree with boxes; its arrays may be abstract.
        mesh: the mesh whose axes the boxes name.

    Returns:
        A tree like that of `get_partition_spec`, with shardings.
    """
    shard = functools.partial(NamedSharding, mesh)
    return jax.tree.map(shard, get_partition_spec(tree))


def _leaf_spec(leaf: object) -> PartitionSpec | None:
    spec = getattr(leaf, "get_partition_spec", None)
    if spec is not None:
        return spec()
    return PartitionSpec() if hasattr(leaf, "shape") else None


def get_global_mesh() -> AbstractMesh | Mesh | None:
    """Return the mesh that `jax.set_mesh` has set, or `None`."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty else mesh


def global_mesh_defined() -> bool:
    """Return whether a mesh is set; see `get_global_mesh`."""
    return get_global_mesh() is not None


def constrain(value: T, spec: PartitionSpec, mesh: Mesh | None) -> T:
    """Constrain a value to a sharding over the given mesh, or the one that is set."""
    if mesh is None and not global_mesh_defined():
        return value
    sharding = spec if mesh is None else NamedSharding(mesh, spec)
    return jax.lax.with_sharding_constraint(value, sharding)
