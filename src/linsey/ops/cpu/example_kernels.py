"""Examples normalized by their own mean and variance, in one pass, on a CPU.

XLA reads an array once for each sum that layer and group normalization need, and writes
the terms that two sums share (`benchmarks/norms.py`, with and without
`LINSEY_KERNELS=0`). Here a forward and a backward pass each read every array once.

Arrays have the shape (examples, spatial, groups, depth), and a mean and a variance
for each example and group; scale and bias have the shape (1, 1, groups, depth).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from jax import Array, lax
from jax.core import ShapedArray
from jax.custom_derivatives import SymbolicZero
from jax.interpreters import ad

from linsey.errors.base import ShapeError
from linsey.ops.cpu.dispatch import Shape, norm_lanes
from linsey.ops.cpu.primitive import (
    Cotangents,
    Linear,
    call_kernel,
    define,
    kept,
    refuse_transposition,
)
from linsey.ops.moments import NormSpec, take_moments
from linsey.ops.normalize import apply_moments, reciprocal_deviation


def _shapes(x: ShapedArray, *features: ShapedArray) -> Shape:
    """Check that array shapes match; return the shape of scale and bias."""
    expected = (1, 1, *x.shape[2:])
    found = [operand.shape for operand in features]
    if len(x.shape) != 4 or found != [expected] * len(features):
        raise ShapeError(
            f"`normalize_examples` got arrays of the shapes {x.shape}, "
            f"{', '.join(map(str, found))}.",
            "It takes (examples, spatial, groups, depth) and values for each "
            "(1, 1, groups, depth): a kernel reads memory by these shapes.",
            "Reshape the arrays before the call.",
        )
    return expected


def _plan(x: Array, centred: bool) -> tuple[int, ...]:
    lanes = norm_lanes(x.shape[3])
    assert lanes is not None
    return *x.shape, int(centred), lanes


# --- definitions ----------------------------------------------------------------------


def _normalized(
    x: Array, scale: Array, bias: Array, epsilon: Array, centred: bool
) -> list[Array]:
    spec = NormSpec(axes=(1, 3), features=(2, 3), dtype=x.dtype, centred=centred)
    moments = take_moments(spec, x, None)
    rstd = reciprocal_deviation(moments, lax.reshape(epsilon, ()))
    affine = (lax.squeeze(v, (0, 1)) for v in (scale, bias))
    args = spec, x, None, moments.mean, rstd, *affine, moments.prescale
    return [apply_moments(*args)]


def _linear(x: Array, scale: Array, epsilon: Array, centred: bool) -> Any:
    def normalized(x: Array, scale: Array, bias: Array) -> Array:
        return _normalized(x, scale, bias, epsilon, centred)[0]

    return normalized, (x, scale, lax.full_like(scale, 0))


def _tangent(
    dx: Array, dscale: Array, dbias: Array, *others: Array, centred: bool
) -> list[Array]:
    function, at = _linear(*others, centred=centred)
    return [jax.jvp(function, at, (dx, dscale, dbias))[1]]


def _cotangents(dy: Array, *others: Array, centred: bool) -> list[Array]:
    function, at = _linear(*others, centred=centred)
    return list(jax.vjp(function, *at)[1](dy))


# --- kernels --------------------------------------------------------------------------


def _norm_kernel(
    x: Array, scale: Array, bias: Array, epsilon: Array, centred: bool
) -> list[Array]:
    operands = x, scale, bias, epsilon
    return call_kernel("linsey_example_norm", [x.shape], operands, _plan(x, centred))


def _cotangents_kernel(
    dy: Array, x: Array, scale: Array, epsilon: Array, centred: bool
) -> list[Array]:
    results, operands = [x.shape, scale.shape, scale.shape], (dy, x, scale, epsilon)
    plan = _plan(x, centred)
    return call_kernel("linsey_example_cotangents", results, operands, plan)


def _transpose_tangent(
    cotangents: Cotangents, *operands: Any, centred: bool
) -> list[Array | None]:
    dy = ad.instantiate_zeros(cotangents[0])
    results = _bind_cotangents(dy, *operands[3:], centred=centred)
    return [*kept(results, operands[:3]), None, None, None]


def _transpose_cotangents(
    cotangents: Cotangents, dy: Linear, *others: Array, centred: bool
) -> list[Array | None]:
    given = map(ad.instantiate_zeros, cotangents)
    results = _bind_tangent(*given, *others, centred=centred)
    return [*kept(results, [dy]), None, None, None]


def _norm_shapes(x: ShapedArray, *others: ShapedArray, centred: bool) -> list[Shape]:
    _shapes(x, *others[:2])
    return [x.shape]


def _tangent_shapes(*operands: ShapedArray, centred: bool) -> list[Shape]:
    dx, dscale, dbias, x, scale, _ = operands
    _shapes(x, dscale, dbias, scale)
    return [_same(dx, x)]


def _cotangent_shapes(
    dy: ShapedArray, x: ShapedArray, scale: ShapedArray, _: Any, centred: bool
) -> list[Shape]:
    features = _shapes(x, scale)
    return [_same(dy, x), features, features]


def _same(a: ShapedArray, x: ShapedArray) -> Shape:
    if a.shape != x.shape:
        raise ShapeError(
            f"`normalize_examples` got arrays of the shapes {a.shape} and {x.shape}.",
            "Both are read by one shape.",
            "Reshape one of them before the call.",
        )
    return x.shape


_define = partial(define, module="examples", static=("centred",))
_bind_norm = _define(
    "example_norm",
    _normalized,
    _norm_kernel,
    shapes=_norm_shapes,
    transpose=refuse_transposition,
    examples=(0,),
)
_bind_tangent = _define(
    "example_norm_tangent",
    _tangent,
    _tangent,  # forward mode is rare
    shapes=_tangent_shapes,
    transpose=_transpose_tangent,
    examples=(0, 3),
)
_bind_cotangents = _define(
    "example_norm_cotangents",
    _cotangents,
    _cotangents_kernel,
    shapes=_cotangent_shapes,
    transpose=_transpose_cotangents,
    multilinear=(0,),
)


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def normalize_examples(
    x: Array, scale: Array, bias: Array, epsilon: Array, centred: bool = True
) -> Array:
    """Compute `(x - mean) * scale / sqrt(var + epsilon) + bias` of each example.

    Args:
        x: Array of shape (examples, spatial, groups, depth), float32, of a depth for
            which `norm_lanes` is not `None`. Mean and variance are over `spatial` and
            `depth`.
        scale: Array of shape (1, 1, groups, depth).
        bias: Array of the same shape.
        epsilon: Number added to the variance, a scalar.
        centred: Whether the mean is subtracted; if not, it is taken to be 0.

    Returns:
        An array of the shape of `x`.

    Raises:
        ShapeError: The shapes of the arrays do not match.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.arange(16.0).reshape(1, 1, 2, 8)
        >>> one = jnp.ones((1, 1, 2, 8))
        >>> y = normalize_examples(x, one, 0 * one, jnp.zeros(()))
        >>> print(f"{y[0, 0, 1, 0]:.4f}")
        -1.5275
    """
    return _bind_norm(x, scale, bias, _one(epsilon), centred=centred)[0]


def _one(epsilon: Array) -> Array:
    return lax.reshape(epsilon, (1, 1, 1, 1))


def _normalize_examples_jvp(
    centred: bool,
    primals: tuple[Array, Array, Array, Array],
    tangents: tuple[Array | SymbolicZero, ...],
) -> tuple[Array, Array]:
    x, scale, bias, epsilon = primals
    given = [
        lax.full_like(p, 0) if isinstance(t, SymbolicZero) else t
        for p, t in zip(primals[:3], tangents, strict=False)
    ]
    y = normalize_examples(*primals, centred)
    (dy,) = _bind_tangent(*given, x, scale, _one(epsilon), centred=centred)
    if not isinstance(tangents[3], SymbolicZero):
        of_epsilon = partial(_normalized, x, scale, bias, centred=centred)
        dy = dy + jax.jvp(of_epsilon, [epsilon], [tangents[3]])[1][0]
    return y, dy


normalize_examples.defjvp(_normalize_examples_jvp, symbolic_zeros=True)
