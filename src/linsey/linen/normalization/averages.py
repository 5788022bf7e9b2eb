"""The running averages of `BatchNorm`: where they are kept, and who may write them."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey import errors
from linsey.errors import norms
from linsey.linen.normalization.common import is_traced, path_text
from linsey.ops.named_axes import shard_count
from linsey.ops.standardize import Plan

STATS = "batch_stats"
COUNTS = "batch_counts"


class RunningAverages:
    """Mean and variance of one domain, and the number of their updates if it is kept.

    Args:
        layer: the layer whose variables they are.
        shape: their shape, that of the channel axes.
        domain: index of the domain, none if there is only one.
        counted: whether the number of updates is kept as well.
    """

    def __init__(
        self, layer: Any, shape: tuple[int, ...], domain: Array | None, counted: bool
    ) -> None:
        self.layer, self.shape, self.domain = layer, shape, domain
        rows = () if domain is None else (layer.num_domains,)
        stored = (*rows, *shape)
        self.mean = layer.variable(STATS, "mean", jnp.zeros, stored, jnp.float32)
        self.var = layer.variable(STATS, "var", jnp.ones, stored, jnp.float32)
        self.updates = None
        if counted:
            self.updates = layer.variable(COUNTS, "updates", jnp.zeros, rows, jnp.int32)

    def read(self) -> tuple[Array, Array]:
        """Mean and variance."""
        return self._get(self.mean), self._get(self.var)

    def count(self) -> Array:
        """How often they have been updated."""
        return self._get(self.updates)

    def write(self, mean: Array, var: Array) -> None:
        """Replaces mean and variance, and counts one more update."""
        self._put(self.mean, mean)
        self._put(self.var, var)
        if self.updates is not None:
            self._put(self.updates, self.count() + 1)

    def _get(self, kept: Any) -> Array:
        if self.domain is None:
            return kept.value
        return lax.dynamic_index_in_dim(kept.value, self.domain, keepdims=False)

    def _put(self, kept: Any, value: Array) -> None:
        if self.domain is not None:
            value = lax.dynamic_update_index_in_dim(kept.value, value, self.domain, 0)
        kept.value = value


def check_domain(layer: Any, domain: Any) -> Array | None:
    """Returns the index of a domain, none where there are no domains.

    Raises:
        DomainError: one is needed and not given, or is none of them.
    """
    count = layer.num_domains
    if count is None and domain is None:
        return None
    known = not isinstance(domain, int | np.integer) or 0 <= domain < (count or 0)
    if known and count is not None and domain is not None:
        index = jnp.asarray(domain)
        if not index.shape and jnp.issubdtype(index.dtype, jnp.integer):
            return index
    raise norms.DomainError(path_text(layer), count, domain, module=layer)


def check_trainable(layer: Any, counted: bool) -> None:
    """Refuses to train averages that would start anew at each call.

    Raises:
        MissingBatchStatsError: the variables do not hold them.
    """
    needed = [(STATS, "mean"), *([(COUNTS, "updates")] if counted else [])]
    missing = [name for name in needed if not layer.has_variable(*name)]
    if not missing:
        return
    # Parameters that come into being with them tell an initialisation by `apply`.
    creates = layer.is_mutable_collection("params") and not (
        layer.has_variable("params", "scale") or layer.has_variable("params", "bias")
    )
    if not creates:
        collection, name = missing[0]
        raise errors.MissingBatchStatsError(
            path_text(layer), module=layer, col_name=collection, var_name=name
        )


def check_shape(
    layer: Any, mean: Array, shape: tuple[int, ...], input_shape: tuple[int, ...]
) -> None:
    """Refuses an input with other channels than the averages have.

    Raises:
        FeatureShapeChangedError: it has.
    """
    if mean.shape != shape:
        raise errors.FeatureShapeChangedError(
            path_text(layer),
            expected=_number(mean.shape),
            found=_number(shape),
            input_shape=input_shape,
            axis=layer.axis,
            module=layer,
        )


def check_batch(layer: Any, mean: Array, x: Array, plan: Plan) -> None:
    """Refuses to train on a single value, and to train averages that cannot move.

    Raises:
        SingleValuePerChannelError: there is one value per channel, and the call is
            part of a program that is compiled or differentiated.
        HalfPrecisionStatisticsError: the averages are of half precision.
    """
    values = math.prod(x.shape[axis] for axis in plan.axes)
    # Outside of any transform it is a look at shapes, as guides take with one row.
    if values == 1 and is_traced(x) and shard_count(plan.names, plan.groups) == 1:
        raise errors.SingleValuePerChannelError(
            path_text(layer), x.shape, axes=plan.axes, module=layer
        )
    dtype = mean.dtype
    if dtype.itemsize < 4:
        raise norms.HalfPrecisionStatisticsError(path_text(layer), dtype, module=layer)


def _number(shape: tuple[int, ...]) -> object:
    return shape[0] if len(shape) == 1 else shape
