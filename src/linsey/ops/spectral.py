"""The largest singular value of a matrix, by power iteration."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jax import Array, lax

from linsey.ops.deferred import resolve
from linsey.ops.sharding import is_split, leave_to_compiler, split_axes

if TYPE_CHECKING:
    from jaxtyping import Float


def spectral_norm(
    matrix: Float[Array, "rows columns"],
    u: Float[Array, "1 columns"],
    n_steps: int,
    epsilon: float,
) -> tuple[Float[Array, ""], Float[Array, "1 columns"]]:
    """Estimate the largest singular value of a matrix.

        v = W u / |W u|        u = v W / |v W|        sigma = v W u

    The gradient treats the singular vectors as constants, which is right once they have
    converged.

    Args:
        matrix: array of shape (rows, columns).
        u: estimate of the right singular vector, of shape (1, columns).
        n_steps: number of power iterations.
        epsilon: what is added to squared lengths.

    Returns:
        The estimate of the largest singular value, of shape (), and the new `u`.

    Example:
        >>> import jax.numpy as jnp
        >>> matrix = jnp.array([[3.0, 0.0], [0.0, 1.0]])
        >>> sigma, u = spectral_norm(matrix, jnp.array([[1.0, 1.0]]), 20, 1e-12)
        >>> round(sigma.item(), 4), u.round(4).tolist()
        (3.0, [[1.0, 0.0]])

    References:
        Miyato et al. 2018, https://arxiv.org/abs/1802.05957
    """
    matrix, u = resolve(matrix), resolve(u)
    if is_split(matrix, u):
        estimate = partial(spectral_norm, n_steps=n_steps, epsilon=epsilon)
        return leave_to_compiler(estimate, [(), split_axes(u)], matrix, u)
    v = u
    for _ in range(n_steps):
        v = _unit(lax.dot_general(u, matrix, (((1,), (1,)), ((), ()))), epsilon)
        u = _unit(lax.dot_general(v, matrix, (((1,), (0,)), ((), ()))), epsilon)
    u, v = lax.stop_gradient(u), lax.stop_gradient(v)
    along = lax.dot_general(v, matrix, (((1,), (0,)), ((), ())))
    sigma = lax.dot_general(along, u, (((1,), (1,)), ((), ())))
    return lax.reshape(sigma, ()), u


def _unit(x: Array, epsilon: float) -> Array:
    """Scale a row, of shape (1, size), to length 1."""
    square = lax.expand_dims(lax.reduce_sum(lax.mul(x, x), (0, 1)), (0, 1))
    return lax.mul(x, lax.rsqrt(lax.add(square, np.asarray(epsilon, square.dtype))))
