"""Checks of running statistics against data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from linsey.batch_stats.auditing.effects import (
    BROKEN,
    NOTICED,
    Effect,
    effect_of,
    misfit,
)
from linsey.batch_stats.auditing.evidence import Evidence, Layer
from linsey.batch_stats.auditing.numbers import (
    RECALIBRATE,
    few_updates,
    part,
    place,
    share_left,
)
from linsey.batch_stats.report import Finding

# An alternative explanation of the numbers must reduce the distance to this fraction,
_BETTER = 0.3
# and must itself be this close to the data.
_CLOSE = 0.6
# An average of several states contains more of the initial values than the last state,
# so the fraction found in the numbers may be larger than the count suggests.
_UNLIKELY = 0.02
# A channel with less variance than this, relative to its layer, counts as constant.
_CONSTANT = 1e-10


def disagreement(evidence: Evidence) -> Iterator[Finding]:
    """Find statistics that differ from those of the data, and the likely reason."""
    for layer in evidence.layers:
        if layer.observed is None or layer.is_initial.all():
            continue
        found = effect_of(layer)
        if not found.is_beyond(NOTICED):
            continue
        most = min(_BETTER * misfit(layer, layer.mean, layer.var), _CLOSE)
        if misfit(layer, layer.var, layer.mean) < most:
            yield _mean_and_variance_exchanged(layer, found)
        elif misfit(layer, layer.mean, layer.var**2) < most:
            yield _deviation_for_variance(layer, found)
        elif (share := _initial_share(layer)) and _may_be_left(evidence, layer, share):
            when = ", as their distance from those of the data says"
            momentum = layer.observed.momentum
            count = np.log(share) / np.log(momentum) if 0 < momentum < 1 else 0.0
            yield few_updates(layer, share, when, momentum, round(count))
        else:
            yield _wrong_statistics(layer, found)


def dead_channel(evidence: Evidence) -> Iterator[Finding]:
    """Find channels that are constant on the data."""
    for layer in evidence.layers:
        if layer.observed is None:
            continue
        largest = layer.observed.vars.max(0)
        level = largest.mean() + np.square(layer.observed.mean).mean()
        # The rounding error of moments inferred from a float32 update; see `observe`.
        rounding = 1e-6 / (1 - layer.observed.momentum) * np.abs(layer.var)
        dead = largest <= _CONSTANT * level + rounding
        if not dead.any():
            continue
        share = float(dead.mean())
        yield Finding(
            layer.name, "dead_channel", "warning" if share > 0.5 else "note",
            f"{part(dead)} do not vary on these data: nothing of the input gets "
            "through them. The border of images looks so, and is harmless.",
            {"channels": int(dead.sum()), "share": share},
            "Check the kernel before the layer and the range of the data.",
        )  # fmt: skip


def _mean_and_variance_exchanged(layer: Layer, effect: Effect) -> Finding:
    mean, var = (place("batch_stats", layer.path, name) for name in ("mean", "var"))
    return Finding(
        layer.name, "mean_and_variance_exchanged", "error",
        f"The mean is the variance of the data, and the reverse: {_told(effect)}.",
        _numbers(effect),
        f"{mean}, {var} = {var}, {mean}",
    )  # fmt: skip


def _deviation_for_variance(layer: Layer, effect: Effect) -> Finding:
    var = place("batch_stats", layer.path, "var")
    return Finding(
        layer.name, "deviation_for_variance", _severity(effect),
        f"The variance is the deviation of the data, its root: {_told(effect)}.",
        _numbers(effect),
        f"{var} = {var} ** 2",
    )  # fmt: skip


def _wrong_statistics(layer: Layer, effect: Effect) -> Finding:
    return Finding(
        layer.name, "wrong_statistics", _severity(effect),
        f"The statistics are not those of the data: {_told(effect)}.",
        _numbers(effect),
        RECALIBRATE,
    )  # fmt: skip


def _told(effect: Effect) -> str:
    shift, ratio = extremes(effect)
    return (
        f"in evaluation the normalized output is shifted by up to {shift:.2g} and "
        f"stretched by up to {ratio:.2g}"
    )


def extremes(effect: Effect) -> tuple[float, float]:
    """Return the shift furthest from 0 and the ratio furthest from 1.

    Only channels with a distance above 0 count.
    """
    matters = effect.distance > 0
    shift = np.nan_to_num(np.where(matters, effect.shift, 0.0)).ravel()
    ratio = np.nan_to_num(np.where(matters, effect.ratio, 1.0), nan=np.inf).ravel()
    with np.errstate(divide="ignore"):
        furthest = np.abs(np.log(ratio)).argmax()
    return float(np.abs(shift).max()), float(ratio[furthest])


def _numbers(effect: Effect) -> dict[str, float]:
    shift, ratio = extremes(effect)
    both = {"largest": effect.largest, "overall": effect.overall}
    return {"shift": shift, "ratio": ratio, **both}


def _severity(effect: Effect) -> str:
    return "error" if effect.is_beyond(BROKEN) else "warning"


def _may_be_left(evidence: Evidence, layer: Layer, share: float) -> bool:
    """Tell whether this much of the initial values can remain after the updates."""
    left = share_left(evidence, layer)
    return left is None or left > _UNLIKELY * share


def _initial_share(layer: Layer) -> float:
    """Return the fraction of the initial values that is left in the statistics.

    The statistics are fitted as a mixture of the initial 0 and 1 and the moments of the
    data, by least squares in units of standard deviation and variance. The result is 0
    if this does not explain them.
    """
    observed = layer.observed
    assert observed is not None
    unit = observed.var + layer.settings.epsilon
    away = np.stack([-observed.mean / np.sqrt(unit), (1 - observed.var) / unit])
    mean, var = layer.mean - observed.mean, layer.var - observed.var
    found = np.stack([mean / np.sqrt(unit), var / unit])
    square = np.sum(away**2)
    share = float(np.sum(away * found) / square) if square else 0.0
    if not 0 < share <= 1:
        return 0.0
    rest = np.sqrt(np.mean((found - share * away) ** 2))
    return share if rest < _BETTER * np.sqrt(np.mean(found**2)) else 0.0
