"""Normalization of each example by moments of its own features."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from linsey.linen.initializers import ones, zeros
from linsey.linen.module import Module, compact
from linsey.linen.normalization.common import (
    as_array,
    bound_names,
    layer_axes,
    scale_and_bias,
)
from linsey.ops.broadcast import expand_rank
from linsey.ops.named_axes import as_groups
from linsey.ops.standardize import Plan, standardize
from linsey.typing import Axes, Dtype, Initializer


class LayerNorm(Module):
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

    epsilon: float = 1e-6
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = zeros
    scale_init: Initializer = ones
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
        return _normalize(self, x, mask, self.use_bias, centred=True)


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
        return _normalize(self, x, mask, False, centred=False)


def _normalize(
    module: LayerNorm | RMSNorm,
    x: Any,
    mask: Any,
    use_bias: bool,
    centred: bool,
) -> Array:
    x = as_array(x)
    features = layer_axes(module, module.feature_axes, x.shape)
    plan = Plan(
        layer_axes(module, module.reduction_axes, x.shape),
        features,
        module.dtype,
        bound_names(module),
        as_groups(module.axis_index_groups),
        centred,
    )
    shape = tuple(x.shape[axis] for axis in features)
    scale, bias = scale_and_bias(module, shape, use_bias)
    if mask is not None:
        mask = expand_rank(mask, x.shape)
    return standardize(plan, x, mask, scale, bias, module.epsilon)[0]
