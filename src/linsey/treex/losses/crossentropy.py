"""The cross-entropy of classes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from linsey.errors.base import ShapeError
from linsey.treex.losses.loss import Loss, On, Reduction
from linsey.treex.types import EPSILON


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
        target: class indices, of the shape of `preds` without its last axis, or a
            number for each class. An index out of range counts zero.
        preds: logits, or probabilities, with the classes on the last axis.
        binary: whether each class is decided on its own.
        from_logits: whether `preds` are logits.
        label_smoothing: fraction of the target that is spread over all classes.
        check_bounds: accepted for compatibility; it changes nothing.

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
        binary: whether each class is decided on its own.
        label_smoothing: fraction of the target that is spread over all classes.
        reduction: see `Loss`.
        check_bounds: accepted for compatibility; it changes nothing.
        weight: factor of the result.
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
