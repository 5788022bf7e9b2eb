"""Rows put into arrays: where NumPy puts them, and nowhere else."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linsey.ops.cpu import dispatch, placing

if not dispatch.kernels_usable():
    pytest.skip("needs numba and Linux", allow_module_level=True)


def place(first, rows, arrays):
    assert dispatch._load("placing")
    return jax.jit(placing.place, donate_argnums=2)(first, rows, arrays)


def expected(first, rows, arrays):
    count, length = rows.shape
    found, begin = [], 0
    for array in arrays:
        n_rows = -(-array.size // length)
        padded = np.zeros((n_rows, length), array.dtype)
        padded.reshape(-1)[: array.size] = array.reshape(-1)
        for row in range(count):
            if 0 <= first + row - begin < n_rows:
                padded[first + row - begin] = rows[row]
        found.append(padded.reshape(-1)[: array.size].reshape(array.shape))
        begin += n_rows
    return found


SHAPES = st.lists(st.lists(st.integers(0, 7), max_size=3), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None)
@given(SHAPES, st.sampled_from([(1, 1), (4, 3), (8, 16)]), st.data())
def test_rows_are_where_numpy_puts_them(shapes, of_rows, data):
    first = data.draw(st.integers(-3, 30) | st.sampled_from([-(2**31), 2**31 - 1]))
    dtype = data.draw(st.sampled_from(["float32", "float16", "bfloat16"]))
    arrays = [np.full(shape, -1, jnp.dtype(dtype)) for shape in shapes]
    rows = np.arange(1, 1 + math.prod(of_rows)).reshape(of_rows).astype(arrays[0].dtype)
    found = place(np.int32(first), rows, arrays)
    for one, other in zip(found, expected(first, rows, arrays), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), other)


def test_doubles_are_copied_whole():
    with jax.enable_x64(True):
        rows = np.pi * np.arange(6.0).reshape(2, 3)
        (found,) = place(np.int32(0), rows, [np.zeros(6)])
    assert np.asarray(found).tobytes() == rows.tobytes()


def test_arrays_are_made_without_a_value():
    assert dispatch._load("placing")
    shapes = [(3,), (), (2, 0), (2, 3)]
    made = jax.jit(lambda: placing.unwritten(shapes, np.dtype("float32")))()
    assert [array.shape for array in made] == shapes


ROWS, ARRAYS = jnp.ones((2, 3)), [jnp.zeros(4), jnp.zeros((2, 2))]
TWO = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in ARRAYS]
FIRST, ALIASES = jnp.int32(0), {2: 0, 3: 1}
COUNTS, DTYPE, PLACES = "another number of", "of one dtype", "arrays to write to"


@pytest.mark.parametrize(
    "operands, aliases, message",
    [
        ([FIRST, ROWS, *ARRAYS], {}, PLACES),  # the results are not the arrays
        ([FIRST, ROWS, *ARRAYS, ROWS], ALIASES, COUNTS),
        ([FIRST, ROWS], {}, COUNTS),
        ([FIRST[None], ROWS, *ARRAYS], ALIASES, PLACES),
        ([jnp.uint32(0), ROWS, *ARRAYS], ALIASES, PLACES),
        ([FIRST, ROWS[0], *ARRAYS], ALIASES, PLACES),
        ([FIRST, ROWS[None], *ARRAYS], ALIASES, PLACES),
        ([FIRST, ROWS[:0], *ARRAYS], ALIASES, PLACES),
        ([FIRST, ROWS[:, :0], *ARRAYS], ALIASES, PLACES),
        ([FIRST, ROWS.astype(np.float16), *ARRAYS], ALIASES, DTYPE),
        ([FIRST, ROWS.astype(np.int8), *ARRAYS], ALIASES, DTYPE),
    ],
)
def test_other_calls_are_refused(operands, aliases, message):
    assert dispatch._load("placing")
    call = jax.ffi.ffi_call("linsey_place", TWO, input_output_aliases=aliases)
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        jax.block_until_ready(jax.jit(call)(*operands))


def test_an_attribute_is_refused():
    assert dispatch._load("placing")
    call = jax.ffi.ffi_call("linsey_place", TWO, input_output_aliases=ALIASES)
    with pytest.raises(jax.errors.JaxRuntimeError, match=COUNTS):
        call(FIRST, ROWS, *ARRAYS, plan=np.ones(3, np.int64))
