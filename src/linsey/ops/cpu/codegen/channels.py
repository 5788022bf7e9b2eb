"""Two sums for each channel in one pass over the arrays, and combinations with them.

Arrays of float32 are rows of channels. A few rows at a time are added up in float32,
which is fast, and their sums in float64, in the order of the array, whatever the number
of threads. Sums begin at the end of the array, because that was written last, and the
next operation to read the array begins at its start.

A plan is valid if the channels are a multiple of the lanes that it chooses. Then each
loop stays inside the rows of the arrays.
"""

# ruff: noqa: D103 - functions compiled by numba are short and alike
from __future__ import annotations

from functools import partial

from linsey.ops.cpu.codegen import vectors, xla
from linsey.ops.cpu.codegen.xla import DOUBLE, FLOAT, INPUT, OUTPUT, OWN, PIECES, PLAN

ROWS, CHANNELS, LANES_INDEX = PLAN, PLAN + 1, PLAN + 2  # words of a job
PARTS, STEP = OWN, OWN + 1
RUN = 64  # rows that are added up in float32 at a time
PIECE = 2**16  # floats that a thread takes at once
LARGE = 2**22  # floats, of which the cache keeps only a small part

_table = xla.symbol(vectors.TABLE)
_call_sums = xla.caller(vectors.SUM_WORDS)
_call_combine = xla.caller(vectors.COMBINE_WORDS)


@xla.compiled
def _is_valid(job):
    index = job[LANES_INDEX]
    if job[ROWS] < 1 or index < 0 or index >= vectors.LANE_CHOICES:
        return False
    return job[CHANNELS] >= 1 and job[CHANNELS] % vectors.SUM_LANES[index] == 0


@xla.compiled
def _divide(job):
    """Choose how many rows a piece has; return the number of pieces."""
    job[STEP] = max(PIECE // job[CHANNELS] // RUN, 1) * RUN
    return (job[ROWS] + job[STEP] - 1) // job[STEP]


@xla.compiled
def _function(job, first):
    """Return the address of one of the innermost loops, for the lanes of a job."""
    index = first + job[LANES_INDEX]
    return xla.words(_table(), index + 1)[index]


# --- sums -----------------------------------------------------------------------------


@xla.compiled
def _moments_shapes(job):
    rows, channels = job[ROWS], job[CHANNELS]
    return (rows, channels), (1, channels), (1, channels), (2, channels)


@xla.compiled
def _products_shapes(job):
    rows, channels = job[ROWS], job[CHANNELS]
    array, per_channel = (rows, channels), (1, channels)
    return array, per_channel, per_channel, array, (2, channels)


@xla.compiled
def _start_sums(job):
    channels, pieces = job[CHANNELS], _divide(job)
    # For each piece: sums in float64, and space for the float32 sums of a run.
    job[PARTS] = xla.allocate(pieces * 4 * channels * DOUBLE)
    return pieces if job[PARTS] != 0 else 0


@xla.compiled
def _add_moments(job, piece, worker):
    _add_piece(job, piece, vectors.MOMENTS, job[INPUT])


@xla.compiled
def _add_products(job, piece, worker):
    _add_piece(job, piece, vectors.PRODUCTS, job[INPUT + 3])


@xla.compiled
def _add_piece(job, piece, first_function, a):
    """Add up the rows of a piece, one block of channels after the other."""
    piece = job[PIECES] - 1 - piece
    x, shift, prescale = job[INPUT], job[INPUT + 1], job[INPUT + 2]
    channels = job[CHANNELS]
    lanes = vectors.SUM_LANES[job[LANES_INDEX]]
    function = _function(job, first_function)
    part = job[PARTS] + piece * 4 * channels * DOUBLE
    totals = xla.doubles(part, 2 * channels)
    at_run = part + 2 * channels * DOUBLE
    run = xla.floats(at_run, 2 * lanes)
    first = piece * job[STEP]
    last = min(first + job[STEP], job[ROWS])
    row = channels * FLOAT
    for block in range(0, channels, lanes):
        for c in range(lanes):
            totals[block + c] = 0
            totals[channels + block + c] = 0
        offset = block * FLOAT
        for start in range(first, last, RUN):
            at = start * row + offset
            count = min(RUN, last - start)
            values = (x + at, row, shift + offset, prescale + offset)
            _call_sums(function, (*values, a + at, count, at_run))
            for c in range(lanes):
                totals[block + c] += run[c]
                totals[channels + block + c] += run[lanes + c]


@xla.compiled
def _finish_sums(job):
    channels = job[CHANNELS]
    result = xla.floats(job[OUTPUT], 2 * channels)
    parts = xla.doubles(job[PARTS], (job[PIECES], 4 * channels))
    for c in range(2 * channels):
        total = 0.0
        for piece in range(job[PIECES]):
            total += parts[piece, c]
        result[c] = total
    xla.free(job[PARTS])


# --- combinations ---------------------------------------------------------------------


@xla.compiled
def _combination_shapes(job):
    array, per_channel = (job[ROWS], job[CHANNELS]), (1, job[CHANNELS])
    arrays, values = (array, array), (per_channel, per_channel)
    return (*arrays, *values, *values, per_channel, array)


@xla.compiled
def _start_combination(job):
    xla.use_huge_pages(job[OUTPUT], job[ROWS] * job[CHANNELS] * FLOAT)
    return _divide(job)


@xla.compiled
def _combine(job, piece, worker):
    """Combine some rows of two arrays, a block of channels after the other."""
    channels = job[CHANNELS]
    # Vectors that are written past the cache have to be aligned.
    past_cache = job[ROWS] * channels >= LARGE and job[OUTPUT] % vectors.ALIGNMENT == 0
    function = _function(job, vectors.STREAM if past_cache else vectors.COMBINE)
    first = piece * job[STEP]
    count = min(job[STEP], job[ROWS] - first)
    row = channels * FLOAT
    for block in range(0, channels, vectors.SUM_LANES[job[LANES_INDEX]]):
        offset = block * FLOAT
        at = first * row + offset
        arguments = (
            job[OUTPUT] + at,
            job[INPUT] + at,
            job[INPUT + 1] + at,
            row,
            job[INPUT + 2] + offset,
            job[INPUT + 3] + offset,
            job[INPUT + 4] + offset,
            job[INPUT + 5] + offset,
            job[INPUT + 6] + offset,
            count,
        )
        _call_combine(function, arguments)


@xla.compiled
def _finish_combination(job):
    return


_kernel = partial(xla.Kernel, plan=3, is_valid=_is_valid)
_sums = partial(_kernel, start=_start_sums, finish=_finish_sums)
KERNELS = (
    _sums(
        "linsey_channel_moments", inputs=3, shapes=_moments_shapes, work=_add_moments
    ),
    _sums(
        "linsey_channel_products", inputs=4, shapes=_products_shapes, work=_add_products
    ),
    _kernel(
        "linsey_channel_combine",
        inputs=7,
        shapes=_combination_shapes,
        start=_start_combination,
        work=_combine,
        finish=_finish_combination,
    ),
)
