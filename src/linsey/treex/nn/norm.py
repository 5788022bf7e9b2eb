"""Normalization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

import linsey.linen as linen
from linsey.linen.initializers import ones, zeros
from linsey.treex.kinds import BatchStat, Parameter
from linsey.treex.nn.linen_layer import LinenLayer
from linsey.treex.treeo import node
from linsey.typing import Dtype, Initializer


class BatchNorm(LinenLayer):
    """Normalizes each channel by mean and variance of the batch.

        y = (x - mean) * scale / sqrt(var + epsilon) + bias

    In training the moments are those of the batch, and the running averages `mean` and
    `var` are updated; else the running averages take their place. Whether it trains is
    the mode of the module, `training and not frozen and initialized`, unless the call
    says otherwise. What it computes is what `linsey.linen.BatchNorm` does.

    `momentum` is a leaf without kind: it belongs to no selection, and travels through
    `jax.jit` as an array. Give an optimizer `model.parameters()`, not the whole model.

    Args:
        axis: the axis of the channels, or several.
        momentum: fraction of the old average that is kept, in [0, 1].
        epsilon: what is added to the variance.
        dtype: dtype of the result; parameters and averages are float32.
        use_bias: whether to add a bias.
        use_scale: whether to multiply with a scale.
        bias_init: initializer of `bias`, of the shape of the channel axes.
        scale_init: initializer of `scale`, of that shape.
        axis_name: name of a mapped axis that belongs to the batch.
        axis_index_groups: groups of indices of that axis; each is a batch of its own.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> x = jnp.array([[0.0, 2.0], [2.0, 6.0]])
        >>> layer = tx.BatchNorm(momentum=0.9).init(42, x)
        >>> print(layer(x).round(3))
        [[-1. -1.]
         [ 1.  1.]]
        >>> print(layer.mean.round(3), layer.batch_stats().momentum)
        [0.1 0.4] Nothing

    References:
        Ioffe, Szegedy 2015, https://arxiv.org/abs/1502.03167
    """

    linen_class = linen.BatchNorm

    mean: jax.Array | None = BatchStat.node()
    var: jax.Array | None = BatchStat.node()
    scale: jax.Array | None = Parameter.node()
    bias: jax.Array | None = Parameter.node()
    momentum: jax.Array = node()

    def __init__(
        self,
        *,
        axis: int | Sequence[int] = -1,
        momentum: float | jax.Array = 0.99,
        epsilon: float = 1e-5,
        dtype: Dtype = jnp.float32,
        use_bias: bool = True,
        use_scale: bool = True,
        bias_init: Initializer = zeros,
        scale_init: Initializer = ones,
        axis_name: str | Sequence[str] | None = None,
        axis_index_groups: Any = None,
    ) -> None:
        self.axis = axis
        self.momentum = jnp.asarray(momentum)
        self.epsilon = epsilon
        self.dtype = dtype
        self.use_bias = use_bias
        self.use_scale = use_scale
        self.bias_init = bias_init
        self.scale_init = scale_init
        self.axis_name = axis_name
        self.axis_index_groups = axis_index_groups
        self.mean = None
        self.var = None
        self.scale = None
        self.bias = None

    def __call__(
        self, x: jax.Array, use_running_average: bool | None = None
    ) -> jax.Array:
        """Normalizes a batch.

        Args:
            x: inputs of any shape with the axes `axis`.
            use_running_average: whether to normalize by the running averages and leave
                them alone; none means as the module's mode says.

        Returns:
            An array of the shape of `x`.

        Raises:
            NotInitializedError: the layer has no parameters yet.
            FeatureShapeChangedError: the input has other channels than before.
            UnboundAxisNameError: `axis_name` is not bound.
        """
        if self.initializing():
            self.make_variables(x, use_running_average=True)
        if use_running_average is None:
            training = self.training and not self.frozen and self.initialized
            use_running_average = not training
        return self.run(
            x,
            use_running_average=use_running_average,
            mutable=() if use_running_average else ("batch_stats",),
        )


class LayerNorm(LinenLayer):
    """Normalizes each example over its last axis.

        y = (x - mean) * scale / sqrt(var + epsilon) + bias

    Args:
        epsilon: what is added to the variance.
        dtype: dtype of the result; parameters are float32.
        use_bias: whether to add a bias.
        use_scale: whether to multiply with a scale.
        bias_init: initializer of `bias`, of shape (channels,).
        scale_init: initializer of `scale`, of that shape.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> x = jnp.array([[1.0, 3.0]])
        >>> print(tx.LayerNorm().init(42, x)(x).round(3))
        [[-1.  1.]]

    References:
        Ba, Kiros, Hinton 2016, https://arxiv.org/abs/1607.06450
    """

    linen_class = linen.LayerNorm

    scale: jax.Array | None = Parameter.node()
    bias: jax.Array | None = Parameter.node()

    def __init__(
        self,
        *,
        epsilon: float = 1e-5,
        dtype: Dtype = jnp.float32,
        use_bias: bool = True,
        use_scale: bool = True,
        bias_init: Initializer = zeros,
        scale_init: Initializer = ones,
    ) -> None:
        self.epsilon = epsilon
        self.dtype = dtype
        self.use_bias = use_bias
        self.use_scale = use_scale
        self.bias_init = bias_init
        self.scale_init = scale_init
        self.scale = None
        self.bias = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes `x` of shape (..., channels).

        Raises:
            NotInitializedError: the layer has no parameters yet.
        """
        if self.initializing():
            self.make_variables(x)
        return self.run(x)


class GroupNorm(LinenLayer):
    """Normalizes each example over groups of its channels.

        y = (x - mean) * scale / sqrt(var + epsilon) + bias

    Args:
        num_groups: number of groups of channels.
        group_size: number of channels of a group, with `num_groups=None`.
        epsilon: what is added to the variance.
        dtype: dtype of the result; parameters are float32.
        use_bias: whether to add a bias.
        use_scale: whether to multiply with a scale.
        bias_init: initializer of `bias`, of shape (channels,).
        scale_init: initializer of `scale`, of that shape.

    Example:
        >>> import jax.numpy as jnp, linsey.treex as tx
        >>> x = jnp.array([[1.0, 3.0, 10.0, 30.0]])
        >>> print(tx.GroupNorm(num_groups=2).init(42, x)(x).round(3))
        [[-1.  1. -1.  1.]]

    References:
        Wu, He 2018, https://arxiv.org/abs/1803.08494
    """

    linen_class = linen.GroupNorm

    scale: jax.Array | None = Parameter.node()
    bias: jax.Array | None = Parameter.node()

    def __init__(
        self,
        *,
        num_groups: int | None = 32,
        group_size: int | None = None,
        epsilon: float = 1e-5,
        dtype: Dtype = jnp.float32,
        use_bias: bool = True,
        use_scale: bool = True,
        bias_init: Initializer = zeros,
        scale_init: Initializer = ones,
    ) -> None:
        self.num_groups = num_groups
        self.group_size = group_size
        self.epsilon = epsilon
        self.dtype = dtype
        self.use_bias = use_bias
        self.use_scale = use_scale
        self.bias_init = bias_init
        self.scale_init = scale_init
        self.scale = None
        self.bias = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes `x` of shape (batch, ..., channels).

        Raises:
            NotInitializedError: the layer has no parameters yet.
            OptionError: both or neither of `num_groups` and `group_size` are given, or
                the groups do not divide the channels.
        """
        if self.initializing():
            self.make_variables(x)
        return self.run(x)
