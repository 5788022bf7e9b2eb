"""The base class of metrics, which accumulate values over batches; sums and means."""

from __future__ import annotations

import abc
import enum
import inspect
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from linsey.errors.base import ShapeError
from linsey.errors.treex import PositionalArgumentsError
from linsey.promotion import promote_types
from linsey.treex.losses import On, labels_filter, select_labels
from linsey.treex.treeo import Tree, apply, copy
from linsey.treex.treeo.flatten import discover
from linsey.treex.treeo.names import snake_case
from linsey.treex.treeo.tree import TreeMeta
from linsey.treex.treex import Treex
from linsey.treex.types import MetricState
from linsey.typing import Dtype

__all__ = [
    "MAE",
    "MSE",
    "Mean",
    "MeanAbsoluteError",
    "MeanSquareError",
    "Metric",
    "Reduce",
    "Reduction",
]

T = TypeVar("T")


class MetricMeta(TreeMeta):
    """Stores the initial state of metrics; `__call__` has the signature of `update`."""

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict) -> None:
        if "update" in namespace and "__call__" not in namespace:
            type.__setattr__(cls, "__call__", _call_like(namespace["update"]))
        super().__init__(name, bases, namespace)

    def run_constructor(cls, obj: Any, args: tuple, kwargs: dict) -> None:
        """Run `__init__` and keep a copy of the initial state."""
        obj.__init__(*args, **kwargs)
        defaults = {
            "name": snake_case(cls.__name__),
            "dtype": jnp.float32,
            "_labels_filter": (),
        }
        for name, value in defaults.items():  # for classes that do not call `super`
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
        """Add a batch and return the value for this batch alone; see `update`."""
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
    """Base class of metrics; subclasses define `update` and `compute`.

    The state is kept in fields declared with `MetricState.node()`, so that compiled
    functions can take and return a metric.

    Args:
        on: a key or index, or a sequence of them, that selects a part of `target` and
            `preds`.
        name: name in logs. Defaults to the class name in snake case.
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
        """Return the value over everything that was added."""

    def reset(self) -> None:
        """Restore the initial state, including that of inner metrics."""

        def reset(tree: Tree) -> None:
            if isinstance(tree, Metric):
                vars(tree).update(tree._initial_state)

        apply(reset, self, inplace=True)


def accepted(function: Callable[..., object], kwargs: dict[str, T]) -> dict[str, T]:
    """Return the arguments that a function accepts, all if it has `**kwargs`."""
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return kwargs
    return {name: value for name, value in kwargs.items() if name in parameters}


# --- sums and means ------------------------------------------------------------------


class Reduction(enum.Enum):
    """The ways of reducing values to one."""

    sum = enum.auto()
    sum_over_batch_size = enum.auto()
    weighted_mean = enum.auto()


class Reduce(Metric):
    """Accumulates the sum or the mean of values.

    Args:
        reduction: a `Reduction` or its name: `sum`, `sum_over_batch_size` (the sum of
            weighted values divided by their number) or `weighted_mean` (divided by the
            sum of the weights).
        on: see `Metric`, also for the arguments that follow.
        name: name in logs.
        dtype: dtype of the sum.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> total = tx.metrics.Reduce("sum")
        >>> print(total(values=jnp.array([1.0, 2.0])))
        3.0
    """

    total: jax.Array = MetricState.node()
    count: jax.Array | None = MetricState.node()

    def __init__(
        self,
        reduction: Reduction | str,
        on: On = None,
        name: str | None = None,
        dtype: Dtype | None = None,
    ) -> None:
        super().__init__(on=on, name=name, dtype=dtype)
        if isinstance(reduction, str):
            reduction = Reduction[reduction]
        self.reduction = reduction
        self.total = jnp.array(0.0, dtype=self.dtype)
        self.count = None
        if reduction is Reduction.sum_over_batch_size:
            self.count = jnp.array(0, dtype=jnp.uint32)
        elif reduction is Reduction.weighted_mean:
            self.count = jnp.array(0.0, dtype=jnp.float32)  # weights may be fractions

    def update(self, values: ArrayLike, sample_weight: ArrayLike | None = None) -> None:
        """Add values.

        Args:
            values: array of any shape.
            sample_weight: a weight for each value, for each entry of the leading axes,
                or any array that broadcasts to the shape of `values`.

        Raises:
            ShapeError: the weights do not fit the values.
        """
        values = jnp.asarray(values)
        weights = None
        if sample_weight is not None:
            values, weights = self._align(values, jnp.asarray(sample_weight))
            values = values * weights
        self.total = self.total + jnp.sum(values).astype(self.total.dtype)
        if self.count is None:
            return
        added = jnp.array(values.size)
        if self.reduction is Reduction.weighted_mean and weights is not None:
            added = jnp.sum(weights)
        self.count = self.count + added.astype(self.count.dtype)

    def _align(
        self, values: jax.Array, weights: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return values and weights with the same shape."""
        shape = values.shape
        if weights.shape == shape:
            return values, weights
        if weights.ndim and weights.shape == shape[: weights.ndim]:
            axes = tuple(range(weights.ndim, values.ndim))
            whole = self.reduction is Reduction.sum
            return (jnp.sum if whole else jnp.mean)(values, axis=axes), weights
        try:
            return values, jnp.broadcast_to(weights, shape)
        except ValueError:
            raise ShapeError(
                f"Weights of shape {weights.shape} do not fit values of shape {shape}.",
                "Each value is multiplied by its weight.",
                "Give one weight for each entry of the leading axes.",
            ) from None

    def compute(self) -> jax.Array:
        """Return the sum or the mean of all values; the mean of nothing is NaN."""
        return self.total if self.count is None else self.total / self.count


class Mean(Reduce):
    """Accumulates the weighted mean of values.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> mean = tx.metrics.Mean()
        >>> weights = jnp.array([1.0, 1.0, 0.0, 0.0])
        >>> print(mean(values=jnp.array([1.0, 3.0, 5.0, 7.0]), sample_weight=weights))
        2.0
    """

    def __init__(
        self, on: On = None, name: str | None = None, dtype: Dtype | None = None
    ) -> None:
        super().__init__(Reduction.weighted_mean, on=on, name=name, dtype=dtype)


class _MeanError(Mean):
    """Accumulates the mean of a function of preds - target."""

    _function: ClassVar[Callable[[jax.Array], jax.Array]]

    def update(  # type: ignore[override]
        self,
        target: ArrayLike,
        preds: ArrayLike,
        sample_weight: ArrayLike | None = None,
    ) -> None:
        """Add a batch of targets and predictions with the same shape."""
        target, preds = jnp.asarray(target), jnp.asarray(preds)
        dtype = promote_types(target.dtype, preds.dtype)
        if not jnp.issubdtype(dtype, jnp.inexact):
            dtype = jnp.float32  # integers would be truncated or wrap around
        error = preds.astype(dtype) - target.astype(dtype)
        super().update(self._function(error), sample_weight)


class MeanAbsoluteError(_MeanError):
    """Accumulates the mean of |preds - target|."""

    _function = staticmethod(jnp.abs)


class MeanSquareError(_MeanError):
    """Accumulates the mean of (preds - target)^2."""

    _function = staticmethod(jnp.square)


MAE = MeanAbsoluteError
MSE = MeanSquareError
