"""The result of a comparison in a sentence that fits whichever kind did better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

MILESTONES = (0.5, 0.8, 0.9, 0.95, 0.98)
"""Test accuracies; runs are compared by how soon they reach them."""

Points = Sequence[tuple[int, float]]
"""Steps and test accuracies of a run."""


class _Best(NamedTuple):
    accuracy: float
    rate: float


def conclude(curves: Mapping[tuple[float, str], Points], part: str = "test") -> str:
    """Say which of two kinds of runs got further, and which got there sooner.

    Args:
        curves: the curve of each run by learning rate and normalization, one of which
            is `none`.
        part: the part of the data that the accuracies were measured on.

    Returns:
        A sentence.

    Example:
        >>> conclude({(0.1, "batch"): [(0, 0.1), (5, 0.85), (10, 0.96)],
        ...           (0.1, "none"): [(0, 0.1), (5, 0.3), (10, 0.82)]})
        'Normalization (batch) was ahead at 1 of 1 learning rate and behind at 0: at
        its best it reached a test accuracy of 0.9600 (lr 0.1), without it the best
        was 0.8200 (lr 0.1), and 0.8 was reached first after 5 steps with it and after
        10 without.'
    """
    norm = next(name for _, name in curves if name != "none")
    rates = list(dict.fromkeys(rate for rate, _ in curves))
    ahead, behind = _standing(curves, rates, norm)
    count = f"{len(rates)} learning rate{'s' * (len(rates) > 1)}"
    with_norm, without = (_best(curves, rates, name) for name in (norm, "none"))
    return (
        f"Normalization ({norm}) was ahead at {ahead} of {count} and behind at "
        f"{behind}: at its best it reached a {part} accuracy of "
        f"{with_norm.accuracy:.4f} (lr {with_norm.rate:g}), without it the best "
        f"was {without.accuracy:.4f} (lr {without.rate:g}){_race(curves, norm)}."
    )


def _standing(
    curves: Mapping[tuple[float, str], Points], rates: Sequence[float], norm: str
) -> tuple[int, int]:
    """Count the learning rates at which the normalized run ended ahead, or behind."""
    ends = [(_end(curves[rate, norm]), _end(curves[rate, "none"])) for rate in rates]
    return sum(a > b for a, b in ends), sum(a < b for a, b in ends)


def _end(points: Points) -> float:
    return points[-1][1] if points else 0.0


def _best(
    curves: Mapping[tuple[float, str], Points], rates: Sequence[float], name: str
) -> _Best:
    ends = [_Best(_end(curves[rate, name]), rate) for rate in rates]
    return max(ends, key=lambda end: end.accuracy)


def _race(curves: Mapping[tuple[float, str], Points], norm: str) -> str:
    """Tell which kind was first to reach the highest accuracy that both reached."""
    for milestone in reversed(MILESTONES):
        first = {True: [], False: []}
        for (_, name), points in curves.items():
            steps = [step for step, accuracy in points if accuracy >= milestone]
            first[name == norm] += steps[:1]
        if first[True] and first[False]:
            return (
                f", and {milestone:g} was reached first after {min(first[True])} steps "
                f"with it and after {min(first[False])} without"
            )
    return ""
