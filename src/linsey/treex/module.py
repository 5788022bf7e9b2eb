"""`Module`: a tree that is initialized once, by a key and the inputs of a call."""

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
    """Gives modules a name, and keys to those that compact methods build."""

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict) -> None:
        if "__call__" in namespace:
            type.__setattr__(cls, "__call__", _recorded(namespace["__call__"]))
        super().__init__(name, bases, namespace)

    def run_constructor(cls, obj: Any, args: tuple, kwargs: dict) -> None:
        """Run `__init__`, out of reach of keys, and name the instance."""
        with entered(KEYS, None):
            obj.__init__(*args, **kwargs)
        if getattr(obj, "name", None) is None:
            vars(obj)["name"] = snake_case(cls.__name__)

    def join(cls, obj: Any) -> None:
        """Give an instance that a compact method built its modes and random values."""
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
    """Let `tabulate` see the first call of a module."""

    @functools.wraps(call)
    def __call__(self: S, *args: _P.args, **kwargs: _P.kwargs) -> R:
        calls = CALLS.get()
        if calls is None or id(self) in calls.first:
            return call(self, *args, **kwargs)
        inputs = Inputs(*args, **kwargs)
        calls.first[id(self)] = (inputs, None)  # a call inside, by `super()`, is none
        outputs = call(self, *args, **kwargs)
        calls.first[id(self)] = (inputs, outputs)
        return outputs

    return __call__


class Module(Treex, Filters, metaclass=ModuleMeta):
    """A layer or a model: an object that carries its parameters and its state.

    Shapes of parameters are known at the first call only, so a module is initialized
    by a call: `module.init(key, inputs)`. Then it is called like a function. What a
    call changes in the module stays there, and leaves a compiled function when the
    function returns the module.

    Args:
        name: name of the field that a compact method stores it in. Defaults to the
            class in snake case.

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
    name: str | None  # in the constructor; afterwards it is set

    def __init__(self, name: str | None = None) -> None:
        if name is not None:
            self.name = name

    @property
    def initialized(self) -> bool:
        """Whether `init` is done."""
        return self._initialized

    @property
    def training(self) -> bool:
        """Whether layers do what they do in training."""
        return self._training

    @property
    def frozen(self) -> bool:
        """Whether layers leave their state alone."""
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
        """Make the parameters.

        First every `Initializer` is replaced by its value, then `rng_init` runs on
        every module, children before parents, then the module is called.

        Args:
            key: a seed or a random key.
            inputs: arguments of the call: an `Inputs`, a tuple of positional ones, a
                mapping of keyword ones, or the only one. Without it nothing is called.
            call_method: name of the method that is called.
            inplace: initialize the object itself, not a copy.
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
        """Tell whether parameters are to be made in this call.

        Raises:
            NotInitializedError: there are none and `init` does not run.
        """
        if self._initialized:
            return False
        stream = KEYS.get()
        if stream is None or not stream.initializing:
            raise NotInitializedError(self)
        return True

    def rng_init(self) -> None:
        """Make values that need a key and no inputs; to be overridden."""

    def tabulate(
        self,
        inputs: object = MISSING,
        depth: int = -1,
        signature: bool = False,
        param_types: bool = True,
    ) -> str:
        """Return a table of the module and what is in it, for a terminal.

        Args:
            inputs: arguments of a call, as of `init`; shapes of the inputs and outputs
                of all modules are shown. Nothing is computed.
            depth: levels below the module that are shown; -1 for all.
            signature: show the arguments of constructors that are numbers or text.
            param_types: show the kinds of values.

        Raises:
            ArgumentTypeError: inputs are given and the module cannot be called.
            NotInitializedError: inputs are given and the module is not initialized.
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
    """Give keys to `next_key` and to compact methods, without initializing.

    Example:
        >>> import linsey.treex as tx
        >>> with tx.rng_key(42):
        ...     tx.next_key().shape
        (2,)
    """
    with entered(KEYS, KeyStream(as_key(key), initializing=False)):
        yield


def compact_module(f: Callable[..., object]) -> type[Module]:
    """Make a function that builds modules a module class, with its name.

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
    """Run a method under a transformation of JAX and keeps what it changes.

    The module is the first argument of what is transformed, and what comes out of it is
    the module and the result.

    Args:
        transformation: `jax.vmap`, `jax.jit` or such.
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
