"""Private names of `flax.linen.spmd` and `flax.linen.partitioning`."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

from jax import Array
from jax.sharding import Mesh, PartitionSpec

from linsey.core.meta import constrain
from linsey.core.spmd import get_logical_axis_rules, set_logical_axis_rules
from linsey.errors.base import MismatchError
from linsey.linen import spmd
from linsey.linen.partitioning import AxisMetadata
from linsey.typing import LogicalRules


class UnassignedAxis(enum.Enum):
    """Stands for the mesh axis of an array axis for which no rule was found."""

    UNASSIGNED = enum.auto()

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "UnassignedAxis"


unassigned_axis = UnassignedAxis.UNASSIGNED


class AxisRules:
    """The current rules, as an attribute."""

    @property
    def rules(self) -> LogicalRules:
        """The rules of this thread or task."""
        return get_logical_axis_rules()

    @rules.setter
    def rules(self, rules: LogicalRules) -> None:
        set_logical_axis_rules(rules)


axis_rules = AxisRules()


def with_sharding_constraint(
    x: Array, axis_resources: PartitionSpec | None, mesh: Mesh | None = None
) -> Array:
    """Constrain a value to mesh axes, if a mesh is given or set."""
    return x if axis_resources is None else constrain(x, axis_resources, mesh)


def is_logical_spec(x: object) -> bool:
    """Return whether a value names the axes of one array."""
    return x is None or (isinstance(x, tuple) and all(map(is_axis_spec, x)))


def is_axis_spec(x: object) -> bool:
    """Return whether a value names one axis."""
    return x is None or isinstance(x, str)


def logical_to_mesh_axes(
    array_dim_names: Sequence[str | None] | None, rules: LogicalRules | None = None
) -> list[Any] | None:
    """Find a mesh axis for each axis of an array, or mark it as unassigned."""
    if array_dim_names is None:
        return None
    found = spmd._assign(array_dim_names, rules)
    mark = spmd._Mark.UNASSIGNED
    return [unassigned_axis if axis is mark else axis for axis in found]


def mesh_assignment_free(new_assignment: Any, existing_assignments: Any) -> bool:
    """Return whether none of the new mesh axes is in use."""
    used = {name for axis in existing_assignments for name in _names(axis)}
    return used.isdisjoint(_names(new_assignment))


def _names(axis: Any) -> tuple[str, ...]:
    if axis is None or isinstance(axis, UnassignedAxis):
        return ()
    return (axis,) if isinstance(axis, str) else tuple(axis)


def param_with_axes_sow_reduce_fn(x: object, y: AxisMetadata) -> AxisMetadata:
    """Return the sown axis names, after comparing them with those sown before."""
    if not isinstance(y, AxisMetadata):
        raise TypeError("Expected newly sown value to be an AxisMetadata")
    if isinstance(x, AxisMetadata) and x != y:
        raise MismatchError(
            f"If axis names are sown twice, expected them to match. Got {x} and {y}.",
            "The names of the axes of one parameter are known once.",
            "Give the same `axes` at each use.",
        )
    if x and not isinstance(x, AxisMetadata):
        raise AssertionError(f"Non-initial-or-AxisMetadata value encountered: {x}")
    return y
