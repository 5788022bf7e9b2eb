"""Losses of numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from linsey.treex.losses.loss import Loss, On, Reduction
from linsey.treex.types import EPSILON


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

    Both are at least 1e-7.
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
    """Return minus the cosine of the angle between vectors along an axis."""
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
        delta: from where on errors count linearly.
        reduction: see `Loss`, as the following ones.
        weight: factor of the result.
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
        reduction: see `Loss`, as the following ones.
        weight: factor of the result.
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
