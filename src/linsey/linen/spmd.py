"""Logical names of array axes, which determine how arrays are sharded over a mesh.

A model names the axes of its arrays, as in `("batch", "embed")`; rules, given once, map
these names to axes of the device mesh. Earlier rules have priority, and each mesh axis
is used at most once for an array.
"""

# ruff: noqa: F403, F405 (programs also look here for the types of `linsey.typing`)

from __future__ import annotations

import enum
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from linsey import struct
from linsey.core import meta
from linsey.core.spmd import get_logical_axis_rules as get_logical_axis_rules
from linsey.core.spmd import logical_axis_rules as logical_axis_rules
from linsey.core.spmd import set_logical_axis_rules as set_logical_axis_rules
from linsey.errors.base import OptionError
from linsey.typing import *


class RulesFallback(enum.Enum):
    """The treatment of a logical name that has no rule."""

    AXIS_IS_UNSHARDED = "axis_is_unsharded"
    RAISE_ERROR = "raise_error"
    NO_CONSTRAINT = "no_constraint"


class _Mark(enum.Enum):
    """Stands for the mesh axis of an array axis for which no rule has been found."""

    UNASSIGNED = enum.auto()


T = TypeVar("T")
UNCONSTRAINED = PartitionSpec.UNCONSTRAINED
MeshAxes = Sequence[AxisName | _Mark]


def logical_to_mesh_axes(
    array_dim_names: Sequence[str | None] | None, rules: LogicalRules | None = None
) -> PartitionSpec | None:
    """Map the logical names of an array's axes to mesh axes.

    Args:
        array_dim_names: for each axis, a logical name, `None`, or
            `PartitionSpec.UNCONSTRAINED`, which leaves the axis to the compiler. If
            this argument is `None`, so is the result.
        rules: the rules. Defaults to the current ones.

    Returns:
        A `PartitionSpec` with a mesh axis, or `None`, for each axis.

    Raises:
        OptionError: a name is used for two axes, or the rules are not a sequence of
            pairs.

    Example:
        >>> rules = (("batch", "data"), ("heads", "model"), ("mlp", "model"))
        >>> logical_to_mesh_axes(("batch", "length", "mlp"), rules)
        P('data', None, 'model')
        >>> logical_to_mesh_axes(("mlp", "heads"), rules)
        P(None, 'model')
    """
    if array_dim_names is None:
        return None
    return _specification(_assign(array_dim_names, rules))


def _assign(names: Sequence[AxisName], rules: LogicalRules | None) -> MeshAxes:
    """Find a mesh axis for each axis, or mark it as unassigned."""
    if rules is None:
        rules = get_logical_axis_rules()
    counts = Counter(name for name in names if name not in (None, UNCONSTRAINED))
    duplicates = [name for name, count in counts.items() if count > 1]
    if duplicates:
        raise OptionError(
            f"Unsupported: Dimensions {tuple(duplicates)} occur more than once in "
            f"array names: found {tuple(names)}.",
            "An axis of the mesh can split one axis of an array only.",
            "Give the axes different names, for example ('embed', 'embed_out').",
        )
    if not isinstance(rules, tuple | list):
        raise OptionError(
            f"Unknown axis rule specification type. Found {rules!r}.",
            "Rules are tried in order, so they are a sequence of pairs (logical name, "
            "mesh axis).",
            "Write for example `(('batch', 'data'), ('embed', None))`.",
        )
    # Entries that are not single names, such as tuples of mesh axes, are kept.
    axes: list[AxisName | _Mark] = [
        _Mark.UNASSIGNED if isinstance(name, str) else name for name in names
    ]
    used = {name for axis in axes for name in _names(axis)}
    for name, mesh_axes in rules:
        index = list(names).index(name) if name in names else None
        if index is None or axes[index] is not _Mark.UNASSIGNED:
            continue
        if used.isdisjoint(_names(mesh_axes)):
            axes[index] = mesh_axes
            used.update(_names(mesh_axes))
    return axes


def _names(mesh_axes: AxisName | _Mark) -> tuple[str, ...]:
    if isinstance(mesh_axes, tuple | list):
        return tuple(mesh_axes)
    return (mesh_axes,) if isinstance(mesh_axes, str) else ()


def _specification(axes: MeshAxes) -> PartitionSpec:
    return PartitionSpec(*(None if isinstance(a, _Mark) else a for a in axes))


def logical_to_mesh(tree: T, rules: LogicalRules | None = None) -> T:
    """Map the logical names in a tree of specifications to mesh axes.

    Args:
        tree: a tree of `PartitionSpec` of logical names.
        rules: the rules. Defaults to the current ones.

    Returns:
        A tree of specifications of mesh axes.

    Example:
        >>> logical_to_mesh({"x": PartitionSpec("batch")}, (("batch", "data"),))
        {'x': P('data',)}
    """
    to_mesh = functools.partial(logical_to_mesh_axes, rules=rules)
    return jax.tree.map(to_mesh, tree)


def logical_to_mesh_sharding(
    tree: object, mesh: Mesh, rules: LogicalRules | None = None
) -> Any:
    """Map the logical names in a tree of specifications to shardings over a mesh.

    Args:
        tree: a tree of `PartitionSpec` of logical names.
        mesh: the mesh.
        rules: the rules. Defaults to the current ones.

    Returns:
        A tree of `NamedSharding`.

    Example:
        >>> mesh = jax.make_mesh((1,), ("data",))
        >>> tree = {"x": PartitionSpec("batch")}
        >>> logical_to_mesh_sharding(tree, mesh, (("batch", "data"),))["x"].spec
        P('data',)
    """
    shard = functools.partial(NamedSharding, mesh)
    return jax.tree.map(shard, logical_to_mesh(tree, rules))


def _is_logical(x: object) -> bool:
    """Return whether a value names the axes of one array, rather than of a tree."""
    if x is None or isinstance(x, PartitionSpec):
        return True
    return isinstance(x, tuple) and all(
        isinstance(name, str) or name in (None, UNCONSTRAINED) for name in x
    )


def with_logical_constraint(
    x: T,
    logical_axis_resources: object,
    rules: LogicalRules | None = None,
    mesh: Mesh | None = None,
    fallback: RulesFallback = RulesFallback.AXIS_IS_UNSHARDED,
) -> T:
    """Tell the compiler how values are sharded, by the logical names of their axes.

    Without rules, or without a mesh, values are returned unchanged.

    Args:
        x: an array, or a tree of arrays.
        logical_axis_resources: logical names of the array's axes, or a tree of such
            names, whose structure is a prefix of that of `x`.
        rules: the rules. Defaults to the current ones.
        mesh: the mesh. Defaults to the one set by `jax.set_mesh`, if any.
        fallback: what to do with names without a rule.

    Returns:
        The values.

    Raises:
        OptionError: a name has no rule, and the fallback is to raise an error.

    Example:
        >>> import jax.numpy as jnp
        >>> rules = (("batch", "data"),)
        >>> mesh = Mesh(jax.devices()[:1], ("data",))
        >>> x = with_logical_constraint(jnp.ones((2, 3)), ("batch", None), rules, mesh)
        >>> x.sharding.spec
        P('data', None)
    """
    if rules is None:
        rules = get_logical_axis_rules()
    if not rules or logical_axis_resources is None:
        return x

    def constrain(names: Sequence[AxisName] | None, x: Array) -> Array:
        if names is None:
            return x
        axes = _assign(names, rules)
        if _Mark.UNASSIGNED in axes:
            if fallback is RulesFallback.RAISE_ERROR:
                raise OptionError(
                    f"Axis names {tuple(names)} did not match a rule",
                    "With `RulesFallback.RAISE_ERROR` each name needs one; a mesh axis "
                    "splits one axis of an array only, so a rule may be used up.",
                    "Add a rule `(name, mesh_axis)`, or `(name, None)` for an axis "
                    "that stays whole.",
                )
            if fallback is RulesFallback.NO_CONSTRAINT:
                return x
        return meta.constrain(x, _specification(axes), mesh)

    return jax.tree.map(constrain, logical_axis_resources, x, is_leaf=_is_logical)


class LogicallyPartitioned(meta.Partitioned[Any]):
    """A box with the logical name of each array axis.

    Args:
        value: the array.
        names: a logical name, or `None`, for each axis of `value`.
        mesh: the mesh. Defaults to the current one.
        rules: the rules. Defaults to the current ones.

    Example:
        >>> import jax.numpy as jnp
        >>> box = LogicallyPartitioned(jnp.ones((2, 3)), ("embed", "mlp"))
        >>> box.get_partition_spec(), box.unbox().shape
        (P('embed', 'mlp'), (2, 3))
    """

    rules: LogicalRules | None = struct.field(default=None, pytree_node=False)

    def _constrained(self) -> Any:
        return with_logical_constraint(
            self.value, self.get_partition_spec(), rules=self.rules, mesh=self.mesh
        )


def with_logical_partitioning(
    fn: Callable[..., Any],
    names: LogicalNames,
    mesh: Mesh | None = None,
    rules: LogicalRules | None = None,
) -> Callable[..., LogicallyPartitioned]:
    """Wrap an initializer so that the axes of its result have logical names.

    Args:
        fn: an initializer.
        names: a logical name, or `None`, for each axis of its result.
        mesh: see `LogicallyPartitioned`.
        rules: see `LogicallyPartitioned`.

    Returns:
        An initializer that returns `LogicallyPartitioned` boxes.

    Example:
        >>> init = with_logical_partitioning(jax.nn.initializers.ones, ("in", "out"))
        >>> init(jax.random.key(0), (2, 3)).names
        ('in', 'out')
    """
    box = functools.partial(LogicallyPartitioned, names=names, mesh=mesh, rules=rules)
    return meta.box_results(fn, box)
