"""Convolutions of channels-last float32 arrays, as products of tiles.

For a band of rows of the output, the rows of the input that it depends on are copied to
memory that stays in the cache, with the zeros around and between their entries. There
one row of the kernel meets `window width * channels` neighbouring floats for each
position, so that output and both gradients are matrix products of parts of the arrays
as they lie. No patches are built.
"""

# ruff: noqa: D103 - what numba compiles is short and of one kind
from __future__ import annotations

from functools import cache

from linsey.ops.compiled.vectors import LANES, ROWS, TABLE, TILE_WORDS, TILES
from linsey.ops.compiled.xla import (
    HANDLER,
    INPUT,
    OUTPUT,
    OWN,
    PIECES,
    PLAN,
    TASK,
    THREADS,
    add_task,
    allocate,
    caller,
    compiled,
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

# The plan of both kernels: words of a job, in the order of `conv_cpu_compiled`.
BATCH, HEIGHT, WIDTH, CHANNELS = range(PLAN, PLAN + 4)
OUT_ROWS, OUT_COLUMNS, FEATURES = range(PLAN + 4, PLAN + 7)
WINDOW_ROWS, WINDOW_COLUMNS = range(PLAN + 7, PLAN + 9)
STRIDE_ROWS, STRIDE_COLUMNS = range(PLAN + 9, PLAN + 11)
TOP, LEFT = range(PLAN + 11, PLAN + 13)
HOLE_ROWS, HOLE_COLUMNS = range(PLAN + 13, PLAN + 15)
DILATION_ROWS, DILATION_COLUMNS = range(PLAN + 15, PLAN + 17)
GROUPS, BAND, TILE_ROWS = range(PLAN + 17, PLAN + 20)

# Words for the kernels themselves.
BANDS, SCRATCH, PACKED = OWN, OWN + 1, OWN + 2
SUMS, SUMS_SIZE, SLOTS, PARTS = PACKED, OWN + 3, OWN + 4, OWN + 5
FLOAT = 4  # bytes
LARGE_SUMS = 2**18  # floats that stay in the cache

_table, _call_tile = symbol(TABLE), caller(TILE_WORDS)


@compiled
def _tile(job, along_rows):
    """Address of the function for the tiles of a job."""
    narrow = _lanes(job) != LANES
    index = TILES + (along_rows * 2 + narrow) * ROWS + job[TILE_ROWS] - 1
    return words(_table(), index + 1)[index]


@compiled
def _lanes(job):
    return LANES if job[FEATURES] // job[GROUPS] % LANES == 0 else LANES // 2


@compiled
def _spans(job):
    """How many columns of the window are taken apart, and how many floats of each."""
    if job[GROUPS] == 1 and job[DILATION_COLUMNS] == 1:
        return 1, job[WINDOW_COLUMNS] * job[CHANNELS]
    return job[WINDOW_COLUMNS], job[CHANNELS] // job[GROUPS]


@compiled
def _band_shape(job):
    """Shape of the copied part of the input."""
    reach = (job[WINDOW_ROWS] - 1) * job[DILATION_ROWS] + 1
    width = (job[WINDOW_COLUMNS] - 1) * job[DILATION_COLUMNS] + 1
    return (
        (job[BAND] - 1) * job[STRIDE_ROWS] + reach,
        (job[OUT_COLUMNS] - 1) * job[STRIDE_COLUMNS] + width,
        job[CHANNELS],
    )


@compiled
def _allocate_bands(job):
    """Gets memory for the band of each thread."""
    job[BANDS] = (job[OUT_ROWS] + job[BAND] - 1) // job[BAND]
    job[SCRATCH] = allocate(job[THREADS] * _band_size(job))


@compiled
def _band_size(job):
    """Bytes of a band, and of some floats after it that the last tile reads in vain."""
    rows, columns, channels = _band_shape(job)
    return (rows * columns * channels + ROWS) * FLOAT


@compiled
def _copy_band(job, worker, example, first):
    """Copies the input that a band of output rows needs; returns its address."""
    rows, columns, channels = _band_shape(job)
    address = job[SCRATCH] + worker * _band_size(job)
    band = floats(address, (rows, columns, channels))
    x = floats(job[INPUT], (job[BATCH], job[HEIGHT], job[WIDTH], channels))[example]
    hole, hole_columns = job[HOLE_ROWS], job[HOLE_COLUMNS]
    for i in range(rows):
        row = first * job[STRIDE_ROWS] + i - job[TOP]
        inside = row >= 0 and row % hole == 0 and row // hole < job[HEIGHT]
        for j in range(columns):
            column = j - job[LEFT]
            if (
                inside
                and column >= 0
                and column % hole_columns == 0
                and column // hole_columns < job[WIDTH]
            ):
                source = x[row // hole, column // hole_columns]
                for c in range(channels):
                    band[i, j, c] = source[c]
            else:
                for c in range(channels):
                    band[i, j, c] = 0
    return address


# --- output -----------------------------------------------------------------------


@compiled
def _start_output(job):
    _allocate_bands(job)
    outputs = job[BATCH] * job[OUT_ROWS] * job[OUT_COLUMNS] * job[FEATURES]
    use_huge_pages(job[OUTPUT], outputs * FLOAT)
    # The kernel, a block for each `lanes` features.
    lanes, features = _lanes(job), job[FEATURES]
    inner = job[CHANNELS] // job[GROUPS]
    depth = job[WINDOW_ROWS] * job[WINDOW_COLUMNS] * inner
    job[PACKED] = allocate(depth * features * FLOAT)
    packed = floats(job[PACKED], (features // lanes, depth, lanes))
    kernel = floats(job[INPUT + 1], (depth, features // lanes, lanes))
    for block in range(features // lanes):
        for k in range(depth):
            for n in range(lanes):
                packed[block, k, n] = kernel[k, block, n]
    return job[BATCH] * job[BANDS]


@compiled
def _compute_output(job, index, worker):
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
                # The last tile computes some columns again.
                column = min(start, columns - tile_rows)
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
                        tap,
                    )
                    _call_tile(tile, tile_arguments)


@compiled
def _finish_output(job):
    free(job[PACKED])
    free(job[SCRATCH])


# --- gradient of the kernel ---------------------------------------------------------


@compiled
def _sums_shape(job):
    """Blocks of features, rows and columns of the window, tiled floats, lanes."""
    spans, span = _spans(job)
    tiles = (span + job[TILE_ROWS] - 1) // job[TILE_ROWS]
    lanes = _lanes(job)
    blocks = job[FEATURES] // lanes
    return blocks, job[WINDOW_ROWS], spans, tiles * job[TILE_ROWS], lanes


@compiled
def _start_gradient(job):
    """Divides the batch into slots, and the features into parts if there are many."""
    _allocate_bands(job)
    blocks, rows, spans, span, lanes = _sums_shape(job)
    job[SUMS_SIZE] = blocks * rows * spans * span * lanes
    job[PARTS] = blocks if job[SUMS_SIZE] >= LARGE_SUMS else 1
    slots = max(2 * job[THREADS] // job[PARTS], 1)
    job[SLOTS] = min(job[BATCH] * job[BANDS], slots)
    job[SUMS] = allocate(job[SLOTS] * job[SUMS_SIZE] * FLOAT)
    return job[SLOTS] * job[PARTS]


@compiled
def _add_gradient(job, index, worker):
    """Adds up what some bands of the batch contribute to some features."""
    slot, part = index // job[PARTS], index % job[PARTS]
    blocks = job[FEATURES] // _lanes(job)
    first_block = part * blocks // job[PARTS]
    last_block = (part + 1) * blocks // job[PARTS]
    sums = job[SUMS] + slot * job[SUMS_SIZE] * FLOAT
    values = floats(sums, job[SUMS_SIZE])
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


@compiled
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


@compiled
def _finish_gradient(job):
    blocks, window_rows, spans, padded, lanes = _sums_shape(job)
    span = _spans(job)[1]
    sums = floats(job[SUMS], (job[SLOTS], blocks, window_rows, spans, padded, lanes))
    kernel = floats(job[OUTPUT], (window_rows, spans, span, blocks, lanes))
    for block in range(blocks):
        for i in range(window_rows):
            for tap in range(spans):
                for m in range(span):
                    for n in range(lanes):
                        total = sums[0, block, i, tap, m, n]
                        for slot in range(1, job[SLOTS]):
                            total += sums[slot, block, i, tap, m, n]
                        kernel[i, tap, m, block, n] = total
    free(job[SUMS])
    free(job[SCRATCH])


# --- what XLA calls -------------------------------------------------------------------

OUTPUT_TARGET, GRADIENT_TARGET = "linsey_convolution", "linsey_kernel_gradient"
_output_task = symbol(task_symbol(OUTPUT_TARGET))
_gradient_task = symbol(task_symbol(GRADIENT_TARGET))


@cache
def load() -> None:
    """Compiles both kernels and makes them known to XLA."""
    load_loops()

    @entry(TASK)
    def compute_output(address):
        job, worker, piece = join(address)
        while piece < job[PIECES]:
            _compute_output(job, piece, worker)
            piece = next_piece(address)
        return leave(address)

    @entry(TASK)
    def add_gradient(address):
        job, worker, piece = join(address)
        while piece < job[PIECES]:
            _add_gradient(job, piece, worker)
            piece = next_piece(address)
        return leave(address)

    add_task(OUTPUT_TARGET, compute_output)
    add_task(GRADIENT_TARGET, add_gradient)

    @entry(HANDLER)
    def handle_output(frame):
        address, job = open_job(frame, 2, 1)
        if address == 0:
            return 0
        share(frame, address, _start_output(job), _output_task())
        _finish_output(job)
        return leave(address)

    @entry(HANDLER)
    def handle_gradient(frame):
        address, job = open_job(frame, 2, 1)
        if address == 0:
            return 0
        share(frame, address, _start_gradient(job), _gradient_task())
        _finish_gradient(job)
        return leave(address)

    register(OUTPUT_TARGET, handle_output)
    register(GRADIENT_TARGET, handle_gradient)
