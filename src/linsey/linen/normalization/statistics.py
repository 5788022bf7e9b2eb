"""The running statistics of `BatchNorm`: their storage, updates and checks.

They are variables of the layer. This file checks the options and batches; the update
formula is in `linsey.ops.batch_norm`.
"""

from __future__ import annotations

import math
import warnings
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from linsey import errors
from linsey._drawing.filled import ones, zeros
from linsey.errors.base import named
from linsey.errors.misuse import report_misuse
from linsey.linen.module import Module, Variable
from linsey.linen.normalization import common
from linsey.ops.axes import as_groups, shard_count
from linsey.ops.batch_norm import UpdateRule
from linsey.ops.moments import NormSpec
from linsey.ops.normalize import keep_dtype
from linsey.typing import Dtype

STATS = "batch_stats"
COUNTS = "batch_counts"
NONFINITE = ("skip", "propagate", "error")

Pair = tuple[Array, Array]
Scalars = tuple[ArrayLike, ArrayLike]


class RunningStatistics:
    """The running statistics of one domain, and the number of updates if it is counted.

    Args:
        layer: the `BatchNorm` layer that has these variables.
        input_shape: shape of the inputs.
        dtype: dtype of the inputs.
        channels: the axes of the channels.
        domain: index of the domain, or `None` if there is only one.
        trains: whether the call updates them.

    Raises:
        MissingBatchStatsError: variables that the call has to update are missing.
        OptionError: `domain` is missing, superfluous or out of range; the momentum is
            not in [0, 1].
        FeatureShapeChangedError: the input has a different number of channels than the
            statistics.
    """

    def __init__(
        self,
        layer: Module,
        input_shape: tuple[int, ...],
        dtype: Dtype,
        channels: tuple[int, ...],
        domain: ArrayLike | None,
        trains: bool,
    ) -> None:
        self.layer = layer
        counts = layer.count_updates or layer.momentum is None or callable(layer.renorm)
        counts = counts and (trains or layer.is_initializing())
        if trains:
            self._check_given(counts)
        if trains or layer.is_initializing():
            _check_momentum(layer.momentum)
            _check_renorm(layer.renorm)
        self.domain = self._find_domain(domain)
        shape = tuple(input_shape[axis] for axis in channels)
        rows = () if self.domain is None else (layer.num_domains,)
        whole = (*rows, *shape)
        # Updates do not change the dtype, so that steps can be scanned.
        is_complex = jnp.issubdtype(dtype, jnp.complexfloating)
        of_mean = jnp.complex64 if is_complex else jnp.float32
        self.mean = layer.variable(STATS, "mean", zeros, whole, of_mean)
        self.var = layer.variable(STATS, "var", ones, whole, jnp.float32)
        self.updates = None
        if counts:
            self.updates = layer.variable(COUNTS, "updates", jnp.zeros, rows, jnp.int32)
        kept = self.mean.value.shape[len(rows) :]
        if kept != shape:
            error = errors.FeatureShapeChangedError(
                common.path_text(layer),
                expected=_number(kept),
                found=_number(shape),
                input_shape=input_shape,
                axis=layer.axis,
                module=layer,
            )
            if any(
                a != b and 1 not in (a, b) for a, b in zip(kept, shape, strict=True)
            ):
                raise error
            report_misuse(error)  # a single channel broadcasts, so Flax has a result

    # --- reading ----------------------------------------------------------------------

    def read(self) -> Pair:
        """Return the mean and variance."""
        return self._get(self.mean), self._get(self.var)

    def state(self) -> tuple[Pair, Scalars, Scalars | None]:
        """Return the inputs of an update: `running`, `decay` and `limits`."""
        running = self.read()
        momentum, renorm = self.layer.momentum, self.layer.renorm
        if momentum is None:
            count = self._count().astype(running[0].dtype)
            decay: Scalars = count / (count + 1), 1 / (count + 1)
        else:
            decay = momentum, 1 - momentum
        return running, decay, renorm(self._count()) if callable(renorm) else renorm

    def _count(self) -> Array:
        assert self.updates is not None
        return self._get(self.updates)

    def _get(self, kept: Variable) -> Array:
        if self.domain is None:
            return kept.value
        return lax.dynamic_index_in_dim(kept.value, self.domain, keepdims=False)

    # --- updating ---------------------------------------------------------------------

    def rule(self, spec: NormSpec, x: Array) -> tuple[NormSpec, UpdateRule]:
        """Return the axes over which a batch is reduced, and the update rule.

        Raises:
            OptionError: an option has an invalid value, or conflicts with another one.
            UnboundAxisNameError: an `axis_name` is not bound.
            SingleValuePerChannelError: there is one value per channel, and the call is
                inside a transform such as `jax.jit` or `jax.grad`.
            HalfPrecisionStatisticsError: the statistics are in half precision.
        """
        layer = self.layer
        common.check_option("nonfinite", layer.nonfinite, NONFINITE)
        if layer.group_size is not None:
            self._check_group_size(layer.group_size, spec.features)
        if layer.axis_name is not None:
            groups = as_groups(layer.axis_index_groups)
            spec = spec._replace(names=common.bound_names(layer), groups=groups)
        single = math.prod(x.shape[axis] for axis in spec.axes) == 1
        # Outside of any transform, the user may only want to see shapes, with one row.
        checked = single and common.is_traced(x)
        if checked and shard_count(spec.names, spec.groups) == 1:
            report_misuse(
                errors.SingleValuePerChannelError(
                    common.path_text(layer), x.shape, axes=spec.axes, module=layer
                )
            )
        dtype = self.mean.value.dtype
        if dtype.itemsize < 4:
            report_misuse(
                errors.HalfPrecisionStatisticsError(
                    common.path_text(layer), dtype, module=layer
                )
            )
        propagate = layer.nonfinite != "skip"
        return spec, UpdateRule(layer.group_size, layer.unbiased_variance, propagate)

    def update(self, mean: Array, var: Array) -> None:
        """Replace mean and variance, and count one more update.

        Raises:
            NonFiniteBatchError: they are not finite, and `nonfinite` is `error`.
        """
        if self.layer.nonfinite == "error":
            self._check_finite(mean, var)
        self._put(self.mean, mean)
        self._put(self.var, var)
        if self.updates is not None:
            self._put(self.updates, self._count() + 1)

    def _put(self, kept: Variable, value: Array) -> None:
        if self.domain is not None or kept.value.dtype.itemsize >= 4:
            value = keep_dtype(value, kept.value)  # after misuse they become float32
        if self.domain is not None:
            value = lax.dynamic_update_index_in_dim(kept.value, value, self.domain, 0)
        kept.value = value

    # --- checks -----------------------------------------------------------------------

    def _check_given(self, counts: bool) -> None:
        """Report missing statistics, which would start over at each training call."""
        layer = self.layer
        needed = [(STATS, "mean"), *([(COUNTS, "updates")] if counts else [])]
        missing = [name for name in needed if not layer.has_variable(*name)]
        if not missing:
            return
        # If parameters are missing too and can be created, `apply` is initializing.
        made = any(layer.has_variable("params", name) for name in ("scale", "bias"))
        if made or not layer.is_mutable_collection("params"):
            collection, name = missing[0]
            report_misuse(
                errors.MissingBatchStatsError(
                    common.path_text(layer),
                    module=layer,
                    col_name=collection,
                    var_name=name,
                )
            )

    def _find_domain(self, domain: ArrayLike | None) -> Array | None:
        count = self.layer.num_domains
        if count is None and domain is None:
            return None
        known = not isinstance(domain, int | np.integer) or domain in range(count or 0)
        if known and count is not None and domain is not None:
            index = jnp.asarray(domain)
            if not index.shape and jnp.issubdtype(index.dtype, jnp.integer):
                return index
        if count is None:
            why = "It keeps one pair of running statistics, with no domain to choose."
            fix = "Build it with `num_domains=`, or leave `domain` out."
        else:
            why = f"It keeps running statistics for each of {count} domains."
            fix = f"Pass `domain=`, a whole number from 0 to {count - 1}, to the call."
        raise errors.OptionError(
            f'{named(self.layer)} at "{common.path_text(self.layer)}" was called with '
            f"domain={domain}.",
            why,
            fix,
        )

    def _check_group_size(self, size: int, channels: tuple[int, ...]) -> None:
        if size < 1:
            raise errors.OptionError(
                f"`group_size` is {size}.",
                "It is the number of examples that are normalized together.",
                "Give a number of examples, for example 32.",
            )
        if 0 in channels:
            raise errors.OptionError(
                "`group_size` is set, and the first axis is one of the channels.",
                "Groups are made of examples, which the first axis has to count.",
                "Move the examples to the first axis, or leave `group_size` out.",
            )
        if self.layer.axis_index_groups is not None:
            raise errors.OptionError(
                "Both `group_size` and `axis_index_groups` are set.",
                "Each says which examples are normalized together.",
                "Give one of them.",
            )

    def _check_finite(self, *updated: Array) -> None:
        """Raise an error at once or, if values are traced, when the program runs."""
        path, name = common.path_text(self.layer), type(self.layer).__name__

        def check(*updated: ArrayLike) -> None:
            finite = np.all([np.isfinite(value) for value in updated], axis=0)
            if not finite.all():
                raise errors.NonFiniteBatchError(
                    path, int((~finite).sum()), module=name
                )

        if any(map(common.is_traced, updated)):
            jax.debug.callback(check, *updated)
        else:
            check(*updated)


def _check_momentum(momentum: ArrayLike | None) -> None:
    """Report a momentum out of range, and warn about PyTorch's usual value of 0.1."""
    if not isinstance(momentum, int | float):
        return
    if not 0 <= momentum <= 1:
        error = errors.OptionError(
            f"`BatchNorm` has momentum={momentum}.",
            "It is the fraction of the old average that is kept, in [0, 1].",
            "Write for example `momentum=0.9`; what PyTorch calls `momentum=m` is "
            "`momentum=1 - m` here.",
        )
        report_misuse(error)
    if momentum == 0.1:
        _hint_at_momentum()


def _check_renorm(renorm: object) -> None:
    """Raise an error unless there are two bounds, in range where they are numbers."""
    if renorm is None or callable(renorm):
        return
    is_pair = isinstance(renorm, tuple | list) and len(renorm) == 2
    lows = zip(renorm, (1, 0), strict=True) if is_pair else ()
    is_low = any(isinstance(x, int | float) and not x >= low for x, low in lows)
    if not is_pair or is_low:
        raise errors.OptionError(
            f"`BatchNorm` has renorm={renorm}.",
            "It is a pair: `r_max`, the bound on the change of scale, at least 1, and "
            "`d_max`, the bound on the change of offset, at least 0.",
            "Write for example `renorm=(3.0, 5.0)`, or "
            "`renorm=linsey.ops.renorm_schedule()` for bounds that widen.",
        )


@cache
def _hint_at_momentum() -> None:
    warnings.warn(
        "`BatchNorm` has momentum=0.1, the fraction of the old average that is kept: "
        "the running statistics are nearly those of the last batch. PyTorch counts the "
        "other way round, and its `momentum=0.1` is `momentum=0.9` here. If 0.1 is "
        "meant, ignore this warning, which is shown once.",
        stacklevel=2,
    )


def _number(shape: tuple[int, ...]) -> int | tuple[int, ...]:
    return shape[0] if len(shape) == 1 else shape
