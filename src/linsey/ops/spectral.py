"""The largest singular value of a matrix, by power iteration."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from linsey.ops.deferred import resolve
from linsey.ops.sharding import is_split, leave_to_compiler, split_axes

if TYPE_CHECKING:
    from jaxtyping import Float, Inexact


def spectral_norm(
    matrix: Inexact[Array, "rows columns"],
    u: Inexact[Array, "1 columns"],
    n_steps: int,
    epsilon: float,
) -> tuple[Float[Array, ""], Inexact[Array, "1 columns"]]:
    """Estimate the largest singular value of a matrix.

        v = W u / |W u|        u = v W / |v W|        sigma = v W u

    In complex matrices, one factor of each product is conjugated.
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
        >>> matrix = jnp.array([[3.0, 0.0], [0.0, 1.0]])
        >>> sigma, u = spectral_norm(matrix, jnp.array([[1.0, 1.0]]), 20, 1e-12)
        >>> round(sigma.item(), 4), u.round(4).tolist()
        (3.0, [[1.0, 0.0]])

    References:
        Miyato et al. 2018, https://arxiv.org/abs/1802.05957
    """
    matrix, u = resolve(matrix), resolve(u)
    conjugate = lax.conj if jnp.iscomplexobj(matrix) else lambda x: x
    if is_split(matrix, u):
        estimate = partial(spectral_norm, n_steps=n_steps, epsilon=epsilon)
        return leave_to_compiler(estimate, [(), split_axes(u)], matrix, u)
    v = u
    for _ in range(n_steps):
        v = _unit(
            lax.dot_general(u, conjugate(matrix), (((1,), (1,)), ((), ()))), epsilon
        )
        u = _unit(lax.dot_general(v, matrix, (((1,), (0,)), ((), ()))), epsilon)
    u, v = lax.stop_gradient(u), lax.stop_gradient(v)
    along = lax.dot_general(v, matrix, (((1,), (0,)), ((), ())))
    sigma = lax.dot_general(along, conjugate(u), (((1,), (1,)), ((), ())))
    sigma = lax.real(sigma) if jnp.iscomplexobj(sigma) else sigma
    return lax.reshape(sigma, ()), u


def _unit(x: Array, epsilon: float) -> Array:
    """Scale a row, of shape (1, size), to length 1."""
    size = lax.abs(x) if jnp.iscomplexobj(x) else x
    square = lax.expand_dims(lax.reduce_sum(lax.mul(size, size), (0, 1)), (0, 1))
    scale = lax.rsqrt(lax.add(square, np.asarray(epsilon, square.dtype)))
    return lax.mul(x, lax.convert_element_type(scale, x.dtype))
