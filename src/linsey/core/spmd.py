"""Rules that map logical names of array axes to axes of a device mesh.

A *rule* is a pair (logical name, mesh axis); the mesh axis may be a tuple of several,
or `None` for an axis that is not split. The current rules are kept in a context
variable, so threads and tasks have their own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from linsey._contexts import assigned
from linsey.core import meta
from linsey.errors.base import MismatchError, OptionError
from linsey.typing import LogicalRules as LogicalRules
from linsey.typing import Sharding as Sharding

T = TypeVar("T")
Spec = Sharding | PartitionSpec | NamedSharding

_RULES: ContextVar[LogicalRules] = ContextVar("linsey_axis_rules", default=())


def set_logical_axis_rules(rules: LogicalRules) -> None:
    """Set the current rules of this thread or task.

    Example:
        >>> set_logical_axis_rules((("batch", "data"),))
        >>> get_logical_axis_rules()
        (('batch', 'data'),)
        >>> set_logical_axis_rules(())
    """
    _RULES.set(rules)


def get_logical_axis_rules() -> LogicalRules:
    """Return the current rules."""
    return _RULES.get()


@contextlib.contextmanager
def logical_axis_rules(rules: LogicalRules) -> Iterator[None]:
    """Use these rules in a `with` block.

    Example:
        >>> with logical_axis_rules((("batch", "data"),)):
        ...     get_logical_axis_rules()
        (('batch', 'data'),)
        >>> get_logical_axis_rules()
        ()
    """
    with assigned(_RULES, rules):
        yield


def composite_rules(
    rule1: LogicalRules | None, rule2: LogicalRules | None
) -> LogicalRules:
    """Combine two sets of rules.

    Raises:
        MismatchError: they map a name to different mesh axes.

    Example:
        >>> composite_rules((("batch", "data"),), (("embed", None),))
        (('batch', 'data'), ('embed', None))
    """
    if not rule1 or not rule2:
        return tuple(rule1 or rule2 or ())
    rules = dict(rule1)
    for name, axis in rule2:
        if name in rules and rules[name] != axis:
            raise MismatchError(
                f"Inconsistent logical axis annotations for {name}: {rules[name]} vs "
                f"{axis}",
                "Put together, each name has one mesh axis.",
                f"Remove '{name}' from one of the two sets of rules.",
            )
        rules[name] = axis
    return tuple(rules.items())


def from_sharding_rules(sharding: Sharding, sharding_rules: LogicalRules) -> Sharding:
    """Replace logical names by mesh axes; names without a rule are kept.

    Example:
        >>> from_sharding_rules(("batch", "model", None), (("batch", "data"),))
        ('data', 'model', None)
    """
    rules = dict(sharding_rules)
    return tuple(rules.get(name, name) for name in sharding)  # type: ignore[arg-type]


def apply_rules(sharding: Spec, sharding_rules: LogicalRules | None) -> Any:
    """Apply the given and the current rules to names, a specification or a sharding.

    Example:
        >>> apply_rules(("batch", None), (("batch", "data"),))
        P('data', None)
    """
    rules = dict(composite_rules(get_logical_axis_rules(), sharding_rules))
    return map_sharding(lambda name: rules.get(name, name), sharding)


def get_pspec(
    sharding: Spec | str | None, sharding_rules: LogicalRules | None = None
) -> Any:
    """Return the specification for names (see `apply_rules`), or `None` for `None`.

    Example:
        >>> get_pspec(("batch", None), (("batch", "data"),))
        P('data', None)
    """
    if sharding is None or isinstance(sharding, str):
        return None
    return apply_rules(sharding, sharding_rules)


def get_mesh(sharding: object) -> Any:
    """Return the mesh of a sharding, or `None` for names."""
    return getattr(sharding, "mesh", None)


def map_sharding(f: Callable[[Any], object], sharding: object) -> Any:
    """Apply a function to each name of names, a specification or a sharding.

    Example:
        >>> map_sharding(str.upper, ("data", "model"))
        P('DATA', 'MODEL')
    """
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec(*map(f, sharding.spec)))
    if isinstance(sharding, tuple | PartitionSpec):
        return PartitionSpec(*map(f, sharding))
    return None


def shard_value(
    value: T,
    out_sharding: Spec | None,
    sharding_rules: LogicalRules | None,
    mesh: Mesh | AbstractMesh | None,
) -> T:
    """Shard a value according to a sharding.

    Args:
        value: an array.
        out_sharding: names of its axes, a specification or a sharding. If `None`, the
            value is returned as it is.
        sharding_rules: rules for the names.
        mesh: the mesh. If `None`, that of the sharding, or else the one that is set.

    Returns:
        The array, constrained to the sharding.

    Raises:
        OptionError: there are names but no mesh.
    """
    if out_sharding is None:
        return value
    sharding = get_pspec(out_sharding, sharding_rules)
    if not isinstance(sharding, NamedSharding):
        mesh = mesh or meta.get_global_mesh()
        if mesh is None:
            raise OptionError(
                "An auto mesh context or metadata is required if creating a variable "
                f"with annotation out_sharding={sharding}.",
                "Names of mesh axes mean nothing without the mesh.",
                "Run the code under `with jax.set_mesh(mesh):`, or pass the mesh.",
            )
        sharding = NamedSharding(mesh, sharding)
    return jax.lax.with_sharding_constraint(value, sharding)
