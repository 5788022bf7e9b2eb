"""The training loss: cross entropy, with label smoothing and class weights if asked.

Evaluation always uses the plain cross entropy, so that its losses are comparable.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
import optax
from jax import numpy as jnp

from linsey.app.arguments import near
from linsey.errors import InputError

_OPTION = "--class-weights"
_MOST = 10  # names in a message


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """The mean over a batch of `w[y] * ((1 - s) CE(y) + s mean_k CE(k))`.

    Weights are not divided by their sum in the batch, so that the contribution of an
    example does not depend on the others.

    Args:
        label_smoothing: `s`, the fraction of the probability spread evenly over all
            classes.
        class_weights: `w`, one for each class. If empty, all are 1.

    Example:
        >>> logits, y = jnp.log(jnp.array([[0.5, 0.5], [0.2, 0.8]])), jnp.array([0, 1])
        >>> float(CrossEntropy()(logits, y)), (math.log(2) - math.log(0.8)) / 2
        (0.458145..., 0.458145...)

    References:
        Szegedy et al. 2016, https://arxiv.org/abs/1512.00567 (label smoothing)
    """

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()

    def __call__(self, logits: jax.Array, y: jax.Array) -> jax.Array:
        """Compute the loss of a batch.

        Args:
            logits: (batch, classes).
            y: (batch,) integer labels.
        """
        losses = cross_entropy(logits, y)  # (batch,)
        if self.label_smoothing:
            even = -jax.nn.log_softmax(widened(logits)).mean(-1)
            losses = (1 - self.label_smoothing) * losses + self.label_smoothing * even
        if self.class_weights:
            losses = losses * jnp.asarray(self.class_weights, losses.dtype)[y]
        return losses.mean()


def cross_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    """Return the cross entropy of each example, in at least float32: (batch,)."""
    return optax.softmax_cross_entropy_with_integer_labels(widened(logits), y)


def widened(logits: jax.Array) -> jax.Array:
    """Return logits in at least float32."""
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


# -- weights of classes --------------------------------------------------------------


def class_weights(
    given: Sequence[str], y: np.ndarray, names: Sequence[str]
) -> tuple[float, ...]:
    """Read the weights of classes.

    Args:
        given: `balanced`; or NAME=WEIGHT for some classes, while the others get 1; or a
            weight for each class, in their order. If empty, classes are not weighted.
        y: the labels of the training part.
        names: the names of the classes.

    Returns:
        A weight for each class; empty if classes are not weighted.

    Raises:
        InputError: a class is unknown, or a weight is not a positive number.

    Example:
        >>> class_weights(["balanced"], np.array([0, 0, 0, 1]), ["a", "b"])
        (0.666..., 2.0)
        >>> class_weights(["b=3"], np.array([0, 1]), ["a", "b"])
        (1.0, 3.0)

    References:
        King and Zeng 2001, https://doi.org/10.1093/oxfordjournals.pan.a004868
        (`balanced`: examples / (classes * examples of the class))
    """
    if not given:
        return ()
    if list(given) == ["balanced"]:
        counts = np.bincount(y, minlength=len(names))
        # The weight of a class without examples does not matter.
        weights = len(y) / (np.count_nonzero(counts) * np.maximum(counts, 1))
        return tuple(np.where(counts, weights, 1.0).tolist())
    if not any("=" in text for text in given):
        if len(given) != len(names):
            raise InputError(
                "not a weight for each class", key=_OPTION,
                expected=f"balanced, NAME=WEIGHT ..., or {len(names)} weights",
                found=" ".join(given[:_MOST]),
            )  # fmt: skip
        return tuple(map(_weight, given))
    chosen = dict.fromkeys(names, 1.0)
    for text in given:
        name, _, weight = text.rpartition("=")
        if name not in chosen:
            raise InputError(
                "no such class", key=_OPTION, expected=", ".join(names[:_MOST]),
                found=repr(name), hint=near(name, names),
            )  # fmt: skip
        chosen[name] = _weight(weight)
    return tuple(chosen.values())


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        expected = "a positive number"
        raise InputError("not a weight", key=_OPTION, expected=expected, found=text)
    return weight
