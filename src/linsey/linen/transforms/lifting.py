"""From transforms of functions of scopes to transforms of modules.

`call_lifted` is the one bridge: it detaches the modules that a call uses, hands their
scopes to a transform of `core.lift`, and restores the modules inside (`Run`). On it
stand lifting of a class (a subclass whose listed methods are lifted), of a function or
method (`lift_function`), and of several functions at once (`call_direct`: branches,
loops, derivatives).
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeGuard, TypeVar, cast

from linsey import errors
from linsey.core.state import Scope
from linsey.linen.module.base import Module
from linsey.linen.module.methods import wrap_method_once
from linsey.linen.transforms import detach
from linsey.linen.transforms.detach import Detacher, Restorer, Untraced, map_leaves

T = TypeVar("T")
Target = TypeVar("Target")

# A transform of `core.lift` with its options filled in: functions of scopes to one.
Transform = Callable[..., Callable[..., Any]]
# The methods of a class to lift; in a mapping each has options of its own.
Methods = str | Iterable[str] | Mapping[str, Mapping[str, object]] | None


@dataclasses.dataclass(unsafe_hash=True)
class Run:
    """A function of modules as a function of scopes; equal ones do the same.

    Attributes:
        fn: called as `fn(modules, *args, **kwargs)`.
        modules: a detached module, or a tree of these.
        counts: filled with how many submodules the module has named after a run.
    """

    fn: Callable[..., Any]
    modules: object
    counts: dict[str, int] = dataclasses.field(compare=False)

    def __call__(self, scopes: Sequence[Scope], *args: object, **kwargs: object) -> Any:
        """Run the function on modules restored over these scopes."""
        restore = Restorer(scopes).restore_leaf
        modules, args, kwargs = map_leaves(restore, (self.modules, args, kwargs))
        y = self.fn(modules, *args, **kwargs)
        detach.check_returned(y, getattr(self.fn, "__name__", "unnamed_function"))
        if isinstance(modules, Module):
            self.counts.clear()
            self.counts.update(detach.open_counts(modules) or ())
        return y


def call_lifted(
    transform: Transform,
    fns: Iterable[Callable[..., Any]],
    module: object,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    cls: type | None = None,
) -> Any:
    """Call transformed functions of a module.

    Args:
        transform: called as `transform(*scope_fns)(scopes, *args, **kwargs)`.
        fns: functions of the module.
        module: the bound module, or a tree of modules.
        args: arguments; they may hold further modules and variables.
        kwargs: keyword arguments.
        cls: the class that the module has inside. If `None`, its own.
    """
    if isinstance(module, Module) and module._bound is None:
        raise errors.CallCompactUnboundModuleError(module=module)
    detacher, counts = Detacher(), {}
    modules, args, kwargs = map_leaves(detacher.detach_leaf, (module, args, kwargs))
    if cls is not None:
        modules = Untraced(dataclasses.replace(modules.value, cls=cls))
    runs = [Run(fn, modules, counts) for fn in fns]
    y = transform(*runs)(detacher.scopes, *args, **kwargs)
    if counts and isinstance(module, Module) and module._bound is not None:
        # Automatic names outside go on where they ended inside.
        module._bound.frame.counts.update(counts)
    return y


def call_direct(
    core: Callable[..., Any],
    fns: Iterable[Callable[..., Any]],
    module: object,
    args: Sequence[object],
    **options: object,
) -> Any:
    """Call `core(*scope_fns, scopes, *args, **options)`.

    The functions take a module first; of bound methods the functions are taken.
    """

    def transform(*runs: Run) -> Callable[..., Any]:
        return functools.partial(core, *runs, **options)

    return call_lifted(transform, map(function_of_module, fns), module, args, {})


def function_of_module(fn: Callable[..., T]) -> Callable[..., T]:
    """Return a function whose first argument is a module: that of a bound method."""
    if inspect.ismethod(fn) and isinstance(fn.__self__, Module):
        return _as_method(fn.__func__)
    return _as_method(fn)


def _as_method(fn: object) -> Callable[..., Any]:
    if not callable(fn) or isinstance(fn, Module) or _is_module_class(fn):
        raise errors.TransformTargetError(fn)
    return wrap_method_once(fn)


def _is_module_class(target: object) -> TypeGuard[type[Module]]:
    return inspect.isclass(target) and issubclass(target, Module)


def lift_function(transform: Transform, fn: object) -> Callable[..., Any]:
    """Lift a method, or a function whose first argument is a module."""
    method = _as_method(fn)

    @functools.wraps(method)
    def lifted(module: object, *args: object, **kwargs: object) -> Any:
        return call_lifted(transform, [method], module, args, kwargs)

    return lifted


def lift_class(
    transforms: Mapping[str, Transform], cls: type[Module], prefix: str
) -> type[Module]:
    """Make a subclass of `cls` whose methods in `transforms` are lifted.

    Args:
        transforms: the transform for each method.
        cls: the module class.
        prefix: goes before the name of the class.
    """

    def lift_method(transform: Transform, fn: Callable[..., Any]) -> object:
        @functools.wraps(fn)
        def method(self: Module, *args: object, **kwargs: object) -> Any:
            # Inside, the module is of the original class, so that methods that call
            # each other are not lifted twice. A subclass by the user stays what it is.
            inner = cls if type(self) is lifted else None
            return call_lifted(transform, [fn], self, args, kwargs, inner)

        method.method_handler_wrapped = True  # type: ignore[attr-defined]
        return method

    methods = {
        name: lift_method(t, getattr(cls, name)) for name, t in transforms.items()
    }
    lifted = type(prefix + cls.__name__, (cls,), {**methods, "__doc__": cls.__doc__})
    return lifted


def lift(
    core: Transform,
    prefix: str,
    /,
    target: Target,
    methods: Methods = None,
    **options: object,
) -> Target:
    """Lift a module class, or a function of a module.

    A transform whose options are those of the core calls it with `**locals()`: that is
    all of its arguments by their names.

    Args:
        core: the transform of `core.lift`.
        prefix: goes before the name of the class.
        target: a module class, or a function whose first argument is a module.
        methods: for a class the methods to lift; a mapping gives options for each. If
            `None`, `__call__`.
        **options: the options of the transform.

    Raises:
        TransformTargetError: the target is something else.
    """
    transform = functools.partial(core, **options)
    if not _is_module_class(target):
        return cast(Target, lift_function(transform, target))
    if methods is None or isinstance(methods, str):
        methods = ("__call__" if methods is None else methods,)
    if not isinstance(methods, Mapping):
        methods = dict.fromkeys(methods, {})
    transforms = {
        name: functools.partial(transform, **options)
        for name, options in methods.items()
    }
    return cast(Target, lift_class(transforms, target, prefix))
