"""Causes of a gap between training and evaluation at a layer, inferred from numbers.

The batch alone shows these causes:

* `nonfinite`: the running statistics, or the layer's inputs, are not finite.
* `frozen`: a call in training does not change the running statistics.
* `never_updated`: the running statistics are zero and one, the initial values.
* `small_batch`: the gap is large, or would be with other examples, but no larger than
  chance explains for so few values.

A gap larger than chance has one of three other causes. The moments of `reference` data,
on which the model was trained, show whether the running statistics match this data:

* `other_distribution`: they match; the batch comes from a different distribution.
* `stale`: they do not match, and since the `previous` checkpoint they have either not
  moved, or moved in a direction other than towards the reference.
* `slow_momentum`: they do not match, but lie on the way from the `previous` checkpoint
  to the reference: they still average over old values, which are forgotten too slowly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from linsey.batch_stats.gaps import Sample, chance, gap, is_beyond_chance

CERTAIN = 0.01  # smallest gap for which an unambiguous cause is reported
LARGE = 0.3  # gap that chance explains for a batch of 22 values
ON_THE_WAY = 0.5  # fraction of a distance that may be orthogonal to the way

CALL = "variables = recalibrate(model, variables, batches)"


@dataclass(frozen=True)
class LayerEvidence:
    """What is known about one layer, or about one row of a scanned or mapped layer.

    Attributes:
        running: running statistics of the layer.
        batch: moments of the batch, as training computes them.
        after: the running statistics after a call in training.
        trains: whether a call in training normalizes by the batch and updates the
            running statistics.
        reference: moments of the data that the model was trained on, if given.
        previous: running statistics of an earlier checkpoint with other parameters.
    """

    running: Sample
    batch: Sample
    after: Sample
    trains: bool
    reference: Sample | None = None
    previous: Sample | None = None

    @property
    def gap(self) -> float:
        """The gap between training and evaluation."""
        return gap(self.running, self.batch)

    @property
    def momentum(self) -> float:
        """The fraction of the old statistics that an update keeps; NaN if unknown."""
        moved = _difference(self.after, self.running)
        way = _difference(self.batch, self.running)
        length = float(way @ way)
        return 1 - float(moved @ way) / length if length > 0 else np.nan


class Cause(NamedTuple):
    """A cause, or several possible ones joined by `|`, with a message and a remedy."""

    kind: str
    severity: str
    message: str
    remedy: str


def find_cause(one: LayerEvidence, tolerance: float) -> Cause | None:
    """Return the cause of a layer's gap, or `None` if there is no significant gap."""
    return _certain(one) or (
        _by_batch(one, tolerance)
        if one.reference is None
        else _by_reference(one, one.reference, tolerance)
    )


def _certain(one: LayerEvidence) -> Cause | None:
    """Return the cause that the state of the layer shows by itself, if any."""
    running, batch = one.running, one.batch
    if not np.isfinite([*running.mean, *running.var]).all() or np.any(running.var < 0):
        bad = np.sum(~np.isfinite(running.mean) | ~(running.var >= 0))
        text = f"Running statistics of {bad} of {running.var.size} channels are "
        text += "not finite, or negative as a variance."
        return Cause("nonfinite", "error", text, CALL)
    if not np.isfinite([*batch.mean, *batch.var]).all():
        text = "Inputs of the layer are not finite, or all are masked."
        fix = "Look at the layers before, and at the data."
        return Cause("nonfinite", "error", text, fix)
    if one.gap <= CERTAIN:
        return None
    if not one.trains:
        text = "The layer normalizes by its running statistics in training too; the "
        text += f"modes do not part here, but the batch is {one.gap:.2g} away."
        fix = "Unfreeze it, or set the statistics: " + CALL
        return Cause("frozen", "note", text, fix)
    if _is_same(one.after, running):
        text = "A call in training normalizes by the batch and leaves the running "
        text += "statistics as they are."
        fix = "Set a momentum below 1, as `momentum=0.9`; for now: " + CALL
        return Cause("frozen", _severity(one.gap), text, fix)
    if np.all(running.mean == 0) and np.all(running.var == 1):
        text = "The running statistics are 0 and 1, as they are initialized."
        fix = 'y, updates = model.apply(..., train=True, mutable=["batch_stats"])\n'
        fix += "variables = {**variables, **updates}"
        return Cause("never_updated", _severity(one.gap), text, fix)
    return None


def _by_batch(one: LayerEvidence, tolerance: float) -> Cause | None:
    """Return the causes that remain possible without reference data."""
    if not is_beyond_chance(one.gap, tolerance, one.batch):
        return _small_batch(one, tolerance)
    if one.previous is None:
        left = ["stale", "slow_momentum", "other_distribution"]
        fix = "To tell, pass `reference=` batches of training data and the variables "
        fix += "of an earlier checkpoint as `previous=`."
    elif _is_same(one.previous, one.running):
        return _stale(one, one.gap)
    else:
        left = ["stale", "slow_momentum", "other_distribution"]
        fix = "To tell, pass batches of training data as `reference=`."
    return Cause("|".join(left), _severity(one.gap), _beyond(one), fix)


def _by_reference(
    one: LayerEvidence, reference: Sample, tolerance: float
) -> Cause | None:
    wrong = gap(one.running, reference)
    if not is_beyond_chance(wrong, tolerance, reference):
        other = gap(reference, one.batch)
        if is_beyond_chance(other, tolerance, one.batch, reference):
            text = "The running statistics are those of the reference; the batch is of "
            text += f"other data, {other:.2g} away."
            fix = "Evaluate on such data, train on the batch's too, or, if only its "
            fix += "statistics differ, recalibrate on unlabelled batches of it."
            return Cause("other_distribution", "warning", text, fix)
        return _small_batch(one, tolerance)
    if one.previous is None:
        text = f"The running statistics are {wrong:.2g} away from the reference."
        fix = "To tell, pass the variables of an earlier checkpoint as `previous=`. "
        return Cause("stale|slow_momentum", _severity(wrong), text, fix + CALL)
    if _is_same(one.previous, one.running):
        return _stale(one, wrong)
    left, across = _way_left(one.running, one.previous, reference)
    if 0 < left < 1 and across < ON_THE_WAY:
        text = f"The running statistics are {wrong:.2g} away from the reference; "
        text += f"{left:.0%} of what they were at the earlier checkpoint is left in "
        text += f"them. An update keeps {one.momentum:.4g} of the old ones."
        fix = "Train longer, or with a smaller momentum; for now: " + CALL
        return Cause("slow_momentum", _severity(wrong), text, fix)
    text = (
        f"The running statistics are {wrong:.2g} away from the reference, and not on "
    )
    text += (
        "the way to it from the earlier checkpoint: they belong to other parameters."
    )
    return Cause("stale", _severity(wrong), text, CALL)


def _stale(one: LayerEvidence, wrong: float) -> Cause:
    text = "The running statistics have not moved since the earlier checkpoint, while "
    text += f"the parameters have; they are {wrong:.2g} away from the data."
    fix = "Keep the updates of each step: `variables = {**variables, **updates}`; for "
    return Cause("stale", _severity(wrong), text, fix + "now: " + CALL)


def _small_batch(one: LayerEvidence, tolerance: float) -> Cause | None:
    """Report that chance explains the gap, or would do so with other examples."""
    is_small = chance(one.batch) >= LARGE and one.gap > tolerance
    if one.gap < LARGE and not is_small:
        return None
    text = (
        f"The batch is worth {one.batch.values:.0f} independent values, whose moments "
    )
    text += f"differ by {chance(one.batch):.2g} by chance."
    fix = "Train on larger batches, normalize over devices (`axis_name`), use batch "
    fix += "renormalization (`renorm`), or compare on a larger batch."
    return Cause("small_batch", "warning", text, fix)


def _beyond(one: LayerEvidence) -> str:
    return (
        f"Training and evaluation differ by {one.gap:.2g}; chance explains "
        f"{chance(one.batch):.2g}. An update keeps {one.momentum:.4g} of the old "
        "statistics."
    )


def _way_left(
    running: Sample, previous: Sample, reference: Sample
) -> tuple[float, float]:
    """Return the fraction of the way to `reference` that is left, and the deviation.

    The way is the straight line from `previous` to `reference` in the space of means
    and variances: moving averages move along it.
    """
    left = _difference(running, reference, reference)
    whole = _difference(previous, reference, reference)
    length = float(whole @ whole)
    if length == 0:
        return np.inf, np.inf
    share = float(left @ whole) / length
    across = left - share * whole
    return share, float(np.sqrt(across @ across / (left @ left)))


def _difference(a: Sample, b: Sample, scale: Sample | None = None) -> np.ndarray:
    """Subtract moments of `b` from `a`, in units of standard deviation and variance."""
    size = (b if scale is None else scale).var + b.epsilon
    return np.concatenate([(a.mean - b.mean) / np.sqrt(size), (a.var - b.var) / size])


def _is_same(a: Sample, b: Sample) -> bool:
    return np.array_equal(a.mean, b.mean) and np.array_equal(a.var, b.var)


def _severity(size: float) -> str:
    return "error" if not size < LARGE else "warning"
