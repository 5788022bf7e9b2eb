"""Modules as values without variables, and back.

A lifted function runs on other scopes than its caller's, so the modules it uses must be
bound anew inside. `Detacher` turns bound modules into descriptions that hold no scope
and no array, comparable by structure (a compiled function can be reused for an equal
one); `Restorer` makes bound modules from them over the scopes inside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from linsey import errors
from linsey.core.lift.split import Untraced
from linsey.core.state import Scope, Variable
from linsey.linen.module.base import Module
from linsey.linen.module.binding import FRESH, READY, SETTING_UP, Bound, map_modules


@dataclasses.dataclass(frozen=True)
class Detached:
    """A bound module without its scope; one met before is only its number.

    Attributes:
        index: its number among what was detached.
        cls: its class.
        parent: the number of its parent; `None` if that was not detached.
        attributes: name, fields and what was set on the unbound module, with the
            modules in them detached.
        is_ready: whether `setup` need not run.
        counts: how many submodules of each class its open frame has named; `None` if
            the frame is closed. Names themselves are free again inside: there the
            module declares its variables anew.
    """

    index: int
    cls: type = object
    parent: int | None = None
    attributes: tuple[tuple[str, object], ...] = ()
    is_ready: bool = False
    counts: tuple[tuple[str, int], ...] | None = None

    def __hash__(self) -> int:
        for name, attribute in self.attributes:
            try:
                hash(attribute)
            except TypeError as error:
                raise errors.ArgumentTypeError(
                    f"Field `{name}` of {self.cls.__name__} holds a"
                    f" {type(attribute).__name__}, which has no hash.",
                    "Compiled programs are found again by the fields of their modules.",
                    "Pass arrays as arguments of the call, and use tuples, strings and"
                    " numbers for fields.",
                ) from error
        return hash((self.index, self.cls, self.attributes))


class Detacher:
    """Detaches bound modules and variables, and remembers which it met.

    Attributes:
        scopes: the scope of each detached module and variable, by its number.
    """

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        # By its id the number of a module, and the module, so that no id comes twice.
        self._met: dict[int, tuple[int, Module]] = {}

    def detach(self, module: Module) -> Module | Detached:
        """Return the description of a bound module; an unbound one as it is."""
        bound = module._bound
        if bound is None:
            return module
        if id(module) in self._met:
            return Detached(self._met[id(module)][0])
        index = self._number(bound.scope)
        self._met[id(module)] = (index, module)
        parent, _ = self._met.get(id(module.parent), (None, None))
        is_ready = bound.phase == SETTING_UP  # it has what `setup` assigned so far
        hidden = {"parent", "_bound", *(() if is_ready else bound.assigned)}
        attributes = tuple(
            (name, map_modules(lambda m, _: self.detach(m), value, ""))
            for name, value in module.__dict__.items()
            if name not in hidden
        )
        counts = open_counts(module)
        return Detached(index, type(module), parent, attributes, is_ready, counts)

    def detach_leaf(self, leaf: object) -> object:
        """Detach a leaf of the arguments if it is a module or a variable."""
        if isinstance(leaf, Module):
            return Untraced(self.detach(leaf))
        if isinstance(leaf, Variable):
            index = self._number(leaf.scope)
            return Untraced((index, leaf.collection, leaf.name, leaf.unbox))
        return leaf

    def _number(self, scope: Scope) -> int:
        self.scopes.append(scope)
        return len(self.scopes) - 1


class Restorer:
    """Makes bound modules from detached ones.

    Args:
        scopes: the scope for each number.
    """

    def __init__(self, scopes: Sequence[Scope]):
        self.scopes = scopes
        self._made: dict[int | None, Module] = {}

    def restore(self, detached: Any) -> Any:
        """Return the module bound to its new scope; the same again for the same one."""
        if not isinstance(detached, Detached):
            return detached
        if detached.index in self._made:
            return self._made[detached.index]
        scope = self.scopes[detached.index]
        module = self._made[detached.index] = object.__new__(detached.cls)
        needs_setup = detached.cls._has_setup and not detached.is_ready
        bound = Bound(scope, FRESH if needs_setup else READY)
        parent = self._made.get(detached.parent, scope)
        module.__dict__.update(parent=parent, _bound=bound)
        if scope.context.bound is not None:
            scope.context.bound.append(module)

        def restore_attribute(detached: Any, path: str) -> Module:
            attribute = self.restore(detached)
            if attribute.__dict__.get("parent") is module:
                bound.frame.names[attribute.name] = attribute
            return attribute

        kinds = (Detached, Module)
        for name, value in detached.attributes:
            module.__dict__[name] = map_modules(restore_attribute, value, "", kinds)
        if detached.counts is not None:
            bound.frame = bound.setup_frame.child()
            bound.frame.counts.update(detached.counts)
        return module

    def restore_leaf(self, leaf: object) -> object:
        """Undo `Detacher.detach_leaf`."""
        if not isinstance(leaf, Untraced):
            return leaf
        if isinstance(leaf.value, tuple):
            index, *variable = leaf.value
            return Variable(self.scopes[index], *variable)
        return self.restore(leaf.value)


def open_counts(module: Module) -> tuple[tuple[str, int], ...] | None:
    """Return the counts of the open frame of a module, `None` if it is closed."""
    bound = module._bound
    if bound is None or not bound.frame.is_open:
        return None
    return tuple(bound.frame.counts.items())


def map_leaves(fn: Callable[[Any], object], tree: object) -> Any:
    """Map a function over a tree with modules and variables as leaves."""
    kinds = (Module, Variable, Untraced)
    return jax.tree_util.tree_map(fn, tree, is_leaf=lambda x: isinstance(x, kinds))


def check_returned(tree: object, name: str) -> None:
    """Refuse modules and variables as results of a lifted function."""
    if any(isinstance(x, (Module, Variable)) for x in jax.tree_util.tree_leaves(tree)):
        raise errors.TransformedMethodReturnValueError(name)
