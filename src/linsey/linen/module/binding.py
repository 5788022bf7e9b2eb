"""Binding: how the description of a module becomes a module that holds variables.

A module object is only a description. The object that runs is a *bound copy* of it,
made once per context (`Context.memo`): using the same module object twice gives the
same copy, which is how modules share parameters. An unbound module has `_bound = None`;
a bound one has a `Bound` record: its scope, its phase, and the names taken in it.

Binding a module makes the modules in its fields its children, and so does assigning a
module in `setup`. A child is named after the first attribute that holds it; inside
lists, tuples, dicts and struct dataclasses, the index or key is appended with `_`:
`layers_0`, `blocks_encoder_1`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any, ClassVar, TypeGuard, TypeVar, dataclass_transform

import jax

from linsey import errors
from linsey.config import config
from linsey.core.frozen_dict import FrozenDict
from linsey.core.state import Scope, Variable
from linsey.errors._texts import not_text

# The phases of a bound module: `setup` has not run, is running, or has succeeded. If it
# fails, the module is fresh again; without `setup`, a module is ready from the start.
FRESH, SETTING_UP, READY = range(3)


class _Unspecified:
    """Stands for a parent that is not given: the module that is running, if any."""

    def __reduce__(self) -> str:  # so that copies are the same object
        return "UNSPECIFIED"

    def __repr__(self) -> str:
        return "<the running module>"


UNSPECIFIED = _Unspecified()

# Types of values that hold no modules. They are checked first, since almost all fields
# have one of these types. The set grows as new types are seen.
_LEAF_TYPES: set[type] = {
    int, float, bool, str, bytes, complex, type(None), type, FunctionType,
    BuiltinFunctionType,
}  # fmt: skip


@dataclass_transform(field_specifiers=(dataclasses.field,))
class ModuleBase:
    """The part of a module that binding uses; subclasses become dataclasses."""

    name: str | None
    parent: Any  # a module, a scope or `None`

    _bound: ClassVar[Bound | None] = None
    _init_fields: ClassVar[tuple[str, ...]] = ()
    _shown_fields: ClassVar[tuple[str, ...]] = ()
    _compared_fields: ClassVar[tuple[str, ...]] = ()
    _hash_fields: ClassVar[tuple[str, ...]] = ()
    _has_setup: ClassVar[bool] = False
    _has_post_init: ClassVar[bool] = False

    @property
    def scope(self) -> Any:
        """The scope of its variables; `None` while the module is unbound."""
        bound = self._bound
        return self.__dict__.get("scope") if bound is None else bound.scope

    @scope.setter
    def scope(self, value: object) -> None:  # a field of the user has this name
        self.__dict__["scope"] = value

    def setup(self) -> None:
        """Declare submodules and variables; runs when a bound module is first used.

        Attributes assigned to `self` here are visible to all methods of the bound
        module.
        """


M = TypeVar("M", bound=ModuleBase)
Names = dict[str, ModuleBase | tuple[str, ...] | str]
Visit = Callable[[Any, str], object]  # takes a module and the name of its container


def is_module(value: object) -> TypeGuard[ModuleBase]:
    """Return whether a value is a module, bound or not."""
    return isinstance(value, ModuleBase)


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class Frame:
    """The names taken during `setup` or during one outermost call of a module.

    Submodules, parameters and variables share one namespace; only variables of
    different collections may have the same name.

    Attributes:
        names: for each name, the submodule that has it, or the collections of the
            variables that have it, or the class of a module in the same scope, one of
            whose submodules has it.
        counts: the number of submodules of each class that were named automatically.
        is_open: whether names can be taken, as in `setup` and in compact methods.
        host: the `Bound` record of the module whose scope this one shares. During the
            first call, names are taken there too; later calls use the same names again.
    """

    names: Names = dataclasses.field(default_factory=dict)
    is_open: bool = True
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    host: Bound | None = None

    def automatic_name(self, prefix: str) -> str:
        """Return the next of `prefix_0`, `prefix_1`, ..."""
        count = self.counts.get(prefix, 0)
        self.counts[prefix] = count + 1
        return f"{prefix}_{count}"

    def claim(self, name: str, child: ModuleBase | str, owner: ModuleBase) -> None:
        """Take a name for a submodule of `owner`."""
        if not isinstance(name, str):
            raise not_text(name)
        if name in self.names:
            raise errors.NameInUseError("submodule", name, type(owner).__name__)
        if self.host is not None:
            self.host.frame.claim(name, type(owner).__name__, owner)
        self.names[name] = child

    def claim_variable(
        self, name: str, col: str, owner: ModuleBase, kind: str = "variable"
    ) -> None:
        """Take a name for a variable of collection `col` of `owner`."""
        holder = self.names.get(name)
        if holder is None:
            if not isinstance(name, str):
                raise not_text(name)
            self.names[name] = (col,)
        elif type(holder) is tuple and col not in holder:
            self.names[name] = (*holder, col)
        else:
            raise errors.NameInUseError(kind, name, type(owner).__name__)
        if self.host is not None:
            self.host.frame.claim_variable(name, col, owner, kind)


class Bound:
    """The state that only a bound module has.

    Attributes:
        scope: the scope of its variables.
        phase: `FRESH`, `SETTING_UP` or `READY`.
        frame: the names taken in the current call, or in the last one.
        setup_frame: the names taken by its fields and `setup`, taken in every call.
        assigned: the attributes that `setup` assigned.
    """

    __slots__ = ("scope", "phase", "frame", "setup_frame", "assigned")

    def __init__(self, scope: Scope, phase: int):
        self.scope = scope
        self.phase = phase
        self.frame = self.setup_frame = Frame(is_open=False)
        self.assigned: list[str] = []

    def open_frame(self) -> bool:
        """Open a frame of names for a compact call; return `False` if one is open."""
        if self.frame.is_open and self.frame is not self.setup_frame:
            return False
        # The names taken in `setup` stay taken.
        setup = self.setup_frame
        self.frame = Frame(setup.names.copy(), host=setup.host)
        setup.host = None  # later calls use the same names again
        return True

    def set_up(self, owner: ModuleBase) -> None:
        """Run `setup` of the module; if it fails, undo its assignments."""
        before, frame = self.frame, self.setup_frame
        self.phase, self.frame = SETTING_UP, frame
        frame.is_open = True
        adopted = dict(frame.names)
        try:
            owner.setup()
        except BaseException:
            self.phase = FRESH
            for name in self.assigned:
                owner.__dict__.pop(name, None)
            self.assigned = []
            frame.names, frame.counts = adopted, {}
            raise
        finally:
            frame.is_open = False
            self.frame = before
        if before.is_open:  # a call that began elsewhere, as in lifted modules
            before.names.update(frame.names)
        self.phase = READY

    def adopt(self, owner: ModuleBase, name: str, value: object) -> Any:
        """Bind the modules in `value` as children of `owner`; freeze containers."""

        def bind(module: ModuleBase, name: str) -> ModuleBase:
            if module._bound is not None:
                return module  # belongs to another module: shared, not adopted
            child, keeps_name = module, False
            if module.parent is None:  # otherwise it was made in `setup`
                memo = self.scope.context.memo
                if id(module) in memo:
                    return memo[id(module)][1]
                child = copy_unbound(module)
                memo[id(module)] = (module, child)
                # The flag or the class decides whether it keeps a given name.
                flag = config.flax_preserve_adopted_names
                keeps = getattr(type(owner), "preserve_adopted_names", flag)
                keeps_name = child.name is not None and keeps
            if not keeps_name:
                child.__dict__["name"] = name
            self.attach(owner, child)
            return child

        return map_modules(bind, value, name)

    def attach(self, owner: ModuleBase, child: ModuleBase) -> None:
        """Take the name of `child` in `owner`, and bind it there."""
        name = child.__dict__["name"]
        self.frame.claim(name, child, owner)
        child.__dict__["parent"] = owner
        bind_module(child, self.scope._descend(name))


def bind_module(module: ModuleBase, scope: Scope) -> None:
    """Bind a module to a scope, in place, and the modules in its fields below it."""
    context = scope.context
    if not context.is_valid:
        raise errors.InvalidScopeError(scope.path_text)
    bound = Bound(scope, FRESH if type(module)._has_setup else READY)
    values = module.__dict__
    values["_bound"] = bound
    if context.bound is not None:
        context.bound.append(module)
    for name in type(module)._init_fields:
        value = values.get(name)
        if type(value) not in _LEAF_TYPES:
            values[name] = bound.adopt(module, name, value)


def map_modules(
    fn: Visit, value: object, path: str, kinds: type | tuple[type, ...] = ModuleBase
) -> Any:
    """Replace the modules in nested containers; lists and dicts come back immutable.

    Args:
        fn: called as `fn(module, path)`.
        value: a module, a container of values, or anything else (returned unchanged).
        path: name of the value; indices and keys are appended to it with `_`.
        kinds: the types of the objects to replace.
    """
    kind = type(value)
    if kind in _LEAF_TYPES:
        return value
    if isinstance(value, kinds):
        return fn(value, path)

    def inside(key: object, item: object) -> Any:
        return map_modules(fn, item, f"{path}_{key}", kinds)

    def by_key(items: Mapping[Any, object]) -> dict[Any, Any]:
        # A module under several keys is named after the first one, sorted as strings.
        met = {key: inside(key, items[key]) for key in sorted(items, key=str)}
        return {key: met[key] for key in items}

    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return kind(**by_key(value._asdict()))  # type: ignore[attr-defined]
    if isinstance(value, (list, tuple)):
        if len(value) <= 10:  # the indices are sorted as strings already
            return tuple(map(inside, itertools.count(), value))
        return tuple(by_key(dict(enumerate(value))).values())
    if isinstance(value, (dict, FrozenDict)):  # other mappings may have more content
        if kind not in (dict, FrozenDict):  # programs rely on the order of Flax
            value = {key: value[key] for key in sorted(value)}
        return FrozenDict(by_key(value))
    if hasattr(kind, "_flax_dataclass"):
        node: Any = value
        fields = dataclasses.fields(node)
        names = [f.name for f in fields if f.metadata.get("pytree_node", True)]
        return node.replace(**by_key({n: getattr(node, n) for n in names}))
    if not issubclass(kind, (Variable, jax.core.Tracer)):  # lifting replaces these
        _LEAF_TYPES.add(kind)
    return value


def copy_unbound(module: M) -> M:
    """Make a shallow, unbound copy without the attributes that `setup` assigned.

    The constructor is not run again.
    """
    if "_bound" not in module.__dict__:
        raise errors.IncorrectPostInitOverrideError(module=module)
    copy = object.__new__(type(module))
    values = copy.__dict__
    values.update(module.__dict__)
    if module._bound is not None:
        for name in module._bound.assigned:
            values.pop(name, None)
    values["parent"] = values["_bound"] = None
    if module._has_post_init:  # each copy gets its own containers made by that method
        for name in values.keys() - module._init_fields:
            if type(values[name]) in (dict, list, set):
                values[name] = values[name].copy()
    return copy


def copy_deep(module: M, reset_names: bool = False) -> M:
    """Copy a module like `copy_unbound`, including the modules in its fields.

    Modules that were shared still are; containers become immutable.

    Args:
        module: the module.
        reset_names: whether to drop the names of the copied modules, if `module` is
            bound.
    """
    return _copied({}, reset_names and module._bound is not None, module, "")


def _copied(
    memo: dict[int, ModuleBase], reset_names: bool, module: ModuleBase, path: str
) -> Any:
    """Copy a module for `copy_deep`, once.

    This is not a closure, because its reference cycle would keep the modules alive.
    """
    if id(module) not in memo:
        copy = memo[id(module)] = copy_unbound(module)
        values, visit = copy.__dict__, functools.partial(_copied, memo, reset_names)
        if reset_names:
            values["name"] = None
        for name in type(module)._init_fields:
            if type(value := values.get(name)) not in _LEAF_TYPES:
                values[name] = map_modules(visit, value, name)
    return memo[id(module)]


def share_scope(module: ModuleBase, other: ModuleBase, /) -> None:
    """Make `other` and `module` use one scope.

    If `other` is a child of `module`, it moves up into the scope of `module`, so that
    its variables get no level of their own. Otherwise `module` moves to the scope of
    `other`.

    Raises:
        CallShareScopeOnUnboundModuleError: one of them is not bound.
    """
    if module.scope is None or other.scope is None:
        raise errors.CallShareScopeOnUnboundModuleError()
    outer, path = module.scope.path, other.scope.path
    is_inside = len(path) > len(outer) and path[: len(outer)] == outer
    moved, host = (other, module) if is_inside else (module, other)
    _move(moved, host.scope)
    bound = moved._bound
    if bound is not None and not bound.frame.is_open:
        bound.frame = bound.setup_frame
        bound.frame.host = host._bound


def _move(module: ModuleBase, scope: Scope) -> None:
    bound = module._bound
    if bound is None:
        return
    bound.scope = scope
    for name, child in bound.frame.names.items():
        if is_module(child):
            _move(child, scope._descend(name))
