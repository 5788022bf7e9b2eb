"""A layer whose weights are a direction times a length."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from linsey.linen.dtypes import canonicalize_dtype
from linsey.linen.initializers import ones
from linsey.linen.module import Module, compact, nowrap
from linsey.linen.normalization.common import layer_axes
from linsey.linen.normalization.reparameterize import call_with
from linsey.typing import Axes, Dtype, Initializer


class WeightNorm(Module):
    """Separates the weights of a layer into direction and length.

        W' = scale * W / sqrt(sum(W^2) + epsilon)

    The sum is over all axes but the feature axes, which the scale has.

    Attributes:
        layer_instance: the layer, submodules included.
        epsilon: what is added to squared lengths.
        dtype: dtype of the weights that the layer sees; none means that of the
            parameters.
        param_dtype: dtype of the scales.
        use_scale: whether there are scales; without them the lengths are 1.
        scale_init: initializer of the scales.
        feature_axes: the axes that are not summed over; none means no axis.
        variable_filter: parameters are normalized if their path, such as
            `Dense_0/kernel`, contains one of these texts; none means all.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> layer = nn.WeightNorm(nn.Dense(4))
        >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> jax.tree.map(jnp.shape, variables["params"])
        {'layer_instance': {'bias': (4,), 'kernel': (3, 4)},
         'layer_instance/kernel/scale': (4,)}

    References:
        Salimans, Kingma 2016, https://arxiv.org/abs/1602.07868
    """

    layer_instance: Module
    epsilon: float = 1e-12
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    use_scale: bool = True
    scale_init: Initializer = ones
    feature_axes: Axes | None = -1
    variable_filter: Iterable[str] | None = field(default_factory=lambda: {"kernel"})

    @compact
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer with normalized weights.

        Args:
            *args: arguments of the layer.
            **kwargs: keyword arguments of the layer.

        Returns:
            What the layer returns.

        Raises:
            AxisOutOfRangeError: a parameter has no such feature axis.
        """
        layer = self.layer_instance
        return call_with(layer, self._normalize, args, kwargs, mutable=False)

    @nowrap
    def _normalize(self, path: str, value: Any) -> Array:
        value = jnp.asarray(value)
        if not self._is_chosen(path):
            return value
        features = ()
        if self.feature_axes is not None:
            features = layer_axes(self, self.feature_axes, value.shape)
        rest = tuple(axis for axis in range(value.ndim) if axis not in features)
        square = jnp.sum(lax.square(value), rest, keepdims=True)
        normalized = value * lax.rsqrt(square + self.epsilon)
        dtypes = [normalized]
        if self.use_scale:
            shape = tuple(value.shape[axis] for axis in features)
            scale = self.param(
                f"{path}/scale", self.scale_init, shape, self.param_dtype
            )
            normalized = normalized * scale.reshape(square.shape)
            dtypes.append(scale)
        dtype = canonicalize_dtype(*dtypes, dtype=self.dtype)
        return normalized.astype(dtype)

    @nowrap
    def _is_chosen(self, path: str) -> bool:
        chosen = self.variable_filter
        if not chosen:
            return True
        texts = [chosen] if isinstance(chosen, str) else chosen
        return any(text in path for text in texts)
