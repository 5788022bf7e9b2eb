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

# ruff: noqa: F403 (each file lists the names that it offers)

from jax.nn import celu as celu
from jax.nn import elu as elu
from jax.nn import gelu as gelu
from jax.nn import glu as glu
from jax.nn import leaky_relu as leaky_relu
from jax.nn import log_sigmoid as log_sigmoid
from jax.nn import log_softmax as log_softmax
from jax.nn import relu as relu
from jax.nn import sigmoid as sigmoid
from jax.nn import silu as silu
from jax.nn import soft_sign as soft_sign
from jax.nn import softmax as softmax
from jax.nn import softplus as softplus
from jax.nn import swish as swish
from jax.numpy import tanh as tanh

from linsey.core.nn import attention as attention
from linsey.core.nn import linear as linear
from linsey.core.nn import normalization as normalization
from linsey.core.nn import stochastic as stochastic
from linsey.core.nn.attention import *
from linsey.core.nn.linear import *
from linsey.core.nn.normalization import *
from linsey.core.nn.stochastic import dropout as dropout
from linsey.ops.pool import avg_pool as avg_pool
from linsey.ops.pool import max_pool as max_pool
