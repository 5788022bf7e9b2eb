"""The moments of the input to one call of a normalization layer.

A layer is any module, of any library, that owns running statistics. Its options are
read from its fields and from the arguments of the call, under the names that
`linsey.linen.BatchNorm` uses: `axis`, `axis_name`, `axis_index_groups`, `group_size`,
`unbiased_variance`, `nonfinite`, and `mask` and `domain`. If a layer lacks one of these
fields, it is assumed not to have the feature.
"""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from linsey.errors import OptionError
from linsey.ops.axes import (
    AxisNames,
    Names,
    as_groups,
    as_names,
    expand_rank,
    other_axes,
    shard_count,
)
from linsey.ops.batch_norm import UpdateRule, batch_statistics
from linsey.ops.moments import Moments, NormSpec


@dataclass(frozen=True)
class LayerCall:
    """The parts of a call of a layer that affect its statistics.

    Attributes:
        x: the input.
        mask: mask of the same rank as the input, or `None`.
        spec: the axes over which moments are computed.
        groups: number of examples that are normalized together; `None` for all.
        domain: row of the statistics that the call uses; `None` for all rows.
        is_unbiased: whether the running variance is unbiased.
        skips_nonfinite: whether moments that are not finite are ignored.
        epsilon: number that the layer adds to the variance.
    """

    x: Array
    mask: Array | None
    spec: NormSpec
    groups: int | None
    domain: Array | None
    is_unbiased: bool
    skips_nonfinite: bool
    epsilon: float

    def moments(self, shape: tuple[int, ...]) -> Moments:
        """Compute mean, variance and count, each in the shape of the statistics."""
        rule = UpdateRule(self.groups, self.is_unbiased and self.groups is not None)
        return self._shaped(batch_statistics(self.spec, rule, self.x, self.mask), shape)

    def within(self, shape: tuple[int, ...]) -> Array:
        """Compute the variance within each example, averaged over the first axis."""
        return self._shaped(
            batch_statistics(self.spec, UpdateRule(1), self.x, self.mask), shape
        ).var

    @property
    def examples(self) -> int:
        """The number of examples on all shards together."""
        return self.x.shape[0] * shard_count(self.spec.names, self.spec.groups)

    def _shaped(self, taken: Moments, shape: tuple[int, ...]) -> Moments:
        mean, var = (jnp.reshape(value, shape) for value in taken[:2])
        size = jnp.size(taken.count)
        count = jnp.reshape(taken.count, () if size == 1 else shape)
        count = jnp.broadcast_to(count, shape).astype(var.dtype)
        if self.skips_nonfinite:
            finite = jnp.isfinite(mean) & jnp.isfinite(var)
            mean, var, count = (jnp.where(finite, v, 0) for v in (mean, var, count))
        return Moments(mean, var, count)


def read_call(
    module: object,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    shape: tuple[int, ...],
) -> LayerCall:
    """Read a call of a layer.

    Args:
        module: the layer.
        args: arguments of its call.
        kwargs: keyword arguments.
        shape: shape of its running mean.

    Raises:
        OptionError: no axes of the input match the shape of the statistics.
    """
    given = _named_arguments(module, args, kwargs)
    x = jnp.asarray(next((v for v in given.values() if hasattr(v, "shape")), 0))
    domain = given.get("domain") if getattr(module, "num_domains", None) else None
    mask = given.get("mask")
    kept = shape if domain is None else shape[1:]
    channels = _channel_axes(module, x.shape, kept)
    groups = getattr(module, "axis_index_groups", None)
    spec = NormSpec(
        other_axes(channels, x.ndim),
        channels,
        names=_bound_names(getattr(module, "axis_name", None)),
        groups=as_groups(groups),
    )
    epsilon = getattr(module, "epsilon", None)
    return LayerCall(
        x,
        None if mask is None else expand_rank(mask, x.shape),
        spec,
        getattr(module, "group_size", None),
        domain,
        bool(getattr(module, "unbiased_variance", False)),
        getattr(module, "nonfinite", None) == "skip",
        epsilon if isinstance(epsilon, float) else 1e-5,
    )


def _named_arguments(
    module: object, args: Sequence[object], kwargs: Mapping[str, object]
) -> dict[str, Any]:
    """Return the arguments of a call by name, in the order of the signature."""
    names = list(inspect.signature(type(module).__call__).parameters)[1:]
    positional = dict(zip(names, args, strict=False))
    unnamed = {f"argument {i}": v for i, v in enumerate(args[len(positional) :])}
    given = {**positional, **unnamed, **kwargs}
    # Keyword arguments from a batch arrive in alphabetical order.
    return {name: given[name] for name in (*names, *given) if name in given}


def _channel_axes(
    module: object, shape: tuple[int, ...], kept: tuple[int, ...]
) -> tuple[int, ...]:
    """Return the channel axes: those the layer names, or those whose sizes match."""
    rank, count = len(shape), len(kept)
    candidates = [tuple(range(rank - count, rank))] if count <= rank else []
    axis = getattr(module, "axis", None)
    if isinstance(axis, int | Sequence) and not isinstance(axis, str):
        listed = (axis,) if isinstance(axis, int) else axis
        candidates.insert(0, tuple(sorted(i % rank for i in listed)))
    if count == rank:  # the statistics keep reduced axes with size 1
        candidates.insert(0, tuple(i for i in range(rank) if kept[i] != 1))
    sizes = tuple(size for size in kept if size != 1 or count != rank)
    candidates += [(i,) for i in range(rank)]
    for found in candidates:
        if tuple(shape[i] for i in found) in (kept, sizes):
            return found
    raise OptionError(
        f"`{type(module).__name__}` keeps statistics of shape {kept} and was called "
        f"with an input of shape {shape}.",
        "The axes of its channels are those that have the sizes of its statistics, and "
        "there are none.",
        "Pass the model as a function `(variables, x, train, mutable)` whose layers "
        "are not looked into.",
    )


def _bound_names(axis_name: AxisNames | None) -> Names:
    """Return those names of mapped axes that a transform around the call binds."""

    def is_bound(name: Hashable) -> bool:
        try:
            lax.axis_size(name)
        except NameError:
            return False
        return True

    return tuple(filter(is_bound, as_names(axis_name)))


def is_traced(value: object) -> bool:
    """Tell whether a value is traced, so that Python does not know its numbers."""
    return isinstance(value, jax.core.Tracer)
