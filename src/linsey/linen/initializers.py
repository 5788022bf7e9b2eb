"""Initializers of parameters: functions `(key, shape, dtype) -> array`.

They are those of `jax.nn.initializers`, so that the same key gives the same bits as
elsewhere in JAX.
"""

from jax.nn.initializers import *  # noqa: F403
from jax.nn.initializers import Initializer as Initializer
from jax.nn.initializers import ones as ones
from jax.nn.initializers import zeros as zeros


def zeros_init() -> Initializer:
    """Return the initializer of zeros.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> zeros_init()(jax.random.key(0), (2,), jnp.float32).tolist()
        [0.0, 0.0]
    """
    return zeros


def ones_init() -> Initializer:
    """Return the initializer of ones.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> ones_init()(jax.random.key(0), (2,), jnp.float32).tolist()
        [1.0, 1.0]
    """
    return ones
