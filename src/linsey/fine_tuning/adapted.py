"""Models whose layers run otherwise than their source says.

An adapted model is an instance of a subclass of its class, without fields of its own:
whatever knows the model by its class, its fields or its methods knows this one. Its
methods run under an interceptor, the `Editor`, which runs another module in the place
of a layer, over the scope of that layer. So the variables of the new module are where
those of the old one were, also inside of `nn.scan`, `nn.remat` and `nn.jit`, and other
interceptors see the new module only.
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
    """One change of a model; paths are relative to it. These defaults change nothing.

    Attributes:
        layers: what is changed, by path, where paths are known.
    """

    layers: Mapping[str, Any]

    def without(self, paths: Collection[str]) -> Self:
        """Return the change without what it does at these paths, and below them."""
        kept = {
            path: value
            for path, value in self.layers.items()
            if not any(is_within(path, one) for one in paths)
        }
        return dataclasses.replace(self, layers=kept)

    def layer(self, path: str, layer: Module) -> Module:
        """Return what runs in place of a layer: it, or another, unbound module."""
        return layer

    def behind(self, path: str) -> Mapping[str, Module]:
        """Return what runs on the result of a layer, by its name below the layer."""
        return {}

    def around(self, run: Run, model: Module, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the model itself, as `run(model, *args, **kwargs)`."""
        return run(model, *args, **kwargs)


Changes = tuple[Change, ...]


@dataclasses.dataclass(frozen=True)
class Editor:
    """The interceptor of an adapted model.

    Two are equal if they are of one model at one place: programs that `nn.jit` keeps
    are found by their interceptors.

    Attributes:
        model: the class of the model, which has the changes.
        root: the path of the model.
        running: the paths where another module runs already.
        called: the paths whose call has begun: methods call those of base classes.
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
        """Run the method of what is in place of a layer, and what is behind it."""
        old, method = context.module, context.method_name
        # What has no such method is lifted: a function of the layer, inside of a call.
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
            return None  # or there would be the variables of both
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
    """Return the method of a module in place of another one."""
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
    """Return the changes that a model has."""
    return getattr(type(module), "_changes", ())


def adapt(module: M, changes: Changes) -> M:
    """Return a model with these changes in place of those that it has."""
    base = getattr(type(module), "_unchanged", type(module))
    return _restored(base, changes, copy_unbound(module).__dict__)


def check_unbound(module: object, what: str = "The model") -> None:
    """Refuse what is no unbound module.

    Raises:
        ArgumentTypeError: it is no module of linsey, or a bound one.
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
    """Pickle an adapted model by its class and its changes, which made its own."""
    return _restored, (self._unchanged, self._changes, {}), self.__getstate__()


def _restored(base: type[Any], changes: Changes, values: Mapping[str, Any]) -> Any:
    twin = object.__new__(_subclass(base, changes) if changes else base)
    twin.__dict__.update(values)
    return twin
