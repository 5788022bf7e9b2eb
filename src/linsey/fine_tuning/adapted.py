"""Models in which some layers behave differently than in their source.

An adapted model is an instance of a subclass of the model's class, without additional
fields, so code that relies on the class, its fields or its methods still works. Its
methods run under an interceptor, the `Editor`, which runs another module in place of a
layer, in the scope of that layer. The variables of the new module are therefore where
those of the old one were, also inside `nn.scan`, `nn.remat` and `nn.jit`, and other
interceptors see only the new module.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, Self, TypeVar

from linsey._contexts import assigned
from linsey.errors import ArgumentTypeError, UsageError
from linsey.errors.base import named
from linsey.fine_tuning.paths import is_within, text_of
from linsey.linen.module import InterceptorContext, Module
from linsey.linen.module.binding import copy_unbound
from linsey.linen.module.functional import INTERCEPTORS, bound_copy

M = TypeVar("M", bound=Module)
T = TypeVar("T")
Run = Callable[..., Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Change:
    """One change of a model. Paths are relative to it. The base class changes nothing.

    Attributes:
        layers: the changed layers by path, if paths are known.
    """

    layers: Mapping[str, Any]

    def without(self, paths: Collection[str]) -> Self:
        """Return the change restricted to layers not at or below these paths."""
        kept = {
            path: value
            for path, value in self.layers.items()
            if not any(is_within(path, one) for one in paths)
        }
        return dataclasses.replace(self, layers=kept)

    def layer(self, path: str, layer: Module) -> Module:
        """Return the unbound module that replaces a layer, or the layer itself."""
        return layer

    def behind(self, path: str) -> Mapping[str, Module]:
        """Return the modules that run on the output of a layer, by name."""
        return {}

    def around(self, run: Run, model: Module, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the model itself, as `run(model, *args, **kwargs)`."""
        return run(model, *args, **kwargs)


Changes = tuple[Change, ...]


@dataclasses.dataclass(frozen=True)
class Editor:
    """The interceptor of an adapted model.

    Two editors of the same model at the same path are equal, because `nn.jit` looks up
    its cached programs by interceptors, among others.

    Attributes:
        model: the class of the model, which has the changes.
        root: the path of the model.
        running: the paths where a replacement is already running.
        called: the paths whose `__call__` has begun, which may call that of a base
            class.
    """

    model: Any
    root: tuple[str, ...]
    running: frozenset[tuple[str, ...]] = frozenset()
    called: frozenset[tuple[str, ...]] = frozenset()

    def __call__(
        self,
        next_fun: Run,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        context: InterceptorContext,
    ) -> Any:
        """Run the method of a layer or its replacement, and then inserted modules."""
        old, method = context.module, context.method_name
        # A name that is not a method is a lifted function of the layer, inside a call.
        if old._bound is None or not hasattr(type(old), method):
            return next_fun(*args, **kwargs)
        path, depth = old.path, len(self.root)
        if path[:depth] != self.root:
            return next_fun(*args, **kwargs)
        text, changes = text_of(path[depth:]), self.model._changes
        new: Module = old
        if path not in self.running:
            for change in changes:
                new = change.layer(text, new)
        if new is not old and method == "setup":
            return None  # otherwise the variables of both would be created
        is_call = method == "__call__" and path not in self.called
        inside = dataclasses.replace(
            self,
            running=self.running | ({path} if new is not old else set()),
            called=self.called | ({path} if is_call else set()),
        )
        others = tuple(inside if i is self else i for i in INTERCEPTORS.get())
        with assigned(INTERCEPTORS, others):
            run = next_fun if new is old else _method(new, old, method, text)
            y = run(*args, **kwargs)
        if is_call:
            for change in changes:
                for name, layer in change.behind(text).items():
                    y = _bound(layer, old.scope._descend(name), name)(y)
        return y


def _bound(module: Module, scope: Any, name: str | None) -> Any:
    copy = bound_copy(module, scope)
    copy.__dict__["name"] = name
    return copy


def _method(new: Module, old: Module, method: str, path: str) -> Run:
    """Return a method of a module that replaces another one."""
    bound = _bound(new, old.scope, old.name)
    if not hasattr(bound, method):
        raise UsageError(
            f'{named(new)}, in place of {named(old)} at "{path}", has no method '
            f"`{method}`.",
            "The model calls this method of the layer.",
            f"Give it a method `{method}`, or derive it from {named(old)}.",
        )
    return getattr(bound, method)


def changes_of(module: Module) -> Changes:
    """Return the changes of a model."""
    return getattr(type(module), "_changes", ())


def adapt(module: M, changes: Changes) -> M:
    """Return a copy of a model with these changes in place of its current ones."""
    base = getattr(type(module), "_unchanged", type(module))
    return _restored(base, changes, copy_unbound(module).__dict__)


def check_unbound(module: object, what: str = "The model") -> None:
    """Check that a value is an unbound module.

    Raises:
        ArgumentTypeError: it is not a module of linsey, or it is bound.
    """
    if isinstance(module, Module) and module._bound is None:
        return
    if isinstance(module, Module):
        found = f"{named(module)}, bound to variables"
    elif isinstance(module, type):
        found = f"the class {named(module)}"
    else:
        found = f"of type {named(module)}"
    raise ArgumentTypeError(
        f"{what} is {found}.",
        "What is changed is the description of a model, beside its variables: an "
        "unbound module of `linsey.linen`.",
        "Pass an instance such as `nn.Dense(10)`; of a bound one, "
        "`module, variables = module.unbind()`.",
    )


def _subclass(base: type[Module], changes: Changes) -> type[Module]:
    """Make the class of an adapted model."""

    def adapted(original: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(original)
        def method(self: Any, *args: Any, **kwargs: Any) -> T:
            if self._bound is None:
                return original(self, *args, **kwargs)
            editor, others = Editor(cls, self.path), INTERCEPTORS.get()
            for i in others:
                if isinstance(i, Editor) and (i.model, i.root) == (cls, editor.root):
                    return original(self, *args, **kwargs)  # called by another method
            run: Run = original
            for change in changes:
                run = functools.partial(change.around, run)
            with assigned(INTERCEPTORS, (editor, *others)):
                return run(self, *args, **kwargs)

        return method

    body: dict[str, Any] = {
        "_unchanged": base,
        "_changes": changes,
        "__doc__": base.__doc__,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__reduce__": _reduce,
    }
    names = {
        n: f
        for c in base.__mro__
        if c not in Module.__mro__
        for n, f in vars(c).items()
    }
    for name in names:
        is_own = name == "__call__" or not name.startswith("__") and name != "setup"
        if is_own and name not in base.__dataclass_fields__:
            value = inspect.getattr_static(base, name)
            if inspect.isfunction(value):
                body[name] = adapted(value)
    cls: type[Module] = type(base.__name__, (base,), body)
    return cls


def _reduce(self: Any) -> tuple[Callable[..., object], tuple[Any, ...], object]:
    """Pickle an adapted model by its original class and its changes."""
    return _restored, (self._unchanged, self._changes, {}), self.__getstate__()


def _restored(base: type[Any], changes: Changes, values: Mapping[str, Any]) -> Any:
    twin = object.__new__(_subclass(base, changes) if changes else base)
    twin.__dict__.update(values)
    return twin
