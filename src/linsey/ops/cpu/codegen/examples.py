"""Examples normalized by their own mean and variance, and the gradients of that.

An array of float32 has the shape (examples, spatial, groups, depth), where `spatial` is
the product of the spatial shape. Each example has a mean and a variance for each group,
over the axes `spatial` and `depth`; scale and bias have the shape (groups, depth).
Terms and sums are float64, added in the order of the array for any number of threads,
so nothing overflows, and no digits are lost far from zero.

A *unit* is one group of one example. If `spatial` is 1, its values are contiguous and
are read as rows, each as long as the number of lanes; otherwise it has `spatial` rows,
which are read one block of lanes after the other.

A plan is valid if the depth is a multiple of the lanes that it chooses. Then no loop
leaves its unit.
"""

# ruff: noqa: D103 - functions compiled by numba are short and alike
from __future__ import annotations

import math
from functools import partial

from linsey.ops.cpu.codegen import vectors, xla
from linsey.ops.cpu.codegen.xla import DOUBLE, FLOAT, INPUT, OUTPUT, OWN, PIECES, PLAN

EXAMPLES, SPATIAL, GROUPS, DEPTH, CENTRED, LANES_INDEX = range(PLAN, PLAN + 6)
PARTS, STEP, SCRATCH = OWN, OWN + 1, OWN + 2  # words of a job
PIECE = 2**16  # floats that a thread takes at once
TINY = 2.0**-126
# The values that a thread keeps for a unit, all doubles; then two sums, and those of
# channels.
MEAN, RSTD, FIRST, SECOND, SUMS = range(5)
COLUMNS = SUMS + 2
KNOWN = (COLUMNS + 2 * max(vectors.NORM_LANES)) * DOUBLE

_table = xla.symbol(vectors.TABLE)
_call_spread = xla.caller(vectors.SPREAD_WORDS)
_call_columns = xla.caller(vectors.COLUMNS_WORDS)
_call_eight = xla.caller(vectors.SCALE_WORDS)


@xla.compiled
def _is_valid(job):
    index = job[LANES_INDEX]
    for word in range(EXAMPLES, DEPTH + 1):
        if job[word] < 1 or job[word] > 2**40:
            return False
    if index < 0 or index >= vectors.NORM_CHOICES:
        return False
    centred = job[CENTRED]
    return (centred == 0 or centred == 1) and job[DEPTH] % _lanes(job) == 0


@xla.compiled
def _lanes(job):
    return vectors.NORM_LANES[job[LANES_INDEX]]


@xla.compiled
def _array_shape(job):
    return job[EXAMPLES], job[SPATIAL], job[GROUPS], job[DEPTH]


@xla.compiled
def _norm_shapes(job):
    array, features = _array_shape(job), (1, 1, job[GROUPS], job[DEPTH])
    return array, features, features, (1, 1, 1, 1), array


@xla.compiled
def _cotangent_shapes(job):
    array, features = _array_shape(job), (1, 1, job[GROUPS], job[DEPTH])
    return array, array, features, (1, 1, 1, 1), array, features, features


# --- a unit ---------------------------------------------------------------------------


@xla.compiled
def _function(job, first):
    """Return the address of one of the innermost loops, for the lanes of a job."""
    index = first + job[LANES_INDEX]
    return xla.words(_table(), index + 1)[index]


@xla.compiled
def _row(job):
    """Return the bytes from one row of a unit to the next."""
    channels = job[GROUPS] * job[DEPTH]
    return (_lanes(job) if job[SPATIAL] == 1 else channels) * FLOAT


@xla.compiled
def _rows(job):
    """Return how many rows a block of a unit has."""
    spatial = job[SPATIAL]
    return job[DEPTH] // _lanes(job) if spatial == 1 else spatial


@xla.compiled
def _blocks(job):
    """Return how many blocks of lanes a unit has side by side."""
    return 1 if job[SPATIAL] == 1 else job[DEPTH] // _lanes(job)


@xla.compiled
def _offset(job, unit):
    """Return the bytes from the start of the array to a unit."""
    example, group = unit // job[GROUPS], unit % job[GROUPS]
    channels = job[GROUPS] * job[DEPTH]
    return (example * job[SPATIAL] * channels + group * job[DEPTH]) * FLOAT


@xla.compiled
def _take_moments(job, x, epsilon, known):
    """Write mean and reciprocal standard deviation of the unit at an address."""
    values = xla.doubles(known, SUMS)
    shift = values[FIRST] = xla.floats(x, 1)[0] if job[CENTRED] else 0.0
    function = _function(job, vectors.SPREAD)
    first = second = 0.0
    for block in range(_blocks(job)):
        at = x + block * _lanes(job) * FLOAT
        of_shift, result = known + FIRST * DOUBLE, known + SUMS * DOUBLE
        _call_spread(function, (at, _row(job), _rows(job), of_shift, result))
        sums = xla.doubles(result, 2)
        first += sums[0]
        second += sums[1]
    count = job[SPATIAL] * job[DEPTH]
    first, second = first / count, second / count
    values[MEAN] = 0.0
    if job[CENTRED]:
        values[MEAN] = shift + first
        second -= first * first
    if second < 0:
        second = 0.0
    total = second + xla.floats(epsilon, 1)[0]
    if total < TINY:  # equal values are not divided by 0
        total = TINY
    values[RSTD] = 1 / math.sqrt(total)


# --- pieces ---------------------------------------------------------------------------


@xla.compiled
def _divide(job):
    """Choose how many units a piece has; return the number of pieces."""
    job[STEP] = max(PIECE // (job[SPATIAL] * job[DEPTH]), 1)
    return (job[EXAMPLES] * job[GROUPS] + job[STEP] - 1) // job[STEP]


@xla.compiled
def _start_norm(job):
    pieces = _divide(job)
    job[SCRATCH] = xla.allocate(job[xla.THREADS] * KNOWN)
    size = job[EXAMPLES] * job[SPATIAL] * job[GROUPS] * job[DEPTH]
    xla.use_huge_pages(job[OUTPUT], size * FLOAT)
    return pieces if job[SCRATCH] != 0 else 0


@xla.compiled
def _normalize(job, piece, worker):
    function, lanes = _function(job, vectors.SCALE), _lanes(job)
    known, row = job[SCRATCH] + worker * KNOWN, _row(job)
    step = lanes * FLOAT if job[SPATIAL] == 1 else 0
    last = min((piece + 1) * job[STEP], job[EXAMPLES] * job[GROUPS])
    for unit in range(piece * job[STEP], last):
        offset = _offset(job, unit)
        features = unit % job[GROUPS] * job[DEPTH] * FLOAT
        _take_moments(job, job[INPUT] + offset, job[INPUT + 3], known)
        for block in range(_blocks(job)):
            more = block * lanes * FLOAT
            arguments = (
                job[OUTPUT] + offset + more,
                job[INPUT] + offset + more,
                row,
                job[INPUT + 1] + features + more,
                job[INPUT + 2] + features + more,
                step,
                known,
                _rows(job),
            )
            _call_eight(function, arguments)


@xla.compiled
def _finish_norm(job):
    xla.free(job[SCRATCH])


@xla.compiled
def _start_cotangents(job):
    pieces, channels = _divide(job), job[GROUPS] * job[DEPTH]
    # For each piece, the two sums of each channel, in blocks of lanes.
    job[PARTS] = xla.allocate(pieces * 2 * channels * DOUBLE)
    if job[PARTS] == 0:
        return 0
    if _start_norm(job) == 0:
        xla.free(job[PARTS])
        return 0
    return pieces


@xla.compiled
def _find_cotangents(job, piece, worker):
    channels, row = job[GROUPS] * job[DEPTH], _row(job)
    known = job[SCRATCH] + worker * KNOWN
    part = job[PARTS] + piece * 2 * channels * DOUBLE
    totals = xla.doubles(part, 2 * channels)
    for c in range(2 * channels):
        totals[c] = 0.0
    last = min((piece + 1) * job[STEP], job[EXAMPLES] * job[GROUPS])
    for unit in range(piece * job[STEP], last):
        offset = _offset(job, unit)
        a, x = job[INPUT] + offset, job[INPUT + 1] + offset
        first_channel = unit % job[GROUPS] * job[DEPTH]
        scale = job[INPUT + 2] + first_channel * FLOAT
        to_totals = part + 2 * first_channel * DOUBLE
        _take_moments(job, x, job[INPUT + 3], known)
        if job[SPATIAL] == 1:
            result = known + SUMS * DOUBLE
            arguments = (a, x, row, scale, known, _rows(job), to_totals, result)
            _call_eight(_function(job, vectors.ROW_SUMS), arguments)
            sums = xla.doubles(result, 2)
            first, second = sums[0], sums[1]
        else:
            first, second = _sum_columns(job, a, x, scale, known, to_totals)
        count = job[SPATIAL] * job[DEPTH]
        values = xla.doubles(known, SUMS)
        values[FIRST] = first / count if job[CENTRED] else 0.0
        values[SECOND] = second / count
        _write_gradient(job, job[OUTPUT] + offset, a, x, scale, known)


@xla.compiled
def _sum_columns(job, a, x, scale, known, totals):
    """Add the sums of a unit to those of its channels; return both, scaled."""
    lanes, first, second = _lanes(job), 0.0, 0.0
    function, at_sums = _function(job, vectors.COLUMNS), known + COLUMNS * DOUBLE
    scales, sums = xla.floats(scale, job[DEPTH]), xla.doubles(at_sums, 2 * lanes)
    totals = xla.doubles(totals, 2 * job[DEPTH])
    for block in range(0, job[DEPTH], lanes):
        for c in range(2 * lanes):
            sums[c] = 0.0
        more = block * FLOAT
        _call_columns(
            function, (a + more, x + more, _row(job), known, _rows(job), at_sums)
        )
        for c in range(lanes):
            totals[2 * block + c] += sums[c]
            totals[2 * block + lanes + c] += sums[lanes + c]
            first += sums[c] * scales[block + c]
            second += sums[lanes + c] * scales[block + c]
    return first, second


@xla.compiled
def _write_gradient(job, y, a, x, scale, known):
    function, lanes = _function(job, vectors.GRADIENT), _lanes(job)
    step = lanes * FLOAT if job[SPATIAL] == 1 else 0
    for block in range(_blocks(job)):
        more = block * lanes * FLOAT
        arguments = (
            y + more,
            a + more,
            x + more,
            _row(job),
            scale + more,
            step,
            known,
            _rows(job),
        )
        _call_eight(function, arguments)


@xla.compiled
def _finish_cotangents(job):
    channels, lanes = job[GROUPS] * job[DEPTH], _lanes(job)
    parts = xla.doubles(job[PARTS], (job[PIECES], 2 * channels))
    dscale = xla.floats(job[OUTPUT + 1], channels)
    dbias = xla.floats(job[OUTPUT + 2], channels)
    for c in range(channels):
        at = c // lanes * 2 * lanes + c % lanes
        first = second = 0.0
        for piece in range(job[PIECES]):
            first += parts[piece, at]
            second += parts[piece, at + lanes]
        dbias[c], dscale[c] = first, second
    xla.free(job[PARTS])
    xla.free(job[SCRATCH])


_kernel = partial(xla.Kernel, plan=6, is_valid=_is_valid)
KERNELS = (
    _kernel(
        "linsey_example_norm",
        inputs=4,
        shapes=_norm_shapes,
        start=_start_norm,
        work=_normalize,
        finish=_finish_norm,
    ),
    _kernel(
        "linsey_example_cotangents",
        inputs=4,
        outputs=3,
        shapes=_cotangent_shapes,
        start=_start_cotangents,
        work=_find_cotangents,
        finish=_finish_cotangents,
    ),
)
