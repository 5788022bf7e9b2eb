"""How far two normalizations of the same inputs are apart, and what chance explains.

A layer that normalizes inputs with mean `mu` and variance `var` by these gives `z`; by
running statistics it gives

    z' = (x - mu_r) / s_r = (s / s_r) z + (mu - mu_r) / s_r,    s^2 = var + epsilon,

so that the root mean square of `z' - z`, the *gap*, follows from the four numbers:

    gap^2 = (s / s_r - 1)^2 var / s^2 + (mu - mu_r)^2 / s_r^2.

It is relative: `z` has mean square 1. Moments of `n` independent values differ from
those of all by chance, the mean by `s / sqrt(n)` and the deviation by about as much for
values whose tails are not light, so that a healthy layer has `gap^2` near `2 / n`.

Pixels of one image are not independent. If `B` is the variance of the means of
examples, and `var` that of all values, `N` examples are worth `n = N var / B` values.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from linsey.batch_stats.observed import Observed

Floats = NDArray[np.float64]

BEYOND_CHANCE = 4.0  # times the square that chance explains


class Sample(NamedTuple):
    """Moments of the channels of a layer.

    Attributes:
        mean: means, of shape (channels,).
        var: variances, of that shape.
        values: how many independent values they are of; infinite for exact ones.
        epsilon: what the layer adds to the variance.
    """

    mean: Floats
    var: Floats
    values: float = np.inf
    epsilon: float = 1e-5


def channel_gaps(running: Sample, batch: Sample) -> Floats:
    """Return the gap of each channel between statistics and a batch.

    Example:
        >>> one, two = np.ones(1), np.full(1, 2.0)
        >>> channel_gaps(Sample(one, one, epsilon=0.0), Sample(two, one, epsilon=0.0))
        array([1.])
    """
    with np.errstate(invalid="ignore", over="ignore"):
        deviation = np.sqrt(batch.var + batch.epsilon)
        running_deviation = np.sqrt(running.var + batch.epsilon)
        scale = (deviation / running_deviation - 1) ** 2 * batch.var / deviation**2
        shift = np.abs(batch.mean - running.mean) / running_deviation
        return np.sqrt(scale + shift**2)


def gap(running: Sample, batch: Sample) -> float:
    """Return the gap of a layer, the root mean square over its channels."""
    return float(np.sqrt(np.mean(channel_gaps(running, batch) ** 2)))


def chance(*samples: Sample) -> float:
    """Return the gap that samples of so many values have by chance."""
    return float(np.sqrt(sum(2 / one.values for one in samples)))


def is_beyond_chance(found: float, tolerance: float, *samples: Sample) -> bool:
    """Return whether a gap is larger than a tolerance and chance together explain."""
    return found**2 > BEYOND_CHANCE * chance(*samples) ** 2 + tolerance**2


def as_sample(seen: Observed, row: tuple[int, ...]) -> Sample:
    """Return what was seen in one row of a layer, worth so many independent values.

    Args:
        seen: of the layer, with the variance within examples.
        row: index of the row in statistics whose axes of size 1 are gone.
    """
    mean, var, count, within = (
        np.atleast_1d(np.squeeze(part))[row]
        for part in (seen.mean, seen.var, seen.count, seen.within)
    )
    examples = float(np.max(seen.examples))
    with np.errstate(invalid="ignore", divide="ignore"):
        between = np.maximum(var - within, 0) * examples / max(examples - 1, 1)
        share = np.mean((between / var)[var > 0]) if np.any(var > 0) else 1.0
    # What is not finite, and what is masked, counts for nothing.
    mean, var = (np.where(count > 0, part, np.nan) for part in (mean, var))
    most = max(float(np.max(count)), 1.0)
    values = most if not share > 0 else min(examples / share, most)
    return Sample(mean, var, max(values, 1.0), float(np.max(seen.epsilon)))
