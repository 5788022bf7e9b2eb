"""The fraction of examples that are classified correctly."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from linsey.treex.kinds import MetricState
from linsey.treex.metrics.metric import Metric
from linsey.treex.metrics.utils import (
    AverageMethod,
    DataType,
    MDMCAverageMethod,
    select_topk,
)


class Accuracy(Metric):
    """Accumulates the accuracy of classifications.

    Args:
        threshold: from where on a probability means yes.
        num_classes: number of classes; needed for predicted labels, and for averages
            over classes.
        average: `micro` counts examples, `macro` takes the mean over the classes that
            occurred, `weighted` weights them by their number of examples, `none` gives
            a value for each.
        mdmc_average: only `global`.
        ignore_index: a class whose examples do not count.
        top_k: an example is correct if its class is among the k most likely.
        multiclass: only none.
        subset_accuracy: whether all labels of an example must be right.
        compute_on_step: accepted for compatibility, as the next three; no effect.
        dist_sync_on_step: no effect.
        process_group: no effect.
        dist_sync_fn: no effect.
        mode: what the data is: a `DataType` or its name.
        on: see `Metric`, as the following ones.
        name: name in logs.
        dtype: dtype of the result.

    Raises:
        ValueError: the options contradict each other.

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
        process_group: Any = None,
        dist_sync_fn: Any = None,
        mode: str | DataType = DataType.MULTICLASS,
        on: Any = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(on=on, name=name, dtype=dtype)
        if average is None:
            raise ValueError("average=None is no average: write average='none'.")
        self.threshold = threshold
        self.num_classes = num_classes
        self.average = AverageMethod.of(average)
        self.mdmc_average = MDMCAverageMethod.of(mdmc_average)
        self.ignore_index = ignore_index
        self.top_k = top_k
        self.subset_accuracy = subset_accuracy
        self.mode = DataType.of(mode)
        self._check_options(multiclass)
        by_class = self.average is not AverageMethod.MICRO
        shape = (num_classes,) if by_class and num_classes else ()
        zeros = jnp.zeros(shape, dtype=jnp.uint32)
        self.tp = self.fp = self.tn = self.fn = zeros

    def _check_options(self, multiclass: bool | None) -> None:
        average, classes, ignored = self.average, self.num_classes, self.ignore_index
        if average is AverageMethod.SAMPLES:
            raise ValueError("average='samples' is not offered: use 'micro'.")
        if self.mdmc_average is MDMCAverageMethod.SAMPLEWISE:
            raise ValueError("mdmc_average='samplewise' is not offered: use 'global'.")
        if multiclass is not None:
            raise ValueError("`multiclass` is not offered: give `mode`.")
        if average is not AverageMethod.MICRO and not classes:
            raise ValueError(f"average={average.value!r} needs `num_classes`.")
        if average is not AverageMethod.MICRO and self.subset_accuracy:
            raise ValueError("`subset_accuracy` counts examples: average='micro'.")
        if ignored is not None and not 0 <= ignored < (classes or ignored + 1):
            raise ValueError(
                f"ignore_index={ignored} is none of the {classes} classes."
            )
        if self.top_k is not None and (
            not isinstance(self.top_k, int) or self.top_k < 1
        ):
            raise ValueError(f"top_k={self.top_k!r} must be a positive integer.")

    def update(self, preds: Any, target: Any) -> None:
        """Adds a batch.

        Args:
            preds: logits or probabilities of shape (..., classes), or labels.
            target: labels of shape (...).

        Raises:
            ValueError: shapes or dtypes do not fit.
        """
        preds, target = jnp.asarray(preds), jnp.asarray(target)
        if jnp.issubdtype(target.dtype, jnp.floating):
            raise ValueError(f"Targets are labels, integers; found {target.dtype}.")
        if preds.shape[:1] != target.shape[:1]:
            raise ValueError(
                f"preds {preds.shape} and target {target.shape} must have one number "
                "of examples."
            )
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

    def _decisions(self, preds: Any, target: Any) -> tuple[Any, Any]:
        """Yes and no for each entry, as (examples, labels)."""
        if preds.shape != target.shape:
            raise ValueError(
                f"preds {preds.shape} and target {target.shape} must be of one shape."
            )
        if jnp.issubdtype(preds.dtype, jnp.floating):
            preds = preds >= self.threshold
        labels = preds.shape[-1] if preds.ndim > 1 else 1
        return (
            preds.astype(jnp.int32).reshape(-1, labels),
            target.astype(jnp.int32).reshape(-1, labels),
        )

    def _one_hot(self, preds: Any, target: Any) -> tuple[Any, Any]:
        """Ones for the predicted and the true classes, as (examples, classes)."""
        floating = jnp.issubdtype(preds.dtype, jnp.floating)
        if floating and preds.shape == target.shape:  # probabilities of class one
            preds, floating = (preds >= self.threshold).astype(jnp.int32), False
            classes = self.num_classes or 2
        elif floating and preds.shape[:-1] == target.shape:
            classes = preds.shape[-1]
            if self.num_classes not in (None, classes):
                raise ValueError(
                    f"num_classes={self.num_classes}, but preds has {classes} classes."
                )
        elif preds.shape == target.shape:
            if self.num_classes is None:
                raise ValueError("Predicted labels need `num_classes`.")
            classes = self.num_classes
        else:
            raise ValueError(
                f"preds {preds.shape} must have the shape of target {target.shape}, "
                "with an axis of classes after it unless they are labels."
            )
        if floating:
            if self.top_k is not None and self.top_k >= classes:
                raise ValueError(f"top_k={self.top_k} must be under {classes} classes.")
            p = select_topk(preds.reshape(-1, classes), self.top_k or 1)
        else:
            p = jax.nn.one_hot(preds.reshape(-1), classes, dtype=jnp.int32)
        t = jax.nn.one_hot(target.reshape(-1), classes, dtype=jnp.int32)
        if self.ignore_index is not None:
            counts = (target.reshape(-1) != self.ignore_index)[:, None]
            p, t = p * counts, t * counts
        return p, t

    def compute(self) -> jax.Array:
        """The accuracy of everything that was added, 0 if nothing was."""
        tp, fp, tn, fn = (
            x.astype(self.dtype) for x in (self.tp, self.fp, self.tn, self.fn)
        )
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


def _squeeze(x: Any) -> Any:
    """Without axes of size one, but for the first one."""
    return x.reshape(x.shape[:1] + tuple(n for n in x.shape[1:] if n != 1))


def _ratio(numerator: Any, denominator: Any) -> Any:
    some = denominator > 0
    return jnp.where(some, numerator / jnp.where(some, denominator, 1), 0.0)
