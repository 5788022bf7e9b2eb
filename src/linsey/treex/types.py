"""The kinds of fields, small value classes, and type names for signatures.

A kind tells the purpose of the leaves of a field::

    TreePart
      Parameter                     trained values
      State
        Rng                         random keys
        MetricState                 running values of metrics
        ModelState
          BatchStat                 running statistics
          Cache                     values that a layer keeps between calls
        OptState                    states of optimizers
      Log
        LossLog                     values that are added to the loss
        MetricLog                   values that are reported
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, Protocol, TypeVar

import jax
import numpy as np

from linsey.treex.treeo.fields import KindMixin
from linsey.treex.treeo.operations import Selector
from linsey.treex.treeo.sentinels import MISSING as MISSING
from linsey.treex.treeo.sentinels import Hashable as Hashable
from linsey.treex.treeo.sentinels import Missing as Missing
from linsey.treex.treeo.sentinels import Nothing as Nothing

EPSILON = 1e-7
"""A small number that keeps logarithms and quotients finite."""

T = TypeVar("T")
ScalarLike = np.ndarray | jax.Array | float | int
"""A number, or an array that holds one."""
KeyLike = int | jax.Array
"""A random key, or a seed."""
IndexLike = str | int | Iterable[str | int]
"""An index or key of nested inputs, or several that are applied one after the other."""
PathLike = str | pathlib.Path
"""The path of a file."""
InputLike = object
"""Any value that `Inputs.from_value` accepts."""
Filter = Selector
"""A kind of fields, or a function that selects fields."""

# --- kinds ---------------------------------------------------------------------------


class TreePart(KindMixin):
    """Base of all kinds."""


class Parameter(TreePart):
    """A value that is learned."""


class State(TreePart):
    """A value that changes but is not learned."""


class Rng(State):
    """A random key."""


class MetricState(State):
    """The running values of a metric."""


class ModelState(State):
    """State of a model."""


class BatchStat(ModelState):
    """Running statistics of batches."""


class Cache(ModelState):
    """A value that a layer keeps between calls."""


class OptState(State):
    """The state of an optimizer."""


class Log(TreePart):
    """A value that a model makes available to others."""


class LossLog(Log):
    """A value that is added to the loss."""


class MetricLog(Log):
    """A value that is reported."""


# --- values --------------------------------------------------------------------------


class WrappedCall(Protocol):
    """A function that wraps another one."""

    __wrapped__: Callable[..., Any]

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Call the function."""


class OptionalDependencyNotFound(Exception):
    """A package that a part of the library needs is not installed."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(eq=False, repr=False)
class Initializer:
    """A placeholder for a value that `init` will create: `f(key)`.

    Args:
        f: a function of a random key.

    Example:
        >>> import linsey.treex as tx
        >>> class Line(tx.Module):
        ...     slope: jax.Array = tx.Parameter.node()
        ...     def __init__(self):
        ...         self.slope = tx.Initializer(lambda key: jax.random.normal(key, ()))
        >>> Line().init(0).slope.shape
        ()
    """

    f: Callable[[jax.Array], Any] = dataclasses.field(metadata={"static": True})

    def __call__(self, key: jax.Array) -> Any:
        """Return the value for a key."""
        return self.f(key)

    def __repr__(self) -> str:
        return "Initializer"


class Inputs:
    """The arguments of a call.

    Example:
        >>> inputs = Inputs(1, flag=True)
        >>> inputs.args, inputs.kwargs
        ((1,), {'flag': True})
        >>> Inputs.from_value({"x": 1}).kwargs, Inputs.from_value([1]).args
        ({'x': 1}, ([1],))
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs

    @classmethod
    def from_value(cls, value: object) -> Inputs:
        """Return inputs: a tuple by position, a mapping by keyword, or a single one."""
        if isinstance(value, cls):
            return value
        if isinstance(value, tuple):
            return cls(*value)
        if isinstance(value, Mapping):
            return cls(**value)
        return cls(value)

    def __repr__(self) -> str:
        return f"Inputs(args={self.args}, kwargs={self.kwargs})"


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Named(Generic[T]):
    """A value with a name, which is part of the structure."""

    name: str = dataclasses.field(metadata={"static": True})
    value: T
