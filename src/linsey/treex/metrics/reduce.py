"""Sums and means of values, and of errors."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from linsey.errors.base import ShapeError
from linsey.treex.losses import On
from linsey.treex.metrics.metric import Metric
from linsey.treex.types import MetricState
from linsey.typing import Dtype

__all__ = [
    "MAE",
    "MSE",
    "Mean",
    "MeanAbsoluteError",
    "MeanSquareError",
    "Reduce",
    "Reduction",
]


class Reduction(enum.Enum):
    """How values become one."""

    sum = enum.auto()
    sum_over_batch_size = enum.auto()
    weighted_mean = enum.auto()


class Reduce(Metric):
    """Accumulates the sum or the mean of values.

    Args:
        reduction: `sum`, `sum_over_batch_size` (sum of weighted values over their
            number) or `weighted_mean` (over the sum of the weights), or its name.
        on: see `Metric`, as the following ones.
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
                or of a shape that broadcasts to that of `values`.

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
        """Return values and weights of one shape."""
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
        """Add a batch of targets and predictions of one shape."""
        target, preds = jnp.asarray(target), jnp.asarray(preds)
        dtype = jnp.promote_types(target.dtype, preds.dtype)
        if not jnp.issubdtype(dtype, jnp.inexact):
            dtype = jnp.float32  # integers would be cut or wrap around
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
