"""Normalization of each example by moments of its own values.

`LayerNorm` and `RMSNorm` take them over all features, `GroupNorm` over groups of
channels, `InstanceNorm` over the positions of each channel.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from linsey.errors import norms
from linsey.linen.initializers import ones, zeros
from linsey.linen.module import Module, compact
from linsey.linen.normalization import common
from linsey.ops.broadcast import expand_rank, other_axes
from linsey.ops.named_axes import as_groups
from linsey.ops.standardize import Plan, standardize, standardize_groups
from linsey.typing import Axes, Dtype, Initializer

__all__ = ["GroupNorm", "InstanceNorm", "LayerNorm", "RMSNorm"]


class _Affine(Module):
    """The fields of layers that scale and shift."""

    epsilon: float = 1e-6
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = zeros
    scale_init: Initializer = ones


class LayerNorm(_Affine):
    """Normalizes each example by mean and variance of its features.

        y = (x - mean) * scale / sqrt(var + epsilon) + bias

    Attributes:
        epsilon: what is added to the variance.
        dtype: dtype of the result; none means that of inputs and parameters.
        param_dtype: dtype of the parameters.
        use_bias: whether to add a bias.
        use_scale: whether to multiply with a scale.
        bias_init: initializer of `bias`, of the shape of the feature axes.
        scale_init: initializer of `scale`, of that shape.
        reduction_axes: the axes that mean and variance are taken over.
        feature_axes: the axes that scale and bias have, in ascending order.
        axis_name: name or names of mapped axes to take mean and variance over as well.
        axis_index_groups: groups of indices of that axis, each taken alone.
        use_fast_variance: accepted for compatibility; it is fast and accurate.
        force_float32_reductions: accepted for compatibility; moments are always in
            float32 at least.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> x = jnp.array([[1.0, 3.0], [10.0, 30.0]])
        >>> y, variables = nn.LayerNorm().init_with_output(jax.random.key(0), x)
        >>> print(y.round(3))
        [[-1.  1.]
         [-1.  1.]]
        >>> jax.tree.map(jnp.shape, variables)
        {'params': {'bias': (2,), 'scale': (2,)}}

    References:
        Ba, Kiros, Hinton 2016, https://arxiv.org/abs/1607.06450
    """

    reduction_axes: Axes = -1
    feature_axes: Axes = -1
    axis_name: str | None = None
    axis_index_groups: Any = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    @compact
    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        """Normalizes inputs.

        Args:
            x: inputs of any shape with the axes named above.
            mask: where inputs count for the moments, of a shape that broadcasts to that
                of `x`; numbers are weights.

        Returns:
            An array of the shape of `x`.

        Raises:
            AxisOutOfRangeError: the input has no such axis.
            UnboundAxisNameError: an `axis_name` is not bound.
        """
        x = common.as_array(x)
        features = common.layer_axes(self, self.feature_axes, x.shape)
        reduced = common.layer_axes(self, self.reduction_axes, x.shape)
        return _normalize(self, x, mask, reduced, features)


class RMSNorm(Module):
    """Scales each example by the root of the mean square of its features.

        y = x * scale / sqrt(mean(|x|^2) + epsilon)

    Attributes:
        epsilon: what is added to the mean square.
        dtype: dtype of the result; none means that of inputs and parameters.
        param_dtype: dtype of the parameters.
        use_scale: whether to multiply with a scale.
        scale_init: initializer of `scale`, of the shape of the feature axes.
        reduction_axes: the axes that the mean square is taken over.
        feature_axes: the axes that the scale has, in ascending order.
        axis_name: name or names of mapped axes to take the mean over as well.
        axis_index_groups: groups of indices of that axis, each taken alone.
        use_fast_variance: accepted for compatibility; it makes no difference.
        force_float32_reductions: accepted for compatibility; mean squares are always in
            float32 at least.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> x = jnp.array([[3.0, -3.0], [5.0, 5.0]])
        >>> y, variables = nn.RMSNorm().init_with_output(jax.random.key(0), x)
        >>> print(y.round(3))
        [[ 1. -1.]
         [ 1.  1.]]

    References:
        Zhang, Sennrich 2019, https://arxiv.org/abs/1910.07467
    """

    epsilon: float = 1e-6
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    use_scale: bool = True
    scale_init: Initializer = ones
    reduction_axes: Axes = -1
    feature_axes: Axes = -1
    axis_name: str | None = None
    axis_index_groups: Any = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    @compact
    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        """Scales inputs.

        Args:
            x: inputs of any shape with the axes named above.
            mask: where inputs count for the mean, of a shape that broadcasts to that of
                `x`; numbers are weights.

        Returns:
            An array of the shape of `x`.

        Raises:
            AxisOutOfRangeError: the input has no such axis.
            UnboundAxisNameError: an `axis_name` is not bound.
        """
        x = common.as_array(x)
        features = common.layer_axes(self, self.feature_axes, x.shape)
        reduced = common.layer_axes(self, self.reduction_axes, x.shape)
        return _normalize(self, x, mask, reduced, features, centred=False)


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
        x = common.as_array(x)
        axes = self.reduction_axes
        if axes is None:
            axes = (*range(1, x.ndim - 1), -1)
        reduced = common.layer_axes(self, axes, x.shape)
        last = x.ndim - 1
        if last not in reduced:
            raise norms.GroupAxisError(axes, x.shape)
        num_groups = self._count_groups(x.shape[last])
        return _normalize(self, x, mask, reduced, (last,), num_groups=num_groups)

    def _count_groups(self, channels: int) -> int:
        count, size = self.num_groups, self.group_size
        divisor = count if size is None else size
        if divisor is None or (count is not None and size is not None):
            raise norms.GroupChoiceError(count, size)
        if divisor <= 0 or channels % divisor:
            raise norms.GroupDivisionError(channels, num_groups=count, group_size=size)
        return divisor if size is None else channels // divisor


class InstanceNorm(_Affine):
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
        x = common.as_array(x)
        channels = common.layer_axes(self, self.feature_axes, x.shape)
        if 0 in channels:
            raise norms.InstanceAxisError(self.feature_axes, x.shape)
        positions = other_axes((0, *channels), x.ndim)
        return _normalize(self, x, mask, positions, channels)


def _normalize(
    layer: Any,
    x: Array,
    mask: Any,
    reduced: tuple[int, ...],
    features: tuple[int, ...],
    *,
    centred: bool = True,
    num_groups: int | None = None,
) -> Array:
    """Normalizes inputs by their own moments, as all layers without averages do.

    Args:
        layer: the layer, whose fields say the rest.
        x: the inputs.
        mask: where they count, none for everywhere.
        reduced: the axes that moments are taken over.
        features: the axes of scale and bias.
        centred: whether the mean is subtracted.
        num_groups: number of groups that the last axis is split into, if it is.

    Returns:
        An array of the shape of `x`.
    """
    names, groups = common.bound_names(layer), as_groups(layer.axis_index_groups)
    plan = Plan(reduced, features, layer.dtype, names, groups, centred)
    affine = common.scale_and_bias(layer, tuple(x.shape[axis] for axis in features))
    if mask is not None:
        mask = expand_rank(mask, x.shape)
    if num_groups is None:
        return standardize(plan, x, mask, *affine, layer.epsilon)[0]
    return standardize_groups(plan, num_groups, x, mask, *affine, layer.epsilon)
