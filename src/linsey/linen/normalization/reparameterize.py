"""Layers that call another layer with normalized weights.

`SpectralNorm` divides the weights by their largest singular value; `WeightNorm`
separates their direction from their length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import field
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from linsey.errors.layers import NotAMatrixError
from linsey.linen.dtypes import canonicalize_dtype
from linsey.linen.initializers import normal, ones
from linsey.linen.module import Module, compact, nowrap
from linsey.linen.normalization.common import layer_axes
from linsey.linen.transforms import map_variables
from linsey.ops.normalize import keep_dtype
from linsey.ops.spectral import prescale_by_largest, prescaled_spectral_norm
from linsey.promotion import promote, promote_types
from linsey.typing import Axes, Dtype, Initializer

__all__ = ["SpectralNorm", "WeightNorm"]

T = TypeVar("T")


class SpectralNorm(Module):
    """Divide the weights of a layer by their largest singular value.

        W' = W / sigma(W)

    The singular value is estimated by power iteration, starting from the vector of the
    previous call, which is stored in `collection_name`. Parameters with more than two
    axes are treated as matrices of shape (-1, last axis); those with one axis are not
    changed.

    Attributes:
        layer_instance: the layer, including its submodules.
        n_steps: number of power iterations in each call.
        epsilon: small number added to squared lengths.
        dtype: dtype of the weights that the layer sees. Defaults to that of the
            parameters.
        param_dtype: dtype of the stored estimates, or that of the parameters if it is
            wider.
        error_on_non_matrix: whether to raise an error for parameters with more than two
            axes.
        collection_name: the collection that stores the estimates.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> layer = nn.SpectralNorm(nn.Dense(4), n_steps=20)
        >>> variables = layer.init(
        ...     jax.random.key(0), jnp.ones((1, 3)), update_stats=False
        ... )
        >>> kernel = variables["params"]["layer_instance"]["kernel"] * 7.0
        >>> variables["params"]["layer_instance"]["kernel"] = kernel
        >>> y, updated = layer.apply(
        ...     variables, jnp.ones((1, 3)), update_stats=True, mutable=["batch_stats"]
        ... )
        >>> sigma = updated["batch_stats"]["layer_instance/kernel/sigma"]
        >>> bool(jnp.allclose(sigma, jnp.linalg.norm(kernel, 2), rtol=1e-4))
        True

    References:
        Miyato et al. 2018, https://arxiv.org/abs/1802.05957
    """

    layer_instance: Module
    n_steps: int = 1
    epsilon: float = 1e-12
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    error_on_non_matrix: bool = False
    collection_name: str = "batch_stats"

    @compact
    def __call__(self, *args: Any, update_stats: bool, **kwargs: Any) -> Any:
        """Call the layer with normalized weights.

        Args:
            *args: arguments of the layer.
            update_stats: whether to store the estimates of this call; True in training.
            **kwargs: keyword arguments of the layer.

        Returns:
            The result of the layer.

        Raises:
            NotAMatrixError: a parameter has more than two axes, and
                `error_on_non_matrix` is set.
        """
        normalize = partial(self._normalize, update_stats=update_stats)
        return _call_with(self.layer_instance, normalize, args, kwargs, mutable=True)

    @nowrap
    def _normalize(self, path: str, value: ArrayLike, update_stats: bool) -> Array:
        value = jnp.asarray(value)
        if value.ndim <= 1:
            return value
        if value.ndim > 2 and self.error_on_non_matrix:
            raise NotAMatrixError(path, value.shape)
        matrix = value if value.ndim == 2 else value.reshape(-1, value.shape[-1])
        keep = partial(self.variable, self.collection_name)
        shape, dtype = (1, matrix.shape[-1]), self.param_dtype
        # The dtype that the updated values will have, so that steps can be scanned.
        of_both = promote_types(dtype, matrix.dtype)
        draw = normal(1.0)
        u = keep(
            f"{path}/u",
            lambda: draw(self.make_rng("params"), shape, dtype).astype(of_both),
        )
        sigma = keep(f"{path}/sigma", jnp.ones, (), of_both)
        wide = promote_types(u.value.dtype, matrix.dtype)
        scaled, estimate, new_u, prescale = prescaled_spectral_norm(
            matrix.astype(wide), u.value.astype(wide), self.n_steps, self.epsilon
        )
        nonzero = lax.select(estimate != 0, estimate, jnp.ones_like(estimate))
        normalized = jnp.divide(*promote(scaled, nonzero)).reshape(value.shape)
        estimate = lax.div(estimate, prescale)
        if update_stats:
            u.value = keep_dtype(new_u, u.value)
            sigma.value = keep_dtype(estimate, sigma.value)
        dtype = canonicalize_dtype(value, new_u, estimate, dtype=self.dtype)
        return normalized.astype(dtype)


class WeightNorm(Module):
    """Separate the weights of a layer into direction and length.

        W' = scale * W / sqrt(sum(W^2) + epsilon)

    The sum is over all axes except the feature axes, which are the axes of the scale.

    Attributes:
        layer_instance: the layer, including its submodules.
        epsilon: small number added to squared lengths.
        dtype: dtype of the weights that the layer sees. Defaults to that of the
            parameters.
        param_dtype: dtype of the scales.
        use_scale: whether there are scales; without them the lengths are 1.
        scale_init: initializer of the scales.
        feature_axes: the axes that are not summed over. If `None`, there are none.
        variable_filter: parameters are normalized if their path, such as
            `Dense_0/kernel`, contains one of these strings. If `None`, all are.

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
        """Call the layer with normalized weights.

        Args:
            *args: arguments of the layer.
            **kwargs: keyword arguments of the layer.

        Returns:
            The result of the layer.

        Raises:
            AxisOutOfRangeError: a parameter has no such feature axis.
        """
        layer = self.layer_instance
        return _call_with(layer, self._normalize, args, kwargs, mutable=False)

    @nowrap
    def _normalize(self, path: str, value: ArrayLike) -> Array:
        value = jnp.asarray(value)
        chosen = self.variable_filter or ""  # an empty string is in every path
        texts = [chosen] if isinstance(chosen, str) else chosen
        if not any(text in path for text in texts):
            return value
        axes = () if self.feature_axes is None else self.feature_axes
        features = layer_axes(self, axes, value.shape)
        rest = tuple(axis for axis in range(value.ndim) if axis not in features)
        normalized, _, epsilon = prescale_by_largest(value, rest, self.epsilon)
        size = lax.abs(normalized) if jnp.iscomplexobj(value) else normalized
        square = jnp.sum(lax.square(size), rest, keepdims=True)
        normalized = normalized * lax.rsqrt(square + epsilon)
        if self.use_scale:
            shape = tuple(value.shape[axis] for axis in features)
            options = self.scale_init, shape, self.param_dtype
            scale = self.param(f"{path}/scale", *options)
            normalized, scale = promote(normalized, scale.reshape(square.shape))
            normalized = normalized * scale
        dtype = canonicalize_dtype(normalized, dtype=self.dtype)
        return normalized.astype(dtype)


def _call_with(
    layer: Module, change: Callable[..., T], args: tuple, kwargs: dict, mutable: bool
) -> Any:
    """Call a layer with each of its parameters replaced by a function of it.

    Args:
        layer: the layer.
        change: called with the path of a parameter, such as `Dense_0/kernel`, and its
            value; returns the new value.
        args: arguments of the layer.
        kwargs: keyword arguments of the layer.
        mutable: whether the layer may write its parameters.

    Returns:
        The result of the layer.
    """

    def change_one(path: tuple[Any, ...], value: ArrayLike) -> T:
        # The first key is the collection; in a box, the last is its attribute's name.
        below = jax.tree_util.keystr(path[1:], simple=True, separator="/")
        return change(f"{layer.name}/{below}", value)

    @nowrap
    def forward(layer: Any) -> Any:
        return layer(*args, **kwargs)

    initializing = layer.is_initializing()
    mapped = map_variables(
        forward,
        mapped_collections="params",
        trans_in_fn=partial(jax.tree_util.tree_map_with_path, change_one),
        init=initializing,
        mutable=mutable or initializing,
    )
    return mapped(layer)
