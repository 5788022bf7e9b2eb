"""Which module is running: the one piece of global state, safe for threads and async.

`RUNNING` is the module whose method runs now: modules constructed without a parent
become its children. `INTERCEPTORS` wrap every method call; they are the only hook, and
`capture_intermediates` and `tabulate` are uses of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

RUNNING: ContextVar[Any] = ContextVar("linsey_running_module", default=None)

Args = tuple[Any, ...]
NextGetter = Callable[..., Any]
Interceptor = Callable[[NextGetter, Args, Mapping[str, Any], "InterceptorContext"], Any]

INTERCEPTORS: ContextVar[tuple[Interceptor, ...]] = ContextVar(
    "linsey_interceptors", default=()
)


@dataclasses.dataclass(frozen=True)
class InterceptorContext:
    """What an interceptor is told about the call.

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
    """Runs every module method through `interceptor` inside the `with` block.

    The interceptor is called as `interceptor(next_fun, args, kwargs, context)`; it
    returns the result of the call, usually `next_fun(*args, **kwargs)` or a function of
    it. Of several interceptors the last one added is the outermost.
    """
    token = INTERCEPTORS.set((*INTERCEPTORS.get(), interceptor))
    try:
        yield
    finally:
        INTERCEPTORS.reset(token)


def run_interceptors(
    method: Callable[..., Any], name: str, module: Any, /, *args: Any, **kwargs: Any
) -> Any:
    """Calls `method` of `module` through the interceptors, the last one first."""
    run: NextGetter = functools.partial(method, module)
    context = InterceptorContext(module, name, run)
    for interceptor in INTERCEPTORS.get():
        run = _step(interceptor, run, context)
    return run(*args, **kwargs)


def _step(interceptor: Interceptor, run: NextGetter, context: Any) -> NextGetter:
    return lambda *args, **kwargs: interceptor(run, args, kwargs, context)
