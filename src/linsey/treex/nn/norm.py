"""Normalization layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY

import jax
import jax.numpy as jnp

import linsey.linen as linen
from linsey.linen.initializers import ones, zeros
from linsey.treex.nn.flax_module import LinenLayer, layer
from linsey.treex.treeo import node
from linsey.treex.types import BatchStat, Parameter
from linsey.typing import Dtype, Initializer


@layer
class BatchNorm(LinenLayer):
    """Normalizes each channel by the mean and variance of the batch.

        y = (x - mean) * scale / sqrt(var + epsilon) + bias

    In training, the layer uses the moments of the batch and updates the running
    statistics `mean` and `var`; otherwise it uses the running statistics. It trains if
    `training and not frozen and initialized`, unless the call says otherwise. The
    computation is that of `linsey.linen.BatchNorm`.

    `momentum` is a leaf without a kind: no filter by kind selects it, and `jax.jit`
    traces it as an array. Pass `model.parameters()` to an optimizer, not the whole
    model.

    Args:
        axis: the axis of the channels, or several.
        momentum: fraction of the old average that is kept, in [0, 1].
        epsilon: small number added to the variance.
        dtype: dtype of the result; parameters and statistics are float32.
        use_bias: whether to add a bias.
        use_scale: whether to multiply by a scale.
        bias_init: initializer of `bias`, of the shape of the channel axes.
        scale_init: initializer of `scale`, of that shape.
        axis_name: name of a mapped axis that belongs to the batch.
        axis_index_groups: groups of indices of that axis; each is a separate batch.

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

    _: KW_ONLY
    axis: int | Sequence[int] = -1
    momentum: float | jax.Array = node(default=0.99)
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = zeros
    scale_init: Initializer = ones
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Sequence[Sequence[int]] | None = None
    mean: jax.Array | None = BatchStat.node(default=None, init=False)
    var: jax.Array | None = BatchStat.node(default=None, init=False)
    scale: jax.Array | None = Parameter.node(default=None, init=False)
    bias: jax.Array | None = Parameter.node(default=None, init=False)

    def __post_init__(self) -> None:
        self.momentum = jnp.asarray(self.momentum)

    def __call__(
        self, x: jax.Array, use_running_average: bool | None = None
    ) -> jax.Array:
        """Normalize a batch.

        Args:
            x: inputs of any shape with the axes `axis`.
            use_running_average: whether to normalize by the running statistics and not
                update them. By default, the mode of the module decides.

        Returns:
            An array of the shape of `x`.

        Raises:
            NotInitializedError: the layer has no parameters yet.
            FeatureShapeChangedError: the number of channels has changed.
            UnboundAxisNameError: `axis_name` is not bound.
        """
        if use_running_average is None:
            training = self.training and not self.frozen and self.initialized
            use_running_average = not training
        return self.run(
            x,
            use_running_average=use_running_average,
            mutable=() if use_running_average else ("batch_stats",),
        )


@layer
class LayerNorm(LinenLayer):
    """Normalizes each example over its last axis.

        y = (x - mean) * scale / sqrt(var + epsilon) + bias

    Args:
        epsilon: small number added to the variance.
        dtype: dtype of the result; parameters are float32.
        use_bias: whether to add a bias.
        use_scale: whether to multiply by a scale.
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

    _: KW_ONLY
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = zeros
    scale_init: Initializer = ones
    scale: jax.Array | None = Parameter.node(default=None, init=False)
    bias: jax.Array | None = Parameter.node(default=None, init=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalize `x` of shape (..., channels).

        Raises:
            NotInitializedError: the layer has no parameters yet.
        """
        return self.run(x)


@layer
class GroupNorm(LinenLayer):
    """Normalizes each example over groups of its channels.

        y = (x - mean) * scale / sqrt(var + epsilon) + bias

    Args:
        num_groups: number of groups of channels.
        group_size: number of channels of a group, used with `num_groups=None`.
        epsilon: small number added to the variance.
        dtype: dtype of the result; parameters are float32.
        use_bias: whether to add a bias.
        use_scale: whether to multiply by a scale.
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

    _: KW_ONLY
    num_groups: int | None = 32
    group_size: int | None = None
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = zeros
    scale_init: Initializer = ones
    scale: jax.Array | None = Parameter.node(default=None, init=False)
    bias: jax.Array | None = Parameter.node(default=None, init=False)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalize `x` of shape (batch, ..., channels).

        Raises:
            NotInitializedError: the layer has no parameters yet.
            OptionError: both or neither of `num_groups` and `group_size` are given, or
                the groups do not divide the channels.
        """
        return self.run(x)
