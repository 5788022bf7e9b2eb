"""What metrics have in common: they accumulate, and tell the value of one batch too."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from linsey.errors.treex import PositionalArgumentsError
from linsey.treex.losses import On, labels_filter, select_labels
from linsey.treex.treeo import Tree, apply, copy
from linsey.treex.treeo.flatten import discover
from linsey.treex.treeo.names import snake_case
from linsey.treex.treeo.tree import TreeMeta
from linsey.treex.treex import Treex
from linsey.treex.types import MetricState
from linsey.typing import Dtype

T = TypeVar("T")


class MetricMeta(TreeMeta):
    """Remembers the first state of metrics; `__call__` shows what `update` takes."""

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict) -> None:
        if "update" in namespace and "__call__" not in namespace:
            type.__setattr__(cls, "__call__", _call_like(namespace["update"]))
        super().__init__(name, bases, namespace)

    def run_constructor(cls, obj: Any, args: tuple, kwargs: dict) -> None:
        """Run `__init__` and keep a copy of the state that it leaves."""
        obj.__init__(*args, **kwargs)
        defaults = {
            "name": snake_case(cls.__name__),
            "dtype": jnp.float32,
            "_labels_filter": (),
        }
        for name, value in defaults.items():  # of those that do not call `super`
            vars(obj).setdefault(name, value)
        metadata = discover(obj).layout.metadata
        state = {
            name: value
            for name, value in vars(obj).items()
            if metadata[name].node and issubclass(metadata[name].kind, MetricState)
        }
        vars(obj)["_initial_state"] = jax.tree.map(lambda leaf: leaf, state)


def _call_like(update: Callable[..., None]) -> Callable[..., Any]:
    def __call__(self: Metric, *args: object, **kwargs: Any) -> Any:
        """Add a batch and return its value alone; see `update`."""
        if args:
            raise PositionalArgumentsError(self, len(args))
        kwargs = select_labels(kwargs, self._labels_filter)
        self.update(**kwargs)
        batch = copy(self)
        batch.reset()
        batch.update(**kwargs)
        return batch.compute()

    vars(__call__)["__signature__"] = inspect.signature(update)
    return __call__


class Metric(Treex, metaclass=MetricMeta):
    """Base of metrics: subclasses define `update` and `compute`.

    State is kept in fields declared `MetricState.node()`, so a metric travels through
    compiled functions that return it.

    Args:
        on: key or index, or several in turn, that select a part of `target` and
            `preds`.
        name: name in logs. Defaults to the class in snake case.
        dtype: dtype of the state.

    Example:
        >>> import jax, jax.numpy as jnp, linsey.treex as tx
        >>> class Count(tx.Metric):
        ...     total: jax.Array = tx.MetricState.node()
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.total = jnp.array(0)
        ...     def update(self, values):
        ...         self.total += len(values)
        ...     def compute(self):
        ...         return self.total
        >>> count = Count()
        >>> int(count(values=[1, 2])), int(count(values=[3])), int(count.compute())
        (2, 1, 3)
    """

    _initial_state: Any = MetricState.node()

    def __init__(
        self, on: On = None, name: str | None = None, dtype: Dtype | None = None
    ) -> None:
        self.name = name if name is not None else snake_case(type(self).__name__)
        self.dtype = jnp.float32 if dtype is None else dtype
        self._labels_filter = labels_filter(on)

    @abc.abstractmethod
    def update(self, *args: Any, **kwargs: Any) -> None:
        """Add a batch to the state."""

    @abc.abstractmethod
    def compute(self) -> Any:
        """Return the value of everything that was added."""

    def reset(self) -> None:
        """Bring back the first state, also of metrics inside."""

        def reset(tree: Tree) -> None:
            if isinstance(tree, Metric):
                vars(tree).update(tree._initial_state)

        apply(reset, self, inplace=True)


def accepted(function: Callable[..., object], kwargs: dict[str, T]) -> dict[str, T]:
    """Return the arguments that a function names; all if it takes any."""
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return kwargs
    return {name: value for name, value in kwargs.items() if name in parameters}
