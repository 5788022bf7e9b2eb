"""Products in 8-bit floating point, with scales that follow the values.

A value is divided by a *scale* before it is rounded to 8 bits, so that the largest
value seen recently (kept in an *amax history*) just fits. Scale and history are state;
their new values are returned through the gradient: the "gradient" of a scale *is* its
next value, which replaces the old one (*overwrite with gradient*).

References:
    Micikevicius et al. 2022, https://arxiv.org/abs/2209.05433
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.lax import DotDimensionNumbers
from jax.typing import ArrayLike

from linsey.promotion import promote_types
from linsey.typing import Dtype, PrecisionLike

E4M3 = jnp.float8_e4m3fn
E5M2 = jnp.float8_e5m2


def get_fp8_max(fp8_dtype: Dtype, out_dtype: Dtype) -> Array:
    """Return the largest number of an 8-bit dtype, in another dtype.

    Example:
        >>> get_fp8_max(E4M3, jnp.float32).item()
        448.0
    """
    return jnp.finfo(fp8_dtype).max.astype(out_dtype)


def quantize(x: Array, q_dtype: Dtype, scale: Array, compute_dtype: Dtype) -> Array:
    """Divide by a scale and round to 8 bits; clip values beyond the largest number.

    Example:
        >>> quantize(jnp.array([1.0, 900.0]), E4M3, jnp.ones(1), jnp.float32).tolist()
        [1.0, 448.0]
    """
    largest = get_fp8_max(q_dtype, compute_dtype)
    scaled = x / jnp.broadcast_to(jnp.asarray(scale, compute_dtype), x.shape)
    return jnp.clip(scaled, -largest, largest).astype(q_dtype)


def dequantize(x: Array, dq_dtype: Dtype, scale: Array) -> Array:
    """Multiply by a scale again, in a wider dtype.

    Example:
        >>> dequantize(jnp.ones(2, E4M3), jnp.float32, jnp.full(1, 3.0)).tolist()
        [3.0, 3.0]
    """
    return x.astype(dq_dtype) * jnp.broadcast_to(jnp.asarray(scale, dq_dtype), x.shape)


def qdq(x: Array, q_dtype: Dtype, scale: Array, compute_dtype: Dtype) -> Array:
    """Round values to those that 8 bits can hold, `dequantize(quantize(x))`.

    Example:
        >>> qdq(jnp.array([17.3]), E4M3, jnp.ones(1), jnp.float32).tolist()
        [18.0]
    """
    return dequantize(quantize(x, q_dtype, scale, compute_dtype), x.dtype, scale)


def compute_scale(
    amax: Array, scale: Array, fp8_max: ArrayLike, margin: int = 0
) -> Array:
    """Choose the scale with which the largest value just fits.

    Args:
        amax: the largest absolute value.
        scale: the scale to keep if `amax` is zero or not finite.
        fp8_max: the largest number of the 8-bit dtype.
        margin: number of bits to leave free.

    Returns:
        The scale.

    Example:
        >>> compute_scale(jnp.float32(896.0), jnp.ones(1), 448.0).tolist()
        [2.0]
    """
    factor = (fp8_max / amax) / (2**margin)
    factor = jnp.where(amax > 0.0, factor, 1.0 / scale)
    return 1.0 / jnp.where(jnp.isfinite(amax), factor, 1.0 / scale)


def compute_amax_history(x: Array, amax_history: Array) -> Array:
    """Put the largest absolute value first in a history, and drop the oldest.

    Example:
        >>> compute_amax_history(jnp.array([-3.0, 1.0]), jnp.array([5.0, 2.0])).tolist()
        [3.0, 5.0]
    """
    amax = jnp.max(jnp.abs(x)).astype(amax_history.dtype)
    return jnp.roll(amax_history, shift=-1, axis=0).at[0].set(amax)


def update_fp8_meta(
    x: Array, q_dtype: Dtype, scale: Array, amax_history: Array
) -> tuple[Array, Array]:
    """Return the scale to use now, and the history extended by the new values.

    Args:
        x: the values.
        q_dtype: the 8-bit dtype.
        scale: the scale so far.
        amax_history: the largest absolute values so far.

    Returns:
        The new scale and the new history.
    """
    scale, amax_history = _plain(scale), _plain(amax_history)
    largest = get_fp8_max(q_dtype, jnp.float32)
    amax = jnp.max(amax_history, axis=0)
    new_scale = compute_scale(amax, scale, largest)
    return new_scale, compute_amax_history(x, amax_history)


def quantize_dequantize_update(
    x: Array, q_dtype: Dtype, scale: Array, amax_history: Array, compute_dtype: Dtype
) -> tuple[Array, Array, Array]:
    """Round values with the updated scale; return scale and history too."""
    new_scale, new_history = update_fp8_meta(x, q_dtype, scale, amax_history)
    rounded = qdq(x, q_dtype, new_scale, compute_dtype)
    return rounded, _like(scale, new_scale), _like(amax_history, new_history)


def _plain(meta: Array) -> Array:
    """Return a scale or history as float32, also if its dtype is `fp32_max_grad`."""
    inside = getattr(meta.dtype, "float_dtype", None)
    return meta if inside is None else lax.convert_element_type(meta, inside)


def _like(meta: Array, new: Array) -> Array:
    """Return the next value of a scale or history in the dtype of the old value."""
    return new if new.dtype == meta.dtype else lax.convert_element_type(new, meta.dtype)


# -- rounding on the way in, of values; on the way out, of gradients -----------------


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def in_qdq(
    compute_dtype: Dtype, q_dtype: Dtype, inp: Array, scale: Array, amax_history: Array
) -> Array:
    """Round values; the gradients of scale and history are their next values."""
    return in_qdq_fwd(compute_dtype, q_dtype, inp, scale, amax_history)[0]


def in_qdq_fwd(
    compute_dtype: Dtype, q_dtype: Dtype, inp: Array, scale: Array, amax_history: Array
) -> tuple[Array, tuple[Array, Array]]:
    """Apply the forward rule of `in_qdq`."""
    rounded, new_scale, new_history = quantize_dequantize_update(
        inp, q_dtype, scale, amax_history, compute_dtype
    )
    return rounded, (new_scale, new_history)


def in_qdq_bwd(
    compute_dtype: Dtype, q_dtype: Dtype, res: tuple[Array, Array], g: Array
) -> tuple[Array, Array, Array]:
    """Apply the backward rule of `in_qdq`."""
    return (g, *res)


in_qdq.defvjp(in_qdq_fwd, in_qdq_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def out_qdq(
    compute_dtype: Dtype, q_dtype: Dtype, out: Array, scale: Array, amax_history: Array
) -> Array:
    """Leave values alone and round their gradients."""
    return out


def out_qdq_fwd(
    compute_dtype: Dtype, q_dtype: Dtype, out: Array, scale: Array, amax_history: Array
) -> tuple[Array, tuple[Array, Array]]:
    """Apply the forward rule of `out_qdq`."""
    return out, (scale, amax_history)


def out_qdq_bwd(
    compute_dtype: Dtype, q_dtype: Dtype, res: tuple[Array, Array], g: Array
) -> tuple[Array, Array, Array]:
    """Apply the backward rule of `out_qdq`."""
    scale, amax_history = res
    return quantize_dequantize_update(g, q_dtype, scale, amax_history, compute_dtype)


out_qdq.defvjp(out_qdq_fwd, out_qdq_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def in_q(
    compute_dtype: Dtype, q_dtype: Dtype, inp: Array, scale: Array, amax_history: Array
) -> tuple[Array, Array]:
    """Round values to an 8-bit dtype; return the scale too."""
    return in_q_fwd(compute_dtype, q_dtype, inp, scale, amax_history)[0]


def in_q_fwd(
    compute_dtype: Dtype, q_dtype: Dtype, inp: Array, scale: Array, amax_history: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Apply the forward rule of `in_q`."""
    new_scale, new_history = update_fp8_meta(inp, q_dtype, scale, amax_history)
    rounded = quantize(inp, q_dtype, new_scale, compute_dtype)
    return (rounded, new_scale), (
        _like(scale, new_scale),
        _like(amax_history, new_history),
    )


def in_q_bwd(
    compute_dtype: Dtype, q_dtype: Dtype, res: tuple[Array, Array], _: object
) -> tuple[None, Array, Array]:
    """Apply the backward rule of `in_q`; the product gives the gradient of `x`."""
    return (None, *res)


in_q.defvjp(in_q_fwd, in_q_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def out_dq(dq_type: Dtype, lhs_scale: Array, rhs_scale: Array, out: Array) -> Array:
    """Multiply a product of 8-bit values by both scales."""
    return dequantize(out, dq_type, lhs_scale * rhs_scale)


def out_dq_fwd(
    dq_type: Dtype, lhs_scale: Array, rhs_scale: Array, out: Array
) -> tuple[Array, None]:
    """Apply the forward rule of `out_dq`."""
    return dequantize(out, dq_type, lhs_scale * rhs_scale), None


def out_dq_bwd(dq_type: Dtype, _: None, g: Array) -> tuple[None, None, Array]:
    """Apply the backward rule of `out_dq`; `quantized_dot` applies the scales."""
    return None, None, g


out_dq.defvjp(out_dq_fwd, out_dq_bwd)


# -- products ------------------------------------------------------------------------

_fast_dot = partial(lax.dot_general, precision=lax.Precision.DEFAULT)
_exact_dot = partial(lax.dot_general, precision=lax.Precision.HIGHEST)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def dot_general_with_precision(
    lhs: Array,
    rhs: Array,
    dimension_numbers: DotDimensionNumbers,
    precision: PrecisionLike = None,
    preferred_element_type: Dtype | None = None,
) -> Array:
    """Multiply as `jax.lax.dot_general`, with fast accumulation forward only."""
    return _fast_dot(lhs, rhs, dimension_numbers)


@dot_general_with_precision.defjvp
def dot_general_with_precision_jvp(
    dimension_numbers: DotDimensionNumbers,
    precision: PrecisionLike,
    preferred_element_type: Dtype | None,
    primals: tuple[Array, Array],
    tangents: tuple[Array, Array],
) -> tuple[Array, Array]:
    """Compute the JVP of `dot_general_with_precision` in the highest precision."""
    (lhs, rhs), (lhs_dot, rhs_dot) = primals, tangents
    out = _fast_dot(lhs, rhs, dimension_numbers)
    exact = partial(_exact_dot, dimension_numbers=dimension_numbers)
    return out, exact(lhs, rhs_dot) + exact(lhs_dot, rhs)


def _transpose(
    g: Array,
    like: Array,
    other: Array,
    dimension_numbers: DotDimensionNumbers,
    of_lhs: bool,
) -> Array:
    """Return the gradient of a product for one operand, given that of its output."""
    dtype = g.dtype if g.dtype.itemsize > 1 else np.float32

    def product(x: Array) -> Array:
        operands = (x, other.astype(dtype)) if of_lhs else (other.astype(dtype), x)
        return lax.dot_general(*operands, dimension_numbers)

    zeros = jax.ShapeDtypeStruct(like.shape, dtype)
    return jax.linear_transpose(product, zeros)(g.astype(dtype))[0]


@partial(jax.custom_vjp, nondiff_argnums=(8, 9))
def quantized_dot(
    lhs: Array,
    q_lhs: Array,
    lhs_scale: Array,
    rhs: Array,
    q_rhs: Array,
    rhs_scale: Array,
    out_grad_scale: Array,
    out_grad_amax_history: Array,
    dimension_numbers: DotDimensionNumbers,
    preferred_element_type: Dtype | None = None,
) -> Array:
    """Multiply 8-bit values; gradients are computed from 8-bit values too.

    Args:
        lhs: left operand, before it was rounded.
        q_lhs: left operand in 8 bits.
        lhs_scale: its scale.
        rhs: right operand, before it was rounded.
        q_rhs: right operand in 8 bits.
        rhs_scale: its scale.
        out_grad_scale: scale of the gradient of the result.
        out_grad_amax_history: history of that gradient.
        dimension_numbers: see `jax.lax.dot_general`.
        preferred_element_type: dtype of the result.

    Returns:
        The product of the 8-bit values, not yet multiplied by the scales.
    """
    dtype = preferred_element_type or np.float32
    return _fast_dot(q_lhs, q_rhs, dimension_numbers, preferred_element_type=dtype)


# Both operands, each with its rounded values and its scale; then the scale and the
# history of the gradient.
Operand = tuple[Array, Array, Array]
DotResiduals = tuple[Operand, Operand, Array, Array]


def quantized_dot_fwd(
    lhs: Array,
    q_lhs: Array,
    lhs_scale: Array,
    rhs: Array,
    q_rhs: Array,
    rhs_scale: Array,
    out_grad_scale: Array,
    out_grad_amax_history: Array,
    dimension_numbers: DotDimensionNumbers,
    preferred_element_type: Dtype | None,
) -> tuple[Array, DotResiduals]:
    """Apply the forward rule of `quantized_dot`."""
    left, right = (lhs, q_lhs, lhs_scale), (rhs, q_rhs, rhs_scale)
    state = out_grad_scale, out_grad_amax_history
    static = dimension_numbers, preferred_element_type
    return quantized_dot(*left, *right, *state, *static), (left, right, *state)


def quantized_dot_bwd(
    dimension_numbers: DotDimensionNumbers,
    preferred_element_type: Dtype | None,
    res: DotResiduals,
    g: Array,
) -> tuple[Array | None, ...]:
    """Apply the backward rule of `quantized_dot`."""
    (lhs, q_lhs, lhs_scale), (rhs, q_rhs, rhs_scale), scale, history = res
    new_scale, new_history = update_fp8_meta(g, E5M2, scale, history)
    q_g = quantize(g, E5M2, new_scale, preferred_element_type or g.dtype)
    grad_lhs = _transpose(q_g, lhs, q_rhs, dimension_numbers, of_lhs=True)
    grad_rhs = _transpose(q_g, rhs, q_lhs, dimension_numbers, of_lhs=False)
    grad_lhs = dequantize(grad_lhs, lhs.dtype, rhs_scale * new_scale)
    grad_rhs = dequantize(grad_rhs, rhs.dtype, lhs_scale * new_scale)
    state = _like(scale, new_scale), _like(history, new_history)
    return grad_lhs, None, None, grad_rhs, None, None, *state


quantized_dot.defvjp(quantized_dot_fwd, quantized_dot_bwd)


def fp8_scaled_dot_general(
    lhs: Array,
    rhs: Array,
    dimension_numbers: DotDimensionNumbers,
    precision: PrecisionLike = None,
    preferred_element_type: Dtype | None = None,
    *,
    lhs_scale: Array,
    rhs_scale: Array,
    grad_scale: Array,
    lhs_amax_history: Array,
    rhs_amax_history: Array,
    grad_amax_history: Array,
    quantize_compute_type: Dtype = jnp.float32,
) -> Array:
    """Multiply in 8 bits, forward and backward; called like `jax.lax.dot_general`.

    Args:
        lhs: left operand.
        rhs: right operand.
        dimension_numbers: see `jax.lax.dot_general`.
        precision: has no effect.
        preferred_element_type: dtype of the result. Defaults to that of the operands.
        lhs_scale: scale of the left operand, of shape (1,).
        rhs_scale: scale of the right operand.
        grad_scale: scale of the gradient of the result.
        lhs_amax_history: history of the left operand, of shape (length,).
        rhs_amax_history: history of the right operand.
        grad_amax_history: history of the gradient.
        quantize_compute_type: dtype of the division by the scales.

    Returns:
        The product.
    """
    dtype = preferred_element_type or promote_types(lhs.dtype, rhs.dtype)
    args = (quantize_compute_type, E4M3)
    q_lhs, new_lhs_scale = in_q(*args, lhs, lhs_scale, lhs_amax_history)
    q_rhs, new_rhs_scale = in_q(*args, rhs, rhs_scale, rhs_amax_history)
    left, right = (lhs, q_lhs, new_lhs_scale), (rhs, q_rhs, new_rhs_scale)
    state = grad_scale, grad_amax_history
    out = quantized_dot(*left, *right, *state, dimension_numbers, dtype)
    return out_dq(dtype, new_lhs_scale, new_rhs_scale, out)
