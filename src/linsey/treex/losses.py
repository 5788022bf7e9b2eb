"""Losses: functions of targets and predictions, and objects that reduce them.

A loss selects a part of its arguments, computes a value for each example, multiplies
it by a sample weight, reduces all values to one and multiplies the result by its
weight.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp

from linsey.errors.base import OptionError, ShapeError
from linsey.errors.treex import PositionalArgumentsError
from linsey.treex.treeo.names import snake_case
from linsey.treex.types import EPSILON

__all__ = [
    "CosineSimilarity",
    "Crossentropy",
    "Huber",
    "Loss",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredError",
    "MeanSquaredLogarithmicError",
    "Reduction",
    "cosine_similarity",
    "crossentropy",
    "huber",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_error",
    "mean_squared_logarithmic_error",
]

# --- shared by all losses -----------------------------------------------------------


class Reduction(enum.Enum):
    """The ways of reducing the values of the examples to one.

    Example:
        >>> [r.value for r in Reduction]
        ['none', 'sum', 'sum_over_batch_size']
    """

    NONE = "none"
    SUM = "sum"
    SUM_OVER_BATCH_SIZE = "sum_over_batch_size"

    @classmethod
    def all(cls) -> tuple[Self, ...]:
        """Return all reductions."""
        return tuple(cls)

    @classmethod
    def validate(cls, key: object) -> None:
        """Check that `key` is a reduction or the name of one.

        Raises:
            OptionError: `key` is not a reduction.
        """
        as_reduction(key)


def as_reduction(key: object) -> Reduction:
    """Return the reduction with a name, ignoring case; return a reduction unchanged."""
    if isinstance(key, Reduction):
        return key
    try:
        return Reduction(key.lower() if isinstance(key, str) else key)
    except ValueError:
        names = ", ".join(repr(r.value) for r in Reduction)
        raise OptionError(
            f"Invalid reduction {key!r}.",
            "A reduction says how the values of the examples become one.",
            f"Write a `Reduction`, or one of {names}.",
        ) from None


On = str | int | Sequence[str | int] | None
"""A key or an index, or several that are applied one after the other."""


class Loss:
    """Base class of losses; subclasses define `call`, with a value for each example.

    Args:
        reduction: how the values are reduced to one. Defaults to their mean.
        weight: factor for the result.
        on: a key or index, or a sequence of them, that selects a part of `target` and
            `preds`.
        name: name in logs. Defaults to the class name in snake case.
    """

    def __init__(
        self,
        reduction: Reduction | str | None = None,
        weight: float | None = None,
        on: On = None,
        name: str | None = None,
    ) -> None:
        self.name = name if name is not None else snake_case(type(self).__name__)
        self.weight = jnp.asarray(1.0 if weight is None else weight, jnp.float32)
        self._reduction = (
            Reduction.SUM_OVER_BATCH_SIZE if reduction is None else reduction
        )
        self._labels_filter = labels_filter(on)

    def __call__(self, *args: object, **kwargs: Any) -> jax.Array:
        """Return the loss for the arguments of `call`, all passed by keyword.

        Args:
            *args: not allowed.
            **kwargs: arguments of `call`, usually including `target` and `preds`, and
                `sample_weight`, a factor for each value.

        Raises:
            PositionalArgumentsError: an argument is passed by position.
        """
        if args:
            raise PositionalArgumentsError(self, len(args))
        kwargs = select_labels(kwargs, self._labels_filter)
        sample_weight = kwargs.pop("sample_weight", None)
        values = jnp.asarray(self.call(**kwargs))
        if sample_weight is not None:  # its axes are the leading ones
            factors = jnp.asarray(sample_weight)
            missing = values.ndim - factors.ndim
            values = values * factors.reshape(factors.shape + (1,) * max(missing, 0))
        reduction = as_reduction(self._reduction)
        if reduction is Reduction.SUM:
            values = jnp.sum(values)
        elif reduction is Reduction.SUM_OVER_BATCH_SIZE:
            values = jnp.sum(values) / values.size
        return values * self.weight

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Return a value for each example; subclasses override this."""


def labels_filter(on: On) -> tuple[str | int, ...]:
    """Return the keys and indices to apply, as a tuple."""
    if on is None:
        return ()
    return (on,) if isinstance(on, str | int) else tuple(on)


def select_labels(kwargs: dict[str, Any], on: tuple[str | int, ...]) -> dict[str, Any]:
    """Return the arguments with the selected part of `target` and `preds`."""
    kwargs = dict(kwargs)
    for name in ("target", "preds"):
        if kwargs.get(name) is not None:
            for index in on:
                kwargs[name] = kwargs[name][index]
    return kwargs


# --- numbers ------------------------------------------------------------------------


def mean_squared_error(target: jax.Array, preds: jax.Array) -> jax.Array:
    """Return the mean of (preds - target)^2 over the last axis.

    Example:
        >>> print(mean_squared_error(jnp.array([0.0, 1.0]), jnp.array([1.0, 1.0])))
        0.5
    """
    target = target.astype(preds.dtype)
    return jnp.mean(jnp.square(preds - target), axis=-1)


def mean_absolute_error(target: jax.Array, preds: jax.Array) -> jax.Array:
    """Return the mean of |preds - target| over the last axis."""
    target = target.astype(preds.dtype)
    return jnp.mean(jnp.abs(preds - target), axis=-1)


def mean_absolute_percentage_error(target: jax.Array, preds: jax.Array) -> jax.Array:
    """Return 100 times the mean of |preds - target| / max(|target|, 1e-7)."""
    target = target.astype(preds.dtype)
    ratio = jnp.abs((preds - target) / jnp.maximum(jnp.abs(target), EPSILON))
    return 100.0 * jnp.mean(ratio, axis=-1)


def mean_squared_logarithmic_error(target: jax.Array, preds: jax.Array) -> jax.Array:
    """Return the mean of (log(target + 1) - log(preds + 1))^2 over the last axis.

    Both `target` and `preds` are clipped to at least 1e-7.
    """
    target = target.astype(preds.dtype)
    target_log = jnp.log(jnp.maximum(target, EPSILON) + 1.0)
    preds_log = jnp.log(jnp.maximum(preds, EPSILON) + 1.0)
    return jnp.mean(jnp.square(target_log - preds_log), axis=-1)


def huber(target: jax.Array, preds: jax.Array, delta: float) -> jax.Array:
    """Return the mean of e^2 / 2, linear where e > delta, with e = |preds - target|.

    References:
        Huber 1964, https://doi.org/10.1214/aoms/1177703732
    """
    preds, target = preds.astype(float), target.astype(float)
    error = jnp.abs(preds - target)
    quadratic = jnp.minimum(error, delta)
    linear = error - quadratic
    return jnp.mean(0.5 * quadratic**2 + delta * linear, axis=-1)


def cosine_similarity(target: jax.Array, preds: jax.Array, axis: int) -> jax.Array:
    """Return the negative cosine of the angle between vectors along an axis."""
    return -jnp.sum(_unit(target, axis) * _unit(preds, axis), axis=axis)


def _unit(x: jax.Array, axis: int) -> jax.Array:
    norm = jnp.linalg.norm(x, axis=axis, keepdims=True)
    return x / jnp.maximum(norm, jnp.sqrt(EPSILON))


class MeanSquaredError(Loss):
    """`mean_squared_error` of `target` and `preds`.

    Example:
        >>> import linsey.treex as tx
        >>> target, preds = jnp.array([[0.0, 1.0]]), jnp.array([[1.0, 1.0]])
        >>> print(tx.losses.MeanSquaredError()(target=target, preds=preds))
        0.5
    """

    def call(self, target: jax.Array, preds: jax.Array) -> jax.Array:
        """Return a value for each example."""
        return mean_squared_error(target, preds)


class MeanAbsoluteError(Loss):
    """`mean_absolute_error` of `target` and `preds`."""

    def call(self, target: jax.Array, preds: jax.Array) -> jax.Array:
        """Return a value for each example."""
        return mean_absolute_error(target, preds)


class MeanAbsolutePercentageError(Loss):
    """`mean_absolute_percentage_error` of `target` and `preds`."""

    def call(self, target: jax.Array, preds: jax.Array) -> jax.Array:
        """Return a value for each example."""
        return mean_absolute_percentage_error(target, preds)


class MeanSquaredLogarithmicError(Loss):
    """`mean_squared_logarithmic_error` of `target` and `preds`."""

    def call(self, target: jax.Array, preds: jax.Array) -> jax.Array:
        """Return a value for each example."""
        return mean_squared_logarithmic_error(target, preds)


class Huber(Loss):
    """`huber` of `target` and `preds`.

    Args:
        delta: the error above which the loss is linear.
        reduction: see `Loss`, also for the arguments that follow.
        weight: factor for the result.
        on: selects a part of `target` and `preds`.
        **kwargs: `name`.
    """

    def __init__(
        self,
        delta: float = 1.0,
        reduction: Reduction | str | None = None,
        weight: float | None = None,
        on: On = None,
        **kwargs: str | None,
    ) -> None:
        self.delta = delta
        super().__init__(reduction=reduction, weight=weight, on=on, **kwargs)

    def call(self, target: jax.Array, preds: jax.Array) -> jax.Array:
        """Return a value for each example."""
        return huber(target, preds, self.delta)


class CosineSimilarity(Loss):
    """`cosine_similarity` of `target` and `preds`.

    Args:
        axis: the axis of the vectors.
        reduction: see `Loss`, also for the arguments that follow.
        weight: factor for the result.
        on: selects a part of `target` and `preds`.
        **kwargs: `name`.
    """

    def __init__(
        self,
        axis: int = -1,
        reduction: Reduction | str | None = None,
        weight: float | None = None,
        on: On = None,
        **kwargs: str | None,
    ) -> None:
        self.axis = axis
        super().__init__(reduction=reduction, weight=weight, on=on, **kwargs)

    def call(self, target: jax.Array, preds: jax.Array) -> jax.Array:
        """Return a value for each example."""
        return cosine_similarity(target, preds, self.axis)


# --- classes ------------------------------------------------------------------------


def crossentropy(
    target: jax.Array,
    preds: jax.Array,
    *,
    binary: bool = False,
    from_logits: bool = True,
    label_smoothing: float | None = None,
    check_bounds: bool = True,
) -> jax.Array:
    """Return the cross-entropy of each example.

        categorical: -sum_c t_c log p_c
        binary: -mean_c (t_c log p_c + (1 - t_c) log(1 - p_c))

    Args:
        target: class indices, with the shape of `preds` without its last axis, or a
            number for each class. For an index out of range, the loss is zero.
        preds: logits, or probabilities, with the classes on the last axis.
        binary: whether each class is an independent binary decision.
        from_logits: whether `preds` are logits.
        label_smoothing: fraction of the target that is spread over all classes.
        check_bounds: accepted for compatibility; it has no effect.

    Raises:
        ShapeError: the shapes do not fit.

    Example:
        >>> logits = jnp.array([[0.0, 0.0]])
        >>> print(crossentropy(jnp.array([1]), logits).round(4))
        [0.6931]
    """
    classes = preds.shape[-1]
    sparse = target.ndim == preds.ndim - 1
    if sparse and target.shape != preds.shape[:-1]:
        fix = "Give class indices of the shape `preds.shape[:-1]`."
        raise _misfit("examples", target, preds, fix)
    if not sparse and target.ndim != preds.ndim:
        fix = "Give class indices (one axis less), or one number per class."
        raise _misfit("ranks", target, preds, fix)
    if sparse:
        target = jax.nn.one_hot(target, classes)
    if label_smoothing is not None:
        target = (1.0 - label_smoothing) * target + label_smoothing / classes
    if not from_logits:
        preds = jnp.clip(preds, EPSILON, 1.0 - EPSILON)
    if binary:
        yes = jax.nn.log_sigmoid(preds) if from_logits else jnp.log(preds)
        no = jax.nn.log_sigmoid(-preds) if from_logits else jnp.log(1.0 - preds)
        return -jnp.mean(target * yes + (1.0 - target) * no, axis=-1)
    log = jax.nn.log_softmax(preds) if from_logits else jnp.log(preds)
    return -jnp.sum(target * log, axis=-1)


def _misfit(what: str, target: jax.Array, preds: jax.Array, fix: str) -> ShapeError:
    return ShapeError(
        f"The {what} differ: target has the shape {target.shape} and preds "
        f"{preds.shape}.",
        "They are compared entry by entry, target by class index or by one number per "
        "class.",
        fix,
    )


class Crossentropy(Loss):
    """`crossentropy` of `target` and `preds`.

    Args:
        from_logits: whether `preds` are logits.
        binary: whether each class is an independent binary decision.
        label_smoothing: fraction of the target that is spread over all classes.
        reduction: see `Loss`.
        check_bounds: accepted for compatibility; it has no effect.
        weight: factor for the result.
        on: selects a part of `target` and `preds`.
        name: name in logs.

    Example:
        >>> import linsey.treex as tx
        >>> loss = tx.losses.Crossentropy()
        >>> print(loss(target=jnp.array([1]), preds=jnp.zeros((1, 2))).round(4))
        0.6931
    """

    def __init__(
        self,
        *,
        from_logits: bool = True,
        binary: bool = False,
        label_smoothing: float | None = None,
        reduction: Reduction | str | None = None,
        check_bounds: bool = True,
        weight: float | None = None,
        on: On = None,
        name: str | None = None,
    ) -> None:
        super().__init__(reduction=reduction, weight=weight, on=on, name=name)
        self._from_logits = from_logits
        self._binary = binary
        self._label_smoothing = label_smoothing
        self._check_bounds = check_bounds

    def call(self, target: jax.Array, preds: jax.Array) -> jax.Array:
        """Return a value for each example."""
        return crossentropy(
            target,
            preds,
            binary=self._binary,
            from_logits=self._from_logits,
            label_smoothing=self._label_smoothing,
            check_bounds=self._check_bounds,
        )


# Each group used to be in a file of its own, which pickles name.
for _name in ("loss", "regression", "crossentropy"):
    sys.modules[f"{__name__}.{_name}"] = sys.modules[__name__]
