"""Convolutions without groups on a CPU, written so that XLA takes its faster kernels.

What was measured on two cores of an AMD EPYC with jaxlib 0.10, in float32:

- XLA puts the axes of a convolution in the order that its kernels want, but not in the
  bodies of loops and branches; there a gradient takes 50 times as long. Here all three
  convolutions, forward and for both gradients, have that order from the start.
- Two axes without margins take up to 5 times as long as with one row of zeros.
- For small kernels it uses a library that computes in one thread, unless the output has
  more rows than the input: then Eigen computes in all, almost twice as fast.
- A row too many is cut off. What is cut is kept beside the rest as long as anything
  reads it; so such convolutions are made of parts of the batch, one after the other.
- The gradient of a kernel is computed in one thread. Four parts of the batch at once
  take all; but where arrays are large, parts one after the other keep their transposed
  copies small.

What is left to XLA: one thread takes 1.6 times as long for the gradient of a kernel as
oneDNN does. Products of patches, or of shifted inputs, are no faster: building them
costs what they gain.
"""

from __future__ import annotations

import math
import os
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

SMALL_KERNEL = 2**17  # entries; the library uses all threads for larger ones
LARGE_WORK = 2**25  # multiplications; less is not worth a loop
LARGE_ARRAY = 2**21  # entries; the transpose of a larger one is made in parts
LOOP = 8  # parts of a batch, if it is a multiple


class Plan(NamedTuple):
    """What is known of a convolution before its arrays are: all static."""

    strides: tuple[int, ...]
    margins: tuple[tuple[int, int], ...]  # zeros before and after, for each axis
    dilation: tuple[int, ...]
    precision: Any
    rows: int  # rows of output to add and to cut off
    rows_for_kernel: int  # the same for the gradient of the kernel
    padded_input: bool  # whether the gradient of the input is to have more rows
    parts: int  # of the batch, one after the other
    parts_for_kernel: int  # of the batch, all at once, for the gradient of the kernel
    kernel_in_loop: bool  # whether that takes `parts` instead, one after the other


def convolve_plain(
    x: Array,
    kernel: Array,
    strides: tuple[int, ...],
    margins: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    precision: Any = None,
) -> Array:
    """Computes `jax.lax.conv_general_dilated` of channels-last arrays without groups.

    Args:
        x: inputs of shape (batch, *spatial, channels).
        kernel: weights of shape (*window, channels, features).
        strides: distances between windows.
        margins: (low, high) pairs of zeros.
        dilation: distances between the entries of the window.
        precision: see `jax.lax.Precision`.

    Returns:
        Outputs of shape (batch, *positions, features).
    """
    # Parts of a batch that is spread over a mesh or several devices lie on others.
    alone = jax.device_count() == 1 and jax.sharding.get_abstract_mesh().empty
    plan = _plan(
        x.shape, kernel.shape, x.dtype, strides, margins, dilation, precision, alone
    )
    return _convolve(x, kernel, plan)


@cache
def threads() -> int:
    """The number of threads that XLA computes with: `NPROC`, or that of the cores."""
    cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    return int(os.environ.get("NPROC", 0)) or len(cores)


@cache
def _plan(
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    dtype: Any,
    strides: tuple[int, ...],
    margins: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    precision: Any,
    alone: bool,
) -> Plan:
    *window, channels, features = kernel
    plan = Plan(strides, margins, dilation, precision, 0, 0, False, 1, 1, False)
    simple = len(window) == 2 and dtype == jnp.float32
    if not simple or set(strides + dilation) != {1} or min(map(min, margins)) < 0:
        return plan
    outputs = [
        size + sum(pads) - w + 1
        for size, pads, w in zip(shape[1:-1], margins, window, strict=True)
    ]
    work = shape[0] * math.prod(outputs) * math.prod(kernel)
    if work < LARGE_WORK:
        return plan
    bare = int(not any(map(any, margins)))
    growth = window[0] - sum(margins[0])  # rows that make the output larger than `x`
    grows = threads() > 1 and math.prod(kernel) < SMALL_KERNEL
    grows = grows and 0 < growth <= outputs[0] // 4
    largest = shape[0] * max(math.prod(shape[1:]), math.prod(outputs) * features)
    return plan._replace(
        rows=growth if grows and channels > 2 else bare,
        rows_for_kernel=bare,
        padded_input=grows and features > 2,
        parts=math.gcd(shape[0], LOOP) if alone else 1,
        parts_for_kernel=math.gcd(shape[0], 2 * threads()) if alone else 1,
        kernel_in_loop=alone and shape[0] % 2 == 0 and largest >= LARGE_ARRAY,
    )


@partial(jax.custom_jvp, nondiff_argnums=(2,))
@partial(jax.jit, static_argnums=2)
def _convolve(x: Array, kernel: Array, plan: Plan) -> Array:
    def convolve_part(part: Array) -> Array:
        y = _xla(part, kernel, plan, plan.rows, "NSC", "SIO", "NSC")
        return _cut(y, plan.rows, 1)

    if not plan.rows or plan.parts == 1:
        return convolve_part(x)
    size = x.shape[0] // plan.parts
    positions = jax.eval_shape(convolve_part, x).shape[1:]

    def step(index: Array, y: Array) -> Array:
        part = lax.dynamic_slice_in_dim(x, index * size, size)
        return lax.dynamic_update_slice_in_dim(y, convolve_part(part), index * size, 0)

    return lax.fori_loop(
        0, plan.parts, step, lax.empty((x.shape[0], *positions), x.dtype)
    )


def _convolve_jvp(plan: Plan, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x, kernel), (dx, dkernel) = primals, tangents
    terms = []
    if not isinstance(dx, SymbolicZero):
        terms.append(_linear_in_input(dx, kernel, plan))
    if not isinstance(dkernel, SymbolicZero):
        terms.append(_linear_in_kernel(x, dkernel, plan))
    y = _convolve(x, kernel, plan)
    return y, lax.add(*terms) if len(terms) == 2 else terms[0]


_convolve.defjvp(_convolve_jvp, symbolic_zeros=True)


@partial(jax.jit, static_argnums=2)
def _linear_in_input(x: Array, kernel: Array, plan: Plan) -> Array:
    """The convolution of which the transpose by `x` has axes in the best order.

    Margins that are padding of `x` make that transpose larger than what it gets.
    """
    if plan.padded_input:
        pads = ((0, 0, 0), (*plan.margins[0], 0), (0, 0, 0), (0, 0, 0))
        x = lax.pad(x, np.zeros((), x.dtype), pads)
        plan = plan._replace(margins=((0, 0), *plan.margins[1:]))
    *window, channels, features = range(kernel.ndim)
    kernel = lax.transpose(kernel, (*window, features, channels))
    return _xla(x, kernel, plan, 0, "NSC", "SOI", "NSC")


@partial(jax.checkpoint, prevent_cse=False, static_argnums=2)
def _linear_in_kernel(x: Array, kernel: Array, plan: Plan) -> Array:
    """The convolution of which the transpose by `kernel` has axes in the best order.

    A checkpoint, to keep `x` and not its transpose.
    """
    *spatial, last = range(1, x.ndim)
    swap = (last - 1, *range(last - 1), last)
    rows = plan.rows_for_kernel
    kernel = lax.transpose(kernel, swap)  # (channels, *window, features)

    def convolve_part(part: Array) -> Array:
        part = lax.transpose(part, (last, *spatial, 0))  # (channels, *spatial, batch)
        y = _xla(part, kernel, plan, rows, "CSN", "ISO", "SNC")
        return lax.transpose(_cut(y, rows, 0), swap)  # (batch, *positions, features)

    if plan.kernel_in_loop:
        x = lax.reshape(x, (plan.parts, x.shape[0] // plan.parts, *x.shape[1:]))
        y = lax.map(jax.checkpoint(convolve_part, prevent_cse=False), x)
        return lax.reshape(y, (x.shape[0] * x.shape[1], *y.shape[2:]))
    size = x.shape[0] // plan.parts_for_kernel
    starts = range(0, x.shape[0], size) if size else (0,)
    parts = [lax.slice_in_dim(x, start, start + size) for start in starts]
    return lax.concatenate([convolve_part(part) for part in parts], 0)


def _xla(x: Array, kernel: Array, plan: Plan, rows: int, *order: str) -> Array:
    """Convolves arrays with axes in an order: S stands for all spatial ones."""
    (top, bottom), *sides = plan.margins
    names = "0123456789"[: len(plan.strides)]
    inputs, weights, outputs = (spec.replace("S", names) for spec in order)
    return lax.conv_general_dilated(
        x,
        kernel,
        plan.strides,
        [(top, bottom + rows), *sides],
        rhs_dilation=plan.dilation,
        dimension_numbers=(inputs, weights, outputs),
        precision=plan.precision,
    )


def _cut(y: Array, rows: int, axis: int) -> Array:
    return lax.slice_in_dim(y, 0, y.shape[axis] - rows, axis=axis) if rows else y
