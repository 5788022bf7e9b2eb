"""Processing of module classes when they are defined, and the wrapper of their methods.

The class is made a dataclass, and each of its methods is wrapped once. The wrapper runs
`setup` if it has not run yet, opens a frame of names if the method is compact, makes
the module the running one, and puts the call under a profiler name.

If a class is defined in `__main__` or in a function, cloudpickle stores its wrappers by
value, with the globals they use. These globals must be modules, classes or functions of
linsey, which are pickled by name, and not objects such as context variables.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import jax

from linsey import errors
from linsey.config import config
from linsey.linen.module import functional
from linsey.linen.module.binding import FRESH, SETTING_UP, UNSPECIFIED, ModuleBase
from linsey.linen.module.functional import run_interceptors

__all__ = ["compact", "merge_param", "nowrap"]
__all__ += ["disable_named_call", "enable_named_call", "override_named_call"]

T = TypeVar("T")
CallableT = TypeVar("CallableT", bound=Callable[..., object])

# Special methods of Python. They run while attributes are looked up or instances are
# built, so they must not be wrapped.
_UNTOUCHED = frozenset(
    "__init__ __post_init__ __eq__ __hash__ __repr__ __new__ __init_subclass__"
    " __class_getitem__ __getattr__ __getattribute__ __setattr__ __delattr__ __dir__"
    " __getstate__ __setstate__ __reduce__ __reduce_ex__ __copy__ __deepcopy__"
    " __set_name__ __del__ __sizeof__ __str__ __format__".split()
)


def make_dataclass(cls: type[Any], base: type[ModuleBase], kw_only: bool) -> None:
    """Make a class a dataclass and note facts about its fields.

    Args:
        cls: the new class.
        base: the class of all modules, whose `__eq__` and `__hash__` are kept.
        kw_only: whether its fields are keyword-only arguments.

    Raises:
        ReservedModuleAttributeError: the class annotates `parent`.
    """
    for name in ("__eq__", "__hash__"):
        # Do not inherit them from a dataclass, and do not keep the `__hash__ = None`
        # that Python sets for a class that defines `__eq__`.
        if cls.__dict__.get(name) is None:
            setattr(cls, name, getattr(base, name))
    annotations = cls.__annotations__
    if "parent" in annotations:
        raise errors.ReservedModuleAttributeError(annotations)
    last = ["parent", "name"]
    if "name" in annotations:
        last.reverse()
        # Many programs repeat the field `name`. It keeps its usual meaning, and a
        # default has no effect; otherwise two instances would have the same name.
        del annotations["name"]
        if "name" in cls.__dict__:
            del cls.name
    inherited = getattr(cls, "__dataclass_fields__", {})
    if "parent" not in inherited:
        annotations |= {"parent": Any, "name": str | None}
        cls.parent = dataclasses.field(default=UNSPECIFIED, repr=False, kw_only=True)
        cls.name = dataclasses.field(default=None, kw_only=True)
    overridden = any(name in cls.__dict__ for name in inherited)
    if not annotations and len(cls.__bases__) == 1 and not overridden:
        return  # the constructor and the field facts of the base class apply
    for field in inherited.values():
        # Classes that were pickled by value have a different `MISSING` object.
        for part in ("default", "default_factory"):
            if isinstance(getattr(field, part), type(dataclasses.MISSING)):
                setattr(field, part, dataclasses.MISSING)
    dataclasses.dataclass(repr=False, eq=False, kw_only=kw_only)(cls)
    if "name" in cls.__dict__:
        # A module without its own name has the name of its scope; see `__getattr__`.
        del cls.name
    # As in Flax, new keyword-only fields of a subclass come after these two.
    if not (kw_only and "parent" in inherited):
        if [*inherited][-1:] == ["parent"]:
            last = ["name", "parent"]
        for name in last:  # these fields come last, also in subclasses
            cls.__dataclass_fields__[name] = cls.__dataclass_fields__.pop(name)
    by_name = {field.name: field for field in dataclasses.fields(cls)}
    parent, name, fields = by_name.pop("parent"), by_name.pop("name"), by_name.values()
    cls._init_fields = tuple(f.name for f in fields if f.init)
    cls._shown_fields = tuple(f.name for f in fields if f.init and f.repr)
    # The parent comes first: it distinguishes bound modules before their children,
    # which refer to their parents, are compared.
    compared = [f for f in (parent, name, *fields) if f.compare]
    cls._compared_fields = tuple(f.name for f in compared)
    cls._hash_fields = tuple(f.name for f in compared if f.hash is not False)


def compact(fun: CallableT) -> CallableT:
    """Let a method declare parameters, variables and submodules where they are used.

    Automatic names are counted within the outermost compact call of a module: a compact
    method called inside it continues the count, one called afterwards starts again.

    Example:
        >>> import jax, linsey.linen as nn
        >>> class MLP(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         return nn.Dense(1)(nn.relu(nn.Dense(4)(x)))
        >>> sorted(MLP().init(jax.random.key(0), jax.numpy.ones((2, 3)))["params"])
        ['Dense_0', 'Dense_1']
    """
    refuse_setup(fun, "compact")
    fun.compact = True  # type: ignore[attr-defined]
    return fun


def refuse_setup(fun: Callable[..., object], mark: str) -> None:
    """Raise an error if a decorator that is meant for other methods marks `setup`."""
    if getattr(fun, "__name__", "") == "setup":
        raise errors.UsageError(
            f"`setup` is marked with `@nn.{mark}`.",
            "What `setup` makes is named by the attributes that it is assigned to.",
            "Leave the mark out, or make submodules in `@nn.compact def __call__`.",
        )


def nowrap(fun: CallableT) -> CallableT:
    """Leave a method of a module unwrapped, like any other Python method.

    Use it for helpers that must not be intercepted, lifted or take part in naming, e.g.
    a method that constructs submodules for its caller.
    """
    fun.nowrap = True  # type: ignore[attr-defined]
    return fun


def wrap_class(cls: type) -> None:
    """Wrap the methods and descriptors that `cls` itself defines."""
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


def wrap_method_once(fun: Callable[..., T], anyway: bool = False) -> Callable[..., T]:
    """Wrap a method, unless it is wrapped already or marked with `nowrap`.

    Lifted functions run in their own frame of names, which a compact method has to open
    even if it is marked (`anyway`).
    """
    is_left_alone = hasattr(fun, "nowrap") and not anyway
    if hasattr(fun, "method_handler_wrapped") or is_left_alone:
        return fun
    wrapped = _wrap(fun)
    wrapped.method_handler_wrapped = True  # type: ignore[attr-defined]
    return wrapped


def _wrap(fun: Callable[..., T]) -> Callable[..., T]:
    inner = getattr(fun, "func", fun) if not hasattr(fun, "__name__") else fun
    name = getattr(inner, "__name__", "unnamed_function")
    suffix = "" if name == "__call__" else "." + name
    is_setup = name == "setup"
    is_compact = hasattr(fun, "compact") and not is_setup
    intercepted = functools.partial(run_interceptors, fun, name)
    named_scope = contextlib.nullcontext if is_setup else jax.named_scope

    @functools.wraps(fun)
    def method(self: ModuleBase, *args: object, **kwargs: object) -> T:
        try:
            bound = self._bound
        except AttributeError:  # the method is used in a class that is not a module
            return fun(self, *args, **kwargs)
        if bound is None:
            if is_setup:
                raise errors.CallSetupUnboundModuleError(module=self)
            if is_compact:
                raise errors.CallCompactUnboundModuleError(module=self)
            opened = None
        else:
            if bound.phase == FRESH and not is_setup:
                bound.set_up(self)
            elif is_setup and bound.phase != SETTING_UP:  # called by the user
                return cast(T, bound.set_up(self))
            opened = bound if is_compact and bound.open_frame() else None
        token = functional.RUNNING.set(self)
        try:
            run = intercepted if functional.INTERCEPTORS.get() else fun
            if not config.flax_profile:
                return run(self, *args, **kwargs)
            label = self.__dict__.get("name") or type(self).__name__
            with named_scope(label + suffix):
                return run(self, *args, **kwargs)
        finally:
            functional.RUNNING.reset(token)
            if opened is not None:
                opened.frame.is_open = False
                if opened.scope.reservations:  # names that methods took on the scope
                    opened.scope = opened.scope.rewound()

    return method


class DescriptorWrapper:
    """A property, or any descriptor, that may use attributes assigned in `setup`."""

    def __init__(self, wrapped: Any, name: str):
        self.wrapped = wrapped
        self.name = name
        self.__doc__ = getattr(wrapped, "__doc__", None)

    def __get__(self, instance: ModuleBase | None, owner: type | None = None) -> Any:
        if instance is None:
            value = self.wrapped.__get__(instance, owner)
            return self if value is self.wrapped else value
        bound = instance._bound
        if bound is not None and bound.phase == FRESH:
            bound.set_up(instance)
        try:
            return self.wrapped.__get__(instance, owner)
        except AttributeError as error:
            # Otherwise Python would call `__getattr__` and hide where the error arose.
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
    def __set__(self, instance: ModuleBase, value: object) -> None:
        self.wrapped.__set__(instance, value)

    def __delete__(self, instance: ModuleBase) -> None:
        self.wrapped.__delete__(instance)


def merge_param(name: str, a: T | None, b: T | None) -> T:
    """Return a setting that is given to either the constructor or the call.

    Args:
        name: name of the setting, for the error message.
        a: the value from the constructor, or `None` if it was not given there.
        b: the value from the call, or `None` if it was not given there.

    Raises:
        OptionError: both are given, or neither.

    Example:
        >>> merge_param("deterministic", None, True)
        True
    """
    given = [value for value in (a, b) if value is not None]
    if len(given) == 2:
        raise errors.OptionError(
            f'Parameter "{name}" was passed to the constructor and at call time.'
            " Should be passed just once.",
            "Two values could contradict each other.",
            f"Leave `{name}` out of the constructor, or out of the call.",
        )
    if not given:
        raise errors.OptionError(
            f'Parameter "{name}" must be passed to the constructor or at call time.',
            "It has no default.",
            f"Write `module(..., {name}=...)`, or `{name}=` in the constructor.",
        )
    return given[0]


def enable_named_call() -> None:
    """Put module methods under profiler names from now on (the default)."""
    config.update("flax_profile", True)


def disable_named_call() -> None:
    """Stop putting module methods under profiler names from now on."""
    config.update("flax_profile", False)


@contextlib.contextmanager
def override_named_call(enable: bool = True) -> Iterator[None]:
    """Switch profiler names on or off inside a `with` block."""
    with config.temp_flip_flag("profile", enable):
        yield
