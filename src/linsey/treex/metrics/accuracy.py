"""The fraction of examples that are classified correctly."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from linsey.errors.base import OptionError, ShapeError
from linsey.treex.losses import On
from linsey.treex.metrics import utils
from linsey.treex.metrics.metric import Metric
from linsey.treex.metrics.utils import AverageMethod, DataType, MDMCAverageMethod
from linsey.treex.types import MetricState
from linsey.typing import Dtype

Pair = tuple[jax.Array, jax.Array]
"""Predictions and targets."""


class Accuracy(Metric):
    """Accumulates the accuracy of classifications.

    Args:
        threshold: probability from which a prediction counts as positive.
        num_classes: number of classes; needed for predicted labels, and for averages
            over classes.
        average: `micro` counts examples, `macro` takes the mean over the classes that
            occurred, `weighted` weights them by their number of examples, `none`
            returns a value for each class.
        mdmc_average: must be `global`.
        ignore_index: a class whose examples do not count.
        top_k: an example is correct if its class is among the k most likely.
        multiclass: must be `None`.
        subset_accuracy: whether all labels of an example must be correct.
        compute_on_step: accepted for compatibility, as are the next three; no effect.
        dist_sync_on_step: no effect.
        process_group: no effect.
        dist_sync_fn: no effect.
        mode: the type of the data: a `DataType` or its name.
        on: see `Metric`, also for the arguments that follow.
        name: name in logs.
        dtype: dtype of the result.

    Raises:
        OptionError: the options conflict with each other.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> logits = jnp.array([[0.1, 0.9], [0.8, 0.2]])
        >>> print(tx.metrics.Accuracy()(preds=logits, target=jnp.array([1, 1])))
        0.5
    """

    tp: jax.Array = MetricState.node()
    fp: jax.Array = MetricState.node()
    tn: jax.Array = MetricState.node()
    fn: jax.Array = MetricState.node()

    def __init__(
        self,
        threshold: float = 0.5,
        num_classes: int | None = None,
        average: str | AverageMethod = AverageMethod.MICRO,
        mdmc_average: str | MDMCAverageMethod = MDMCAverageMethod.GLOBAL,
        ignore_index: int | None = None,
        top_k: int | None = None,
        multiclass: bool | None = None,
        subset_accuracy: bool = False,
        compute_on_step: bool = True,
        dist_sync_on_step: bool = False,
        process_group: object = None,
        dist_sync_fn: object = None,
        mode: str | DataType = DataType.MULTICLASS,
        on: On = None,
        name: str | None = None,
        dtype: Dtype | None = None,
    ) -> None:
        super().__init__(on=on, name=name, dtype=dtype)
        self.threshold = threshold
        self.num_classes = num_classes
        self.average = AverageMethod.of(average)
        self.mdmc_average = MDMCAverageMethod.of(mdmc_average)
        self.ignore_index = ignore_index
        self.top_k = top_k
        self.subset_accuracy = subset_accuracy
        self.mode = DataType.of(mode)
        self._check_options(average, multiclass)
        by_class = self.average is not AverageMethod.MICRO
        shape = (num_classes,) if by_class and num_classes else ()
        zeros = jnp.zeros(shape, dtype=jnp.uint32)
        self.tp = self.fp = self.tn = self.fn = zeros

    def _check_options(
        self, average: str | AverageMethod | None, multiclass: bool | None
    ) -> None:
        samplewise = self.mdmc_average is MDMCAverageMethod.SAMPLEWISE
        not_offered = {
            "average=None": average is None,
            "average='samples'": self.average is AverageMethod.SAMPLES,
            "mdmc_average='samplewise'": samplewise,
            "multiclass": multiclass is not None,
        }
        for option in (name for name, given in not_offered.items() if given):
            raise OptionError(
                f"`{option}` is not offered.",
                "Examples count alike, as do the entries of further axes, and what the "
                "data is follows from `mode` alone.",
                "Use average='micro', or 'none' for a value of each class, "
                "mdmc_average='global', and `mode` in place of `multiclass`.",
            )
        by_class = self.average is not AverageMethod.MICRO
        classes, ignored, top_k = self.num_classes, self.ignore_index, self.top_k
        if by_class and not classes:
            raise OptionError(
                f"average={self.average.value!r} needs `num_classes`.",
                "It keeps counts for each class.",
                "Write Accuracy(num_classes=...).",
            )
        if by_class and self.subset_accuracy:
            raise OptionError(
                f"`subset_accuracy` was given with average={self.average.value!r}.",
                "It counts examples, which belong to no single class.",
                "Use average='micro'.",
            )
        if ignored is not None and not 0 <= ignored < (classes or ignored + 1):
            raise OptionError(
                f"ignore_index={ignored} is none of the {classes} classes.",
                "Classes are numbered from 0.",
                "Pass the number of a class, or `None`.",
            )
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise OptionError(
                f"top_k={top_k!r} must be a positive integer.",
                "An example is correct if its class is among the k most likely.",
                "Pass top_k=1 or more, or `None`.",
            )

    def update(self, preds: ArrayLike, target: ArrayLike) -> None:
        """Add a batch.

        Args:
            preds: logits or probabilities of shape (..., classes), or labels.
            target: labels of shape (...).

        Raises:
            ShapeError: shapes do not match.
            OptionError: targets are not integers, or options do not fit the data.
        """
        preds, target = jnp.asarray(preds), jnp.asarray(target)
        if jnp.issubdtype(target.dtype, jnp.floating):
            raise OptionError(
                f"Targets have the dtype {target.dtype}.",
                "Targets are labels, integers.",
                "Pass `target.astype(int)`, or `target.argmax(-1)` of one-hot targets.",
            )
        self._check_shapes(preds, target, preds.shape[:1] == target.shape[:1])
        preds, target = _squeeze(preds), _squeeze(target)
        if self.mode in (DataType.BINARY, DataType.MULTILABEL):
            p, t = self._decisions(preds, target)
        else:
            p, t = self._one_hot(preds, target)
        if self.subset_accuracy:
            right = jnp.all((p == t).reshape(len(target), -1), axis=-1)
            self.tp += jnp.sum(right).astype(jnp.uint32)
            self.fn += jnp.sum(~right).astype(jnp.uint32)
            return
        axes = 0 if self.tp.ndim else None
        self.tp += jnp.sum(t * p, axis=axes).astype(jnp.uint32)
        self.fp += jnp.sum((1 - t) * p, axis=axes).astype(jnp.uint32)
        self.tn += jnp.sum((1 - t) * (1 - p), axis=axes).astype(jnp.uint32)
        self.fn += jnp.sum(t * (1 - p), axis=axes).astype(jnp.uint32)

    def _check_shapes(self, preds: jax.Array, target: jax.Array, fit: bool) -> None:
        if not fit:
            raise ShapeError(
                f"preds have the shape {preds.shape} and targets {target.shape}.",
                "Each target is compared with one prediction.",
                "Pass predictions of the shape of the targets, with an axis of classes "
                "after it unless they are labels, or yes and no.",
            )

    def _decisions(self, preds: jax.Array, target: jax.Array) -> Pair:
        """Return a binary decision for each entry, of shape (examples, labels)."""
        self._check_shapes(preds, target, preds.shape == target.shape)
        if jnp.issubdtype(preds.dtype, jnp.floating):
            preds = preds >= self.threshold
        labels = preds.shape[-1] if preds.ndim > 1 else 1
        preds, target = preds.astype(jnp.int32), target.astype(jnp.int32)
        return preds.reshape(-1, labels), target.reshape(-1, labels)

    def _one_hot(self, preds: jax.Array, target: jax.Array) -> Pair:
        """Return one-hot predictions and targets, of shape (examples, classes)."""
        scores = jnp.issubdtype(preds.dtype, jnp.floating)
        if scores and preds.shape == target.shape:  # probabilities of class 1
            preds, scores = (preds >= self.threshold).astype(jnp.int32), False
            classes = self.num_classes or 2
        elif scores:
            self._check_shapes(preds, target, preds.shape[:-1] == target.shape)
            classes = preds.shape[-1]
        else:
            self._check_shapes(preds, target, preds.shape == target.shape)
            classes = self.num_classes or 0
        if not classes:
            raise OptionError(
                "Predicted labels need `num_classes`.",
                "Labels do not tell how many classes there are.",
                "Write Accuracy(num_classes=...), or pass logits.",
            )
        if self.num_classes not in (None, classes):
            raise ShapeError(
                f"num_classes={self.num_classes}, but preds has {classes} classes.",
                "The last axis of logits and probabilities is that of the classes.",
                f"Write Accuracy(num_classes={classes}).",
            )
        if scores and self.top_k is not None and self.top_k >= classes:
            raise OptionError(
                f"top_k={self.top_k} must be under {classes} classes.",
                "Otherwise every example is correct.",
                "Pass a smaller `top_k`.",
            )
        if scores:
            p = utils.select_topk(preds.reshape(-1, classes), self.top_k or 1)
        else:
            p = jax.nn.one_hot(preds.reshape(-1), classes, dtype=jnp.int32)
        t = jax.nn.one_hot(target.reshape(-1), classes, dtype=jnp.int32)
        if self.ignore_index is not None:
            counts = (target.reshape(-1) != self.ignore_index)[:, None]
            p, t = p * counts, t * counts
        return p, t

    def compute(self) -> jax.Array:
        """Return the accuracy over everything that was added, or 0 if nothing was."""
        counts = (self.tp, self.fp, self.tn, self.fn)
        tp, fp, tn, fn = (count.astype(self.dtype) for count in counts)
        if self.mode in (DataType.BINARY, DataType.MULTILABEL):
            score, present = _ratio(tp + tn, tp + tn + fp + fn), tp + tn + fp + fn > 0
        else:
            score, present = _ratio(tp, tp + fn), tp + fp + fn > 0
        if self.ignore_index is not None and score.ndim:
            present &= jnp.arange(len(score)) != self.ignore_index
        if self.average is AverageMethod.MACRO:
            return _ratio(jnp.sum(score * present), jnp.sum(present))
        if self.average is AverageMethod.WEIGHTED:
            support = (tp + fn) * present
            return _ratio(jnp.sum(score * support), jnp.sum(support))
        if self.average is AverageMethod.NONE:
            return jnp.where(present, score, jnp.nan)
        return score


def _squeeze(x: jax.Array) -> jax.Array:
    """Remove all axes of size one except the first axis."""
    return x.reshape(x.shape[:1] + tuple(n for n in x.shape[1:] if n != 1))


def _ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    some = denominator > 0
    return jnp.where(some, numerator / jnp.where(some, denominator, 1), 0.0)
