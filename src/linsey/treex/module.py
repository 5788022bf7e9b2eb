"""`Module`: a tree that is initialized once, with a key and the inputs of a call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import jax

from linsey.errors.treex import NoKeyError, NotInitializedError
from linsey.treex.contexts import CALLS, KEYS, KeyStream, entered, next_key
from linsey.treex.tabulate import tabulate
from linsey.treex.treeo import MISSING, Tree, apply, compact, copy, static
from linsey.treex.treeo.compact import CURRENT
from linsey.treex.treeo.flatten import take_state
from linsey.treex.treeo.names import snake_case
from linsey.treex.treeo.tree import TreeMeta
from linsey.treex.treex import Filters, Treex
from linsey.treex.types import Initializer, Inputs
from linsey.treex.utils import as_key

__all__ = [
    "Module",
    "ModuleMeta",
    "compact_module",
    "next_key",
    "preserve_state",
    "rng_key",
]

_P = ParamSpec("_P")
R = TypeVar("R")
S = TypeVar("S")


class ModuleMeta(TreeMeta):
    """Gives modules a name, and initializes those that compact methods build."""

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict) -> None:
        if "__call__" in namespace:
            type.__setattr__(cls, "__call__", _recorded(namespace["__call__"]))
        super().__init__(name, bases, namespace)

    def run_constructor(cls, obj: Any, args: tuple, kwargs: dict) -> None:
        """Run `__init__` without access to random keys, and name the instance."""
        with entered(KEYS, None):
            obj.__init__(*args, **kwargs)
        if getattr(obj, "name", None) is None:
            vars(obj)["name"] = snake_case(cls.__name__)

    def join(cls, obj: Any) -> None:
        """Set the modes and random values of an instance built in a compact method."""
        record = CURRENT.get()
        owner = record.owner if record else None
        if isinstance(owner, Module) and not (owner.training and not owner.frozen):
            obj.train(owner.training, inplace=True)
            obj.freeze(owner.frozen, inplace=True)
        stream = KEYS.get()
        if stream is None:
            raise NoKeyError(f"`{cls.__name__}` was built in a compact method")
        obj.init(stream.next(), inplace=True, _set_initialize=False)


def _recorded(call: Callable[Concatenate[S, _P], R]) -> Callable[Concatenate[S, _P], R]:
    """Record the first call of a module for `tabulate`."""

    @functools.wraps(call)
    def __call__(self: S, *args: _P.args, **kwargs: _P.kwargs) -> R:
        calls = CALLS.get()
        if calls is None or id(self) in calls.first:
            return call(self, *args, **kwargs)
        inputs = Inputs(*args, **kwargs)
        calls.first[id(self)] = (inputs, None)  # ignore inner calls, as by `super()`
        outputs = call(self, *args, **kwargs)
        calls.first[id(self)] = (inputs, outputs)
        return outputs

    return __call__


class Module(Treex, Filters, metaclass=ModuleMeta):
    """A layer or a model: an object that holds its parameters and its state.

    The shapes of parameters are known only at the first call, so a module is
    initialized with the inputs of a call: `module.init(key, inputs)`. Afterwards it is
    called like a function. Changes that a call makes to the module are kept in it; a
    compiled function has to return the module to preserve them.

    Args:
        name: name of the field in which a compact method stores the module. Defaults
            to the class name in snake case.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.treex as tx
        >>> class Scale(tx.Module):
        ...     factor: jax.Array = tx.Parameter.node()
        ...     def __call__(self, x):
        ...         if self.initializing():
        ...             self.factor = jax.random.uniform(tx.next_key(), x.shape[-1:])
        ...         return x * self.factor
        >>> scale = Scale().init(0, jnp.ones((2, 3)))
        >>> jax.tree.map(jnp.shape, scale.parameters()).factor
        (3,)
    """

    _training: bool = static(True)
    _initialized: bool = static(False)
    _frozen: bool = static(False)
    name: str | None  # may be `None` in the constructor only

    def __init__(self, name: str | None = None) -> None:
        if name is not None:
            self.name = name

    @property
    def initialized(self) -> bool:
        """Whether the module has been initialized."""
        return self._initialized

    @property
    def training(self) -> bool:
        """Whether layers are in training mode."""
        return self._training

    @property
    def frozen(self) -> bool:
        """Whether layers do not change their state."""
        return self._frozen

    def init(
        self,
        key: int | jax.Array,
        inputs: object = MISSING,
        call_method: str = "__call__",
        *,
        inplace: bool = False,
        _set_initialize: bool = True,
    ) -> Self:
        """Create the parameters.

        First every `Initializer` is replaced with its value, then `rng_init` runs on
        every module, children before parents, and finally the module is called.

        Args:
            key: a seed or a random key.
            inputs: arguments of the call: an `Inputs`, a tuple of positional arguments,
                a mapping of keyword arguments, or a single argument. If it is not
                given, the module is not called.
            call_method: name of the method to call.
            inplace: whether to initialize the object itself and not a copy.
            _set_initialize: whether the modules count as initialized afterwards.

        Returns:
            The initialized module.
        """
        module = self if inplace else copy(self)
        with entered(KEYS, KeyStream(as_key(key), initializing=True)):
            _replace_initializers(module)
            apply(_run_rng_init, module, inplace=True)
            if inputs is not MISSING:
                given = Inputs.from_value(inputs)
                getattr(module, call_method)(*given.args, **given.kwargs)
        if _set_initialize:
            apply(_mark_initialized, module, inplace=True)
        return module

    def initializing(self) -> bool:
        """Tell whether this call must create the parameters.

        Raises:
            NotInitializedError: there are no parameters and `init` is not running.
        """
        if self._initialized:
            return False
        stream = KEYS.get()
        if stream is None or not stream.initializing:
            raise NotInitializedError(self)
        return True

    def rng_init(self) -> None:
        """Create values that need a key but no inputs; subclasses override this."""

    def tabulate(
        self,
        inputs: object = MISSING,
        depth: int = -1,
        signature: bool = False,
        param_types: bool = True,
    ) -> str:
        """Return a table of the module and its submodules, for a terminal.

        Args:
            inputs: arguments of a call, as in `init`. If given, the shapes of the
                inputs and outputs of all modules are shown. Nothing is computed.
            depth: number of levels below the module to show; -1 for all.
            signature: whether to show constructor arguments that are numbers or text.
            param_types: whether to show the kinds of values.

        Raises:
            ArgumentTypeError: inputs are given but the module cannot be called.
            NotInitializedError: inputs are given but the module is not initialized.
        """
        if inputs is not MISSING and not self.initialized:
            raise NotInitializedError(self, "was tabulated with inputs")
        return tabulate(self, inputs, depth, signature, param_types)


def _replace_initializers(module: Module) -> None:
    def is_initializer(value: object) -> bool:
        return isinstance(value, Initializer)

    leaves, structure = jax.tree.flatten(module, is_leaf=is_initializer)
    if any(map(is_initializer, leaves)):
        made = [leaf(next_key()) if is_initializer(leaf) else leaf for leaf in leaves]
        take_state(module, jax.tree.unflatten(structure, made))


def _run_rng_init(tree: Tree) -> None:
    if isinstance(tree, Module) and not tree.initialized:
        tree.rng_init()


def _mark_initialized(tree: Tree) -> None:
    if isinstance(tree, Module):
        vars(tree)["_initialized"] = True


@contextmanager
def rng_key(key: int | jax.Array) -> Iterator[None]:
    """Provide keys for `next_key` and for compact methods, without initialization.

    Example:
        >>> import linsey.treex as tx
        >>> with tx.rng_key(42):
        ...     tx.next_key().shape
        (2,)
    """
    with entered(KEYS, KeyStream(as_key(key), initializing=False)):
        yield


def compact_module(f: Callable[..., object]) -> type[Module]:
    """Turn a function that builds modules into a module class with the same name.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> @tx.compact_module
        ... def block(x):
        ...     x = tx.Linear(4)(x)
        ...     return tx.Linear(2)(x)
        >>> model = block().init(0, jnp.ones((1, 3)))
        >>> model.linear2.kernel.shape
        (4, 2)
    """

    @compact
    @functools.wraps(f)
    def __call__(self: Module, *args: object, **kwargs: object) -> object:
        return f(*args, **kwargs)

    names = {"__call__": __call__, "__module__": f.__module__, "__doc__": f.__doc__,
             "__qualname__": f.__qualname__}  # fmt: skip
    made: Any = ModuleMeta(f.__name__, (Module,), names)
    return made


def preserve_state(
    transformation: Callable[..., Any],
    *transformation_args: object,
    **transformation_kwargs: object,
) -> Callable[[Callable[Concatenate[S, _P], R]], Callable[Concatenate[S, _P], R]]:
    """Run a method under a JAX transformation and keep its changes to the module.

    The transformed function takes the module as its first argument, and returns the
    module and the result.

    Args:
        transformation: a transformation such as `jax.vmap` or `jax.jit`.
        *transformation_args: its further arguments.
        **transformation_kwargs: its keyword arguments; `in_axes` begins with the
            module, and `out_axes` is a pair, for the module and the result.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.treex as tx
        >>> class Heads(tx.Module):
        ...     @tx.preserve_state(jax.vmap, axis_name="head")
        ...     @tx.compact
        ...     def __call__(self, x):
        ...         return tx.Linear(4, axis_name="head")(x)
        >>> heads = Heads().init(0, jnp.ones((3, 5, 2)))  # (heads, batch, channels)
        >>> heads.linear.kernel.shape
        (3, 2, 4)
    """

    def decorate(
        method: Callable[Concatenate[S, _P], R],
    ) -> Callable[Concatenate[S, _P], R]:
        @functools.wraps(method)
        def pure(module: S, *args: _P.args, **kwargs: _P.kwargs) -> tuple[S, R]:
            result = method(module, *args, **kwargs)
            return module, result

        transformed = transformation(
            pure, *transformation_args, **transformation_kwargs
        )

        @functools.wraps(method)
        def run(self: S, *args: _P.args, **kwargs: _P.kwargs) -> R:
            module, result = transformed(self, *args, **kwargs)
            take_state(self, module)
            return result

        return run

    return decorate
