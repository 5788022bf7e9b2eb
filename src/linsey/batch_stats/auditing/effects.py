"""How far the output of a batch norm in evaluation is from that in training.

Per channel, in units of the normalized output: in training it has mean 0 and deviation
`sqrt(v / (v + epsilon))`, where `v` is the variance of the data; in evaluation

    shift = (m - mean) / sqrt(var + epsilon)    and    sqrt(v / (var + epsilon)).

Their distance, in the sense of Wasserstein, is that of the pairs in the plane. Channels
that are constant are right with any variance, as they should be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from linsey.batch_stats.auditing.evidence import Layer

# Distances beyond are of one kind.
_MOST = 100.0
# Channels of that share of the mean variance of the layer, in training and in the data,
# hardly vary: few examples decide their moments.
_RARE = 0.05
# From where on outputs are not those that the layers behind were trained on: distances,
# as the largest and in the square mean over the channels.
NOTICED = 0.75, 0.35
BROKEN = 3.0, 1.25


@dataclass(frozen=True)
class Effect:
    """What statistics do to the output of a layer.

    Attributes:
        shift: per channel.
        ratio: of the deviation of the data to that of the statistics, per channel.
        distance: per channel; 0 where the output does not depend on it.
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
        """The square mean of the distances."""
        return float(np.sqrt(np.mean(self.distance**2))) if self.distance.size else 0.0

    def is_beyond(self, limits: tuple[float, float]) -> bool:
        """Tell whether it is larger than one of the limits."""
        return self.largest > limits[0] or self.overall > limits[1]


def effect_of(layer: Layer) -> Effect:
    """Return the effect of the statistics of a layer.

    Channels may differ between batches: the effect is that on their average, or on the
    batch that fits best.
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
    """Return how far numbers are from the moments of the data, in units of these.

    It is the square mean of the distance of the means, in deviations, and of the
    logarithms of the deviations. Other than the effect it is fair to large variances,
    which make outputs small, and so their distance.
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
    """Tell whether statistics agree with the data; `None` without data."""
    return None if layer.observed is None else not effect_of(layer).is_beyond(NOTICED)


def _counts(layer: Layer) -> np.ndarray:
    """Mark the statistics that decide an output and depend on many examples."""
    assert layer.observed is not None
    rare = (layer.var >= 0) & np.full(layer.var.shape, True)
    for var in (layer.observed.var, layer.var):
        rare &= var < (_RARE * np.nan_to_num(var).mean() if var.size else 0.0)
    return layer.matters & ~rare
