"""Modules as values without variables, and back.

A lifted function runs on other scopes than its caller's, so the modules it uses must be
bound anew inside. `Table.detach` turns bound modules into descriptions that hold no
scope and no array, comparable by structure (a compiled function can be reused for an
equal one); `restore` makes bound modules from them over the scopes inside.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax

from linsey import errors
from linsey.core.scope import Scope, Variable
from linsey.linen.module.adoption import enter, map_modules
from linsey.linen.module.base import Module
from linsey.linen.module.phase import READY, SETTING_UP

# What a bound module has besides its name, its fields and what was set on it.
_STATE = {"scope", "parent", "_phase", "_frame", "_setup_frame", "_assigned"}


@dataclasses.dataclass(frozen=True)
class Detached:
    """A bound module without its scope; one met before is only its number.

    Attributes:
        index: its number in the table.
        cls: its class.
        parent: the number of its parent, None if that is not in the table.
        attributes: name, fields and what was set on the unbound module, with the
            modules in them detached.
        is_ready: whether `setup` need not run.
        counts: how many submodules of each class its open frame has named, None if
            the frame is closed. Names themselves are free again inside: there the
            module declares its variables anew.
    """

    _init_fields: ClassVar[tuple[str, ...]] = ()  # a module for `map_modules`

    index: int
    cls: type = object
    parent: int | None = None
    attributes: tuple[tuple[str, Any], ...] = ()
    is_ready: bool = False
    counts: tuple[tuple[str, int], ...] | None = None

    def __hash__(self) -> int:
        for name, attribute in self.attributes:
            try:
                hash(attribute)
            except TypeError as error:
                raise TypeError(
                    f"Field `{name}` of {self.cls.__name__} holds a"
                    f" {type(attribute).__name__}, which has no hash. Compiled programs"
                    " are found again by the fields of their modules. Pass arrays as"
                    " arguments of the call, and use tuples, strings and numbers for"
                    " fields."
                ) from error
        return hash((self.index, self.cls, self.attributes))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Untraced:
    """A leaf of the arguments that JAX need not see.

    Attributes:
        value: a detached module; or of a variable the number of its scope in the
            table, its collection, its name and whether to unbox it.
    """

    value: Any


class Table:
    """The bound modules met so far, and their scopes.

    Attributes:
        scopes: the scope of each detached module and variable, by its number.
    """

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        # By its id the number of a module, and the module, so that no id comes twice.
        self._met: dict[int, tuple[int, Any]] = {}

    def detach(self, module: Any) -> Any:
        """The description of a bound module; unbound ones are returned as they are."""
        if module.scope is None:
            return module
        if id(module) in self._met:
            return Detached(self._met[id(module)][0])
        index = len(self.scopes)
        self.scopes.append(module.scope)
        self._met[id(module)] = (index, module)
        parent, _ = self._met.get(id(module.parent), (None, None))
        values = module.__dict__
        is_ready = values["_phase"] == SETTING_UP  # it has what `setup` assigned so far
        hidden = _STATE if is_ready else _STATE.union(values.get("_assigned", ()))
        attributes = tuple(
            (name, map_modules(lambda m, _: self.detach(m), value, ""))
            for name, value in values.items()
            if name not in hidden
        )
        counts = open_counts(module)
        return Detached(index, type(module), parent, attributes, is_ready, counts)

    def detach_leaf(self, leaf: Any) -> Any:
        """Detaches a leaf of the arguments if it is a module or a variable."""
        if isinstance(leaf, Module):
            return Untraced(self.detach(leaf))
        if isinstance(leaf, Variable):
            self.scopes.append(leaf.scope)
            place = len(self.scopes) - 1
            return Untraced((place, leaf.collection, leaf.name, leaf.unbox))
        return leaf


class Restorer:
    """Makes bound modules from detached ones.

    Args:
        scopes: the scope for each number in the table.
    """

    def __init__(self, scopes: list[Scope]):
        self.scopes = scopes
        self._made: dict[int | None, Any] = {}

    def restore(self, detached: Any) -> Any:
        """The module bound to its new scope; the same again for the same one."""
        if not isinstance(detached, Detached):
            return detached
        if detached.index in self._made:
            return self._made[detached.index]
        scope = self.scopes[detached.index]
        module: Any = object.__new__(detached.cls)
        self._made[detached.index] = module
        values = module.__dict__
        values["parent"] = self._made.get(detached.parent, scope)
        enter(module, scope)
        if detached.is_ready:
            values["_phase"] = READY
        frame = module._frame

        def restore_attribute(detached: Any, path: str) -> Any:
            attribute = self.restore(detached)
            if attribute.__dict__.get("parent") is module:
                frame.names[attribute.name] = attribute
            return attribute

        for name, value in detached.attributes:
            values[name] = map_modules(restore_attribute, value, "")
        if detached.counts is not None:
            values["_frame"] = frame.child()
            values["_frame"].counts.update(detached.counts)
        return module

    def restore_leaf(self, leaf: Any) -> Any:
        """Undoes `Table.detach_leaf`."""
        if not isinstance(leaf, Untraced):
            return leaf
        if isinstance(leaf.value, tuple):
            place, *rest = leaf.value
            return Variable(self.scopes[place], *rest)
        return self.restore(leaf.value)


def open_counts(module: Any) -> tuple[tuple[str, int], ...] | None:
    """The counts of the open frame of a module, None if it is closed."""
    frame = module._frame
    return tuple(frame.counts.items()) if frame.is_open else None


def map_leaves(fn: Any, tree: Any) -> Any:
    """`tree_map` with modules and variables as leaves."""
    kinds = (Module, Variable, Untraced)
    return jax.tree_util.tree_map(fn, tree, is_leaf=lambda x: isinstance(x, kinds))


def check_returned(tree: Any, name: str) -> None:
    """Refuses modules and variables as results of a lifted function."""
    if any(isinstance(x, (Module, Variable)) for x in jax.tree_util.tree_leaves(tree)):
        raise errors.TransformedMethodReturnValueError(name)
