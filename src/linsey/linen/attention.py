"""Attention as functions of arrays, and as a layer with several heads.

The functions compute weighted averages from queries, keys and values; the layer adds
projections and a cache for decoding. Masks come from `linsey.ops.attention`.
"""

# ruff: noqa: F403, F405 (programs also look here for the types of `linsey.typing`)

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from linsey.errors.base import OptionError, ShapeError, UsageError
from linsey.errors.layers import InputRankError
from linsey.errors.misuse import report_misuse
from linsey.linen.dtypes import promote_dtype
from linsey.linen.initializers import zeros
from linsey.linen.linear import DenseGeneral, default_kernel_init
from linsey.linen.module import Module, compact, merge_param, nowrap
from linsey.linen.normalization import LayerNorm
from linsey.ops import attention as ops
from linsey.ops.attention import combine_masks as combine_masks
from linsey.ops.attention import make_attention_mask as make_attention_mask
from linsey.ops.attention import make_causal_mask as make_causal_mask
from linsey.typing import *

# Pickles of modules name the files of their classes; these two used to be files.
for _old in ("dot_product", "multi_head"):
    sys.modules[f"{__name__}.{_old}"] = sys.modules[__name__]


def dot_product_attention_weights(
    query: Array,
    key: Array,
    bias: Array | None = None,
    mask: Array | None = None,
    broadcast_dropout: bool = True,
    dropout_rng: PRNGKey | None = None,
    dropout_rate: float = 0.0,
    deterministic: bool = False,
    dtype: Dtype | None = None,
    precision: PrecisionLike = None,
    module: Module | None = None,
    force_fp32_for_softmax: bool = False,
    einsum_dot_general: DotGeneralT | None = None,
    einsum: EinsumT | None = None,
) -> Array:
    """Compute attention weights: `softmax(query @ key / sqrt(depth) + bias)`.

    Args:
        query: array of shape (*batch, queries, heads, depth).
        key: array of shape (*batch, keys, heads, depth).
        bias: array added to the scores; its shape must broadcast to
            (*batch, heads, queries, keys).
        mask: nonzero for scores that count; its shape must broadcast like `bias`.
        broadcast_dropout: whether batch entries and heads share one dropout mask.
        dropout_rng: random key for dropout.
        dropout_rate: probability of dropping a weight, in [0, 1].
        deterministic: whether to disable dropout.
        dtype: dtype of the computation. Defaults to that of the inputs.
        precision: see `jax.lax.Precision`.
        module: a module that stores the weights in its `intermediates`, under the name
            `attention_weights`.
        force_fp32_for_softmax: whether to compute the softmax in float32 and return
            float32 weights.
        einsum_dot_general: computes the product in place of `jax.lax.dot_general`.
        einsum: computes the product in place of `jax.numpy.einsum`.

    Returns:
        Weights of shape (*batch, heads, queries, keys).

    Raises:
        ShapeError: the shapes of query and key do not match.
        ShapeError: the mask does not fit.
        OptionError: `einsum` is combined with `precision` or `einsum_dot_general`; or
            the dropout rate is not in [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> query, key = jnp.ones((1, 2, 1, 4)), jnp.ones((1, 2, 1, 4))
        >>> causal = jnp.array([[True, False], [True, True]])
        >>> dot_product_attention_weights(query, key, mask=causal)[0, 0].tolist()
        [[1.0, 0.0], [0.5, 0.5]]

    References:
        Vaswani et al. 2017, https://arxiv.org/abs/1706.03762
    """
    if einsum is not None and (precision or einsum_dot_general):
        raise _conflict(
            "precision/einsum_dot_general and einsum are mutually exclusive. Please "
            "specify only one of them."
        )
    query, key = promote_dtype(query, key, dtype=dtype)
    _check_shapes("depths", -1, query=query.shape, key=key.shape)
    compute_dtype = query.dtype
    query = lax.div(query, _root(query.shape[-1], compute_dtype))
    if einsum is None:
        dot = einsum_dot_general or lax.dot_general
        scores = ops.attention_scores(query, key, precision=precision, dot_general=dot)
    else:
        scores = einsum("...qhd,...khd->...hqk", query, key)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = ops.mask_scores(scores, mask)
    if force_fp32_for_softmax and compute_dtype != np.float32:
        weights = ops.softmax(lax.convert_element_type(scores, np.float32))
    else:
        weights = ops.softmax(scores)
        if weights.dtype != compute_dtype:
            weights = weights.astype(compute_dtype)
    if module is not None:
        module.sow("intermediates", "attention_weights", weights)
    if not deterministic and dropout_rate != 0.0:
        weights = ops.drop_weights(
            weights,
            dropout_rng,  # pyrefly: ignore[bad-argument-type]
            dropout_rate,
            compute_dtype,
            broadcast=broadcast_dropout,
            batch=key.ndim - 2,
        )
    return weights


def dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None = None,
    mask: Array | None = None,
    broadcast_dropout: bool = True,
    dropout_rng: PRNGKey | None = None,
    dropout_rate: float = 0.0,
    deterministic: bool = False,
    dtype: Dtype | None = None,
    precision: PrecisionLike = None,
    module: Module | None = None,
    force_fp32_for_softmax: bool = False,
    einsum_dot_general: DotGeneralT | None = None,
    qk_attn_weights_einsum: EinsumT | None = None,
    attn_weights_value_einsum: EinsumT | None = None,
) -> Array:
    """Compute attention: `softmax(query @ key / sqrt(depth) + bias) @ value`.

    Args:
        query: array of shape (*batch, queries, heads, depth).
        key: array of shape (*batch, keys, heads, depth).
        value: array of shape (*batch, keys, heads, value depth).
        bias: array added to the scores; its shape must broadcast to
            (*batch, heads, queries, keys).
        mask: nonzero for scores that count; its shape must broadcast like `bias`.
        broadcast_dropout: whether batch entries and heads share one dropout mask.
        dropout_rng: random key for dropout.
        dropout_rate: probability of dropping a weight, in [0, 1].
        deterministic: whether to disable dropout.
        dtype: dtype of the computation. Defaults to that of the inputs.
        precision: see `jax.lax.Precision`.
        module: see `dot_product_attention_weights`.
        force_fp32_for_softmax: see `dot_product_attention_weights`; the result is then
            float32 too.
        einsum_dot_general: computes the products in place of `jax.lax.dot_general`.
        qk_attn_weights_einsum: computes the scores in place of `jax.numpy.einsum`.
        attn_weights_value_einsum: computes the averages in place of
            `jax.numpy.einsum`.

    Returns:
        Averages of the values, of shape (*batch, queries, heads, value depth).

    Raises:
        ShapeError: the shapes of query, key and value do not match.
        ShapeError: the mask does not fit.
        OptionError: the given functions exclude each other, or the dropout rate is not
            in [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> query, key = jnp.ones((1, 2, 1, 4)), jnp.ones((1, 2, 1, 4))
        >>> value = jnp.array([0.0, 2.0]).reshape(1, 2, 1, 1)
        >>> dot_product_attention(query, key, value).ravel().tolist()
        [1.0, 1.0]

    References:
        Vaswani et al. 2017, https://arxiv.org/abs/1706.03762
    """
    if (qk_attn_weights_einsum is None) != (attn_weights_value_einsum is None):
        raise _conflict(
            "qk_attn_weights_einsum and attn_weights_value_einsum must be specified "
            "together."
        )
    if qk_attn_weights_einsum is not None and (precision or einsum_dot_general):
        raise _conflict(
            "precision/einsum_dot_general and "
            "qk_attn_weights_einsum/attn_weights_value_einsum are mutually exclusive. "
            "Please specify only one of them."
        )
    query, key, value = promote_dtype(query, key, value, dtype=dtype)
    shapes = {"query": query.shape, "key": key.shape, "value": value.shape}
    _check_shapes("lengths", -3, **shapes)
    dropout = broadcast_dropout, dropout_rng, dropout_rate, deterministic
    numerics = query.dtype, precision, module, force_fp32_for_softmax
    products = einsum_dot_general, qk_attn_weights_einsum
    weights = dot_product_attention_weights(
        query, key, bias, mask, *dropout, *numerics, *products
    )
    if attn_weights_value_einsum is not None:
        return attn_weights_value_einsum("...hqk,...khd->...qhd", weights, value)
    dot = einsum_dot_general or lax.dot_general
    return ops.weighted_values(weights, value, precision=precision, dot_general=dot)


class MultiHeadDotProductAttention(Module):
    """Attend with several heads, each with its own projections of the inputs.

        y = sum_h ops.softmax(Q_h K_h^T / sqrt(depth)) V_h O_h + bias

    With `decode`, `init` creates a cache of keys and values that is as long as its
    inputs, and each `apply` adds one element (`mutable=["cache"]`). Adding to a full
    cache is an error; inside `jax.jit`, however, the last element is replaced.

    Attributes:
        num_heads: number of heads.
        dtype: computation dtype. If `None`, it is inferred from inputs and parameters.
        param_dtype: dtype of the parameters.
        qkv_features: total number of features of all heads. Defaults to that of
            `inputs_q`.
        out_features: number of output features. Defaults to that of `inputs_q`.
        broadcast_dropout: whether batch entries and heads share one dropout mask.
        dropout_rate: probability of dropping an attention weight, in [0, 1].
        deterministic: whether to disable dropout; given here or in the call.
        precision: see `jax.lax.Precision`.
        kernel_init: initializer of the kernels of `query`, `key` and `value`.
        out_kernel_init: initializer of the kernel of `out`. Defaults to `kernel_init`.
        bias_init: initializer of the biases of `query`, `key` and `value`.
        out_bias_init: initializer of the bias of `out`. Defaults to `bias_init`.
        use_bias: whether the projections add a bias.
        attention_fn: function that computes attention. It is called like
            `dot_product_attention`, with those keyword arguments that it accepts.
        decode: whether to decode one element at a time.
        normalize_qk: whether to normalize queries and keys (Dehghani et al. 2023).
        force_fp32_for_softmax: whether to compute the softmax in float32.
        qkv_dot_general: computes the products of `query`, `key` and `value`.
        out_dot_general: computes the product of `out`.
        qkv_dot_general_cls: builds such a function, for example a module with state.
        out_dot_general_cls: the same for `out`.
        qk_attn_weights_einsum_cls: builds the einsum function for the scores.
        attn_weights_value_einsum_cls: builds the einsum function for the averages.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> layer, x = nn.MultiHeadDotProductAttention(num_heads=2), jnp.ones((1, 3, 8))
        >>> y, variables = layer.init_with_output(jax.random.key(0), x)
        >>> y.shape, jax.tree.map(jnp.shape, variables["params"]["query"])
        ((1, 3, 8), {'bias': (2, 4), 'kernel': (8, 2, 4)})

        Decoding, one element at a time:

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
    qkv_dot_general_cls: Callable[[], DotGeneralT] | None = None
    out_dot_general_cls: Callable[[], DotGeneralT] | None = None
    qk_attn_weights_einsum_cls: Callable[[], EinsumT] | None = None
    attn_weights_value_einsum_cls: Callable[[], EinsumT] | None = None

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
        """Attend from `inputs_q` to `inputs_k` with the values of `inputs_v`.

        Args:
            inputs_q: array of shape (*batch, queries, features).
            inputs_k: array of shape (*batch, keys, features). Defaults to `inputs_q`.
            inputs_v: array of shape (*batch, keys, features). Defaults to `inputs_k`.
            inputs_kv: an older name for `inputs_k`.
            mask: nonzero for keys that count; its shape must broadcast to
                (*batch, heads, queries, keys).
            deterministic: whether to disable dropout.
            dropout_rng: random key for dropout. Defaults to the next key of the
                stream `dropout`.
            sow_weights: whether to store the attention weights in `intermediates`.

        Returns:
            Outputs of shape (*batch, queries, out_features).

        Raises:
            OptionError: it is unclear which inputs are the keys and the values.
            OptionError: the features cannot be divided evenly among the heads.
            ShapeError: the shapes of the inputs do not match.
            ShapeError: inputs do not fit the cache.
            UsageError: the cache is full.
            OptionError: the dropout rate is not in [0, 1].
            ValueError: the dropout rate is not 0, and `deterministic` was given both
                here and to the constructor, or in neither place.
        """
        inputs_k, inputs_v = _keys_and_values(inputs_q, inputs_k, inputs_v, inputs_kv)
        shape = np.shape(inputs_q)
        if len(shape) < 2:
            raise InputRankError(type(self).__name__, shape, "length, features")
        features = shape[-1]
        heads = ops.divide_heads(self.qkv_features or features, self.num_heads)
        query = self._project("query", inputs_q, heads)
        key = self._project("key", inputs_k, heads)
        value = self._project("value", inputs_v, heads)
        if self.normalize_qk:
            norm = partial(LayerNorm, dtype=self.dtype, param_dtype=self.param_dtype)
            query = norm(use_bias=False, name="query_ln")(query)
            key = norm(use_bias=False, name="key_ln")(key)
        if self.decode:
            key, value, mask = self._decode(query, key, value, mask)
        if self.dropout_rate != 0.0:
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
    def _project(
        self, name: str, x: Array, features: int | Shape, axis: Axes = -1
    ) -> Array:
        """Map features to heads, (*batch, length, heads, depth), or (`out`) back."""
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
        """Add an element to the cache; return all keys and values, and their mask."""
        exists = self.has_variable("cache", "cached_key")
        keep = partial(self.variable, "cache")
        keys = keep("cached_key", jnp.zeros, key.shape, key.dtype)
        values = keep("cached_value", jnp.zeros, value.shape, value.dtype)
        index = keep("cache_index", jnp.zeros, (), jnp.int32)
        if not exists:
            return key, value, mask
        *batch, length, heads, depth = keys.value.shape
        if query.shape != (*batch, 1, heads, depth):
            raise ShapeError(
                "Autoregressive cache shape error, expected query shape "
                f"{(*batch, 1, heads, depth)} instead got {query.shape}.",
                "With `decode=True` one element is decoded at a time, and the cache "
                "has the batch shape that `init` was called with.",
                "Call `apply` with inputs of length 1, for example `x[:, i : i + 1]`, "
                "or make the cache anew with `init` and inputs of the full length.",
            )
        now = index.value
        if not isinstance(now, jax.core.Tracer) and now >= length:
            full = UsageError(
                f"The cache has {length} elements, and all of them are taken.",
                "It is as long as the inputs that `init` was called with; inside of "
                "`jax.jit`, where this is not seen, the last element is replaced.",
                "Make a longer cache: call `init` with inputs of the largest length, "
                f"more than {length}, before the first element is decoded.",
            )
            report_misuse(full)
        keys.value = _put(keys.value, key, now)
        values.value = _put(values.value, value, now)
        index.value = lax.add(now, np.ones((), now.dtype))
        seen = lax.le(lax.iota(now.dtype, length), now)
        seen = lax.broadcast_in_dim(seen, (*batch, 1, 1, length), (len(batch) + 2,))
        return keys.value, values.value, combine_masks(mask, seen)

    @nowrap
    def _options(self, **options: object) -> dict[str, Any]:
        """Add the options that are fields; keep only those `attention_fn` accepts."""
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
    """Attend with several heads; another name for `MultiHeadDotProductAttention`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import linsey.linen as nn
        >>> layer, x = nn.MultiHeadAttention(num_heads=2), jnp.ones((1, 3, 8))
        >>> y, _ = layer.init_with_output(jax.random.key(0), x)
        >>> y.shape
        (1, 3, 8)
    """


class SelfAttention(MultiHeadDotProductAttention):
    """Attend from the inputs to themselves; deprecated.

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
        """Attend from `inputs_q` to itself.

        Args:
            inputs_q: array of shape (*batch, length, features).
            mask: see `MultiHeadDotProductAttention`.
            deterministic: whether to disable dropout.
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
    """Return the inputs from which keys and values are computed."""
    if inputs_kv is not None:
        if inputs_k is not None or inputs_v is not None:
            raise _unclear(
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
            raise _unclear(
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
            f"You are passing an array of shape {shape} to the `inputs_v` arg, when "
            "you may have intended to pass it to the `mask` arg. As of Flax version "
            "0.7.4, the function signature of MultiHeadDotProductAttention's "
            "`__call__` method has changed to `__call__(inputs_q, inputs_k=None, "
            "inputs_v=None, *, inputs_kv=None, mask=None, deterministic=None)`. Use "
            "the kwarg `mask` instead."
        )
    return inputs_k, inputs_v


def _unclear(problem: str) -> OptionError:
    return OptionError(
        problem,
        "Without `inputs_k` the keys are made from `inputs_q`, and without `inputs_v` "
        "the values from what the keys are made from.",
        "Write `layer(inputs_q)`, `layer(inputs_q, inputs_k)` or "
        "`layer(inputs_q, inputs_k, inputs_v)`.",
    )


def _put(cache: Array, entry: Array, index: Array) -> Array:
    """Write an entry into the cache at an index of its time axis."""
    start: list[Array | np.ndarray] = [np.zeros((), index.dtype)] * cache.ndim
    start[-3] = index
    return lax.dynamic_update_slice(cache, entry, start, allow_negative_indices=False)


def _warn(message: str) -> None:
    warnings.warn(message, DeprecationWarning, stacklevel=2)


@lru_cache
def _root(depth: int, dtype: np.dtype) -> np.ndarray:
    """Return the square root of a depth, rounded to float32 before the final dtype."""
    wide = np.promote_types(dtype, np.float32) if np.dtype(dtype).kind in "fc" else "f4"
    return np.asarray(np.sqrt(np.asarray(depth, wide)), dtype)


def _conflict(problem: str) -> OptionError:
    return OptionError(
        problem,
        "The einsum functions compute both products of attention and choose precision "
        "and dot product themselves.",
        "Give both einsum functions and nothing else, or neither.",
    )


def _check_shapes(what: str, axis: int, **shapes: tuple[int, ...]) -> None:
    """Raise an error if shapes do not match.

    Args:
        what: name of `axis`, in the plural.
        axis: an axis in which the last two shapes must agree, too.
        **shapes: the shape (*batch, length, heads, depth) of each array, by name.

    Raises:
        ShapeError: ranks, batch axes, heads or that axis differ.
    """
    names, (first, *others) = [name[0] for name in shapes], shapes.values()
    *_, left, right = shapes.values()
    problem = None
    if any(len(shape) != len(first) for shape in others):
        problem = f"{', '.join(names)} must have same rank."
    elif len(first) < 3:
        problem = "q, k, v must have the axes (..., length, heads, depth)."
    elif any(shape[:-3] != first[:-3] for shape in others):
        problem = f"{', '.join(names)} batch dims must match."
    elif any(shape[-2] != first[-2] for shape in others):
        problem = f"{', '.join(names)} num_heads must match."
    elif left[axis] != right[axis]:
        problem = f"{', '.join(names[-2:])} {what} must match."
    if problem:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ShapeError(
            f"{problem} Found {found}.",
            "Each query is compared with every key of its batch entry and head, and "
            "each key has one value.",
            "Give arrays of shape (..., length, heads, depth) with the same batch axes "
            "and heads; `key` has the depth of `query` and the length of `value`.",
        )
