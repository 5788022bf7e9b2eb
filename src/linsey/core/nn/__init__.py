"""Layers as functions of scopes, without modules: the core alone is enough for a model.

Each function takes a scope, asks it for parameters by name and shape, and computes with
arrays. They are small on purpose; `linsey.linen` has more options.

Example:
    >>> import jax, jax.numpy as jnp
    >>> from linsey import core
    >>> def mlp(scope, x):
    ...     x = nn.relu(scope.child(nn.dense, "hidden")(x, 8))
    ...     return scope.child(nn.dense, "out")(x, 2)
    >>> from linsey.core import nn
    >>> y, variables = core.init(mlp)(jax.random.key(0), jnp.ones((1, 4)))
    >>> y.shape, variables["params"]["hidden"]["kernel"].shape
    ((1, 2), (4, 8))
"""

from jax.nn import (
    celu,
    elu,
    gelu,
    glu,
    leaky_relu,
    log_sigmoid,
    log_softmax,
    relu,
    sigmoid,
    silu,
    soft_sign,
    softmax,
    softplus,
    swish,
)
from jax.numpy import tanh

from linsey.core.nn import attention, linear, normalization, stochastic
from linsey.core.nn.attention import (
    dot_product_attention,
    multi_head_dot_product_attention,
)
from linsey.core.nn.linear import (
    Embedding,
    conv,
    conv_transpose,
    dense,
    dense_general,
    embedding,
)
from linsey.core.nn.normalization import batch_norm, group_norm, layer_norm
from linsey.core.nn.stochastic import dropout
from linsey.ops.pool import avg_pool, max_pool

__all__ = [
    "Embedding",
    "attention",
    "avg_pool",
    "batch_norm",
    "celu",
    "conv",
    "conv_transpose",
    "dense",
    "dense_general",
    "dot_product_attention",
    "dropout",
    "elu",
    "embedding",
    "gelu",
    "glu",
    "group_norm",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_sigmoid",
    "log_softmax",
    "max_pool",
    "multi_head_dot_product_attention",
    "normalization",
    "relu",
    "sigmoid",
    "silu",
    "soft_sign",
    "softmax",
    "softplus",
    "stochastic",
    "swish",
    "tanh",
]
