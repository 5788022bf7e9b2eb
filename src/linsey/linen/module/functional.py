"""Running modules: `apply` and `init` as pure functions, and interceptors of calls.

`RUNNING` holds the module whose method is running. Modules constructed without a parent
become its children. It is a context variable, so it is safe with threads and async
code. `INTERCEPTORS` wrap every method call. They are the only hook;
`capture_intermediates` and `tabulate` are built on them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

from linsey import _drawing, errors
from linsey._contexts import assigned
from linsey.core import scope as core_scope
from linsey.core.filters import DenyList, Filter, union_filters
from linsey.core.rng import is_rng_key
from linsey.core.state import Scope
from linsey.errors._texts import no_key, not_callable
from linsey.linen.module import binding
from linsey.linen.module.binding import M, ModuleBase, is_module
from linsey.traceback_util import api_boundary
from linsey.typing import VariableDict, with_signature_of

__all__ = ["apply", "init", "init_with_output", "intercept_methods"]

T = TypeVar("T")
CaptureFilter = bool | Callable[[Any, str], bool]

# The collections that `init` creates.
CREATED = DenyList("intermediates")

# -- interceptors --------------------------------------------------------------------

RUNNING: ContextVar[Any] = ContextVar("linsey_running_module", default=None)

Args = tuple[Any, ...]
NextGetter = Callable[..., Any]
Interceptor = Callable[[NextGetter, Args, Mapping[str, Any], "InterceptorContext"], Any]

# The first one is the outermost.
INTERCEPTORS: ContextVar[tuple[Interceptor, ...]] = ContextVar(
    "linsey_interceptors", default=()
)


@dataclasses.dataclass(frozen=True)
class InterceptorContext:
    """The information about a call that an interceptor gets.

    Attributes:
        module: the module whose method is called.
        method_name: the name of the method.
        orig_method: the method itself; calling it skips the other interceptors.
    """

    module: Any
    method_name: str
    orig_method: Callable[..., Any]


@contextlib.contextmanager
def intercept_methods(interceptor: Interceptor) -> Iterator[None]:
    """Run every module method through `interceptor` inside the `with` block.

    The interceptor is called as `interceptor(next_fun, args, kwargs, context)`. It
    returns the result of the call, usually `next_fun(*args, **kwargs)` or a value
    computed from it. If there are several interceptors, the one added last is the
    innermost.
    """
    with assigned(INTERCEPTORS, (*INTERCEPTORS.get(), interceptor)):
        yield


def run_interceptors(
    method: Callable[..., T], name: str, module: Any, /, *args: object, **kwargs: object
) -> T:
    """Call `method` of `module` through the interceptors, the first one outermost."""
    run: NextGetter = functools.partial(method, module)
    context = InterceptorContext(module, name, run)
    for interceptor in reversed(INTERCEPTORS.get()):
        run = _step(interceptor, run, context)
    return run(*args, **kwargs)


def _step(
    interceptor: Interceptor, run: NextGetter, context: InterceptorContext
) -> NextGetter:
    return lambda *args, **kwargs: interceptor(run, args, kwargs, context)


# -- pure functions ------------------------------------------------------------------


def bound_copy(module: M, scope: Scope) -> M:
    """Make a copy of `module` that is the root module of `scope`."""
    copy = binding.copy_deep(module)  # the modules in its fields may be bound elsewhere
    copy.__dict__["parent"] = scope
    binding.bind_module(copy, scope)
    return copy


def scope_function(fn: Callable[..., T], module: ModuleBase) -> Callable[..., T]:
    """Turn a function of a module into a function of a scope."""

    def run(scope: Scope, *args: object, **kwargs: object) -> T:
        return fn(bound_copy(module, scope), *args, **kwargs)

    return run


def apply(
    fn: Callable[..., object],
    module: ModuleBase,
    mutable: Filter = False,
    capture_intermediates: CaptureFilter = False,
) -> Callable[..., Any]:
    """Turn a function of a bound module into a pure function of variables.

    Args:
        fn: called as `fn(bound_module, *args, **kwargs)`.
        module: the module to bind.
        mutable: the collections that may be written.
        capture_intermediates: the methods whose results are stored in `intermediates`:
            `True` for every `__call__`, or a function `(module, method_name) -> bool`.

    Returns:
        A function `(variables, *args, rngs=None, **kwargs)` like `Module.apply`.
    """
    run, mutable = capturing(fn, module, mutable, capture_intermediates)
    return api_boundary(core_scope.apply(run, mutable))


def init_with_output(
    fn: Callable[..., T],
    module: ModuleBase,
    mutable: Filter = CREATED,
    capture_intermediates: CaptureFilter = False,
) -> Callable[..., tuple[T, VariableDict]]:
    """Turn a function of a bound module into a function that creates the variables.

    Returns:
        A function `(rngs, *args, **kwargs)` that returns `(result, variables)`.
    """
    run, mutable = capturing(fn, module, mutable, capture_intermediates)
    return api_boundary(core_scope.init(run, mutable))


@with_signature_of(init_with_output)
def init(*args: Any, **kwargs: Any) -> Callable[..., VariableDict]:
    """Act like `init_with_output`, but return the variables only."""
    return functools.partial(_drawing.collected, init_with_output(*args, **kwargs))


def capturing(
    fn: Callable[..., T], module: ModuleBase, mutable: Filter, capture: CaptureFilter
) -> tuple[Callable[..., T], Filter]:
    """Return a scope function that stores captured results, and its mutable filter."""
    run = scope_function(fn, module)
    if capture is False:
        return run, mutable
    sow_results = Capture(_is_call if capture is True else capture)

    def captured(scope: Scope, *args: object, **kwargs: object) -> T:
        # Outside the user's interceptors, so that their results are what is stored.
        with assigned(INTERCEPTORS, (sow_results, *INTERCEPTORS.get())):
            return run(scope, *args, **kwargs)

    return captured, union_filters(mutable, "intermediates")


def _is_call(module: ModuleBase, method_name: str) -> bool:
    return method_name == "__call__"


@dataclasses.dataclass(frozen=True)
class Capture:
    """An interceptor that sows the results of methods."""

    which: Callable[[Any, str], bool]

    def __call__(
        self, next_fun: NextGetter, args: Args, kwargs: Mapping[str, Any], context: Any
    ) -> Any:
        y = next_fun(*args, **kwargs)
        if self.which(context.module, context.method_name):
            context.module.sow("intermediates", context.method_name, y)
        return y


def check_instance(module: object) -> None:
    """Raise an error for an object that is not an instance of a module class."""
    if not is_module(module):
        raise errors.InvalidInstanceModuleError()


def check_rngs(module: object, rngs: object) -> None:
    """Raise an error that names the module if `rngs` is neither a key nor a mapping."""
    if rngs is not None and not isinstance(rngs, Mapping) and not is_rng_key(rngs):
        raise no_key(module, rngs)


def function_of(module: ModuleBase, method: object) -> Callable[..., Any]:
    """Return the function of a module that `method` names.

    Args:
        module: the module that will be the first argument.
        method: the name of a method, a method of the class or of an instance, or any
            function of a module. If `None`, `__call__`.

    Raises:
        ApplyModuleInvalidMethodError: `method` does not give a function of at least one
            argument.
    """
    check_instance(module)
    if method is None:
        if callable(module):
            return type(module).__call__
        method = "__call__"  # so that the error says that there is none
    if isinstance(method, str):
        found, name = getattr(module, method), method
        if not callable(found):
            raise not_callable(type(module), method, found)
        if is_module(found):  # call the submodule of the bound module, not this one
            return lambda bound, *args, **kwargs: getattr(bound, name)(*args, **kwargs)
        method = found
    if inspect.ismethod(method) and is_module(method.__self__):
        return method.__func__
    if not callable(method) or not _takes_an_argument(method):
        raise errors.ApplyModuleInvalidMethodError(method)
    return method


def _takes_an_argument(fn: Callable[..., object]) -> bool:
    try:
        return len(inspect.signature(fn).parameters) > 0
    except ValueError:  # some built-in functions have no signature
        return True
