"""Attention with several heads: projections around the products, and a cache."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.errors import attention as errors
from linsey.linen.attention.dot_product import dot_product_attention
from linsey.linen.initializers import zeros
from linsey.linen.linear import DenseGeneral, default_kernel_init
from linsey.linen.module import Module, compact, merge_param, nowrap
from linsey.linen.normalization import LayerNorm
from linsey.ops.attention import combine_masks
from linsey.typing import DotGeneralT, Dtype, Initializer, PrecisionLike, PRNGKey

__all__ = ["MultiHeadAttention", "MultiHeadDotProductAttention", "SelfAttention"]


class MultiHeadDotProductAttention(Module):
    """Attends with several heads, each over its own projections of the inputs.

        y = sum_h softmax(Q_h K_h^T / sqrt(depth)) V_h O_h + bias

    With `decode`, `init` makes a cache of keys and values as long as its inputs, and
    each `apply` takes one position more (`mutable=["cache"]`).

    Attributes:
        num_heads: number of heads.
        dtype: dtype of the computation; none means that of inputs and parameters.
        param_dtype: dtype of the parameters.
        qkv_features: features of all heads together; none means those of `inputs_q`.
        out_features: features of the outputs; none means those of `inputs_q`.
        broadcast_dropout: whether batch entries and heads share one draw of dropout.
        dropout_rate: probability to drop an attention weight, in [0, 1).
        deterministic: whether to leave dropout out; given here or at the call.
        precision: see `jax.lax.Precision`.
        kernel_init: initializer of the kernels of `query`, `key` and `value`.
        out_kernel_init: initializer of the kernel of `out`; none means `kernel_init`.
        bias_init: initializer of the biases of `query`, `key` and `value`.
        out_bias_init: initializer of the bias of `out`; none means `bias_init`.
        use_bias: whether the projections add a bias.
        attention_fn: what computes attention, called like `dot_product_attention` with
            those of its keyword arguments that it has.
        decode: whether to decode one position at a time.
        normalize_qk: whether to normalize queries and keys (Dehghani et al. 2023).
        force_fp32_for_softmax: whether to take the softmax in float32.
        qkv_dot_general: computes the products of `query`, `key` and `value`.
        out_dot_general: computes the product of `out`.
        qkv_dot_general_cls: builds such a function, for example a module with state.
        out_dot_general_cls: the same for `out`.
        qk_attn_weights_einsum_cls: builds what computes the scores.
        attn_weights_value_einsum_cls: builds what computes the averages.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> layer, x = nn.MultiHeadDotProductAttention(num_heads=2), jnp.ones((1, 3, 8))
        >>> y, variables = layer.init_with_output(jax.random.key(0), x)
        >>> y.shape, jax.tree.map(jnp.shape, variables["params"]["query"])
        ((1, 3, 8), {'bias': (2, 4), 'kernel': (8, 2, 4)})

        Decoding, one position at a time:

        >>> layer = nn.MultiHeadDotProductAttention(num_heads=2, decode=True)
        >>> cache = layer.init(jax.random.key(0), x)["cache"]
        >>> for i in range(3):
        ...     variables = {**variables, "cache": cache}
        ...     y, updated = layer.apply(variables, x[:, i : i + 1], mutable=["cache"])
        ...     cache = updated["cache"]
        >>> y.shape, cache["cache_index"].item()
        ((1, 1, 8), 3)

    References:
        Vaswani et al. 2017, https://arxiv.org/abs/1706.03762
        Dehghani et al. 2023, https://arxiv.org/abs/2302.05442
    """

    num_heads: int
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    qkv_features: int | None = None
    out_features: int | None = None
    broadcast_dropout: bool = True
    dropout_rate: float = 0.0
    deterministic: bool | None = None
    precision: PrecisionLike = None
    kernel_init: Initializer = default_kernel_init
    out_kernel_init: Initializer | None = None
    bias_init: Initializer = zeros
    out_bias_init: Initializer | None = None
    use_bias: bool = True
    attention_fn: Callable[..., Array] = dot_product_attention
    decode: bool = False
    normalize_qk: bool = False
    force_fp32_for_softmax: bool = False
    qkv_dot_general: DotGeneralT | None = None
    out_dot_general: DotGeneralT | None = None
    qkv_dot_general_cls: Any = None
    out_dot_general_cls: Any = None
    qk_attn_weights_einsum_cls: Callable[..., Callable[..., Array]] | None = None
    attn_weights_value_einsum_cls: Callable[..., Callable[..., Array]] | None = None

    @compact
    def __call__(
        self,
        inputs_q: Array,
        inputs_k: Array | None = None,
        inputs_v: Array | None = None,
        *,
        inputs_kv: Array | None = None,
        mask: Array | None = None,
        deterministic: bool | None = None,
        dropout_rng: PRNGKey | None = None,
        sow_weights: bool = False,
    ) -> Array:
        """Attends from `inputs_q` to `inputs_k` with the values of `inputs_v`.

        Args:
            inputs_q: array of shape (*batch, queries, features).
            inputs_k: array of shape (*batch, keys, features); none means `inputs_q`.
            inputs_v: array of shape (*batch, keys, features); none means `inputs_k`.
            inputs_kv: an older name for `inputs_k`.
            mask: which keys count (not zero), of a shape that broadcasts to
                (*batch, heads, queries, keys).
            deterministic: whether to leave dropout out.
            dropout_rng: random key for dropout; none means the next one of the stream
                `dropout`.
            sow_weights: whether to store the attention weights in `intermediates`.

        Returns:
            Outputs of shape (*batch, queries, out_features).

        Raises:
            AttentionInputsError: it is unclear what keys and values are made from.
            AttentionHeadsError: the features cannot be divided among the heads.
            AttentionShapeError: the inputs do not belong together.
            CacheShapeError: inputs do not fit the cache.
            ValueError: there is dropout, and `deterministic` was given here and to the
                constructor, or at neither place.
        """
        inputs_k, inputs_v = _keys_and_values(inputs_q, inputs_k, inputs_v, inputs_kv)
        features = np.shape(inputs_q)[-1]
        qkv_features = self.qkv_features or features
        if qkv_features % self.num_heads:
            raise errors.AttentionHeadsError(qkv_features, self.num_heads)
        heads = (self.num_heads, qkv_features // self.num_heads)
        query = self._project("query", inputs_q, heads)
        key = self._project("key", inputs_k, heads)
        value = self._project("value", inputs_v, heads)
        if self.normalize_qk:
            norm = partial(LayerNorm, dtype=self.dtype, param_dtype=self.param_dtype)
            query = norm(use_bias=False, name="query_ln")(query)
            key = norm(use_bias=False, name="key_ln")(key)
        if self.decode:
            key, value, mask = self._decode(query, key, value, mask)
        if self.dropout_rate > 0.0:
            deterministic = merge_param(
                "deterministic", self.deterministic, deterministic
            )
            if not deterministic and dropout_rng is None:
                dropout_rng = self.make_rng("dropout")
        else:
            deterministic = True
        options = self._options(
            mask=mask, dropout_rng=dropout_rng, deterministic=deterministic
        )
        if sow_weights:
            options["module"] = self
        y = self.attention_fn(query, key, value, **options)
        return self._project("out", y, self.out_features or features, axis=(-2, -1))

    @nowrap
    def _project(self, name: str, x: Array, features: Any, axis: Any = -1) -> Array:
        """Maps features to heads, (*batch, length, heads, depth), or back (`out`)."""
        kernel_init, bias_init = self.kernel_init, self.bias_init
        products = self.qkv_dot_general, self.qkv_dot_general_cls
        if name == "out":
            kernel_init = self.out_kernel_init or kernel_init
            bias_init = self.out_bias_init or bias_init
            products = self.out_dot_general, self.out_dot_general_cls
        return DenseGeneral(
            features,
            axis,
            use_bias=self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=kernel_init,
            bias_init=bias_init,
            precision=self.precision,
            dot_general=products[0],
            dot_general_cls=products[1],
            name=name,
        )(x)

    @nowrap
    def _decode(
        self, query: Array, key: Array, value: Array, mask: Array | None
    ) -> tuple[Array, Array, Array | None]:
        """Adds a position to the cache; gives all keys and values, and what counts."""
        exists = self.has_variable("cache", "cached_key")
        keep = partial(self.variable, "cache")
        keys = keep("cached_key", jnp.zeros, key.shape, key.dtype)
        values = keep("cached_value", jnp.zeros, value.shape, value.dtype)
        index = keep("cache_index", jnp.zeros, (), jnp.int32)
        if not exists:
            return key, value, mask
        *batch, length, heads, depth = keys.value.shape
        if query.shape != (*batch, 1, heads, depth):
            raise errors.CacheShapeError((*batch, 1, heads, depth), query.shape)
        now = index.value
        keys.value = _put(keys.value, key, now)
        values.value = _put(values.value, value, now)
        index.value = lax.add(now, np.int32(1))
        seen = lax.le(lax.iota(np.int32, length), now)
        seen = lax.broadcast_in_dim(seen, (*batch, 1, 1, length), (len(batch) + 2,))
        return keys.value, values.value, combine_masks(mask, seen)

    @nowrap
    def _options(self, **options: Any) -> dict[str, Any]:
        """Adds options that are fields, and leaves those that `attention_fn` has."""
        build_scores = self.qk_attn_weights_einsum_cls
        build_averages = self.attn_weights_value_einsum_cls
        options |= {
            "dropout_rate": self.dropout_rate,
            "broadcast_dropout": self.broadcast_dropout,
            "dtype": self.dtype,
            "precision": self.precision,
            "force_fp32_for_softmax": self.force_fp32_for_softmax,
            "qk_attn_weights_einsum": build_scores and build_scores(),
            "attn_weights_value_einsum": build_averages and build_averages(),
        }
        if self.attention_fn is dot_product_attention:
            return options
        known = inspect.signature(self.attention_fn).parameters
        return {name: options[name] for name in options if name in known}


class MultiHeadAttention(MultiHeadDotProductAttention):
    """Attends with several heads; another name of `MultiHeadDotProductAttention`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> layer, x = nn.MultiHeadAttention(num_heads=2), jnp.ones((1, 3, 8))
        >>> y, _ = layer.init_with_output(jax.random.key(0), x)
        >>> y.shape
        (1, 3, 8)
    """


class SelfAttention(MultiHeadDotProductAttention):
    """Attends from inputs to themselves; the older form, without other inputs.

    Example:
        >>> import jax, jax.numpy as jnp, warnings
        >>> import linsey.linen as nn
        >>> warnings.simplefilter("ignore", DeprecationWarning)
        >>> layer, x = nn.SelfAttention(num_heads=2), jnp.ones((1, 3, 8))
        >>> y, _ = layer.init_with_output(jax.random.key(0), x)
        >>> y.shape
        (1, 3, 8)
    """

    @compact
    def __call__(  # type: ignore[override]
        self,
        inputs_q: Array,
        mask: Array | None = None,
        deterministic: bool | None = None,
        dropout_rng: PRNGKey | None = None,
        sow_weights: bool = False,
    ) -> Array:
        """Attends from `inputs_q` to itself.

        Args:
            inputs_q: array of shape (*batch, length, features).
            mask: see `MultiHeadDotProductAttention`.
            deterministic: whether to leave dropout out.
            dropout_rng: random key for dropout.
            sow_weights: whether to store the attention weights in `intermediates`.

        Returns:
            Outputs of shape (*batch, length, out_features).
        """
        _warn(
            "SelfAttention will be deprecated soon. Use "
            "`MultiHeadDotProductAttention.__call__(inputs_q)` instead."
        )
        return super().__call__(
            inputs_q,
            mask=mask,
            deterministic=deterministic,
            dropout_rng=dropout_rng,
            sow_weights=sow_weights,
        )


def _keys_and_values(
    inputs_q: Array,
    inputs_k: Array | None,
    inputs_v: Array | None,
    inputs_kv: Array | None,
) -> tuple[Array, Array]:
    """Finds what keys and what values are made from."""
    if inputs_kv is not None:
        if inputs_k is not None or inputs_v is not None:
            raise errors.AttentionInputsError(
                "If either `inputs_k` or `inputs_v` is not None, `inputs_kv` must be "
                "None. If `inputs_kv` is not None, both `inputs_k` and `inputs_v` must "
                "be None."
            )
        _warn(
            "The inputs_kv arg will be deprecated soon. Use inputs_k and inputs_v "
            "instead."
        )
        return inputs_kv, inputs_kv
    if inputs_k is None:
        if inputs_v is not None:
            raise errors.AttentionInputsError(
                "`inputs_k` cannot be None if `inputs_v` is not None. To have both "
                "`inputs_k` and `inputs_v` be the same value, pass in the value to "
                "`inputs_k` and leave `inputs_v` as None."
            )
        return inputs_q, inputs_q
    if inputs_v is None:
        return inputs_k, inputs_k
    shape = np.shape(inputs_v)
    if len(shape) > 1 and shape[-1] == shape[-2]:
        _warn(
            f"You are passing an array of shape {shape} to the `inputs_v` arg, when you"
            " may have intended to pass it to the `mask` arg: write `mask=...`."
        )
    return inputs_k, inputs_v


def _put(cache: Array, entry: Array, index: Array) -> Array:
    """Writes an entry at a position of the cache's axis of time."""
    start = [0] * cache.ndim
    start[-3] = index  # type: ignore[call-overload]
    return lax.dynamic_update_slice(cache, entry, start, allow_negative_indices=False)


def _warn(message: str) -> None:
    warnings.warn(message, DeprecationWarning, stacklevel=2)
