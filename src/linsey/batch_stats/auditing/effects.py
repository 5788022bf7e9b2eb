"""The difference between the outputs of a batch norm in evaluation and in training.

It is computed for each channel, before scale and bias. Let `m` and `v` be the mean and
variance of the data. In training, the output has mean 0 and standard deviation
`sqrt(v / (v + epsilon))`. In evaluation, they are

    shift = (m - mean) / sqrt(var + epsilon)    and    sqrt(v / (var + epsilon)).

The (Wasserstein) distance between the two outputs is the Euclidean distance between
these pairs of mean and standard deviation. For constant channels, any running variance
counts as correct.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from linsey.batch_stats.auditing.evidence import Layer

# Larger distances, and undefined ones, are replaced by this.
_MOST = 100.0
# Channels whose variance is below this fraction of the mean variance of the layer, in
# the statistics and in the data, hardly vary: few examples determine their moments.
_RARE = 0.05
# Limits of the distance, above which outputs differ noticeably, or too much, from those
# that later layers were trained on: the largest channel, and the root mean square.
NOTICED = 0.75, 0.35
BROKEN = 3.0, 1.25


@dataclass(frozen=True)
class Effect:
    """The effect of wrong statistics on the output of a layer, for each channel.

    Attributes:
        shift: mean of the output in evaluation.
        ratio: standard deviation of the data divided by that of the statistics.
        distance: distance between the outputs; 0 for channels that are ignored.
    """

    shift: np.ndarray
    ratio: np.ndarray
    distance: np.ndarray

    @property
    def largest(self) -> float:
        """The largest distance."""
        return float(self.distance.max(initial=0.0))

    @property
    def overall(self) -> float:
        """The root mean square of the distances."""
        return float(np.sqrt(np.mean(self.distance**2))) if self.distance.size else 0.0

    def is_beyond(self, limits: tuple[float, float]) -> bool:
        """Tell whether the largest or the overall distance exceeds its limit."""
        return self.largest > limits[0] or self.overall > limits[1]


def effect_of(layer: Layer) -> Effect:
    """Return the effect of the statistics of a layer.

    Since the moments of a channel may differ between batches, its distance is the
    smallest one, over the average of the batches and each single batch.
    """
    observed, epsilon = layer.observed, layer.settings.epsilon
    assert observed is not None
    means = np.concatenate([observed.mean[None], observed.means])
    vars_ = np.concatenate([observed.var[None], observed.vars])
    with np.errstate(all="ignore"):
        rstd = layer.rstd
        shifts = (means - layer.mean) * rstd
        gaps = np.sqrt(vars_) * rstd - np.sqrt(vars_ / (vars_ + epsilon))
        ratio = np.sqrt(observed.var + epsilon) * rstd
    distances = np.nan_to_num(np.hypot(shifts, gaps), nan=_MOST, posinf=_MOST)
    distance = np.minimum(distances.min(0), _MOST)
    distance = np.where(_counts(layer), distance, 0.0)
    return Effect(shifts[0], ratio, distance)


def misfit(layer: Layer, mean: np.ndarray, var: np.ndarray) -> float:
    """Return the relative distance of means and variances from the moments of the data.

    It combines the difference of the means, in standard deviations, and the difference
    of the logarithms of the standard deviations, as a root mean square over the
    channels. Unlike the effect, it does not favour large variances, which make outputs,
    and thereby the distance between them, small.
    """
    observed, epsilon = layer.observed, layer.settings.epsilon
    assert observed is not None
    unit = observed.var + epsilon
    with np.errstate(all="ignore"):
        away = (mean - observed.mean) / np.sqrt(unit)
        stretch = np.log((var + epsilon) / unit) / 2
    distance = np.nan_to_num(np.hypot(away, stretch), nan=_MOST, posinf=_MOST)
    counted = np.minimum(distance, _MOST)[_counts(layer)]
    return float(np.sqrt(np.mean(counted**2))) if counted.size else 0.0


def agrees(layer: Layer) -> bool | None:
    """Tell whether statistics agree with the data; `None` if there is no data."""
    return None if layer.observed is None else not effect_of(layer).is_beyond(NOTICED)


def _counts(layer: Layer) -> np.ndarray:
    """Mark the channels that affect the output and depend on many examples."""
    assert layer.observed is not None
    rare = (layer.var >= 0) & np.full(layer.var.shape, True)
    for var in (layer.observed.var, layer.var):
        rare &= var < (_RARE * np.nan_to_num(var).mean() if var.size else 0.0)
    return layer.matters & ~rare
