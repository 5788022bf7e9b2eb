"""A layer whose weights are divided by their largest singular value."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from linsey.errors.layers import NotAMatrixError
from linsey.linen.dtypes import canonicalize_dtype
from linsey.linen.initializers import normal, ones
from linsey.linen.module import Module, compact, nowrap
from linsey.linen.normalization.reparameterize import call_with
from linsey.ops.spectral import spectral_norm
from linsey.typing import Dtype


class SpectralNorm(Module):
    """Divides the weights of a layer by their largest singular value.

        W' = W / sigma(W)

    The singular value is estimated by power iteration from the vector of the call
    before, which is kept in `collection_name`. Parameters with more than two axes are
    taken as matrices of shape (-1, last axis); those with one axis are left alone.

    Attributes:
        layer_instance: the layer, submodules included.
        n_steps: number of power iterations at each call.
        epsilon: what is added to squared lengths.
        dtype: dtype of the weights that the layer sees; none means that of the
            parameters.
        param_dtype: dtype of what is kept.
        error_on_non_matrix: whether to refuse parameters with more than two axes.
        collection_name: the collection of the estimates.

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
        """Calls the layer with normalized weights.

        Args:
            *args: arguments of the layer.
            update_stats: whether to keep the estimates of this call; True in training.
            **kwargs: keyword arguments of the layer.

        Returns:
            What the layer returns.

        Raises:
            NotAMatrixError: a parameter has more than two axes, and
                `error_on_non_matrix` is set.
        """

        def normalize(path: str, value: Array) -> Array:
            return self._normalize(path, value, update_stats)

        return call_with(self.layer_instance, normalize, args, kwargs, mutable=True)

    @nowrap
    def _normalize(self, path: str, value: Any, update_stats: bool) -> Array:
        value = jnp.asarray(value)
        if value.ndim <= 1:
            return value
        if value.ndim > 2 and self.error_on_non_matrix:
            raise NotAMatrixError(path, value.shape)
        matrix = value if value.ndim == 2 else value.reshape(-1, value.shape[-1])
        columns = matrix.shape[-1]
        u = self.variable(
            self.collection_name,
            f"{path}/u",
            lambda: normal(1.0)(
                self.make_rng("params"), (1, columns), self.param_dtype
            ),
        )
        sigma = self.variable(
            self.collection_name,
            f"{path}/sigma",
            lambda: ones(jnp.zeros(()), (), self.param_dtype),
        )
        dtype = jnp.promote_types(u.value.dtype, matrix.dtype)
        estimate, new_u = spectral_norm(
            matrix.astype(dtype), u.value.astype(dtype), self.n_steps, self.epsilon
        )
        nonzero = lax.select(estimate != 0, estimate, jnp.ones_like(estimate))
        normalized = (matrix / nonzero).reshape(value.shape)
        if update_stats:
            u.value, sigma.value = new_u, estimate
        dtype = canonicalize_dtype(value, new_u, estimate, dtype=self.dtype)
        return normalized.astype(dtype)
