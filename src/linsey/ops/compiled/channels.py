"""Two sums for each channel in one reading of the arrays, and what is made of them.

Arrays of float32 are rows of channels. Some rows are added up in float32, which is
fast, and their sums in float64, in the order of the array, whatever the number of
threads. Sums begin at its end: what wrote the array wrote that last, and what reads it
next begins at its start.
"""

# ruff: noqa: D103 - what numba compiles is short and of one kind
from __future__ import annotations

from functools import cache

from linsey.ops.compiled.vectors import (
    COMBINE,
    COMBINE_WORDS,
    MOMENTS,
    PRODUCTS,
    STREAM,
    SUM_LANES,
    SUM_WORDS,
    TABLE,
)
from linsey.ops.compiled.xla import (
    HANDLER,
    INPUT,
    OUTPUT,
    OWN,
    PIECES,
    PLAN,
    TASK,
    add_task,
    allocate,
    caller,
    compiled,
    doubles,
    entry,
    floats,
    free,
    join,
    leave,
    load_loops,
    next_piece,
    open_job,
    register,
    share,
    symbol,
    task_symbol,
    use_huge_pages,
    words,
)

MOMENTS_TARGET, PRODUCTS_TARGET = "linsey_channel_moments", "linsey_channel_products"
COMBINE_TARGET = "linsey_channel_combine"
ROWS, CHANNELS, LANES_INDEX = PLAN, PLAN + 1, PLAN + 2  # words of a job
PARTS, STEP = OWN, OWN + 1
RUN = 64  # rows that are added up in float32
PIECE = 2**16  # floats that a thread takes at once
LARGE = 2**22  # floats of which the cache keeps little
FLOAT, DOUBLE = 4, 8  # bytes

_table = symbol(TABLE)
_call_sums, _call_combine = caller(SUM_WORDS), caller(COMBINE_WORDS)
_moments_task = symbol(task_symbol(MOMENTS_TARGET))
_products_task = symbol(task_symbol(PRODUCTS_TARGET))
_combine_task = symbol(task_symbol(COMBINE_TARGET))


@compiled
def _divide(job):
    """Chooses how many rows a piece has; returns the number of pieces."""
    job[STEP] = max(PIECE // job[CHANNELS] // RUN, 1) * RUN
    return (job[ROWS] + job[STEP] - 1) // job[STEP]


@compiled
def _function(job, first):
    """Address of one of the innermost loops, for the lanes of a job."""
    index = first + job[LANES_INDEX]
    return words(_table(), index + 1)[index]


@compiled
def _start(job):
    channels, pieces = job[CHANNELS], _divide(job)
    # For each piece sums of float64, and room for those of a run in float32.
    job[PARTS] = allocate(pieces * 4 * channels * DOUBLE)
    return pieces


@compiled
def _add_piece(job, piece, first_function, x, origin, a):
    """Adds up some rows, a block of channels after the other."""
    channels = job[CHANNELS]
    lanes, function = SUM_LANES[job[LANES_INDEX]], _function(job, first_function)
    part = job[PARTS] + piece * 4 * channels * DOUBLE
    totals = doubles(part, 2 * channels)
    at_run = part + 2 * channels * DOUBLE
    run = floats(at_run, 2 * lanes)
    first = piece * job[STEP]
    last = min(first + job[STEP], job[ROWS])
    row = channels * FLOAT
    for block in range(0, channels, lanes):
        for c in range(lanes):
            totals[block + c] = 0
            totals[channels + block + c] = 0
        offset = block * FLOAT
        for start in range(first, last, RUN):
            place = start * row + offset
            count = min(RUN, last - start)
            arguments = (x + place, row, origin + offset, a + place, count, at_run)
            _call_sums(function, arguments)
            for c in range(lanes):
                totals[block + c] += run[c]
                totals[channels + block + c] += run[lanes + c]


@compiled
def _finish(job):
    channels = job[CHANNELS]
    result = floats(job[OUTPUT], 2 * channels)
    parts = doubles(job[PARTS], (job[PIECES], 4 * channels))
    for c in range(2 * channels):
        total = 0.0
        for piece in range(job[PIECES]):
            total += parts[piece, c]
        result[c] = total
    free(job[PARTS])


@compiled
def _start_combine(job):
    use_huge_pages(job[OUTPUT], job[ROWS] * job[CHANNELS] * FLOAT)
    return _divide(job)


@compiled
def _combine(job, piece):
    """Combines some rows of two arrays, a block of channels after the other."""
    channels = job[CHANNELS]
    large = job[ROWS] * channels >= LARGE
    function = _function(job, STREAM if large else COMBINE)
    first = piece * job[STEP]
    count = min(job[STEP], job[ROWS] - first)
    row = channels * FLOAT
    for block in range(0, channels, SUM_LANES[job[LANES_INDEX]]):
        offset = block * FLOAT
        place = first * row + offset
        arguments = (
            job[OUTPUT] + place,
            job[INPUT] + place,
            job[INPUT + 1] + place,
            row,
            job[INPUT + 2] + offset,
            job[INPUT + 3] + offset,
            job[INPUT + 4] + offset,
            job[INPUT + 5] + offset,
            count,
        )
        _call_combine(function, arguments)


@cache
def load() -> None:
    """Compiles the kernels and makes them known to XLA."""
    load_loops()

    @entry(TASK)
    def add_moments(address):
        job, _, piece = join(address)
        while piece < job[PIECES]:
            _add_piece(
                job,
                job[PIECES] - 1 - piece,
                MOMENTS,
                job[INPUT],
                job[INPUT + 1],
                job[INPUT],
            )
            piece = next_piece(address)
        return leave(address)

    @entry(TASK)
    def add_products(address):
        job, _, piece = join(address)
        while piece < job[PIECES]:
            x, origin, last = job[INPUT], job[INPUT + 1], job[PIECES] - 1
            _add_piece(job, last - piece, PRODUCTS, x, origin, job[INPUT + 2])
            piece = next_piece(address)
        return leave(address)

    @entry(TASK)
    def combine(address):
        job, _, piece = join(address)
        while piece < job[PIECES]:
            _combine(job, piece)
            piece = next_piece(address)
        return leave(address)

    add_task(COMBINE_TARGET, combine)
    add_task(MOMENTS_TARGET, add_moments)
    add_task(PRODUCTS_TARGET, add_products)

    @entry(HANDLER)
    def handle_moments(frame):
        address, job = open_job(frame, 2, 1)
        if address == 0:
            return 0
        share(frame, address, _start(job), _moments_task())
        _finish(job)
        return leave(address)

    @entry(HANDLER)
    def handle_products(frame):
        address, job = open_job(frame, 3, 1)
        if address == 0:
            return 0
        share(frame, address, _start(job), _products_task())
        _finish(job)
        return leave(address)

    register(MOMENTS_TARGET, handle_moments)
    register(PRODUCTS_TARGET, handle_products)

    @entry(HANDLER)
    def handle_combine(frame):
        address, job = open_job(frame, 6, 1)
        if address == 0:
            return 0
        share(frame, address, _start_combine(job), _combine_task())
        return leave(address)

    register(COMBINE_TARGET, handle_combine)
