"""Layers as functions of scopes, without modules: the core alone is enough for a model.

Each function takes a scope, requests parameters from it by name and shape, and computes
with arrays. They are small on purpose; `linsey.linen` has more options.

Example:
    >>> import jax, jax.numpy as jnp
    >>> from linsey import core
    >>> from linsey.core import nn
    >>> def mlp(scope, x):
    ...     x = nn.relu(scope.child(nn.dense, "hidden")(x, 8))
    ...     return scope.child(nn.dense, "out")(x, 2)
    >>> y, variables = core.init(mlp)(jax.random.key(0), jnp.ones((1, 4)))
    >>> y.shape, variables["params"]["hidden"]["kernel"].shape
    ((1, 2), (4, 8))
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence

import jax.numpy as jnp
from jax import Array
from jax import nn as activation  # noqa: F401 (the name in Flax)
from jax.nn import *  # noqa: F403 (the activations)
from jax.nn.initializers import lecun_normal, ones, variance_scaling, zeros

from linsey import struct
from linsey.core.scope import Scope
from linsey.errors.base import OptionError, UnsupportedError
from linsey.errors.layers import IntegerInputError
from linsey.ops import attention as attention_ops
from linsey.ops import dot
from linsey.ops.attention import make_padding_mask as make_padding_mask
from linsey.ops.axes import as_groups, as_names, canonical_axes, other_axes
from linsey.ops.batch_norm import UpdateRule, evaluate_batch_norm, train_batch_norm
from linsey.ops.conv import conv as conv_arrays
from linsey.ops.conv import conv_transpose as conv_transpose_arrays
from linsey.ops.dropout import dropout as drop_entries
from linsey.ops.examples import standardize_examples_jit, standardize_groups
from linsey.ops.moments import NormSpec
from linsey.ops.normalize import standardize_jit
from linsey.ops.pool import avg_pool as avg_pool
from linsey.ops.pool import max_pool as max_pool
from linsey.typing import Dtype, Initializer, PaddingLike, PrecisionLike, PRNGKey, Shape

# Flax has a file for each family of layers, from which programs import. Here all of
# these are aliases of this module, as `os.path` is an alias of `posixpath`.
attention = linear = normalization = stochastic = sys.modules[__name__]
for _family in ("attention", "linear", "normalization", "stochastic"):
    sys.modules[f"{__name__}.{_family}"] = sys.modules[__name__]

default_kernel_init = lecun_normal()
default_embed_init = variance_scaling(1.0, "fan_in", "normal", out_axis=0)

# The number added to the scores of masked keys.
MASKED = -1e10

# -- linear maps ---------------------------------------------------------------------


def dense(
    scope: Scope,
    inputs: Array,
    features: int,
    bias: bool = True,
    dtype: Dtype = jnp.float32,
    precision: PrecisionLike = None,
    kernel_init: Initializer = default_kernel_init,
    bias_init: Initializer = zeros,
) -> Array:
    """Map the last axis linearly: `y = x @ kernel + bias`.

    Args:
        scope: holds `kernel` and `bias`.
        inputs: array of shape (..., channels).
        features: number of output features.
        bias: whether to add a bias.
        dtype: dtype of the computation.
        precision: see `jax.lax.Precision`.
        kernel_init: initializer of `kernel`.
        bias_init: initializer of `bias`.

    Returns:
        An array of shape (..., features).
    """
    kernel = scope.param("kernel", kernel_init, (inputs.shape[-1], features))
    offset = scope.param("bias", bias_init, (features,)) if bias else None
    operands = _cast(dtype, inputs, kernel, offset)
    return dot.dense(*operands, precision=precision)


def dense_general(
    scope: Scope,
    inputs: Array,
    features: int | Sequence[int],
    axis: int | Sequence[int] = -1,
    batch_dims: int | Sequence[int] = (),
    bias: bool = True,
    dtype: Dtype = jnp.float32,
    kernel_init: Initializer = default_kernel_init,
    bias_init: Initializer = zeros,
    precision: PrecisionLike = None,
) -> Array:
    """Map chosen axes linearly to one or several feature axes.

    Args:
        scope: holds `kernel` and `bias`.
        inputs: array of any shape.
        features: number of output features, or one for each feature axis.
        axis: the axes that are contracted.
        batch_dims: leading axes whose entries have kernels of their own, all with the
            same initial values.
        bias: whether to add a bias.
        dtype: dtype of the computation.
        kernel_init: initializer of `kernel`, called with a flat shape.
        bias_init: initializer of `bias`, called with a flat shape.
        precision: see `jax.lax.Precision`.

    Returns:
        An array of shape (*batch, *remaining axes, *features).
    """
    features, axis, batch_dims = map(_as_tuple, (features, axis, batch_dims))
    axes = sorted(i % inputs.ndim for i in axis)
    batch = tuple(inputs.shape[i] for i in batch_dims)
    contracted = tuple(inputs.shape[i] for i in axes)

    def declare(name: str, init: Initializer, *sizes: tuple[int, ...]) -> Array:
        """Draw in a flat shape, once for all batch entries."""
        flat, one_entry = tuple(map(math.prod, sizes)), sum(sizes, ())

        def draw(key: Array, shape: tuple[int, ...]) -> Array:
            drawn = jnp.reshape(init(key, flat, jnp.float32), one_entry)
            return jnp.broadcast_to(drawn, shape)

        return scope.param(name, draw, batch + one_entry)

    kernel = declare("kernel", kernel_init, contracted, features)
    offset = declare("bias", bias_init, features) if bias else None
    operands = _cast(dtype, inputs, kernel, offset)
    return dot.dense_general(
        *operands, axes=axes, batch_axes=batch_dims, precision=precision
    )


def conv(
    scope: Scope,
    inputs: Array,
    features: int,
    kernel_size: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: PaddingLike = "SAME",
    input_dilation: Sequence[int] | None = None,
    kernel_dilation: Sequence[int] | None = None,
    feature_group_count: int = 1,
    bias: bool = True,
    dtype: Dtype = jnp.float32,
    precision: PrecisionLike = None,
    kernel_init: Initializer = default_kernel_init,
    bias_init: Initializer = zeros,
) -> Array:
    """Convolve an array of shape (batch, *spatial, channels); see `linen.Conv`."""
    channels = inputs.shape[-1] // feature_group_count
    kernel = scope.param("kernel", kernel_init, (*kernel_size, channels, features))
    offset = scope.param("bias", bias_init, (features,)) if bias else None
    operands = _cast(dtype, inputs, kernel, offset)
    return conv_arrays(
        *operands,
        strides=strides,
        padding=padding,
        input_dilation=input_dilation,
        kernel_dilation=kernel_dilation,
        feature_group_count=feature_group_count,
        precision=precision,
    )


def conv_transpose(
    scope: Scope,
    inputs: Array,
    features: int,
    kernel_size: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: PaddingLike = "SAME",
    kernel_dilation: Sequence[int] | None = None,
    bias: bool = True,
    dtype: Dtype = jnp.float32,
    precision: PrecisionLike = None,
    kernel_init: Initializer = default_kernel_init,
    bias_init: Initializer = zeros,
) -> Array:
    """Spread an array of shape (batch, *spatial, channels); see `ConvTranspose`."""
    shape = (*kernel_size, inputs.shape[-1], features)
    kernel = scope.param("kernel", kernel_init, shape)
    offset = scope.param("bias", bias_init, (features,)) if bias else None
    operands = _cast(dtype, inputs, kernel, offset)
    return conv_transpose_arrays(
        *operands,
        strides=strides,
        padding=padding,
        kernel_dilation=kernel_dilation,
        precision=precision,
    )


@struct.dataclass
class Embedding:
    """A table of rows.

    Args:
        table: array of shape (rows, features).
    """

    table: Array

    def lookup(self, indices: Array) -> Array:
        """Take rows.

        Args:
            indices: integers of any shape.

        Returns:
            An array of shape (*indices.shape, features).

        Raises:
            IntegerInputError: the indices are not integers.
        """
        if not jnp.issubdtype(indices.dtype, jnp.integer):
            raise IntegerInputError(jnp.shape(self.table)[0], indices.dtype)
        return self.table[indices]

    def attend(self, query: Array) -> Array:
        """Score queries of shape (..., features) against rows: (..., rows)."""
        return dot.attend(query, jnp.asarray(self.table))


def embedding(
    scope: Scope,
    num_embeddings: int,
    features: int,
    init_fn: Initializer = default_embed_init,
) -> Embedding:
    """Declare a table of rows, `table`, in a scope."""
    return Embedding(scope.param("table", init_fn, (num_embeddings, features)))


# -- normalization -------------------------------------------------------------------


def layer_norm(
    scope: Scope,
    x: Array,
    epsilon: float = 1e-6,
    dtype: Dtype = jnp.float32,
    bias: bool = True,
    scale: bool = True,
    bias_init: Initializer = zeros,
    scale_init: Initializer = ones,
) -> Array:
    """Normalize each example by mean and variance of its last axis."""
    last, shape = (x.ndim - 1,), x.shape[-1:]
    inits = scale_init if scale else None, bias_init if bias else None
    affine = _affine(scope, shape, shape, *inits)
    return standardize_examples_jit(
        NormSpec(last, last, dtype), x, None, *affine, epsilon
    )


def group_norm(
    scope: Scope,
    x: Array,
    num_groups: int | None = 32,
    group_size: int | None = None,
    epsilon: float = 1e-6,
    dtype: Dtype = jnp.float32,
    bias: bool = True,
    scale: bool = True,
    bias_init: Initializer = zeros,
    scale_init: Initializer = ones,
) -> Array:
    """Normalize each example by mean and variance of groups of channels.

    Raises:
        OptionError: the channels cannot be divided, or not exactly one of `num_groups`
            and `group_size` is given.
    """
    if (num_groups is None) == (group_size is None):
        raise OptionError(
            f"Found num_groups={num_groups} and group_size={group_size}.",
            "One follows from the other and the number of channels.",
            "Give one of `num_groups` and `group_size`, and `None` for the other.",
        )
    channels = x.shape[-1]
    groups = num_groups or channels // (group_size or 1)
    if channels % groups or (group_size and channels % group_size):
        raise OptionError(
            f"{channels} channels cannot be divided into {groups} equal groups.",
            "Each group has its own mean and variance of as many channels.",
            f"Choose a number that divides {channels}, for example `num_groups=1`.",
        )
    last = x.ndim - 1
    inits = scale_init if scale else None, bias_init if bias else None
    affine = _affine(scope, (1,) * last + (channels,), (channels,), *inits)
    spec = NormSpec((*range(1, last), last), (last,), dtype)
    return standardize_groups(spec, groups, x, None, *affine, epsilon)


def batch_norm(
    scope: Scope,
    x: Array,
    use_running_average: bool = False,
    axis: int | Sequence[int] = -1,
    momentum: float = 0.99,
    epsilon: float = 1e-5,
    dtype: Dtype = jnp.float32,
    bias: bool = True,
    scale: bool = True,
    bias_init: Initializer = zeros,
    scale_init: Initializer = ones,
    axis_name: str | None = None,
    axis_index_groups: Iterable[Sequence[int]] | None = None,
    kind: str = "batch_stats",
) -> Array:
    """Normalize each channel by its mean and variance in the batch.

    Args:
        scope: holds `scale` and `bias`, and `mean` and `var` in the collection `kind`.
        x: inputs of any shape.
        use_running_average: whether to use the running statistics, not those of `x`.
        axis: the channel axis or axes.
        momentum: fraction of the running statistics that is kept, in [0, 1].
        epsilon: number added to the variance.
        dtype: dtype of the result.
        bias: whether to add a bias.
        scale: whether to multiply by a scale.
        bias_init: initializer of `bias`.
        scale_init: initializer of `scale`.
        axis_name: name of a mapped axis to take mean and variance over as well.
        axis_index_groups: groups of indices of that axis.
        kind: the collection of the running statistics.

    Returns:
        An array of the shape of `x`.
    """
    channels = canonical_axes(axis, x.ndim)
    spec = NormSpec(other_axes(channels, x.ndim), channels, dtype)
    shape = tuple(x.shape[i] for i in channels)
    initializing = not scope.has_variable(kind, "mean")
    mean = scope.variable(kind, "mean", jnp.zeros, shape)
    var = scope.variable(kind, "var", jnp.ones, shape)
    running = mean.value, var.value
    inits = scale_init if scale else None, bias_init if bias else None
    affine = _affine(scope, shape, shape, *inits)
    if use_running_average:
        return evaluate_batch_norm(spec, x, *affine, epsilon, running)
    if initializing:
        return standardize_jit(spec, x, None, *affine, epsilon)[0]
    spec = spec._replace(names=as_names(axis_name), groups=as_groups(axis_index_groups))
    rule, decay = UpdateRule(propagate=True), (momentum, 1 - momentum)
    y, (mean.value, var.value) = train_batch_norm(
        spec, rule, x, None, *affine, epsilon, running, decay
    )
    return y


def _affine(
    scope: Scope,
    stored: Shape,
    shape: Shape,
    scale_init: Initializer | None,
    bias_init: Initializer | None,
) -> list[Array | None]:
    """Declare `scale` and `bias` if they have initializers, and reshape them."""
    inits = {"scale": scale_init, "bias": bias_init}
    return [
        None if init is None else scope.param(name, init, stored).reshape(shape)
        for name, init in inits.items()
    ]


# -- attention and dropout -----------------------------------------------------------


def dot_product_attention(
    scope: Scope,
    query: Array,
    key: Array,
    value: Array,
    dtype: Dtype = jnp.float32,
    bias: Array | None = None,
    axis: int | Sequence[int] | None = None,
    broadcast_dropout: bool = True,
    dropout_rng: PRNGKey | None = None,
    dropout_rate: float = 0.0,
    deterministic: bool = False,
    precision: PrecisionLike = None,
) -> Array:
    """Average values by how well queries match keys, over any axes.

    Args:
        scope: gives the random key for dropout, from the stream `dropout`.
        query: array of shape (batch, *axes, heads, depth).
        key: array of the same form.
        value: array of the same form.
        dtype: dtype of the weights.
        bias: array added to the scores, of a shape that broadcasts to (*batch, heads,
            *query axes, *key axes).
        axis: the axes to attend over. If `None`, all axes between batch and heads. The
            other ones count as batch axes.
        broadcast_dropout: whether batch entries and heads share one dropout mask.
        dropout_rng: random key for dropout.
        dropout_rate: probability of dropping a weight, in [0, 1).
        deterministic: whether to disable dropout.
        precision: see `jax.lax.Precision`.

    Returns:
        An array of the shape of `query`.

    Raises:
        OptionError: an axis is the batch axis, or one of the last two.
    """
    axes = attention_ops.attended_axes(axis, query.ndim)
    sizes = [x.shape[i] for x in (query, key) for i in axes]
    q, k, v = (attention_ops.merge_axes(x, axes, 2) for x in (query, key, value))
    *batch, length, heads, depth = q.shape
    q = q / math.sqrt(depth)
    scores = jnp.einsum("...qhd,...khd->...hqk", q, k, precision=precision)
    if bias is not None:
        scores = scores.reshape(*scores.shape[:-2], *sizes) + bias
        scores = scores.reshape(*scores.shape[: len(batch) + 1], length, -1)
    # Weights of shape (*batch, heads, queries, keys).
    weights = attention_ops.softmax(scores).astype(dtype)
    if not deterministic and dropout_rate > 0.0:
        rng = scope.make_rng("dropout") if dropout_rng is None else dropout_rng
        lead = weights.ndim - 2
        weights = attention_ops.drop_weights(
            weights, rng, dropout_rate, dtype, broadcast=broadcast_dropout, batch=lead
        )
    y = jnp.einsum("...hqk,...khd->...qhd", weights, v, precision=precision)
    y = y.reshape(*batch, *sizes[: len(axes)], heads, -1)
    return jnp.moveaxis(y, range(len(batch), y.ndim - 2), axes)


def multi_head_dot_product_attention(
    scope: Scope,
    inputs_q: Array,
    inputs_kv: Array,
    num_heads: int,
    dtype: Dtype = jnp.float32,
    qkv_features: int | None = None,
    out_features: int | None = None,
    attention_axis: int | Sequence[int] | None = None,
    causal_mask: bool = False,
    padding_mask: Array | None = None,
    key_padding_mask: Array | None = None,
    segmentation: Array | None = None,
    key_segmentation: Array | None = None,
    cache: bool = False,
    broadcast_dropout: bool = True,
    dropout_rng: PRNGKey | None = None,
    dropout_rate: float = 0.0,
    deterministic: bool = False,
    precision: PrecisionLike = None,
    kernel_init: Initializer = default_kernel_init,
    bias_init: Initializer = zeros,
    bias: bool = True,
    attention_fn: Callable[..., Array] = dot_product_attention,
) -> Array:
    """Attend with several heads, each over its own projections of the inputs.

    Args:
        scope: holds the projections `query`, `key`, `value` and `out`.
        inputs_q: array of shape (batch, *axes, features).
        inputs_kv: array of the same form. Defaults to `inputs_q`.
        num_heads: number of heads.
        dtype: dtype of the computation.
        qkv_features: features of all heads together. Defaults to those of `inputs_q`.
        out_features: features of the outputs. Defaults to those of `inputs_q`.
        attention_axis: the axes to attend over. If `None`, all axes except batch and
            features.
        causal_mask: whether elements see only themselves and those before them.
        padding_mask: mask of the elements that are not padding, of shape
            (batch, *axes).
        key_padding_mask: the same for the keys. Defaults to `padding_mask`.
        segmentation: numbers of segments, of shape (batch, *axes); elements see only
            those of their own segment.
        key_segmentation: the same for the keys. Defaults to `segmentation`.
        cache: not supported here; use `linen.MultiHeadDotProductAttention`.
        broadcast_dropout: whether batch entries and heads share one dropout mask.
        dropout_rng: random key for dropout.
        dropout_rate: probability of dropping a weight, in [0, 1).
        deterministic: whether to disable dropout.
        precision: see `jax.lax.Precision`.
        kernel_init: initializer of the kernels.
        bias_init: initializer of the biases.
        bias: whether the projections add a bias.
        attention_fn: replacement for `dot_product_attention`, with the same arguments.

    Returns:
        An array of shape (batch, *axes, out_features).

    Raises:
        OptionError: the features cannot be divided among the heads.
        UnsupportedError: a cache is asked for.
    """
    if cache:
        raise UnsupportedError(
            "`multi_head_dot_product_attention` was called with cache=True.",
            "The layers of the core have few options, and no cache.",
            "Use `linen.MultiHeadDotProductAttention(decode=True)`.",
        )
    inputs_kv = inputs_q if inputs_kv is None else inputs_kv
    features = inputs_q.shape[-1]
    heads = attention_ops.divide_heads(qkv_features or features, num_heads)

    def project(name: str, x: Array, to: int | Shape, axis: int | Shape = -1) -> Array:
        dense = scope.child(dense_general, name)
        return dense(x, to, axis, (), bias, dtype, kernel_init, bias_init, precision)

    query = project("query", inputs_q, heads)
    key, value = project("key", inputs_kv, heads), project("value", inputs_kv, heads)
    axes = attention_ops.attended_axes(attention_axis, query.ndim)

    masks = []  # each of shape (*batch, 1, *query axes, *key axes)
    if causal_mask:
        sizes = [key.shape[i] for i in axes]
        lead = (1,) * (key.ndim - len(axes) - 1)
        triangle = jnp.tril(jnp.ones((math.prod(sizes),) * 2, bool))
        masks.append(triangle.reshape(*lead, *sizes, *sizes))
    for of_queries, of_keys, is_segments in (
        (padding_mask, key_padding_mask, False),
        (segmentation, key_segmentation, True),
    ):
        if of_queries is not None:
            of_keys = of_queries if of_keys is None else of_keys
            options = query.shape, key.shape, axes, is_segments
            masks.append(make_padding_mask(of_queries, of_keys, *options))
    mask = attention_ops.combine_masks(*masks, dtype=jnp.bool_)
    added = None if mask is None else jnp.where(mask, 0.0, MASKED).astype(dtype)
    y = scope.child(attention_fn)(
        query,
        key,
        value,
        dtype=dtype,
        axis=axes,
        bias=added,
        precision=precision,
        dropout_rng=dropout_rng,
        dropout_rate=dropout_rate,
        broadcast_dropout=broadcast_dropout,
        deterministic=deterministic,
    )
    return project("out", y, out_features or features, (-2, -1))


def dropout(
    scope: Scope,
    inputs: Array,
    rate: float,
    deterministic: bool = False,
    rng: PRNGKey | None = None,
) -> Array:
    """Drop entries at random: `y = mask * x / (1 - rate)`.

    Args:
        scope: gives the random key, from the stream `dropout`.
        inputs: array of any shape.
        rate: probability of dropping an entry, in [0, 1).
        deterministic: whether to return the inputs unchanged.
        rng: random key to use in place of the one from the scope.

    Returns:
        An array like `inputs`.
    """
    if rate == 0.0 or deterministic:
        return inputs
    key = scope.make_rng("dropout") if rng is None else rng
    return drop_entries(inputs, key, rate)


def _as_tuple(value: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,)


def _cast(
    dtype: Dtype, x: Array, kernel: Array, bias: Array | None
) -> tuple[Array, Array, Array | None]:
    offset = None if bias is None else jnp.asarray(bias, dtype)
    return jnp.asarray(x, dtype), jnp.asarray(kernel, dtype), offset
