"""Running modules as pure functions: `apply`, `init` and what they are made of."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from linsey import errors
from linsey.core import scope as core_scope
from linsey.core.filters import DenyList, Filter, union_filters
from linsey.core.scope import Scope
from linsey.linen.module import adoption
from linsey.linen.module.phase import CONSTRUCTING
from linsey.linen.module.stack import intercept_methods
from linsey.traceback_util import api_boundary

__all__ = ["apply", "init", "init_with_output"]

CaptureFilter = bool | Callable[[Any, str], bool]

# What `init` creates.
CREATED = DenyList("intermediates")


def bound_copy(module: Any, scope: Scope) -> Any:
    """A copy of `module` that is the root module of `scope`."""
    copy = adoption.copy_deep(module) if module.scope else adoption.copy_unbound(module)
    copy.__dict__["parent"] = scope
    adoption.bind_module(copy, scope)
    return copy


def scope_function(fn: Callable[..., Any], module: Any) -> Callable[..., Any]:
    """Turns a function of a module into one of a scope."""

    def run(scope: Scope, *args: Any, **kwargs: Any) -> Any:
        return fn(bound_copy(module, scope), *args, **kwargs)

    return run


def apply(
    fn: Callable[..., Any],
    module: Any,
    mutable: Filter = False,
    capture_intermediates: CaptureFilter = False,
) -> Callable[..., Any]:
    """Makes a function of a bound module a pure function of variables.

    Args:
        fn: called as `fn(bound_module, *args, **kwargs)`.
        module: the module that is bound.
        mutable: the collections that may be written.
        capture_intermediates: store what methods return in `intermediates`: True for
            all `__call__`s, or a function `(module, method_name) -> bool`.

    Returns:
        A function `(variables, *args, rngs=None, **kwargs)` as `Module.apply`.
    """
    return _purely(core_scope.apply, fn, module, mutable, capture_intermediates)


def init_with_output(
    fn: Callable[..., Any],
    module: Any,
    mutable: Filter = CREATED,
    capture_intermediates: CaptureFilter = False,
) -> Callable[..., tuple[Any, Any]]:
    """Makes a function of a bound module one that creates the variables.

    Returns:
        A function `(rngs, *args, **kwargs)` that returns `(result, variables)`.
    """
    return _purely(core_scope.init, fn, module, mutable, capture_intermediates)


def init(
    fn: Callable[..., Any],
    module: Any,
    mutable: Filter = CREATED,
    capture_intermediates: CaptureFilter = False,
) -> Callable[..., Any]:
    """Like `init_with_output`, but returns the variables only."""
    run = init_with_output(fn, module, mutable, capture_intermediates)
    return lambda rngs, *args, **kwargs: run(rngs, *args, **kwargs)[1]


def _purely(
    core: Any, fn: Any, module: Any, mutable: Filter, capture: CaptureFilter
) -> Callable[..., Any]:
    run = scope_function(fn, module)
    if capture is not False:
        mutable = union_filters(mutable, "intermediates")
        run = intercept_methods(_Capture(_is_call if capture is True else capture))(run)
    return api_boundary(core(run, mutable=mutable))


def _is_call(module: Any, method_name: str) -> bool:
    return method_name == "__call__"


@dataclasses.dataclass(frozen=True)
class _Capture:
    """An interceptor that sows what the methods return."""

    which: Callable[[Any, str], bool]

    def __call__(self, next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        y = next_fun(*args, **kwargs)
        if self.which(context.module, context.method_name):
            context.module.sow("intermediates", context.method_name, y)
        return y


def check_instance(module: Any) -> None:
    """Refuses what is no module, or one whose constructor did not end."""
    if not hasattr(type(module), "_init_fields"):
        raise errors.InvalidInstanceModuleError()
    if module._phase == CONSTRUCTING:
        raise errors.IncorrectPostInitOverrideError(module=module)


def function_of(module: Any, method: Any) -> Callable[..., Any]:
    """The function of a module that `method` names.

    Args:
        module: the module that will be the first argument.
        method: None for `__call__`, the name of a method, a method of the class or of
            an instance, or any function of a module.

    Raises:
        ApplyModuleInvalidMethodError: it is no function of at least one argument.
    """
    check_instance(module)
    if method is None:
        return type(module).__call__
    if isinstance(method, str):
        found = getattr(module, method)
        if not callable(found):
            raise TypeError(
                f"'{type(module).__name__}.{method}' must be a callable, got"
                f" {type(found)}."
            )
        method = found
    if inspect.ismethod(method) and hasattr(type(method.__self__), "_init_fields"):
        return method.__func__
    if not callable(method) or not _takes_an_argument(method):
        raise errors.ApplyModuleInvalidMethodError(method)
    return method


def _takes_an_argument(fn: Callable[..., Any]) -> bool:
    try:
        return len(inspect.signature(fn).parameters) > 0
    except ValueError:  # no signature to be had, as for some built-in functions
        return True
