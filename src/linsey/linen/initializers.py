"""Initial values of parameters: functions `(key, shape, dtype) -> array`.

They are those of `jax.nn.initializers`, so that the same key gives the same bits as
everywhere in JAX.
"""

from __future__ import annotations

from jax.nn.initializers import (
    Initializer,
    constant,
    delta_orthogonal,
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    normal,
    ones,
    orthogonal,
    truncated_normal,
    uniform,
    variance_scaling,
    xavier_normal,
    xavier_uniform,
    zeros,
)

__all__ = [
    "Initializer",
    "constant",
    "delta_orthogonal",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "ones_init",
    "orthogonal",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
    "zeros_init",
]


def zeros_init() -> Initializer:
    """Builds the initializer of zeros.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> zeros_init()(jax.random.key(0), (2,), jnp.float32).tolist()
        [0.0, 0.0]
    """
    return zeros


def ones_init() -> Initializer:
    """Builds the initializer of ones.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> ones_init()(jax.random.key(0), (2,), jnp.float32).tolist()
        [1.0, 1.0]
    """
    return ones
