"""Batch normalization, with the running averages that evaluation needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array

from linsey.errors import (
    FeatureShapeChangedError,
    MissingBatchStatsError,
    TracedFlagError,
)
from linsey.linen.initializers import ones, zeros
from linsey.linen.module import Module, compact, merge_param
from linsey.linen.normalization.common import (
    as_array,
    bound_names,
    is_traced,
    layer_axes,
    scale_and_bias,
)
from linsey.ops.batch_norm import evaluate_batch_norm, train_batch_norm
from linsey.ops.broadcast import expand_rank, other_axes
from linsey.ops.named_axes import as_groups
from linsey.ops.standardize import Plan, standardize
from linsey.typing import Dtype, Initializer


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
        momentum: fraction of the old average that is kept, in [0, 1].
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
    momentum: float = 0.99
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

    @compact
    def __call__(
        self,
        x: Array,
        use_running_average: bool | None = None,
        *,
        mask: Array | None = None,
    ) -> Array:
        """Normalizes a batch.

        Args:
            x: inputs of any shape with the axes `axis`.
            use_running_average: whether to normalize by the running averages.
            mask: where inputs count for the moments, of a shape that broadcasts to that
                of `x`; numbers are weights. What is masked may hold anything.

        Returns:
            An array of the shape of `x`.

        Raises:
            ValueError: `use_running_average` was given here and to the constructor, or
                at neither place.
            TracedFlagError: it is a traced value.
            MissingBatchStatsError: there are no running averages to train.
            FeatureShapeChangedError: the input has other channels than they have.
            UnboundAxisNameError: an `axis_name` is not bound.
        """
        evaluate = merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        if is_traced(evaluate):
            raise TracedFlagError(
                "use_running_average", scope_path=self._path_text(), module=self
            )
        x = as_array(x)
        channels = layer_axes(self, self.axis, x.shape)
        shape = tuple(x.shape[axis] for axis in channels)
        initializing = self.is_initializing()
        if not (evaluate or initializing):
            self._check_trainable()
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        running = mean.value, var.value
        if running[0].shape != shape:
            self._refuse(shape, running[0].shape, x.shape)
        scale, bias = scale_and_bias(self, shape, self.use_bias)

        plan = Plan(other_axes(channels, x.ndim), channels, self.dtype)
        if evaluate:
            return evaluate_batch_norm(plan, x, scale, bias, running, self.epsilon)
        if mask is not None:
            mask = expand_rank(mask, x.shape)
        if initializing:
            return standardize(plan, x, mask, scale, bias, self.epsilon)[0]
        if self.axis_name is not None:
            groups = as_groups(self.axis_index_groups)
            plan = plan._replace(names=bound_names(self), groups=groups)
        decay = self.momentum, 1 - self.momentum
        y, (mean.value, var.value) = train_batch_norm(
            plan, x, mask, scale, bias, running, self.epsilon, decay
        )
        return y

    def _check_trainable(self) -> None:
        """Refuses to train averages that would start anew at each call."""
        if self.has_variable("batch_stats", "mean"):
            return
        # Parameters that come into being with them tell an initialisation by `apply`.
        creates = self.is_mutable_collection("params") and not (
            self.has_variable("params", "scale") or self.has_variable("params", "bias")
        )
        if not creates:
            raise MissingBatchStatsError(self._path_text(), module=self)

    def _refuse(
        self, found: tuple[int, ...], expected: tuple[int, ...], shape: tuple[int, ...]
    ) -> None:
        raise FeatureShapeChangedError(
            self._path_text(),
            expected=_number(expected),
            found=_number(found),
            input_shape=shape,
            axis=self.axis,
            module=self,
        )

    def _path_text(self) -> str:
        return "/" + "/".join(self.path)


def _number(shape: tuple[int, ...]) -> object:
    return shape[0] if len(shape) == 1 else shape
