"""Rows that a loop computes one after the other, written to their final place.

XLA has no loop that writes to several arrays in turn: it would draw all numbers into
one array, and then copy each array out of it with a separate program
(`benchmarks/first_step.py`, with and without `LINSEY_KERNELS=0`).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax import Array

from linsey.ops.cpu.dispatch import Shape


def unwritten(shapes: Sequence[Shape], dtype: np.dtype) -> list[Array]:
    """Return arrays with arbitrary contents.

    Args:
        shapes: Their shapes.
        dtype: Their dtype.

    Example:
        >>> make = lambda: unwritten([(3,), (2, 2)], np.dtype("float32"))
        >>> [x.shape for x in jax.eval_shape(make)]
        [(3,), (2, 2)]
    """
    return _call([jax.ShapeDtypeStruct(shape, dtype) for shape in shapes])


def place(first: Array, rows: Array, arrays: Sequence[Array]) -> list[Array]:
    """Replace some rows of the given arrays in place, and return these arrays.

    Each array is read as rows of the given length, the last of which may be shorter.
    Rows are counted through all arrays.

    Args:
        first: Number of the first row, an int32.
        rows: Array of shape (count, length). Rows after the last are left out.
        arrays: Arrays of the same dtype: float32, bfloat16, float16 or float64.

    Example:
        >>> arrays = [np.zeros(3, np.float32), np.zeros((2, 2), np.float32)]
        >>> rows = np.ones((2, 2), np.float32)
        >>> [x.shape for x in jax.eval_shape(place, np.int32(1), rows, arrays)]
        [(3,), (2, 2)]
    """
    results = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays]
    return _call(results, first, rows, *arrays)


def _call(results: Sequence[jax.ShapeDtypeStruct], *operands: Array) -> list[Array]:
    first = len(operands) - len(results)
    aliases = {first + i: i for i in range(len(results))} if operands else {}
    call = jax.ffi.ffi_call("linsey_place", results, input_output_aliases=aliases)
    return list(call(*operands))
