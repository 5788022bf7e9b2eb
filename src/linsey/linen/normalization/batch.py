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
    """Normalize each channel by mean and variance of the batch.

        y = (x - mean) * scale / sqrt(var + epsilon) + bias

    In training mean and variance are those of the batch, and running averages of them,
    the *running statistics*, are kept in the collection `batch_stats`, which must be
    mutable. In evaluation (`use_running_average=True`) these take their place. While
    initialising, the batch is used, nothing is updated and no named axis is needed.

    Moments are accurate at any offset and kept in float32 at least. A batch without
    values (empty, or masked altogether) and channels whose moments are not finite leave
    the running statistics alone. Inputs may be as large as their dtype allows: they are
    normalized like others, but where the variance is beyond that range, inputs above
    1e19 in float32, it counts as not finite.

    Attributes:
        use_running_average: whether to normalize by the running statistics; given
            here or at the call.
        axis: the axis of the channels, or several; moments are taken over the others.
        momentum: fraction of the old average that is kept, in [0, 1]. If `None`, the
            running statistics are the plain average of all batches so far, which counts
            updates.
        epsilon: small number added to the variance.
        dtype: result dtype. If `None`, it is inferred from inputs and parameters.
        param_dtype: dtype of the parameters.
        use_bias: whether to add a bias.
        use_scale: whether to multiply by a scale.
        bias_init: initializer of `bias`, of the shape of the channel axes.
        scale_init: initializer of `scale`, of that shape.
        axis_name: name or names of mapped axes (`jax.vmap`, `jax.pmap`,
            `jax.shard_map`) that belong to the batch. Under `jax.jit` with a sharded
            batch no name is needed.
        axis_index_groups: groups of indices of that axis; each is a batch of its own.
        use_fast_variance: accepted for compatibility; it has no effect.
        force_float32_reductions: accepted for compatibility; moments are always in
            float32 at least.
        unbiased_variance: whether the running variance is that of `n - 1` degrees of
            freedom, as in PyTorch; the batch is divided by the biased one.
        group_size: number of examples, counted by the first axis, that are normalized
            together, whatever devices hold them. If `None`, all that `axis_name`
            combines. What remains is spread over the groups. Running statistics are
            averages over the groups.
        renorm: bounds `(r_max, d_max)` of batch renormalization, or a function from the
            number of updates to them, such as `linsey.ops.renorm_schedule` makes.
        num_domains: number of domains with statistics of their own, along a new first
            axis of `mean` and `var`; the call says which one. All share scale and bias.
        frozen: whether training leaves the layer alone: `True`, or only its
            `"statistics"`, which then also normalize in training, or only its
            `"affine"` parameters, which then have no gradient.
        nonfinite: what a batch does to the statistics of channels where its moments
            are not finite: `"skip"` leaves them alone, `"propagate"` spoils them,
            `"error"` raises `NonFiniteBatchError`.
        count_updates: whether to count updates in the collection `batch_counts`. Then,
            with `momentum=None` and with a function as `renorm` it must be mutable too.
        activation: `"relu"`, `"leaky_relu"`, `"silu"`, `"gelu"` or a function that is
            applied to the result.
        save_memory: whether to keep only the input for the backward pass, and not what
            comes out as well. A training call then returns a `linsey.ops.Deferred`
            value: `Conv` and `Dense` compute it again when their gradient is due, and
            to everything else it is an array. Reverse mode only.

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

    Differs from Flax in that masked and unevenly masked shards are weighted by what
    they count, that the variance does not lose digits at a large mean, that a bad batch
    does not spoil the statistics, and in errors for misuse that passes there in
    silence.
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
            mask: where inputs count for the moments, of a shape that broadcasts to that
                of `x`; numbers are weights. What is masked may hold anything.
            domain: index of the domain that the batch comes from, traced or not; given
                if and only if there is `num_domains`.
            scale: factors in place of a parameter, which there must not be: of the
                shape of the channels, or of one that broadcasts to that of `x`.
            bias: offsets in place of a parameter, likewise.

        Returns:
            An array of the shape of `x`.

        Raises:
            ValueError: `use_running_average` was given here and to the constructor, or
                at neither place.
            TracedFlagError: it is a traced value.
            MissingBatchStatsError: there are no running statistics to update.
            SingleValuePerChannelError: a batch to train on has one value per channel,
                inside of `jax.jit`, `jax.grad` or another transform.
            HalfPrecisionStatisticsError: running statistics to update are of half
                precision.
            FeatureShapeChangedError: the input has other channels than they have.
            UnboundAxisNameError: an `axis_name` is not bound.
            OptionError: an option has no such value, or excludes another; `domain` is
                missing, superfluous or out of range; `scale` or `bias` is given and
                also a parameter.
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
            # A deferred value acts as an array.
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
        Scale and bias per channel; and a pair to apply afterwards instead, if one of
        them has another shape, which broadcasts to that of the inputs.
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
    """Scale and shift by values per channel, or of a shape that broadcasts to `y`."""
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
    """Refuse to defer what one multiplication and addition does not give again."""
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
