"""What happens around every method of a module.

When a module class is created, its methods are wrapped once. The wrapper runs `setup`
if that is still due, opens a frame of names if the method is compact, makes the module
the running one, and puts the call under a profiler name.

Wrappers of classes that are defined in `__main__` or in a function are pickled by value
(by cloudpickle), with the globals they use: these must be modules, classes or functions
of linsey, which are pickled by name, and not objects such as context variables.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from linsey import errors
from linsey.config import config
from linsey.linen.module import stack
from linsey.linen.module.phase import FRESH
from linsey.linen.module.stack import run_interceptors

CallableT = TypeVar("CallableT", bound=Callable[..., Any])

# Methods with a meaning of their own for Python: they run while attributes are looked
# up or instances built, so nothing may be done around them.
_UNTOUCHED = frozenset(
    "__init__ __post_init__ __eq__ __hash__ __repr__ __new__ __init_subclass__"
    " __class_getitem__ __getattr__ __getattribute__ __setattr__ __delattr__ __dir__"
    " __getstate__ __setstate__ __reduce__ __reduce_ex__ __copy__ __deepcopy__"
    " __set_name__ __del__ __sizeof__ __str__ __format__".split()
)


def compact(fun: CallableT) -> CallableT:
    """Lets a method declare parameters, variables and submodules where they are used.

    Names are counted from the outermost compact call of a module to its end: a second
    compact method called inside goes on counting, one called beside it starts anew.

    Example:
        >>> import jax, linsey.linen as nn
        >>> class MLP(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         return nn.Dense(1)(nn.relu(nn.Dense(4)(x)))
        >>> sorted(MLP().init(jax.random.key(0), jax.numpy.ones((2, 3)))["params"])
        ['Dense_0', 'Dense_1']
    """
    fun.compact = True  # type: ignore[attr-defined]
    return fun


def nowrap(fun: CallableT) -> CallableT:
    """Leaves a method of a module alone: it is called as any Python method.

    For helpers that must not be intercepted, lifted or take part in naming, e.g. a
    method that constructs submodules for its caller.
    """
    fun.nowrap = True  # type: ignore[attr-defined]
    return fun


def wrap_class(cls: type) -> None:
    """Wraps the methods and descriptors that `cls` itself defines."""
    untouched = _UNTOUCHED.union(cls.__dict__.get("__annotations__", ()))
    for name, value in list(cls.__dict__.items()):
        if name in untouched or isinstance(value, (type, staticmethod, classmethod)):
            continue
        if callable(value):
            setattr(cls, name, wrap_method_once(value))
        elif hasattr(type(value), "__get__") and not name.startswith("__"):
            is_data = hasattr(type(value), "__set__")
            kind = _DataDescriptorWrapper if is_data else DescriptorWrapper
            setattr(cls, name, kind(value, name))


def wrap_method_once(fun: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a method, unless it is wrapped already or marked with `nowrap`."""
    if hasattr(fun, "method_handler_wrapped") or hasattr(fun, "nowrap"):
        return fun
    wrap = _wrap_setup if getattr(fun, "__name__", "") == "setup" else _wrap
    wrapped = wrap(fun)
    wrapped.method_handler_wrapped = True  # type: ignore[attr-defined]
    return wrapped


def _wrap(fun: Callable[..., Any]) -> Callable[..., Any]:
    name = getattr(fun, "__name__", "unnamed_function")
    suffix = "" if name == "__call__" else "." + name
    is_compact = hasattr(fun, "compact")
    intercepted = functools.partial(run_interceptors, fun, name)
    named_scope = jax.named_scope

    @functools.wraps(fun)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        phase = getattr(self, "_phase", None)
        if phase is None:  # borrowed by a class that is no module
            return fun(self, *args, **kwargs)
        if phase == FRESH:
            self._run_setup()
        opened = is_compact and self._open_frame()
        token = stack.RUNNING.set(self)
        try:
            run = intercepted if stack.INTERCEPTORS.get() else fun
            if not config.flax_profile:
                return run(self, *args, **kwargs)
            with named_scope((self.name or type(self).__name__) + suffix):
                return run(self, *args, **kwargs)
        finally:
            stack.RUNNING.reset(token)
            if opened:
                self._frame.is_open = False

    return method


def _wrap_setup(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`setup` makes the module the running one; `Module._run_setup` does the rest."""

    @functools.wraps(fun)
    def setup(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.scope is None:
            raise errors.CallSetupUnboundModuleError(module=self)
        token = stack.RUNNING.set(self)
        try:
            if stack.INTERCEPTORS.get():
                return run_interceptors(fun, "setup", self, *args, **kwargs)
            return fun(self, *args, **kwargs)
        finally:
            stack.RUNNING.reset(token)

    return setup


class DescriptorWrapper:
    """A property, or any descriptor, that may use what `setup` defines."""

    def __init__(self, wrapped: Any, name: str):
        self.wrapped = wrapped
        self.name = name
        self.__doc__ = getattr(wrapped, "__doc__", None)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            value = self.wrapped.__get__(instance, owner)
            return self if value is self.wrapped else value
        if instance.__dict__.get("_phase") == FRESH:
            instance._run_setup()
        try:
            return self.wrapped.__get__(instance, owner)
        except AttributeError as error:
            # Python would go on with `__getattr__` and hide where the error came from.
            raise errors.DescriptorAttributeError(
                module=instance, attr_name=self.name
            ) from error

    def __set_name__(self, owner: type, name: str) -> None:
        if hasattr(self.wrapped, "__set_name__"):
            self.wrapped.__set_name__(owner, name)

    def __getattr__(self, name: str) -> Any:
        if name in ("wrapped", "name"):
            raise AttributeError(name)
        return getattr(self.wrapped, name)


class _DataDescriptorWrapper(DescriptorWrapper):
    def __set__(self, instance: Any, value: Any) -> None:
        self.wrapped.__set__(instance, value)

    def __delete__(self, instance: Any) -> None:
        self.wrapped.__delete__(instance)
