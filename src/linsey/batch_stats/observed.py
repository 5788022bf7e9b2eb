"""Observations of a layer in one call, in a batch, and in all batches."""

from __future__ import annotations

from typing import NamedTuple

from linsey.batch_stats.merging import Pool, Values, exact, merge, numpy_of
from linsey.batch_stats.statistics import (
    Path,
    Variables,
    find_statistics,
    with_statistics,
)


class Observed(NamedTuple):
    """Observations of a layer. Each array has the shape of the layer's statistics.

    Attributes:
        mean: means of the inputs.
        var: biased variances of the inputs, or averages of the variances of groups.
        count: number of values, or the sum of their weights; 0 where the layer was not
            called.
        within: variance within each example, averaged over examples, if requested.
        examples: number of examples.
        grouped: 1 where moments are averages over groups.
        unbiased: 1 where the running variance should be unbiased.
        moved: 1 where the call updated the running statistics.
        epsilon: number that the layer adds to the variance.
        order: position of the first call of the layer, counted from 1.
    """

    mean: Values
    var: Values
    count: Values
    within: Values
    examples: Values
    grouped: Values
    unbiased: Values
    moved: Values
    epsilon: Values
    order: Values

    @property
    def pool(self) -> Pool:
        """The moments as a `Pool`, to be merged with those of other batches."""
        return Pool(self.mean, self.var, self.count)


Seen = dict[Path, Observed]


def combine(old: Observed, new: Observed) -> Observed:
    """Combine earlier observations with new ones."""
    xp = numpy_of(old, new)
    mean, var, count = merge(old.pool, new.pool, old.grouped + new.grouped > 0)
    # Variances within examples are averaged, like those of groups.
    a, b = (Pool(0 * one.var, one.within, one.count) for one in (old, new))
    return Observed(
        mean,
        var,
        count,
        within=merge(a, b, True).var,
        examples=old.examples + new.examples,
        grouped=xp.maximum(old.grouped, new.grouped),
        unbiased=xp.maximum(old.unbiased, new.unbiased),
        moved=xp.maximum(old.moved, new.moved),
        epsilon=xp.maximum(old.epsilon, new.epsilon),
        order=xp.where(old.order > 0, old.order, new.order),
    )


def updated(variables: Variables, seen: Seen) -> Variables:
    """Replace the running statistics that training updates by the observed moments."""
    return with_statistics(
        variables,
        {
            one.path: _replaced(exact(one.mean), exact(one.var), seen[one.path])
            for one in find_statistics(variables)
            if one.path in seen
        },
    )


def _replaced(mean: Values, var: Values, seen: Observed) -> tuple[Values, Values]:
    xp = numpy_of(seen)
    is_unbiased = (seen.unbiased > 0) & (seen.grouped == 0) & (seen.count > 1)
    degrees = xp.where(is_unbiased, seen.count - 1, xp.maximum(seen.count, 1))
    factor = xp.where(is_unbiased, seen.count / degrees, 1)
    moves = (seen.moved > 0) & (seen.count > 0)
    return xp.where(moves, seen.mean, mean), xp.where(moves, seen.var * factor, var)
