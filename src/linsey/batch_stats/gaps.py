"""The gap between two normalizations of the same inputs, and how much chance explains.

A layer whose inputs have mean `mu` and variance `var` outputs `z` if it normalizes by
these batch statistics. If it normalizes by running statistics `mu_r` and `var_r`, it
outputs

    z' = (x - mu_r) / s_r = (s / s_r) z + (mu - mu_r) / s_r,    s^2 = var + epsilon.

The root mean square of `z' - z`, called the *gap*, follows from these four numbers:

    gap^2 = (s / s_r - 1)^2 var / s^2 + (mu - mu_r)^2 / s_r^2.

It is a relative difference, because `z` has mean square 1. Moments of `n` independent
values differ from the population's moments by chance: the mean by `s / sqrt(n)`,
and the standard deviation by about as much unless the distribution has light tails. A
healthy layer therefore has `gap^2` near `2 / n`.

Pixels of one image are not independent. If `B` is the variance of the means of the
examples, and `var` the variance of all values, `N` examples are equivalent to
`n = N var / B` independent values.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from linsey.batch_stats.observed import Observed

Floats = NDArray[np.float64]

BEYOND_CHANCE = 4.0  # in units of the squared gap that chance explains


class Sample(NamedTuple):
    """Moments of the channels of a layer.

    Attributes:
        mean: means, of shape (channels,).
        var: variances, of the same shape.
        values: effective number of independent values; infinite if the moments are
            exact.
        epsilon: number that the layer adds to the variance.
    """

    mean: Floats
    var: Floats
    values: float = np.inf
    epsilon: float = 1e-5


def channel_gaps(running: Sample, batch: Sample) -> Floats:
    """Return the gap between running and batch statistics for each channel.

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
    """Return the gap of a layer: the root mean square over its channels."""
    return float(np.sqrt(np.mean(channel_gaps(running, batch) ** 2)))


def chance(*samples: Sample) -> float:
    """Return the gap that chance explains for samples of their sizes."""
    return float(np.sqrt(sum(2 / one.values for one in samples)))


def is_beyond_chance(found: float, tolerance: float, *samples: Sample) -> bool:
    """Tell whether a gap is larger than chance and a tolerance together explain."""
    return found**2 > BEYOND_CHANCE * chance(*samples) ** 2 + tolerance**2


def as_sample(seen: Observed, row: tuple[int, ...]) -> Sample:
    """Return the moments of one row of a layer, with its effective sample size.

    Args:
        seen: observations of the layer, including the variance within examples.
        row: index of the row in the statistics, after axes of size 1 are removed.
    """
    mean, var, count, within = (
        np.atleast_1d(np.squeeze(part))[row]
        for part in (seen.mean, seen.var, seen.count, seen.within)
    )
    examples = float(np.max(seen.examples))
    with np.errstate(invalid="ignore", divide="ignore"):
        between = np.maximum(var - within, 0) * examples / max(examples - 1, 1)
        share = np.mean((between / var)[var > 0]) if np.any(var > 0) else 1.0
    # Channels without values that count, such as fully masked ones, get NaN.
    mean, var = (np.where(count > 0, part, np.nan) for part in (mean, var))
    most = max(float(np.max(count)), 1.0)
    values = most if not share > 0 else min(examples / share, most)
    return Sample(mean, var, max(values, 1.0), float(np.max(seen.epsilon)))
