"""Rows that a loop computed, copied into the arrays that they are parts of.

The handler is called in two ways. Without inputs it returns arrays with arbitrary
contents: XLA would write zeros, and compile a program for each shape to do so. With a
row number, rows of equal length, and arrays that are also its outputs, it copies each
row to its place. Rows are counted through all arrays, each of which begins with a new
row and may end inside its last one.

An entry is copied only if it lies both in the given rows and in an array, according to
the shapes that XLA states; all other calls are refused.
"""

# ruff: noqa: D103 - functions compiled by numba are short and alike
from __future__ import annotations

from linsey.ops.cpu.codegen import xla
from linsey.ops.cpu.codegen.xla import (
    BUFFER_DATA,
    BUFFER_RANK,
    BUFFER_SHAPE,
    FRAME_ATTRIBUTE_COUNT,
    FRAME_INPUT_COUNT,
    FRAME_OUTPUT_COUNT,
)

OTHERS = 2  # inputs before the arrays


@xla.compiled
def _item_size(dtype):
    """Return the bytes of a number, or 0 if it is not of a dtype that linsey draws."""
    if dtype == xla.DTYPE_FLOAT32:
        return 4
    if dtype == xla.DTYPE_BFLOAT16 or dtype == xla.DTYPE_FLOAT16:
        return 2
    return 8 if dtype == xla.DTYPE_FLOAT64 else 0


@xla.compiled
def _size(buffer):
    """Return the number of entries of an array."""
    rank, size = buffer[BUFFER_RANK], 1
    shape = xla.words(buffer[BUFFER_SHAPE], rank)
    for axis in range(rank):
        size *= shape[axis]
    return size


@xla.compiled
def _find_problem(frame):
    inputs, outputs = frame[FRAME_INPUT_COUNT], frame[FRAME_OUTPUT_COUNT]
    if inputs != outputs + OTHERS or frame[FRAME_ATTRIBUTE_COUNT] != 0:
        return xla.COUNTS
    number, rows = xla.buffer(frame, 0), xla.buffer(frame, 1)
    dtype = xla.dtype_of(rows)
    if _item_size(dtype) == 0:
        return xla.ONE_DTYPE
    if xla.dtype_of(number) != xla.DTYPE_INT32 or number[BUFFER_RANK] != 0:
        return xla.PLACES
    if rows[BUFFER_RANK] != 2 or _size(rows) == 0:
        return xla.PLACES
    for i in range(outputs):
        array, output = xla.buffer(frame, OTHERS + i), xla.buffer(frame, inputs + i)
        if xla.dtype_of(output) != dtype:
            return xla.ONE_DTYPE
        if array[BUFFER_DATA] != output[BUFFER_DATA]:
            return xla.PLACES
    return xla.FINE


@xla.compiled
def _place(frame):
    inputs, outputs = frame[FRAME_INPUT_COUNT], frame[FRAME_OUTPUT_COUNT]
    if inputs == 0:
        return xla.FINE
    problem = _find_problem(frame)
    if problem != xla.FINE:
        return problem
    rows = xla.buffer(frame, 1)
    source, item = rows[BUFFER_DATA], _item_size(xla.dtype_of(rows))
    count, length = xla.words(rows[BUFFER_SHAPE], 2)
    first = xla.halves(xla.buffer(frame, 0)[BUFFER_DATA], 1)[0]
    begin = 0
    for i in range(outputs):
        output = xla.buffer(frame, inputs + i)
        size = _size(output)
        end = begin + (size + length - 1) // length
        low, high = max(first, begin), min(first + count, end)
        if low < high:
            start, stop = (low - begin) * length, min((high - begin) * length, size)
            target = output[BUFFER_DATA] + start * item
            xla.copy(
                target, source + (low - first) * length * item, (stop - start) * item
            )
        begin = end
    return xla.FINE


KERNELS = (xla.Handler("linsey_place", _place),)
