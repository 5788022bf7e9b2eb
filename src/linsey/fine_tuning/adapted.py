"""Models whose layers run otherwise than their source says.

An adapted model is an instance of a subclass of its class, which has no field and no
name of its own: whatever knows the model by its class, its fields or its methods knows
this one. Each method runs the one of the class under two interceptors. The outer one
runs another module in the place of a layer, over the same scope, so that its variables
are where those of the layer were, also inside of `nn.scan`, `nn.remat` and `nn.jit`;
other interceptors see only that module. The inner one changes what a call returns.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Hashable, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

from linsey._contexts import assigned
from linsey._static import static_key
from linsey.errors import ArgumentTypeError, UsageError
from linsey.errors.base import named
from linsey.fine_tuning.paths import Path, Rename, as_text, is_within
from linsey.linen.module import InterceptorContext, Module
from linsey.linen.module.binding import copy_unbound
from linsey.linen.module.functional import INTERCEPTORS, bound_copy

T = TypeVar("T")
Run = Callable[..., Any]
Args = tuple[Any, ...]
Kwargs = Mapping[str, Any]


class Change:
    """One change of a model; paths are relative to it. The defaults change nothing."""

    def other(self, path: Path, module: Module) -> Module | None:
        """Return the unbound module that runs in the place of one, if any does."""
        return None

    def call(
        self, path: Path, run: Run, args: Args, kwargs: Kwargs, called: Called
    ) -> Any:
        """Call the method of a layer, and return what it returns."""
        return run(*args, **kwargs)

    def around(self, run: Run, model: Module, args: Args, kwargs: Kwargs) -> Any:
        """Call a method of the model itself, as `run(model, *args, **kwargs)`."""
        return run(model, *args, **kwargs)

    def renamed(self, rename: Rename) -> Change | None:
        """Return the change after layers got other paths; `None` if it is void."""
        return self


Called = InterceptorContext
Changes = tuple[Change, ...]
# The paths where a module runs in the place of another one now.
IN_PLACE: ContextVar[tuple[tuple[Changes, Path], ...]] = ContextVar(
    "linsey_in_place", default=()
)


@dataclasses.dataclass(frozen=True, eq=False)
class Interceptor:
    """What the interceptors of an adapted model share.

    They are compared by content, as programs of `nn.jit` are found by them.

    Attributes:
        changes: the changes of the model.
        root: the path of the model.
    """

    changes: Changes
    root: Path

    @functools.cached_property
    def key(self) -> Hashable:
        """What it is compared by."""
        return static_key((type(self), self.changes, self.root))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self) or other.root != self.root:
            return False
        return other.changes is self.changes or other.key == self.key

    def path_of(self, module: Module) -> Path | None:
        """Return the path of a layer in the model, `None` if it is not in there."""
        if module._bound is None or not is_within(module.path, self.root):
            return None
        return module.path[len(self.root) :]


@dataclasses.dataclass(frozen=True, eq=False)
class Editor(Interceptor):
    """Runs other modules in the place of layers."""

    def __call__(
        self, next_fun: Run, args: Args, kwargs: Kwargs, called: Called
    ) -> Any:
        """Run the method of the module that is in the place of this."""
        old, method = called.module, called.method_name
        path, standing = self.path_of(old), IN_PLACE.get()
        if path is None or (self.changes, old.path) in standing:
            return next_fun(*args, **kwargs)
        new: Module = old
        for change in self.changes:
            other = change.other(path, new)
            new = new if other is None else other
        if new is old or not hasattr(type(old), method):  # a function of the layer
            return next_fun(*args, **kwargs)
        if method == "setup":
            return None  # or there would be the variables of both
        with assigned(IN_PLACE, (*standing, (self.changes, old.path))):
            bound = bound_copy(new, old.scope)
            if not hasattr(bound, method):
                raise UsageError(
                    f"{named(new)} has no method `{method}`, and is in the place of "
                    f'{named(old)} at "{as_text(path)}".',
                    "The model calls this method of the layer.",
                    f"Give it a method `{method}`, or derive it from {named(old)}.",
                )
            return getattr(bound, method)(*args, **kwargs)


@dataclasses.dataclass(frozen=True, eq=False)
class Caller(Interceptor):
    """Changes what calls of layers return."""

    def __call__(
        self, next_fun: Run, args: Args, kwargs: Kwargs, called: Called
    ) -> Any:
        """Call a method through all changes, the first one innermost."""
        path, run = self.path_of(called.module), next_fun
        if path is not None:
            for change in self.changes:
                run = functools.partial(_step, change, path, run, called)
        return run(*args, **kwargs)


def _step(
    change: Change, path: Path, run: Run, called: Called, /, *args: Any, **kwargs: Any
) -> Any:
    return change.call(path, run, args, kwargs, called)


def changes_of(module: Module) -> Changes:
    """Return the changes that a model has."""
    return getattr(type(module), "_changes", ())


def adapt(module: Module, changes: Changes) -> Module:
    """Return a model with these changes in place of those that it has.

    Raises:
        ArgumentTypeError: it is no module of linsey.
        UsageError: it is bound.
    """
    check_module(module)
    base = getattr(type(module), "_unchanged", type(module))
    twin = object.__new__(_subclass(base, changes) if changes else base)
    twin.__dict__.update(copy_unbound(module).__dict__)
    return twin


def check_module(module: object) -> None:
    """Refuse what cannot be changed.

    Raises:
        ArgumentTypeError: it is no module of linsey.
        UsageError: it is bound.
    """
    if not isinstance(module, Module):
        found = module.__name__ if isinstance(module, type) else type(module).__name__
        raise ArgumentTypeError(
            f"The model is `{found}`, and no module of `linsey.linen`.",
            "Layers are found by the interceptors that such modules have.",
            "Pass an instance of `linsey.linen.Module`.",
        )
    if module._bound is not None:
        raise UsageError(
            f"{named(module)} is bound to variables.",
            "A change is one of the description, and of the variables beside it.",
            "Pass `module, variables = module.unbind()`.",
        )


def _subclass(base: type[Module], changes: Changes) -> type[Module]:
    """Make the class of an adapted model."""
    body: dict[str, object] = {
        "_unchanged": base,
        "_changes": changes,
        "__doc__": base.__doc__,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__reduce__": _reduce,
    }
    for cls in reversed(base.__mro__):
        if cls in Module.__mro__:
            continue
        for name, value in vars(cls).items():
            is_special = name.startswith("__") and name != "__call__"
            is_field = name in base.__dataclass_fields__
            if inspect.isfunction(value) and not is_special and not is_field:
                body[name] = _adapted_method(getattr(base, name))
    return type(base.__name__, (base,), body)


def _adapted_method(original: Callable[..., T]) -> Callable[..., T]:
    """Run a method of a class under the changes of its subclass."""

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> T:
        if self._bound is None:
            return original(self, *args, **kwargs)
        place = changes_of(self), self.path
        editor, caller = Editor(*place), Caller(*place)
        others = INTERCEPTORS.get()
        if editor in others:  # a method that another one calls
            return original(self, *args, **kwargs)
        run: Run = original
        if original.__name__ != "setup":
            for change in editor.changes:
                run = functools.partial(_around, change, run)
        with assigned(INTERCEPTORS, (editor, *others, caller)):
            return run(self, *args, **kwargs)

    return method


def _around(change: Change, run: Run, model: Module, /, *args: Any, **kw: Any) -> Any:
    return change.around(run, model, args, kw)


def _reduce(self: Any) -> tuple[Callable[..., object], tuple[Any, ...]]:
    """Pickle an adapted model by its class and its changes, which made its own."""
    return _restored, (self._unchanged, self._changes, self.__getstate__())


def _restored(base: type[Module], changes: Changes, state: dict[str, object]) -> Module:
    twin = object.__new__(_subclass(base, changes))
    twin.__setstate__(state)
    return twin
