"""Modules as values without variables, and back.

A lifted function runs on other scopes than its caller's, so the modules it uses must be
bound anew inside. `Table.detach` turns bound modules into descriptions that hold no
scope and no array, comparable by structure (a compiled function can be reused for an
equal one); `restore` makes bound modules from them over the scopes inside.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from linsey import errors
from linsey.core.scope import Scope, Variable
from linsey.linen.module.adoption import map_modules
from linsey.linen.module.frame import Frame
from linsey.linen.module.phase import FRESH, READY, SETTING_UP

_STATE = {"scope", "parent", "name", "_phase", "_frame", "_setup_frame", "_assigned"}


class _StandIn:
    """Marks what stands for a module, so that `map_modules` finds it."""

    _init_fields: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Detached(_StandIn):
    """A bound module without its scope.

    Attributes:
        cls: its class.
        name: its name.
        index: its number in the table.
        parent: the number of its parent, None if that is not in the table.
        attributes: fields and what was set on the unbound module, with the modules in
            them detached.
        is_ready: whether `setup` need not run.
        counts: how many submodules of each class its open frame has named, None if
            the frame is closed. Names themselves are free again inside: there the
            module declares its variables anew.
    """

    cls: type
    name: str | None
    index: int
    parent: int | None
    attributes: tuple[tuple[str, Any], ...]
    is_ready: bool
    counts: tuple[tuple[str, int], ...] | None


@dataclasses.dataclass(frozen=True)
class Again(_StandIn):
    """A module that was met before."""

    index: int


@dataclasses.dataclass(frozen=True)
class DetachedVariable:
    """A `Variable` without its scope."""

    place: int
    collection: str
    name: str
    unbox: bool


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Untraced:
    """A leaf of the arguments that JAX need not see: a module or a variable."""

    value: Any


class Table:
    """The bound modules met so far, and their scopes.

    Attributes:
        scopes: the scope of each detached module and variable, by its number.
    """

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self._index: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no id is used twice

    def detach(self, module: Any, cls: type | None = None) -> Any:
        """The description of a bound module; unbound ones are returned as they are.

        Args:
            module: the module.
            cls: the class it will have when restored, if not its own.
        """
        if module.scope is None:
            return module
        if id(module) in self._index:
            return Again(self._index[id(module)])
        index = self._index[id(module)] = len(self.scopes)
        self.scopes.append(module.scope)
        self._kept.append(module)
        values = module.__dict__
        setting_up = values["_phase"] == SETTING_UP
        hidden = _STATE if setting_up else _STATE.union(values.get("_assigned", ()))
        attributes = tuple(
            (name, map_modules(lambda m, _: self.detach(m), value, ""))
            for name, value in values.items()
            if name not in hidden
        )
        return Detached(
            cls or type(module),
            values["name"],
            index,
            self._index.get(id(values["parent"])),
            attributes,
            setting_up,
            open_counts(module),
        )

    def detach_leaf(self, leaf: Any) -> Any:
        """Detaches a leaf of the arguments if it is a module or a variable."""
        if is_module(leaf):
            return Untraced(self.detach(leaf))
        if isinstance(leaf, Variable):
            place = len(self.scopes)
            self.scopes.append(leaf.scope)
            return Untraced(
                DetachedVariable(place, leaf.collection, leaf.name, leaf.unbox)
            )
        return leaf


class Restorer:
    """Makes bound modules from detached ones.

    Args:
        scopes: the scope for each number in the table.
    """

    def __init__(self, scopes: list[Scope]):
        self.scopes = scopes
        self._made: dict[int, Any] = {}

    def restore(self, detached: Any) -> Any:
        """The module bound to its new scope; the same again for the same one."""
        if isinstance(detached, Again):
            return self._made[detached.index]
        if not isinstance(detached, Detached):
            return detached
        scope = self.scopes[detached.index]
        module = self._made[detached.index] = object.__new__(detached.cls)
        values = module.__dict__
        parent = None if detached.parent is None else self._made.get(detached.parent)
        values["parent"] = scope if parent is None else parent
        values["name"] = detached.name
        values["scope"] = scope
        if scope.context.bound is not None:
            scope.context.bound.append(module)
        setup_frame = values["_setup_frame"] = Frame(is_open=False)
        for name, value in detached.attributes:
            values[name] = map_modules(self._child(module, setup_frame), value, "")
        ready = detached.is_ready or not detached.cls._has_setup  # type: ignore[attr-defined]
        values["_phase"] = READY if ready else FRESH
        frame = values["_frame"] = setup_frame
        if detached.counts is not None:
            frame = values["_frame"] = setup_frame.child()
            frame.counts.update(detached.counts)
        return module

    def _child(self, owner: Any, frame: Frame) -> Any:
        def restore(child: Any, path: str) -> Any:
            module = self.restore(child)
            if module.__dict__.get("parent") is owner:
                frame.names[module.name] = module
            return module

        return restore

    def restore_leaf(self, leaf: Any) -> Any:
        """Undoes `Table.detach_leaf`."""
        if not isinstance(leaf, Untraced):
            return leaf
        value = leaf.value
        if isinstance(value, DetachedVariable):
            scope = self.scopes[value.place]
            return Variable(scope, value.collection, value.name, value.unbox)
        return self.restore(value)


def open_counts(module: Any) -> tuple[tuple[str, int], ...] | None:
    """The counts of the open frame of a module, None if it is closed."""
    frame = module._frame
    return tuple(frame.counts.items()) if frame.is_open else None


def is_module(value: Any) -> bool:
    """Whether a value is a module."""
    return hasattr(type(value), "_init_fields") and not isinstance(value, _StandIn)


def map_leaves(fn: Any, tree: Any) -> Any:
    """`tree_map` with modules and variables as leaves."""
    return jax.tree_util.tree_map(
        fn, tree, is_leaf=lambda x: isinstance(x, (Untraced, Variable)) or is_module(x)
    )


def check_returned(tree: Any, name: str) -> None:
    """Refuses modules and variables as results of a lifted function."""
    for leaf in jax.tree_util.tree_leaves(tree):
        if is_module(leaf) or isinstance(leaf, Variable):
            raise errors.TransformedMethodReturnValueError(name)
