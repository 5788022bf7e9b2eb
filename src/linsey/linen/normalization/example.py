"""Normalization of each example by the moments of its own values.

`LayerNorm` and `RMSNorm` compute moments over all features, `GroupNorm` over groups of
channels, and `InstanceNorm` over the spatial axes of each channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import jax.numpy as jnp
from jax import Array

from linsey.errors import OptionError
from linsey.linen.initializers import ones, zeros
from linsey.linen.module import Module, compact
from linsey.linen.normalization import common
from linsey.ops.axes import as_groups, expand_rank, other_axes
from linsey.ops.examples import standardize_examples_jit, standardize_groups
from linsey.ops.moments import NormSpec
from linsey.typing import Axes, Dtype, Initializer

__all__ = ["GroupNorm", "InstanceNorm", "LayerNorm", "RMSNorm"]


class ScaleAndBias(Module):
    """The fields of layers with a scale and a bias."""

    epsilon: float = 1e-6
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = zeros
    scale_init: Initializer = ones


class LayerNorm(ScaleAndBias):
    """Normalize each example by the mean and variance of its features.

        y = (x - mean) * scale / sqrt(var + epsilon) + bias

    Attributes:
        epsilon: small number added to the variance.
        dtype: result dtype. If `None`, it is inferred from inputs and parameters.
        param_dtype: dtype of the parameters.
        use_bias: whether to add a bias.
        use_scale: whether to multiply by a scale.
        bias_init: initializer of `bias`, of the shape of the feature axes.
        scale_init: initializer of `scale`, of that shape.
        reduction_axes: the axes that mean and variance are taken over.
        feature_axes: the axes that scale and bias have, in ascending order.
        axis_name: name or names of mapped axes to take mean and variance over as well.
        axis_index_groups: groups of indices of that axis; each is separate.
        use_fast_variance: accepted for compatibility; it has no effect.
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
    axis_index_groups: Iterable[Sequence[int]] | None = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    @compact
    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        """Normalize inputs.

        Args:
            x: inputs of any shape with the axes named above.
            mask: which inputs count for the moments; its shape must broadcast to that
                of `x`. Numbers are used as weights.

        Returns:
            An array of the shape of `x`.

        Raises:
            AxisOutOfRangeError: the input has no such axis.
            UnboundAxisNameError: an `axis_name` is not bound.
        """
        x = common.as_array(self, x)
        features = common.layer_axes(self, self.feature_axes, x.shape)
        reduced = common.layer_axes(self, self.reduction_axes, x.shape)
        return _normalize(self, x, mask, reduced, features)


class RMSNorm(Module):
    """Divide each example by the root mean square of its features.

        y = x * scale / sqrt(mean(|x|^2) + epsilon)

    Attributes:
        epsilon: small number added to the mean square.
        dtype: result dtype. If `None`, it is inferred from inputs and parameters.
        param_dtype: dtype of the parameters.
        use_scale: whether to multiply by a scale.
        scale_init: initializer of `scale`, of the shape of the feature axes.
        reduction_axes: the axes that the mean square is taken over.
        feature_axes: the axes that the scale has, in ascending order.
        axis_name: name or names of mapped axes to take the mean over as well.
        axis_index_groups: groups of indices of that axis; each is separate.
        use_fast_variance: accepted for compatibility; it has no effect.
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
    axis_index_groups: Iterable[Sequence[int]] | None = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    @compact
    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        """Scale inputs.

        Args:
            x: inputs of any shape with the axes named above.
            mask: which inputs count for the mean square; its shape must broadcast to
                that of `x`. Numbers are used as weights.

        Returns:
            An array of the shape of `x`.

        Raises:
            AxisOutOfRangeError: the input has no such axis.
            UnboundAxisNameError: an `axis_name` is not bound.
        """
        x = common.as_array(self, x)
        features = common.layer_axes(self, self.feature_axes, x.shape)
        reduced = common.layer_axes(self, self.reduction_axes, x.shape)
        return _normalize(self, x, mask, reduced, features, centred=False)


class GroupNorm(Module):
    """Normalize groups of channels of each example.

        y = (x - mean) * scale / sqrt(var + epsilon) + bias

    Mean and variance are computed over adjacent channels and all spatial axes. A single
    group gives layer normalization over all axes except the batch axis; as many groups
    as channels give instance normalization.

    Attributes:
        num_groups: number of groups, which must divide the number of channels; `None`
            if `group_size` is given.
        group_size: number of channels of a group.
        epsilon: small number added to the variance.
        dtype: result dtype. If `None`, it is inferred from inputs and parameters.
        param_dtype: dtype of the parameters.
        use_bias: whether to add a bias.
        use_scale: whether to multiply by a scale.
        bias_init: initializer of `bias`, of shape (channels,).
        scale_init: initializer of `scale`, of shape (channels,).
        reduction_axes: the axes that mean and variance are taken over, including the
            last one. If `None`, all but the first.
        axis_name: name or names of mapped axes to take mean and variance over as well.
        axis_index_groups: groups of indices of that axis; each is separate.
        use_fast_variance: accepted for compatibility; it has no effect.
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
    axis_index_groups: Iterable[Sequence[int]] | None = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    @compact
    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        """Normalize inputs.

        Args:
            x: inputs of shape (batch, ..., channels).
            mask: which inputs count for the moments; its shape must broadcast to that
                of `x`. Numbers are used as weights.

        Returns:
            An array of the shape of `x`.

        Raises:
            OptionError: not exactly one of `num_groups` and `group_size` is given, the
                groups do not divide the channels, or the last axis is not reduced.
            UnboundAxisNameError: an `axis_name` is not bound.
        """
        x = common.as_array(self, x)
        axes = self.reduction_axes
        if axes is None:
            axes = (*range(1, x.ndim - 1), -1)
        reduced = common.layer_axes(self, axes, x.shape)
        last = x.ndim - 1
        if last not in reduced:
            raise OptionError(
                "The reduction axes must include the final dimension as this is "
                f"assumed to be the feature axis. Found {axes} for an input of shape "
                f"{x.shape}.",
                "Moments are taken over the features of a group.",
                "Add -1 to `reduction_axes`, or move the features to the last axis.",
            )
        num_groups = _count_groups(self.num_groups, self.group_size, x.shape[last])
        return _normalize(self, x, mask, reduced, (last,), num_groups=num_groups)


def _count_groups(count: int | None, size: int | None, channels: int) -> int:
    divisor = count if size is None else size
    if divisor is None or (count is not None and size is not None):
        raise OptionError(
            "Either `num_groups` or `group_size` should be specified. Found "
            f"num_groups={count} and group_size={size}.",
            "Each of them determines the other; `num_groups` is 32 by default.",
            "If `group_size` is to be specified, pass `num_groups=None`: "
            "`GroupNorm(num_groups=None, group_size=16)`.",
        )
    if divisor <= 0 or channels % divisor:
        if size is None:
            found = (
                f"Number of groups ({count}) does not divide the number of channels "
                f"({channels})."
            )
        else:
            found = (
                f"Number of channels ({channels}) is not multiple of the group size "
                f"({size})."
            )
        if isinstance(channels, int):
            sizes = [n for n in range(1, channels + 1) if channels % n == 0]
            advice = f"Choose one of {', '.join(map(str, sizes))}."
        else:
            advice = f"Make the symbolic dimension a multiple, such as `{divisor}*n`."
        raise OptionError(found, "All groups must have one size, at least 1.", advice)
    return divisor if size is None else channels // divisor


class InstanceNorm(ScaleAndBias):
    """Normalize each channel of each example by its mean and variance.

        y = (x - mean) * scale / sqrt(var + epsilon) + bias

    Attributes:
        epsilon: small number added to the variance.
        dtype: result dtype. If `None`, it is inferred from inputs and parameters.
        param_dtype: dtype of the parameters.
        use_bias: whether to add a bias.
        use_scale: whether to multiply by a scale.
        bias_init: initializer of `bias`, of the shape of the channel axes.
        scale_init: initializer of `scale`, of that shape.
        feature_axes: the axes of the channels; mean and variance are taken over all
            others except the first, the batch axis.
        axis_name: name or names of mapped axes to take mean and variance over as well.
        axis_index_groups: groups of indices of that axis; each is separate.
        use_fast_variance: accepted for compatibility; it has no effect.
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
    axis_index_groups: Iterable[Sequence[int]] | None = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    @compact
    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        """Normalize inputs.

        Args:
            x: inputs of shape (batch, ...) with the axes named above.
            mask: which inputs count for the moments; its shape must broadcast to that
                of `x`. Numbers are used as weights.

        Returns:
            An array of the shape of `x`.

        Raises:
            AxisOutOfRangeError: the input has no such axis.
            OptionError: the first axis is among the channel axes.
            UnboundAxisNameError: an `axis_name` is not bound.
        """
        x = common.as_array(self, x)
        channels = common.layer_axes(self, self.feature_axes, x.shape)
        if 0 in channels:
            raise OptionError(
                "The channel axes cannot include the leading dimension as this is "
                f"assumed to be the batch axis. Found {self.feature_axes} for an input "
                f"of shape {x.shape}.",
                "Each example is normalized alone, and the leading axis counts "
                "examples.",
                "Give `feature_axes` other than 0; pass a single example as `x[None]`.",
            )
        spatial = other_axes((0, *channels), x.ndim)
        return _normalize(self, x, mask, spatial, channels)


def _normalize(
    layer: Module,
    x: Array,
    mask: Array | None,
    reduced: tuple[int, ...],
    features: tuple[int, ...],
    *,
    centred: bool = True,
    num_groups: int | None = None,
) -> Array:
    """Normalize inputs by their own moments, as all layers without statistics do.

    Args:
        layer: the layer, whose fields determine the rest.
        x: the inputs.
        mask: which inputs count. If `None`, all of them do.
        reduced: the axes that moments are taken over.
        features: the axes of scale and bias.
        centred: whether the mean is subtracted.
        num_groups: number of groups that the last axis is split into, if it is.

    Returns:
        An array of the shape of `x`.
    """
    names, groups = common.bound_names(layer), as_groups(layer.axis_index_groups)
    spec = NormSpec(reduced, features, layer.dtype, names, groups, centred)
    affine = common.scale_and_bias(layer, tuple(x.shape[axis] for axis in features))
    if mask is not None:
        mask = expand_rank(mask, x.shape)
    if num_groups is None:
        return standardize_examples_jit(spec, x, mask, *affine, layer.epsilon)
    return standardize_groups(spec, num_groups, x, mask, *affine, layer.epsilon)
