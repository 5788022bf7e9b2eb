"""Normalization of groups of channels, and of single channels, of each example."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from linsey.errors.norms import (
    GroupAxisError,
    GroupChoiceError,
    GroupDivisionError,
    InstanceAxisError,
)
from linsey.linen.initializers import ones, zeros
from linsey.linen.module import Module, compact
from linsey.linen.normalization.common import (
    as_array,
    bound_names,
    layer_axes,
    scale_and_bias,
)
from linsey.ops.broadcast import expand_rank, other_axes
from linsey.ops.named_axes import as_groups
from linsey.ops.standardize import Plan, standardize, standardize_groups
from linsey.typing import Axes, Dtype, Initializer


class GroupNorm(Module):
    """Normalizes groups of channels of each example.

        y = (x - mean) * scale / sqrt(var + epsilon) + bias

    Mean and variance are those of neighbouring channels, over all positions. One group
    is layer normalization over all axes but the batch; as many groups as channels are
    instance normalization.

    Attributes:
        num_groups: number of groups, which divides the number of channels; none if
            `group_size` is given.
        group_size: number of channels of a group.
        epsilon: what is added to the variance.
        dtype: dtype of the result; none means that of inputs and parameters.
        param_dtype: dtype of the parameters.
        use_bias: whether to add a bias.
        use_scale: whether to multiply with a scale.
        bias_init: initializer of `bias`, of shape (channels,).
        scale_init: initializer of `scale`, of shape (channels,).
        reduction_axes: the axes that mean and variance are taken over, the last one
            among them; none means all but the first.
        axis_name: name or names of mapped axes to take mean and variance over as well.
        axis_index_groups: groups of indices of that axis, each taken alone.
        use_fast_variance: accepted for compatibility; it is fast and accurate.
        force_float32_reductions: accepted for compatibility; moments are always in
            float32 at least.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> x = jnp.array([[1.0, 3.0, 10.0, 30.0]])
        >>> y, _ = nn.GroupNorm(num_groups=2).init_with_output(jax.random.key(0), x)
        >>> print(y.round(3))
        [[-1.  1. -1.  1.]]

    References:
        Wu, He 2018, https://arxiv.org/abs/1803.08494
    """

    num_groups: int | None = 32
    group_size: int | None = None
    epsilon: float = 1e-6
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = zeros
    scale_init: Initializer = ones
    reduction_axes: Axes | None = None
    axis_name: str | None = None
    axis_index_groups: Any = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    @compact
    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        """Normalizes inputs.

        Args:
            x: inputs of shape (batch, ..., channels).
            mask: where inputs count for the moments, of a shape that broadcasts to that
                of `x`; numbers are weights.

        Returns:
            An array of the shape of `x`.

        Raises:
            GroupChoiceError: not exactly one of `num_groups` and `group_size` is given.
            GroupDivisionError: the groups do not divide the channels.
            GroupAxisError: the last axis is not reduced.
            UnboundAxisNameError: an `axis_name` is not bound.
        """
        x = as_array(x)
        axes = self.reduction_axes
        if axes is None:
            axes = (*range(1, x.ndim - 1), -1)
        reduced = layer_axes(self, axes, x.shape)
        last = x.ndim - 1
        if last not in reduced:
            raise GroupAxisError(axes, x.shape)
        channels = x.shape[last]
        num_groups = self._count_groups(channels)
        plan = Plan(
            reduced,
            (last,),
            self.dtype,
            bound_names(self),
            as_groups(self.axis_index_groups),
        )
        scale, bias = scale_and_bias(self, (channels,), self.use_bias)
        if mask is not None:
            mask = expand_rank(mask, x.shape)
        return standardize_groups(plan, num_groups, x, mask, scale, bias, self.epsilon)

    def _count_groups(self, channels: int) -> int:
        count, size = self.num_groups, self.group_size
        divisor = count if size is None else size
        if divisor is None or (count is not None and size is not None):
            raise GroupChoiceError(count, size)
        if divisor <= 0 or channels % divisor:
            raise GroupDivisionError(channels, num_groups=count, group_size=size)
        return divisor if size is None else channels // divisor


class InstanceNorm(Module):
    """Normalizes each channel of each example by its mean and variance.

        y = (x - mean) * scale / sqrt(var + epsilon) + bias

    Attributes:
        epsilon: what is added to the variance.
        dtype: dtype of the result; none means that of inputs and parameters.
        param_dtype: dtype of the parameters.
        use_bias: whether to add a bias.
        use_scale: whether to multiply with a scale.
        bias_init: initializer of `bias`, of the shape of the channel axes.
        scale_init: initializer of `scale`, of that shape.
        feature_axes: the axes of the channels; mean and variance are taken over the
            others but the first, which counts examples.
        axis_name: name or names of mapped axes to take mean and variance over as well.
        axis_index_groups: groups of indices of that axis, each taken alone.
        use_fast_variance: accepted for compatibility; it is fast and accurate.
        force_float32_reductions: accepted for compatibility; moments are always in
            float32 at least.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> x = jnp.array([[[1.0, 10.0], [3.0, 30.0]]])  # (batch, length, channels)
        >>> y, _ = nn.InstanceNorm().init_with_output(jax.random.key(0), x)
        >>> print(y.round(3))
        [[[-1. -1.]
          [ 1.  1.]]]

    References:
        Ulyanov, Vedaldi, Lempitsky 2016, https://arxiv.org/abs/1607.08022
    """

    epsilon: float = 1e-6
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = zeros
    scale_init: Initializer = ones
    feature_axes: Axes = -1
    axis_name: str | None = None
    axis_index_groups: Any = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    @compact
    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        """Normalizes inputs.

        Args:
            x: inputs of shape (batch, ...) with the axes named above.
            mask: where inputs count for the moments, of a shape that broadcasts to that
                of `x`; numbers are weights.

        Returns:
            An array of the shape of `x`.

        Raises:
            AxisOutOfRangeError: the input has no such axis.
            InstanceAxisError: the first axis is among the axes of the channels.
            UnboundAxisNameError: an `axis_name` is not bound.
        """
        x = as_array(x)
        channels = layer_axes(self, self.feature_axes, x.shape)
        if 0 in channels:
            raise InstanceAxisError(self.feature_axes, x.shape)
        plan = Plan(
            other_axes((0, *channels), x.ndim),
            channels,
            self.dtype,
            bound_names(self),
            as_groups(self.axis_index_groups),
        )
        shape = tuple(x.shape[axis] for axis in channels)
        scale, bias = scale_and_bias(self, shape, self.use_bias)
        if mask is not None:
            mask = expand_rank(mask, x.shape)
        return standardize(plan, x, mask, scale, bias, self.epsilon)[0]
