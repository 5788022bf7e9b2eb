"""The largest singular value of a matrix, by power iteration."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from linsey.ops.deferred import resolve
from linsey.ops.prescale import power_of_size
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
        epsilon: number added to squared lengths.

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
    _, sigma, u, prescale = prescaled_spectral_norm(matrix, u, n_steps, epsilon)
    return lax.div(sigma, prescale), u


def prescaled_spectral_norm(
    matrix: Inexact[Array, "rows columns"],
    u: Inexact[Array, "1 columns"],
    n_steps: int,
    epsilon: float,
) -> tuple[
    Inexact[Array, "rows columns"],
    Float[Array, ""],
    Inexact[Array, "1 columns"],
    Float[Array, ""],
]:
    """Do what `spectral_norm` does, for a matrix scaled to entries that are not large.

    Returns:
        The matrix times a power of two, its largest singular value, the new `u`, and
        the power of two.

    Example:
        >>> matrix, u = jnp.diag(jnp.array([3e38, 1e38])), jnp.array([[1.0, 0.0]])
        >>> matrix, sigma, *_ = prescaled_spectral_norm(matrix, u, 1, 1e-12)
        >>> (matrix / sigma).round(4)[0].tolist()
        [1.0, 0.0]
    """
    matrix, u = resolve(matrix), resolve(u)
    if is_split(matrix, u):
        estimate = partial(prescaled_spectral_norm, n_steps=n_steps, epsilon=epsilon)
        split = [split_axes(matrix), (), split_axes(u), ()]
        return leave_to_compiler(estimate, split, matrix, u)
    matrix, prescale, epsilon_ = prescale_by_largest(matrix, (0, 1), epsilon)
    conjugate = lax.conj if jnp.iscomplexobj(matrix) else lambda x: x
    v = u
    for _ in range(n_steps):
        v = _unit(
            lax.dot_general(u, conjugate(matrix), (((1,), (1,)), ((), ()))), epsilon_
        )
        u = _unit(lax.dot_general(v, matrix, (((1,), (0,)), ((), ()))), epsilon_)
    u, v = lax.stop_gradient(u), lax.stop_gradient(v)
    along = lax.dot_general(v, matrix, (((1,), (0,)), ((), ())))
    sigma = lax.dot_general(along, conjugate(u), (((1,), (1,)), ((), ())))
    sigma = lax.real(sigma) if jnp.iscomplexobj(sigma) else sigma
    return matrix, lax.reshape(sigma, ()), u, lax.reshape(prescale, ())


def prescale_by_largest(
    x: Inexact[Array, "*shape"], axes: tuple[int, ...], epsilon: ArrayLike
) -> tuple[Inexact[Array, "*shape"], Float[Array, "*#shape"], Float[Array, "*#shape"]]:
    """Multiply an array by powers of two, at most 1, so that no square overflows.

    Args:
        x: array.
        axes: the axes that share a power of two, near the reciprocal of the largest
            magnitude along them.
        epsilon: number added to sums of squares of `x`.

    Returns:
        The product; the powers of two, which are constants in derivatives and have size
        1 along `axes`; and the number to add to sums of squares of the product instead.

    Example:
        >>> y, *_ = prescale_by_largest(jnp.array([3e30, 4e30]), (0,), 0.0)
        >>> print(f"{(y[0] / jnp.linalg.norm(y)).item():.4f}")
        0.6000
    """
    size = lax.reduce_max(lax.abs(x), axes) if x.size else jnp.ones(())
    size = jnp.broadcast_to(size, [n for i, n in enumerate(x.shape) if i not in axes])
    size = lax.expand_dims(lax.stop_gradient(size), axes).astype(
        jnp.finfo(x.dtype).dtype
    )
    prescale, epsilon = power_of_size(size), jnp.asarray(epsilon, size.dtype)
    # Epsilon may underflow when prescaled, but zeros must not be divided by 0.
    kept = jnp.minimum(epsilon, jnp.finfo(size.dtype).tiny)
    scaled = jnp.maximum(epsilon * prescale * prescale, kept)
    return x * prescale.astype(x.dtype), prescale, scaled


def _unit(x: Array, epsilon: Array) -> Array:
    """Scale a row, of shape (1, size), to length 1."""
    size = lax.abs(x) if jnp.iscomplexobj(x) else x
    square = lax.expand_dims(lax.reduce_sum(lax.mul(size, size), (0, 1)), (0, 1))
    scale = lax.rsqrt(lax.add(square, epsilon))
    return lax.mul(x, lax.convert_element_type(scale, x.dtype))
