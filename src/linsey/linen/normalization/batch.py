"""Batch normalization, with the running averages that evaluation needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from linsey.errors import TracedFlagError
from linsey.linen.initializers import ones, zeros
from linsey.linen.module import Module, compact, merge_param, nowrap
from linsey.linen.normalization import averages, common, options
from linsey.linen.normalization.averages import RunningAverages
from linsey.ops import batch_norm
from linsey.ops.broadcast import expand_rank, other_axes
from linsey.ops.deferred import Deferred
from linsey.ops.named_axes import as_groups
from linsey.ops.normalize import Layout, result_dtype
from linsey.ops.standardize import Plan, standardize
from linsey.typing import Dtype, Initializer

Renorm = tuple[float, float] | Callable[[Array], tuple[Any, Any]]


class BatchNorm(Module):
    """Normalizes each channel by mean and variance of the batch.

        y = (x - mean) * scale / sqrt(var + epsilon) + bias

    In training the moments are those of the batch, and running averages of them are
    kept in the collection `batch_stats`, which must be mutable. In evaluation
    (`use_running_average=True`) the running averages take their place. While
    initialising, the batch is used, nothing is updated and no named axis is needed.

    Moments are accurate at any offset and kept in float32 at least. A batch without
    values (empty, or masked altogether) and channels whose moments are not finite leave
    the running averages alone.

    Attributes:
        use_running_average: whether to normalize by the running averages; given here
            or at the call.
        axis: the axis of the channels, or several; moments are taken over the others.
        momentum: fraction of the old average that is kept, in [0, 1]; none means the
            plain average of all batches so far, which counts updates.
        epsilon: what is added to the variance.
        dtype: dtype of the result; none means that of inputs and parameters.
        param_dtype: dtype of the parameters.
        use_bias: whether to add a bias.
        use_scale: whether to multiply with a scale.
        bias_init: initializer of `bias`, of the shape of the channel axes.
        scale_init: initializer of `scale`, of that shape.
        axis_name: name or names of mapped axes (`jax.vmap`, `jax.pmap`,
            `jax.shard_map`) that belong to the batch. Under `jax.jit` with a sharded
            batch none is needed.
        axis_index_groups: groups of indices of that axis; each is a batch of its own.
        use_fast_variance: accepted for compatibility; it is fast and accurate.
        force_float32_reductions: accepted for compatibility; moments are always in
            float32 at least.
        unbiased_variance: whether the running variance is that of `n - 1` degrees of
            freedom, as in PyTorch; the batch is divided by the biased one.
        group_size: number of examples, counted by the first axis, that are normalized
            together, whatever devices hold them; none means all that `axis_name`
            combines. What remains is spread over the groups. Averages are those over
            the groups.
        renorm: bounds `(r_max, d_max)` of batch renormalization, or a function from the
            number of updates to them, as `linsey.ops.renorm.renorm_schedule` makes one.
        num_domains: number of domains with averages of their own, along a new first
            axis of `mean` and `var`; the call says which one. All share scale and bias.
        frozen: whether training leaves the layer alone: `True`, or only its
            `"statistics"`, which then also normalize in training, or only its
            `"affine"` parameters, which then have no gradient.
        nonfinite: what a batch does to the averages of channels where its moments are
            not finite: `"skip"` leaves them alone, `"propagate"` spoils them, `"error"`
            raises `NonFiniteBatchError`.
        count_updates: whether to count updates in the collection `batch_counts`. Then,
            with `momentum=None` and with a function as `renorm` it must be mutable too.
        activation: `"relu"`, `"leaky_relu"`, `"silu"`, `"gelu"` or a function that is
            applied to the result.
        save_memory: whether to keep only the input for the backward pass, and not what
            comes out as well. A training call then returns a `linsey.ops.deferred`
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
    does not spoil the averages, and in errors for misuse that passes there in silence.
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
    axis_index_groups: Any = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True
    unbiased_variance: bool = False
    group_size: int | None = None
    renorm: Renorm | None = None
    num_domains: int | None = None
    frozen: bool | str = False
    nonfinite: str = "skip"
    count_updates: bool = False
    activation: str | Callable[[Array], Array] | None = None
    save_memory: bool = False

    @compact
    def __call__(
        self,
        x: Array,
        use_running_average: bool | None = None,
        *,
        mask: Array | None = None,
        domain: Any = None,
        scale: Array | None = None,
        bias: Array | None = None,
    ) -> Array:
        """Normalizes a batch.

        Args:
            x: inputs of any shape with the axes `axis`.
            use_running_average: whether to normalize by the running averages.
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
            MissingBatchStatsError: there are no running averages to train.
            SingleValuePerChannelError: a batch to train on has one value per channel,
                inside of `jax.jit`, `jax.grad` or another transform.
            HalfPrecisionStatisticsError: running averages to train are of half
                precision.
            FeatureShapeChangedError: the input has other channels than they have.
            UnboundAxisNameError: an `axis_name` is not bound.
            NormOptionError: an option has no such value, or excludes another.
            DomainError: `domain` is missing, superfluous or out of range.
            ExternalAffineError: `scale` or `bias` is given and also a parameter.
            NonFiniteBatchError: the batch is not finite and `nonfinite` is `error`.
        """
        evaluate = merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        if common.is_traced(evaluate):
            path = common.path_text(self)
            raise TracedFlagError("use_running_average", scope_path=path, module=self)
        x = common.as_array(x)
        channels = common.layer_axes(self, self.axis, x.shape)
        shape = tuple(x.shape[axis] for axis in channels)
        initializing = self.is_initializing()
        evaluate = evaluate or options.is_frozen(self, "statistics")
        counts = self.count_updates or self.momentum is None or callable(self.renorm)
        counted = counts and (initializing or not evaluate)
        if not (evaluate or initializing):
            averages.check_trainable(self, counted)
        domain = averages.check_domain(self, domain)
        kept = RunningAverages(self, shape, domain, counted)
        running = kept.read()
        averages.check_shape(self, running[0], shape, x.shape)
        plan = Plan(other_axes(channels, x.ndim), channels, self.dtype)
        affine, late = common.scale_and_bias(self, shape), None
        if options.is_frozen(self, "affine"):
            affine = lax.stop_gradient(affine)
        if scale is not None or bias is not None:
            affine, late = options.join_affine(self, affine, (scale, bias), shape)
        if late is not None:
            plan = plan._replace(dtype=jnp.promote_types(x.dtype, jnp.float32))
        if mask is not None:
            mask = expand_rank(mask, x.shape)

        activation = options.find_activation(self)
        if evaluate:
            y = batch_norm.evaluate_batch_norm(plan, x, *affine, running, self.epsilon)
        elif initializing:
            y, _ = standardize(plan, x, mask, *affine, self.epsilon)
        elif self.save_memory:
            options.check_recomputable(self, mask is not None, late is not None)
            moments = self._train(batch_norm.train_moments, plan, kept, x)
            layout = Layout(channels, channels, result_dtype(x, *affine, self.dtype))
            # A deferred value acts as an array.
            return Deferred((layout, activation), (x, *moments, *affine))  # type: ignore
        else:
            y = self._train(batch_norm.train_batch_norm, plan, kept, x, mask, *affine)
        if late is not None:
            y = options.apply_affine(y, late, channels, self.dtype)
        return y if activation is None else activation(y)

    @nowrap
    def _train(
        self, train: Callable, plan: Plan, kept: RunningAverages, x: Array, *others: Any
    ) -> Any:
        """Uses the moments of the batch, and moves the averages towards them."""
        rule = options.update_rule(self, plan.features)
        if self.axis_name is not None:
            groups = as_groups(self.axis_index_groups)
            plan = plan._replace(names=common.bound_names(self), groups=groups)
        running = kept.read()
        averages.check_batch(self, running[0], x, plan)
        momentum = self.momentum
        if momentum is None:
            count = kept.count().astype(running[0].dtype)
            decay = count / (count + 1), 1 / (count + 1)
        else:
            decay = momentum, 1 - momentum
        limits = self.renorm(kept.count()) if callable(self.renorm) else self.renorm
        result, updated = train(
            plan, rule, x, *others, running, self.epsilon, decay, limits
        )
        if self.nonfinite == "error":
            options.check_finite(self, updated)
        kept.write(*updated)
        return result
