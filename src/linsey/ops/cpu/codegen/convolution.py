"""Convolutions of channels-last float32 arrays, as products of tiles.

For a band of rows of the output, the rows of the input that it depends on are copied to
memory that stays in the cache, with the zeros around and between their entries. There
one row of the kernel meets `window width * channels` neighbouring floats for each entry
of the output. Output and both gradients are therefore matrix products of parts of the
arrays as they lie in memory, and no patches are built.

A plan is valid if its numbers are positive (except for the padding) and less than
2**30, if the groups divide channels and features, if the features of a group fill half
a vector, if a band has no more rows than the output and a tile no more than there are,
and if a band has at most 2**31 floats. Padding and strides may be arbitrary: the copy
reads no entry outside of the input, and all other addresses are inside bands, the
kernel and the output.
"""

# ruff: noqa: D103 - functions compiled by numba are short and alike
from __future__ import annotations

import math
from functools import partial

from linsey.ops.cpu.codegen import vectors, xla
from linsey.ops.cpu.codegen.vectors import LANES
from linsey.ops.cpu.codegen.xla import FLOAT, INPUT, OUTPUT, OWN, PLAN, THREADS

# The plan of both kernels: words of a job, in the order of `conv_kernels`.
BATCH, HEIGHT, WIDTH, CHANNELS = range(PLAN, PLAN + 4)
OUT_ROWS, OUT_COLUMNS, FEATURES = range(PLAN + 4, PLAN + 7)
WINDOW_ROWS, WINDOW_COLUMNS = range(PLAN + 7, PLAN + 9)
STRIDE_ROWS, STRIDE_COLUMNS = range(PLAN + 9, PLAN + 11)
TOP, LEFT = range(PLAN + 11, PLAN + 13)
# Distances between the entries of the input, and of the window.
INPUT_ROWS, INPUT_COLUMNS = range(PLAN + 13, PLAN + 15)
DILATION_ROWS, DILATION_COLUMNS = range(PLAN + 15, PLAN + 17)
GROUPS, BAND, TILE_ROWS = range(PLAN + 17, PLAN + 20)
PLAN_WORDS = 20

# Words for the kernels themselves.
BANDS, SCRATCH, PACKED = OWN, OWN + 1, OWN + 2
SUMS, SUMS_SIZE, SLOTS, PARTS = PACKED, OWN + 3, OWN + 4, OWN + 5
LARGE_SUMS = 2**18  # floats that stay in the cache
PRODUCTS_PER_SUM = 25
GRAIN = 2**19  # multiplications that take microseconds: enough to wake a thread for
LARGEST_NUMBER, LARGEST_BAND = 2**30, 2.0**31

_table = xla.symbol(vectors.TABLE)
_call_tile = xla.caller(vectors.TILE_WORDS)


@xla.compiled
def _is_valid(job):
    for i in range(PLAN, PLAN + PLAN_WORDS):
        smallest = -LARGEST_NUMBER if i == TOP or i == LEFT else 1
        if job[i] < smallest or job[i] > LARGEST_NUMBER:
            return False
    channels, features, groups = job[CHANNELS], job[FEATURES], job[GROUPS]
    if channels % groups != 0 or features % (groups * (LANES // 2)) != 0:
        return False
    if job[BAND] > job[OUT_ROWS] or job[TILE_ROWS] > vectors.ROWS:
        return False
    rows, columns, _ = _band_shape(job)
    return float(rows) * float(columns) * float(channels) <= LARGEST_BAND


@xla.compiled
def _shapes(job):
    """Return the shapes of the input, the kernel and the output."""
    inner = job[CHANNELS] // job[GROUPS]
    return (
        (job[BATCH], job[HEIGHT], job[WIDTH], job[CHANNELS]),
        (job[WINDOW_ROWS], job[WINDOW_COLUMNS], inner, job[FEATURES]),
        (job[BATCH], job[OUT_ROWS], job[OUT_COLUMNS], job[FEATURES]),
    )


@xla.compiled
def _biased_shapes(job):
    image, kernel, output = _shapes(job)
    return image, kernel, (1, 1, 1, job[FEATURES]), output


@xla.compiled
def _tile(job, along_rows):
    """Return the address of the function for the tiles of a job."""
    narrow = _lanes(job) != LANES
    index = (
        vectors.TILES + (along_rows * 2 + narrow) * vectors.ROWS + job[TILE_ROWS] - 1
    )
    return xla.words(_table(), index + 1)[index]


@xla.compiled
def _lanes(job):
    return LANES if job[FEATURES] // job[GROUPS] % LANES == 0 else LANES // 2


@xla.compiled
def _spans(job):
    """Return how many columns of the window are separate, and the floats of each."""
    if job[GROUPS] == 1 and job[DILATION_COLUMNS] == 1:
        return 1, job[WINDOW_COLUMNS] * job[CHANNELS]
    return job[WINDOW_COLUMNS], job[CHANNELS] // job[GROUPS]


@xla.compiled
def _band_shape(job):
    """Return the shape of the copied part of the input."""
    reach = (job[WINDOW_ROWS] - 1) * job[DILATION_ROWS] + 1
    width = (job[WINDOW_COLUMNS] - 1) * job[DILATION_COLUMNS] + 1
    return (
        (job[BAND] - 1) * job[STRIDE_ROWS] + reach,
        (job[OUT_COLUMNS] - 1) * job[STRIDE_COLUMNS] + width,
        job[CHANNELS],
    )


@xla.compiled
def _allocate_bands(job):
    """Choose the number of threads, and allocate memory for the band of each."""
    window = job[WINDOW_ROWS] * job[WINDOW_COLUMNS] * (job[CHANNELS] // job[GROUPS])
    work = float(window) * job[FEATURES] * _positions(job)
    if work < GRAIN * float(job[THREADS]):
        job[THREADS] = int(work / GRAIN) + 1
    job[BANDS] = (job[OUT_ROWS] + job[BAND] - 1) // job[BAND]
    job[SCRATCH] = xla.allocate(job[THREADS] * _band_size(job))


@xla.compiled
def _positions(job):
    return float(job[BATCH]) * job[OUT_ROWS] * job[OUT_COLUMNS]


@xla.compiled
def _band_size(job):
    """Return the bytes of a band, and of floats after it that the last tile reads."""
    rows, columns, channels = _band_shape(job)
    return (rows * columns * channels + vectors.ROWS) * FLOAT


@xla.compiled
def _copy_band(job, worker, example, first):
    """Copy the input that a band of output rows needs; return its address."""
    rows, columns, channels = _band_shape(job)
    address = job[SCRATCH] + worker * _band_size(job)
    band = xla.floats(address, (rows, columns, channels))
    x = xla.floats(job[INPUT], (job[BATCH], job[HEIGHT], job[WIDTH], channels))[example]
    step, column_step = job[INPUT_ROWS], job[INPUT_COLUMNS]
    for i in range(rows):
        row = first * job[STRIDE_ROWS] + i - job[TOP]
        inside = row >= 0 and row % step == 0 and row // step < job[HEIGHT]
        for j in range(columns):
            column = j - job[LEFT]
            inside_row = column >= 0 and column % column_step == 0
            if inside and inside_row and column // column_step < job[WIDTH]:
                source = x[row // step, column // column_step]
                for c in range(channels):
                    band[i, j, c] = source[c]
            else:
                for c in range(channels):
                    band[i, j, c] = 0
    return address


# --- output -----------------------------------------------------------------------


@xla.compiled
def _is_valid_output(job):
    # The last tile of a row is placed so that it ends with the row.
    return _is_valid(job) and job[TILE_ROWS] <= job[OUT_COLUMNS]


@xla.compiled
def _start_output(job):
    _allocate_bands(job)
    outputs = job[BATCH] * job[OUT_ROWS] * job[OUT_COLUMNS] * job[FEATURES]
    xla.use_huge_pages(job[OUTPUT], outputs * FLOAT)
    # The kernel, as one block for every `lanes` features.
    lanes, features = _lanes(job), job[FEATURES]
    inner = job[CHANNELS] // job[GROUPS]
    depth = job[WINDOW_ROWS] * job[WINDOW_COLUMNS] * inner
    job[PACKED] = xla.allocate(depth * features * FLOAT)
    if job[PACKED] == 0 or job[SCRATCH] == 0:
        _finish_output(job)
        return 0
    packed = xla.floats(job[PACKED], (features // lanes, depth, lanes))
    kernel = xla.floats(job[INPUT + 1], (depth, features // lanes, lanes))
    for block in range(features // lanes):
        for k in range(depth):
            for n in range(lanes):
                packed[block, k, n] = kernel[k, block, n]
    return job[BATCH] * job[BANDS]


@xla.compiled
def _compute_output(job, index, worker):
    _compute(job, index, worker, 0)


@xla.compiled
def _compute_biased(job, index, worker):
    _compute(job, index, worker, job[INPUT + 2])


@xla.compiled
def _compute(job, index, worker, bias):
    """Compute a band of rows of the output, starting from the bias if there is one."""
    example, band = index // job[BANDS], index % job[BANDS]
    first = band * job[BAND]
    rows = min(job[BAND], job[OUT_ROWS] - first)
    source = _copy_band(job, worker, example, first)
    _, width, channels = _band_shape(job)
    columns, features, lanes = job[OUT_COLUMNS], job[FEATURES], _lanes(job)
    tile, tile_rows = _tile(job, 0), job[TILE_ROWS]
    spans, span = _spans(job)
    inner, group_features = channels // job[GROUPS], features // job[GROUPS]
    pixel = job[STRIDE_COLUMNS] * channels * FLOAT
    row = width * channels * FLOAT
    kernel_row = job[WINDOW_COLUMNS] * inner * lanes * FLOAT
    for block in range(features // lanes):
        group = block * lanes // group_features
        kernel = job[PACKED] + block * job[WINDOW_ROWS] * kernel_row
        for i in range(rows):
            target = job[OUTPUT] + FLOAT * (
                ((example * job[OUT_ROWS] + first + i) * columns) * features
                + block * lanes
            )
            at_row = source + i * job[STRIDE_ROWS] * row + group * inner * FLOAT
            for start in range(0, columns, tile_rows):
                # The last tile may compute some columns again.
                column = min(start, columns - tile_rows)
                begun = _begin(job, target, column, block * lanes, bias)
                for tap in range(spans):
                    tile_arguments = (
                        target + column * features * FLOAT,
                        features * FLOAT,
                        at_row
                        + column * pixel
                        + tap * job[DILATION_COLUMNS] * channels * FLOAT,
                        pixel,
                        job[DILATION_ROWS] * row,
                        kernel + tap * span * lanes * FLOAT,
                        lanes * FLOAT,
                        kernel_row,
                        span,
                        job[WINDOW_ROWS],
                        begun or tap > 0,
                    )
                    _call_tile(tile, tile_arguments)


@xla.compiled
def _begin(job, target, column, first_feature, bias):
    """Set a tile to the bias, if there is one; return whether there is."""
    if bias == 0:
        return False
    lanes, row = _lanes(job), job[FEATURES] * FLOAT
    offsets = xla.floats(bias + first_feature * FLOAT, lanes)
    for m in range(job[TILE_ROWS]):
        values = xla.floats(target + (column + m) * row, lanes)
        for n in range(lanes):
            values[n] = offsets[n]
    return True


@xla.compiled
def _finish_output(job):
    xla.free(job[PACKED])
    xla.free(job[SCRATCH])


# --- gradient of the kernel ---------------------------------------------------------


@xla.compiled
def _sums_shape(job):
    """Return the shape of the sums: blocks of features, window, tiled floats, lanes."""
    spans, span = _spans(job)
    tiles = (span + job[TILE_ROWS] - 1) // job[TILE_ROWS]
    lanes = _lanes(job)
    blocks = job[FEATURES] // lanes
    return blocks, job[WINDOW_ROWS], spans, tiles * job[TILE_ROWS], lanes


@xla.compiled
def _gradient_shapes(job):
    image, kernel, output = _shapes(job)
    return image, output, kernel


@xla.compiled
def _start_gradient(job):
    """Divide the batch into slots, and the features into parts if there are many."""
    _allocate_bands(job)
    blocks, rows, spans, span, lanes = _sums_shape(job)
    job[SUMS_SIZE] = blocks * rows * spans * span * lanes
    job[PARTS] = blocks if job[SUMS_SIZE] >= LARGE_SUMS else 1
    slots = max(2 * job[THREADS] // job[PARTS], 1)
    # A single thread adds up the slots; one sum takes the time of several products.
    enough = math.sqrt(_positions(job) / PRODUCTS_PER_SUM) + 1
    slots = int(min(float(slots), enough))
    job[SLOTS] = min(job[BATCH] * job[BANDS], slots)
    job[SUMS] = xla.allocate(job[SLOTS] * job[SUMS_SIZE] * FLOAT)
    if job[SUMS] == 0 or job[SCRATCH] == 0:
        _free_gradient(job)
        return 0
    return job[SLOTS] * job[PARTS]


@xla.compiled
def _add_gradient(job, index, worker):
    """Add up the contributions of some bands of the batch to some features."""
    slot, part = index // job[PARTS], index % job[PARTS]
    blocks = job[FEATURES] // _lanes(job)
    first_block = part * blocks // job[PARTS]
    last_block = (part + 1) * blocks // job[PARTS]
    sums = job[SUMS] + slot * job[SUMS_SIZE] * FLOAT
    values = xla.floats(sums, job[SUMS_SIZE])
    block_size = job[SUMS_SIZE] // blocks
    for i in range(first_block * block_size, last_block * block_size):
        values[i] = 0
    bands = job[BATCH] * job[BANDS]
    for band in range(slot * bands // job[SLOTS], (slot + 1) * bands // job[SLOTS]):
        example, first = band // job[BANDS], band % job[BANDS] * job[BAND]
        rows = min(job[BAND], job[OUT_ROWS] - first)
        source = _copy_band(job, worker, example, first)
        for block in range(first_block, last_block):
            _add_band(job, sums, source, example, first, rows, block)
    if job[SLOTS] == 1:  # no other slot adds to these
        _write_blocks(job, first_block, last_block)


@xla.compiled
def _add_band(job, sums, source, example, first, rows, block):
    _, width, channels = _band_shape(job)
    columns, features = job[OUT_COLUMNS], job[FEATURES]
    inner, group_features = channels // job[GROUPS], features // job[GROUPS]
    pixel = job[STRIDE_COLUMNS] * channels * FLOAT
    row = width * channels * FLOAT
    _, window_rows, spans, padded, lanes = _sums_shape(job)
    tile = _tile(job, 1)
    group = block * lanes // group_features
    cotangent = job[INPUT + 1] + FLOAT * (
        ((example * job[OUT_ROWS] + first) * columns) * features + block * lanes
    )
    for i in range(window_rows):
        for tap in range(spans):
            at_tap = (
                source
                + i * job[DILATION_ROWS] * row
                + tap * job[DILATION_COLUMNS] * channels * FLOAT
                + group * inner * FLOAT
            )
            target = sums + FLOAT * lanes * padded * (
                (block * window_rows + i) * spans + tap
            )
            for m in range(0, padded, job[TILE_ROWS]):
                tile_arguments = (
                    target + m * lanes * FLOAT,
                    lanes * FLOAT,
                    at_tap + m * FLOAT,
                    pixel,
                    job[STRIDE_ROWS] * row,
                    cotangent,
                    features * FLOAT,
                    columns * features * FLOAT,
                    columns,
                    rows,
                    1,
                )
                _call_tile(tile, tile_arguments)


@xla.compiled
def _write_blocks(job, first_block, last_block):
    """Write the sums of some blocks of features, over all slots, to the output."""
    blocks, window_rows, spans, padded, lanes = _sums_shape(job)
    span = _spans(job)[1]
    sums = xla.floats(
        job[SUMS], (job[SLOTS], blocks, window_rows, spans, padded, lanes)
    )
    kernel = xla.floats(job[OUTPUT], (window_rows, spans, span, blocks, lanes))
    for block in range(first_block, last_block):
        for i in range(window_rows):
            for tap in range(spans):
                for m in range(span):
                    for n in range(lanes):
                        total = sums[0, block, i, tap, m, n]
                        for slot in range(1, job[SLOTS]):
                            total += sums[slot, block, i, tap, m, n]
                        kernel[i, tap, m, block, n] = total


@xla.compiled
def _finish_gradient(job):
    if job[SLOTS] > 1:
        _write_blocks(job, 0, job[FEATURES] // _lanes(job))
    _free_gradient(job)


@xla.compiled
def _free_gradient(job):
    xla.free(job[SUMS])
    xla.free(job[SCRATCH])


# --- what XLA calls -------------------------------------------------------------------

_outputs = partial(
    xla.Kernel,
    plan=PLAN_WORDS,
    is_valid=_is_valid_output,
    start=_start_output,
    finish=_finish_output,
)
KERNELS = (
    _outputs("linsey_convolution", inputs=2, shapes=_shapes, work=_compute_output),
    _outputs(
        "linsey_biased_convolution",
        inputs=3,
        shapes=_biased_shapes,
        work=_compute_biased,
    ),
    xla.Kernel(
        "linsey_kernel_gradient",
        inputs=2,
        plan=PLAN_WORDS,
        is_valid=_is_valid,
        shapes=_gradient_shapes,
        start=_start_gradient,
        work=_add_gradient,
        finish=_finish_gradient,
    ),
)
