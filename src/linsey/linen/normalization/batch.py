"""Batch normalization, with the running statistics that evaluation needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from linsey.errors import OptionError, TracedFlagError
from linsey.errors.base import named
from linsey.linen.initializers import ones, zeros
from linsey.linen.module import Module, compact, merge_param
from linsey.linen.normalization import common
from linsey.linen.normalization.statistics import RunningStatistics
from linsey.ops.axes import expand_rank, other_axes
from linsey.ops.batch_norm import evaluate_batch_norm, train_batch_norm, train_moments
from linsey.ops.deferred import Deferred
from linsey.ops.moments import NormSpec
from linsey.ops.normalize import result_dtype, standardize_jit, standardize_once
from linsey.promotion import promote_types
from linsey.typing import Dtype, Initializer

ACTIVATIONS = ("relu", "leaky_relu", "silu", "gelu")
FROZEN = (False, True, "statistics", "affine")

Activation = Callable[[Array], Array]
Bounds = tuple[ArrayLike, ArrayLike]


class BatchNorm(Module):
    """Normalize each channel by the mean and variance of the batch.

        y = (x - mean) * scale / sqrt(var + epsilon) + bias

    In training, the layer uses the mean and variance of the batch, and keeps running
    averages of them, the *running statistics*, in the collection `batch_stats`, which
    must be mutable. In evaluation (`use_running_average=True`), it uses the running
    statistics. During initialization, the batch is used, nothing is updated and no
    named axis is needed.

    Moments are accurate for data far from zero, and at least float32. The running
    statistics do not change for an empty or fully masked batch, nor in channels whose
    moments are not finite. Inputs may be as large as their dtype allows, and are
    normalized as usual. However, if their variance exceeds that range (inputs above
    1e19 in float32), it counts as not finite.

    Attributes:
        use_running_average: whether to normalize by the running statistics; given
            here or at the call.
        axis: the axis of the channels, or several; moments are taken over the others.
        momentum: fraction of the old average that is kept, in [0, 1]. If `None`, the
            running statistics are the plain average over all batches so far, and the
            updates are counted.
        epsilon: small number added to the variance.
        dtype: result dtype. If `None`, it is inferred from inputs and parameters.
        param_dtype: dtype of the parameters.
        use_bias: whether to add a bias.
        use_scale: whether to multiply by a scale.
        bias_init: initializer of `bias`, of the shape of the channel axes.
        scale_init: initializer of `scale`, of that shape.
        axis_name: name or names of mapped axes (`jax.vmap`, `jax.pmap`,
            `jax.shard_map`) that belong to the batch. Under `jax.jit` with a sharded
            batch, no name is needed.
        axis_index_groups: groups of indices of that axis; each is a separate batch.
        use_fast_variance: accepted for compatibility; it has no effect.
        force_float32_reductions: accepted for compatibility; moments are always in
            float32 at least.
        unbiased_variance: whether the running variance is unbiased (divided by
            `n - 1`), as in PyTorch; the batch is normalized by the biased variance.
        group_size: number of examples, counted along the first axis, that are
            normalized together, whichever devices hold them. If `None`, all examples
            that `axis_name` combines. A remainder is spread over the groups. The
            running statistics are averages over the groups.
        renorm: bounds `(r_max, d_max)` of batch renormalization, or a function that
            computes them from the number of updates, such as
            `linsey.ops.renorm_schedule` returns.
        num_domains: number of domains with separate statistics, along a new first axis
            of `mean` and `var`; the call chooses one. All share scale and bias.
        frozen: whether training leaves the layer unchanged: `True` for the whole layer;
            `"statistics"` for the running statistics, which then also normalize in
            training; `"affine"` for the parameters, which then have no gradient.
        nonfinite: the effect of a batch on the statistics of channels in which its
            moments are not finite: `"skip"` leaves them unchanged, `"propagate"` makes
            them not finite, `"error"` raises `NonFiniteBatchError`.
        count_updates: whether to count updates in the collection `batch_counts`. If it
            is set, if `momentum` is `None` or if `renorm` is a function, this
            collection must be mutable too.
        activation: `"relu"`, `"leaky_relu"`, `"silu"`, `"gelu"` or a function that is
            applied to the result.
        save_memory: whether to keep only the input for the backward pass, and not the
            output as well. A training call then returns a `linsey.ops.Deferred` value,
            which `Conv` and `Dense` compute again for their gradients, and which
            everything else can use as an array. Reverse mode only.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
        >>> layer = nn.BatchNorm(momentum=0.9)
        >>> variables = layer.init(jax.random.key(0), x, use_running_average=False)
        >>> y, updates = layer.apply(
        ...     variables, x, use_running_average=False, mutable=["batch_stats"]
        ... )
        >>> print(y.round(3))
        [[-1. -1.]
         [ 1.  1.]]
        >>> print(updates["batch_stats"]["mean"], updates["batch_stats"]["var"])
        [0.2 2. ] [ 1.  10.9]

    References:
        Ioffe, Szegedy 2015, https://arxiv.org/abs/1502.03167

    Differs from Flax: shards with masks are weighted by the number of values that
    count, the variance does not lose digits if the mean is large, a bad batch does not
    spoil the statistics, and misuse that Flax accepts silently raises an error.
    """

    use_running_average: bool | None = None
    axis: int | Sequence[int] = -1
    momentum: float | None = 0.99
    epsilon: float = 1e-5
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = zeros
    scale_init: Initializer = ones
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Iterable[Sequence[int]] | None = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True
    unbiased_variance: bool = False
    group_size: int | None = None
    renorm: Bounds | Callable[[Array], Bounds] | None = None
    num_domains: int | None = None
    frozen: bool | str = False
    nonfinite: str = "skip"
    count_updates: bool = False
    activation: str | Activation | None = None
    save_memory: bool = False

    @compact
    def __call__(
        self,
        x: Array,
        use_running_average: bool | None = None,
        *,
        mask: Array | None = None,
        domain: ArrayLike | None = None,
        scale: Array | None = None,
        bias: Array | None = None,
    ) -> Array:
        """Normalize a batch.

        Args:
            x: inputs of any shape with the axes `axis`.
            use_running_average: whether to normalize by the running statistics.
            mask: which inputs count for the moments; its shape must broadcast to that
                of `x`. Numbers are used as weights. Masked inputs may have any value.
            domain: index of the domain that the batch comes from, traced or not; given
                if and only if `num_domains` is set.
            scale: factors to use in place of the parameter, which the layer must not
                have. Their shape is that of the channels, or one that broadcasts to the
                shape of `x`.
            bias: offsets to use in place of the parameter, likewise.

        Returns:
            An array of the shape of `x`.

        Raises:
            ValueError: `use_running_average` was given both here and to the
                constructor, or in neither place.
            TracedFlagError: `use_running_average` is a traced value.
            MissingBatchStatsError: there are no running statistics to update.
            SingleValuePerChannelError: a training batch has one value per channel,
                inside `jax.jit`, `jax.grad` or another transform.
            HalfPrecisionStatisticsError: the running statistics to update are in half
                precision.
            FeatureShapeChangedError: the input has a different number of channels than
                the running statistics.
            UnboundAxisNameError: an `axis_name` is not bound.
            OptionError: an option has an invalid value, or conflicts with another one;
                `domain` is missing, superfluous or out of range; `scale` or `bias` is
                given although the layer has this parameter.
            ShapeError: `mask` does not broadcast to the shape of `x`.
            NonFiniteBatchError: the batch is not finite and `nonfinite` is `error`.
        """
        evaluate = _uses_running_average(self, use_running_average)
        trains = not evaluate and not self.is_initializing()
        x = common.as_array(self, x)
        channels = common.layer_axes(self, self.axis, x.shape)
        shape = tuple(x.shape[axis] for axis in channels)
        statistics = RunningStatistics(self, x.shape, x.dtype, channels, domain, trains)
        affine, afterwards = _choose_affine(self, shape, scale, bias)
        spec = NormSpec(other_axes(channels, x.ndim), channels, self.dtype)
        if afterwards is not None:
            spec = spec._replace(dtype=promote_types(x.dtype, jnp.float32))
        if mask is not None:
            mask = expand_rank(mask, x.shape)
        activation, epsilon = _find_activation(self), self.epsilon

        if evaluate:
            y = evaluate_batch_norm(spec, x, *affine, epsilon, statistics.read())
        elif not trains and mask is None:
            y = standardize_once(spec, x, *affine, epsilon)
        elif not trains:
            y, _ = standardize_jit(spec, x, mask, *affine, epsilon)
        elif self.save_memory:
            _check_recomputable(self, mask is not None, afterwards is not None)
            (spec, rule), state = statistics.rule(spec, x), statistics.state()
            chosen, running = train_moments(spec, rule, x, epsilon, *state)
            statistics.update(*running)
            # A deferred value behaves like an array.
            operands = x, *chosen[:2], *affine, chosen[2]
            return Deferred((spec, activation), operands)  # type: ignore
        else:
            (spec, rule), state = statistics.rule(spec, x), statistics.state()
            inputs = x, mask, *affine, epsilon
            y, running = train_batch_norm(spec, rule, *inputs, *state)
            statistics.update(*running)
        if afterwards is not None:
            y = _scale_and_shift(y, afterwards, channels, self.dtype)
        return y if activation is None else activation(y)


def _uses_running_average(layer: BatchNorm, given: bool | None) -> bool:
    """Return whether a call normalizes by the running statistics."""
    flag = merge_param("use_running_average", layer.use_running_average, given)
    if common.is_traced(flag):
        raise TracedFlagError(
            "use_running_average", scope_path=common.path_text(layer), module=layer
        )
    return flag or _is_frozen(layer, "statistics")


def _is_frozen(layer: BatchNorm, part: str) -> bool:
    if layer.frozen is False:
        return False
    common.check_option("frozen", layer.frozen, FROZEN)
    return layer.frozen in (True, part)


def _choose_affine(
    layer: BatchNorm, shape: tuple[int, ...], scale: Array | None, bias: Array | None
) -> tuple[common.Affine, common.Affine | None]:
    """Choose scale and bias: parameters, or the arguments of the call.

    Returns:
        Scale and bias per channel. If one of them has another shape, which broadcasts
        to that of the inputs, also a pair to apply after normalization instead.
    """
    own = common.scale_and_bias(layer, shape)
    if _is_frozen(layer, "affine"):
        own = lax.stop_gradient(own)
    if scale is None and bias is None:
        return own, None
    chosen: list[Array | None] = []
    for name, mine, given in zip(("scale", "bias"), own, (scale, bias), strict=True):
        if mine is not None and given is not None:
            raise OptionError(
                f'{named(layer)} at "{common.path_text(layer)}" was called with '
                f"`{name}` and has a parameter `{name}` of its own.",
                "Only one of them can be applied.",
                f"Build the layer with `use_{name}=False`, or leave the argument out.",
            )
        chosen.append(mine if given is None else jnp.asarray(given))
    affine = chosen[0], chosen[1]
    if all(value is None or value.shape == shape for value in affine):
        return affine, None
    return (None, None), affine


def _scale_and_shift(
    y: Array, affine: common.Affine, channels: tuple[int, ...], dtype: Dtype | None
) -> Array:
    """Scale and shift by values per channel, or by values that broadcast to `y`."""
    dtype = result_dtype(y, *affine, dtype)
    shape = tuple(y.shape[axis] for axis in channels)
    aligned = [size if axis in channels else 1 for axis, size in enumerate(y.shape)]
    scale, bias = (
        value.reshape(aligned) if value is not None and value.shape == shape else value
        for value in affine
    )
    if scale is not None:
        y = y * scale
    if bias is not None:
        y = y + bias
    return y.astype(dtype)


def _find_activation(layer: BatchNorm) -> Activation | None:
    if layer.activation is None or callable(layer.activation):
        return layer.activation
    common.check_option("activation", layer.activation, ACTIVATIONS)
    return getattr(jax.nn, layer.activation)


def _check_recomputable(layer: BatchNorm, is_masked: bool, is_local: bool) -> None:
    """Raise an error if one multiplication and addition cannot recompute the output."""
    reasons = {
        "a `mask`": is_masked,
        "`group_size`": layer.group_size is not None,
        "a scale or bias that differs between examples": is_local,
    }
    for what, holds in reasons.items():
        if holds:
            raise OptionError(
                f"`save_memory` is set together with {what}.",
                "The backward pass computes the output again from the input and four "
                "values per channel, which do not determine it then.",
                "Leave one of them out, or put `nn.remat` around the block.",
            )
