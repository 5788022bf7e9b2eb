"""From transforms of functions of scopes to transforms of modules.

`call_lifted` is the one bridge: it detaches the modules that a call uses, hands their
scopes to a transform of `core.lift`, and restores the modules inside. On it stand
lifting of a class (a subclass whose listed methods are lifted), of a function or method
(`lift_function`), and of several functions at once (`call_lifted` itself: branches,
loops, derivatives).
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from linsey import errors
from linsey.core.lift.compile import Static
from linsey.linen.module.base import Module
from linsey.linen.module.methods import wrap_method_once
from linsey.linen.module.stack import INTERCEPTORS
from linsey.linen.transforms.detach import (
    Detached,
    Restorer,
    Table,
    Untraced,
    check_returned,
    map_leaves,
    open_counts,
)

# A transform of `core.lift` with its options filled in: functions of scopes to one.
Transform = Callable[..., Callable[..., Any]]


def call_lifted(
    transform: Transform,
    fns: Sequence[Callable[..., Any]],
    module: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    cls: type | None = None,
) -> Any:
    """Calls transformed functions of a module.

    Args:
        transform: called as `transform(*scope_fns)(scopes, *args, **kwargs)`.
        fns: functions of the module.
        module: the bound module, or a tree of modules.
        args: arguments; they may hold further modules and variables.
        kwargs: keyword arguments.
        cls: the class the module has inside, if not its own.
    """
    table, detached, args, kwargs = _detach(module, args, kwargs, cls)
    counts: Any = None

    def on_scopes(fn: Callable[..., Any]) -> Callable[..., Any]:
        def run(scopes: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal counts
            y, counts = run_restored(fn, detached, scopes, args, kwargs)
            return y

        return run

    y = transform(*map(on_scopes, fns))(table.scopes, *args, **kwargs)
    _go_on_counting(module, counts)
    return y


def run_restored(
    fn: Callable[..., Any], detached: Any, scopes: Any, args: Any, kwargs: Any
) -> tuple[Any, Any]:
    """Runs `fn` on restored modules; also returns how many submodules it has named."""
    restorer = Restorer(scopes)
    module = map_leaves(restorer.restore_leaf, detached)
    args, kwargs = map_leaves(restorer.restore_leaf, (args, kwargs))
    y = fn(module, *args, **kwargs)
    check_returned(y, getattr(fn, "__name__", "unnamed_function"))
    return y, open_counts(module) if isinstance(module, Module) else None


def _detach(module: Any, args: Any, kwargs: Any, cls: type | None) -> Any:
    table = Table()
    if isinstance(module, Module):
        if module.scope is None:
            raise errors.CallCompactUnboundModuleError(module=module)
        detached: Any = Untraced(table.detach(module, cls))
    else:
        detached = map_leaves(table.detach_leaf, module)
    args, kwargs = map_leaves(table.detach_leaf, (args, kwargs))
    return table, detached, args, kwargs


def _go_on_counting(module: Any, counts: Any) -> None:
    """Lets automatic names outside go on where they ended inside."""
    if counts is not None and module._frame.is_open:
        module._frame.counts.update(counts)


def lift_function(transform: Transform, fn: Callable[..., Any]) -> Callable[..., Any]:
    """Lifts a method, or a function whose first argument is a module."""
    method = wrap_method_once(fn)

    @functools.wraps(method)
    def lifted(module: Any, *args: Any, **kwargs: Any) -> Any:
        return call_lifted(transform, [method], module, args, kwargs)

    return lifted


def lift_class(
    transforms: Mapping[str, Transform],
    cls: type[Module],
    prefix: str,
    call: Callable[..., Any] = call_lifted,
) -> type[Module]:
    """A subclass of `cls` whose methods in `transforms` are lifted.

    Args:
        transforms: the transform for each method.
        cls: the module class.
        prefix: goes before the name of the class.
        call: how a lifted method is called, see `call_lifted`.
    """
    methods = {}
    for name, transform in transforms.items():
        methods[name] = _lifted_method(transform, getattr(cls, name), cls, call)
    lifted = type(prefix + cls.__name__, (cls,), {**methods, "__doc__": cls.__doc__})
    for method in methods.values():
        method.lifted_class = lifted  # type: ignore[attr-defined]
    return lifted


def _lifted_method(
    transform: Transform, fn: Callable[..., Any], cls: type, call: Callable[..., Any]
) -> Callable[..., Any]:
    @functools.wraps(fn)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Inside, the module is of the original class, so that methods that call each
        # other are not lifted twice. A subclass written by the user stays what it is.
        inner = cls if type(self) is method.lifted_class else None  # type: ignore[attr-defined]
        return call(transform, [fn], self, args, kwargs, inner)

    method.method_handler_wrapped = True  # type: ignore[attr-defined]
    return method


def lift(
    core_transform: Callable[..., Any],
    target: Any,
    prefix: str,
    methods: Any = None,
    **options: Any,
) -> Any:
    """Lifts a module class, or a function of a module.

    Args:
        core_transform: a transform of `core.lift`.
        target: a module class, or a function whose first argument is a module.
        prefix: goes before the name of the class.
        methods: for a class the methods to lift, `__call__` by default; a mapping
            gives options for each.
        **options: options of the transform.

    Raises:
        TransformTargetError: the target is something else.
    """
    if is_module_class(target):
        transforms = {
            name: functools.partial(core_transform, **{**options, **extra})
            for name, extra in methods_of(methods).items()
        }
        return lift_class(transforms, target, prefix)
    check_function(target)
    return lift_function(functools.partial(core_transform, **options), target)


def methods_of(methods: Any) -> dict[str, dict[str, Any]]:
    """The methods to lift, with the options of each."""
    if methods is None:
        methods = ("__call__",)
    elif isinstance(methods, str):
        methods = (methods,)
    if isinstance(methods, Mapping):
        return {name: dict(options) for name, options in methods.items()}
    return {name: {} for name in methods}


def is_module_class(target: Any) -> bool:
    """Whether a target is a class of modules."""
    return inspect.isclass(target) and issubclass(target, Module)


def check_function(target: Any) -> None:
    """Refuses what is neither a function nor a class of modules."""
    if not callable(target) or isinstance(target, Module):
        raise errors.TransformTargetError(target)


def function_of_module(fn: Any) -> Callable[..., Any]:
    """A function whose first argument is a module; bound methods give theirs."""
    if is_module_class(fn):
        raise errors.TransformTargetError(fn)
    if inspect.ismethod(fn) and isinstance(fn.__self__, Module):
        fn = fn.__func__
    check_function(fn)
    return wrap_method_once(fn)


@dataclasses.dataclass(frozen=True)
class Spec:
    """What is constant in a compiled call: the function and the modules it uses.

    Interceptors run while a program is traced, so other ones need another program.
    """

    fn: Callable[..., Any]
    module: Any
    interceptors: tuple[Any, ...]


def run_spec(scopes: Any, spec: Spec, *args: Any, **kwargs: Any) -> Any:
    """Runs a compiled call; the counts leave it as part of the structure."""
    y, counts = run_restored(spec.fn, spec.module, scopes, args, kwargs)
    return y, Static(counts)


def call_compiled(
    compiled: Callable[..., Any],
    fns: Sequence[Callable[..., Any]],
    module: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    cls: type | None = None,
) -> Any:
    """Like `call_lifted`, for `compiled`, a jitted `run_spec`."""
    table, detached, args, kwargs = _detach(module, args, kwargs, cls)
    interceptors = tuple(map(_hashable, INTERCEPTORS.get()))
    spec = Spec(fns[0], detached, interceptors)
    _check_hashable(spec.module)
    y, counts = compiled(table.scopes, spec, *args, **kwargs)
    _go_on_counting(module, counts.value)
    return y


class _Identity:
    """Stands for an object without a hash."""

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.value is other.value


def _hashable(value: Any) -> Any:
    return value if type(value).__hash__ is not None else _Identity(value)


def _check_hashable(detached: Any) -> None:
    value = getattr(detached, "value", detached)
    if not isinstance(value, Detached):
        return
    for name, attribute in value.attributes:
        try:
            hash(attribute)
        except TypeError as error:
            raise TypeError(
                f"Field `{name}` of {value.cls.__name__} holds a"
                f" {type(attribute).__name__}, which has no hash. Compiled programs are"
                " found again by the fields of their modules. Pass arrays as arguments"
                " of the call, and use tuples, strings and numbers for fields."
            ) from error
