"""Adoption: a module found in a field or assigned in `setup` becomes a child.

The module object itself is only a description; what runs is a *bound copy* of it, made
once per context (`Context.memo`): the same object met twice is the same copy, and that
is the rule by which modules share parameters. A child is named after the attribute that
holds it first; inside lists, tuples, dicts and struct dataclasses the position or key
is joined with `_`: `layers_0`, `blocks_encoder_1`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any

from linsey import errors
from linsey.config import config
from linsey.core.frozen_dict import FrozenDict
from linsey.linen.module.frame import Frame
from linsey.linen.module.phase import FRESH, READY, UNBOUND

# Types of values that hold no module: looked up first, since almost all fields are of
# these. Grows with the types met.
_LEAF_TYPES: set[type] = {
    int, float, bool, str, bytes, complex, type(None), type, FunctionType,
    BuiltinFunctionType,
}  # fmt: skip


def adopt_fields(module: Any) -> None:
    """Makes the modules in the fields of a newly bound module its children."""
    values = module.__dict__
    for name in type(module)._init_fields:
        value = values.get(name)
        if type(value) not in _LEAF_TYPES:
            values[name] = adopt(module, name, value)


def adopt(owner: Any, name: str, value: Any) -> Any:
    """`value` with its modules bound as children of `owner`; containers are frozen."""
    return map_modules(lambda child, path: _adopt_one(owner, path, child), value, name)


def map_modules(fn: Callable[[Any, str], Any], value: Any, path: str) -> Any:
    """Replaces the modules in nested containers; lists and dicts come back immutable.

    Args:
        fn: called as `fn(module, path)`.
        value: a module, a container of values, or anything else (returned as it is).
        path: name of the value; positions and keys are joined to it with `_`.
    """
    kind = type(value)
    if kind in _LEAF_TYPES:
        return value
    if hasattr(kind, "_init_fields"):
        return fn(value, path)

    def inside(key: Any, item: Any) -> Any:
        return map_modules(fn, item, f"{path}_{key}")

    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return kind(*map(inside, value._fields, value))
    if isinstance(value, (list, tuple)):
        return tuple(map(inside, itertools.count(), value))
    if isinstance(value, Mapping):
        return FrozenDict({key: inside(key, item) for key, item in value.items()})
    if dataclasses.is_dataclass(value) and hasattr(kind, "_flax_dataclass"):
        fields = dataclasses.fields(value)
        names = [f.name for f in fields if f.metadata.get("pytree_node", True)]
        return value.replace(**{n: inside(n, getattr(value, n)) for n in names})
    _LEAF_TYPES.add(kind)
    return value


def modules_in(value: Any) -> list[Any]:
    """All modules in nested containers."""
    found: list[Any] = []
    map_modules(lambda module, path: found.append(module), value, "")
    return found


def _adopt_one(owner: Any, name: str, module: Any) -> Any:
    if module.scope is not None:
        return module  # lives elsewhere: shared, not adopted
    child, keeps_name = module, False
    if module.__dict__["parent"] is None:  # else made in a `setup`, and held by nothing
        memo = owner.scope.context.memo
        if id(module) in memo:
            return memo[id(module)][1]
        child = copy_unbound(module)
        memo[id(module)] = (module, child)
        keeps_name = child.name is not None and _preserves_names(owner)
    if not keeps_name:
        child.__dict__["name"] = name
    attach(child, owner)
    return child


def _preserves_names(owner: Any) -> bool:
    """Whether modules adopted by `owner` keep names they were given: flag or class."""
    flag = config.flax_preserve_adopted_names
    return getattr(type(owner), "preserve_adopted_names", flag)


def attach(child: Any, owner: Any) -> None:
    """Takes the name of `child` in `owner` and binds it there."""
    owner._frame.claim(child.name, child, owner)
    child.__dict__["parent"] = owner
    bind_module(child, owner.scope._descend(child.name))


def bind_module(module: Any, scope: Any) -> None:
    """Gives a module its scope, in place."""
    if not scope.context.is_valid:
        raise errors.InvalidScopeError(scope.name)
    enter(module, scope)
    adopt_fields(module)


def enter(module: Any, scope: Any) -> None:
    """Sets what a module in its first bound phase has, except for its fields."""
    values = module.__dict__
    values["scope"] = scope
    values["_phase"] = FRESH if type(module)._has_setup else READY
    values["_setup_frame"] = values["_frame"] = Frame(is_open=False)
    if scope.context.bound is not None:
        scope.context.bound.append(module)


def copy_unbound(module: Any) -> Any:
    """A shallow copy of a module, bound nowhere and without what `setup` assigned.

    The constructor is not run again.
    """
    if "_phase" not in module.__dict__:
        raise errors.IncorrectPostInitOverrideError(module=module)
    copy = object.__new__(type(module))
    values = copy.__dict__
    values.update(module.__dict__)
    for name in (*values.pop("_assigned", ()), "scope", "_frame", "_setup_frame"):
        values.pop(name, None)
    values["parent"] = None
    values["_phase"] = UNBOUND
    return copy


def copy_deep(module: Any, reset_names: bool = False) -> Any:
    """Like `copy_unbound`, and the bound modules in its fields become unbound too.

    Modules that were shared still are.

    Args:
        module: the module.
        reset_names: forget the names of all these modules.
    """
    memo: dict[int, Any] = {}

    def unbound(module: Any, path: str) -> Any:
        if module.scope is None and path:
            return module
        if id(module) not in memo:
            copy = memo[id(module)] = copy_unbound(module)
            values = copy.__dict__
            if reset_names:
                values["name"] = None
            for name in type(module)._init_fields:
                value = values.get(name)
                if modules_in(value):
                    values[name] = map_modules(unbound, value, name)
        return memo[id(module)]

    return unbound(module, "")
