"""Logical names of array axes: parameters and values that are split over a mesh.

A model names the axes of its arrays, as in `("batch", "embed")`; rules, given once, map
these names to axes of the device mesh. A rule earlier in the sequence has priority, and
each mesh axis is used once for an array.
"""

from __future__ import annotations

import enum
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from linsey import struct
from linsey.core import meta
from linsey.core.spmd import get_logical_axis_rules as get_logical_axis_rules
from linsey.core.spmd import logical_axis_rules as logical_axis_rules
from linsey.core.spmd import set_logical_axis_rules as set_logical_axis_rules
from linsey.errors import sharding as errors
from linsey.typing import Array as Array
from linsey.typing import ArrayPytree as ArrayPytree
from linsey.typing import LogicalNames as LogicalNames
from linsey.typing import LogicalPartitionSpec as LogicalPartitionSpec
from linsey.typing import LogicalPartitionSpecPytree as LogicalPartitionSpecPytree
from linsey.typing import LogicalRules as LogicalRules


class RulesFallback(enum.Enum):
    """What to do with a logical name that has no rule."""

    AXIS_IS_UNSHARDED = "axis_is_unsharded"
    RAISE_ERROR = "raise_error"
    NO_CONSTRAINT = "no_constraint"


# Marks an axis that no rule has been found for.
_UNASSIGNED = object()


def logical_to_mesh_axes(
    array_dim_names: Sequence[str | None] | None, rules: LogicalRules | None = None
) -> PartitionSpec | None:
    """Maps the logical names of an array's axes to mesh axes.

    Args:
        array_dim_names: a logical name, or none, for each axis; or none.
        rules: the rules; none means those that hold.

    Returns:
        A specification with a mesh axis or none for each axis; none for none.

    Raises:
        DuplicateAxisNamesError: a name is used for two axes.
        AxisRulesError: the rules are no sequence of pairs.

    Example:
        >>> rules = (("batch", "data"), ("heads", "model"), ("mlp", "model"))
        >>> logical_to_mesh_axes(("batch", "length", "mlp"), rules)
        P('data', None, 'model')
        >>> logical_to_mesh_axes(("mlp", "heads"), rules)
        P(None, 'model')
    """
    axes = _assign(array_dim_names, rules)
    return None if axes is None else _specification(axes)


def _assign(
    names: Sequence[Any] | None, rules: LogicalRules | None
) -> list[Any] | None:
    """Finds a mesh axis for each axis, or marks it as unassigned."""
    if names is None:
        return None
    if rules is None:
        rules = get_logical_axis_rules()
    counts = Counter(name for name in names if name is not None)
    duplicates = [name for name, count in counts.items() if count > 1]
    if duplicates:
        raise errors.DuplicateAxisNamesError(names, duplicates)
    if not isinstance(rules, tuple | list):
        raise errors.AxisRulesError(rules)
    # What is no single name, such as a tuple of mesh axes, is kept.
    axes: list[Any] = [_UNASSIGNED if isinstance(n, str) else n for n in names]
    used = {name for axis in axes for name in _names(axis)}
    for name, mesh_axes in rules:
        position = list(names).index(name) if name in names else None
        if position is None or axes[position] is not _UNASSIGNED:
            continue
        if used.isdisjoint(_names(mesh_axes)):
            axes[position] = mesh_axes
            used.update(_names(mesh_axes))
    return axes


def _names(mesh_axes: Any) -> tuple[Any, ...]:
    if mesh_axes is None or mesh_axes is _UNASSIGNED:
        return ()
    return (mesh_axes,) if isinstance(mesh_axes, str) else tuple(mesh_axes)


def _specification(axes: list[Any]) -> PartitionSpec:
    return PartitionSpec(*(None if axis is _UNASSIGNED else axis for axis in axes))


def logical_to_mesh(tree: Any, rules: LogicalRules | None = None) -> Any:
    """Maps the logical names in a tree of specifications to mesh axes.

    Args:
        tree: a tree of `PartitionSpec` of logical names.
        rules: the rules; none means those that hold.

    Returns:
        A tree of specifications of mesh axes.

    Example:
        >>> logical_to_mesh({"x": PartitionSpec("batch")}, (("batch", "data"),))
        {'x': P('data',)}
    """
    to_mesh = functools.partial(logical_to_mesh_axes, rules=rules)
    return jax.tree.map(to_mesh, tree)


def logical_to_mesh_sharding(
    tree: Any, mesh: Mesh, rules: LogicalRules | None = None
) -> Any:
    """Maps the logical names in a tree of specifications to shardings over a mesh.

    Args:
        tree: a tree of `PartitionSpec` of logical names.
        mesh: the mesh.
        rules: the rules; none means those that hold.

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


def _is_logical(x: Any) -> bool:
    """Whether a value names the axes of one array, rather than being a tree of such."""
    if x is None or isinstance(x, PartitionSpec):
        return True
    return isinstance(x, tuple) and all(e is None or isinstance(e, str) for e in x)


def with_logical_constraint(
    x: ArrayPytree,
    logical_axis_resources: LogicalPartitionSpecPytree,
    rules: LogicalRules | None = None,
    mesh: Mesh | None = None,
    fallback: RulesFallback = RulesFallback.AXIS_IS_UNSHARDED,
) -> Any:
    """Tells the compiler how values are split, by the logical names of their axes.

    Without rules, or without a mesh, values are returned as they are.

    Args:
        x: an array, or a tree of arrays.
        logical_axis_resources: logical names of its axes; or a tree of such, whose
            structure is a prefix of that of `x`.
        rules: the rules; none means those that hold.
        mesh: the mesh; none means the one that `jax.set_mesh` has set, if any.
        fallback: what to do with names without a rule.

    Returns:
        The values.

    Raises:
        NoAxisRuleError: a name has no rule, and the fallback is to raise an error.

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

    def constrain(names: Any, x: Any) -> Any:
        axes = _assign(names, rules)
        if axes is None:
            return x
        if _UNASSIGNED in axes:
            if fallback is RulesFallback.RAISE_ERROR:
                raise errors.NoAxisRuleError(names)
            if fallback is RulesFallback.NO_CONSTRAINT:
                return x
        return meta.constrain(x, _specification(axes), mesh)

    return jax.tree.map(constrain, logical_axis_resources, x, is_leaf=_is_logical)


class LogicallyPartitioned(meta.Partitioned[Any]):
    """A box with the logical name of each array axis.

    Args:
        value: the array.
        names: one logical name, or None, for each axis of `value`.
        mesh: the mesh; None for the one that is set.
        rules: the rules; None for those that hold.

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
    """Wraps an initializer so that the axes of what it returns have logical names.

    Args:
        fn: an initializer.
        names: one logical name, or None, for each axis of what it returns.
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
