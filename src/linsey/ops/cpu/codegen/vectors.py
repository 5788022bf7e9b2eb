"""The innermost loops of the kernels, which stay in vector registers.

They are written in LLVM's intermediate language, because a compiler left to itself
neither keeps the sums in registers nor the vectors whole. All arguments are addresses
and strides in bytes, as 64-bit words; a row of floats is one vector, whose entries are
its *lanes*.

    tile      c[m, :] = sum over k2 < depth2, k < depth of a[m, k2, k] * b[k2, k, :]
    moments   sums of z[k, :] = x[k, :] * prescale - shift and of its square
    products  sums of a[k, :] and of a[k, :] * z[k, :]
    combine   y[k, :] = a[k, :] * multiplier + z[k, :] * second + first, also past the
              cache, for arrays that it cannot hold

Those of `examples.py` compute in float64, with h[k, :] = (x[k, :] - mean) * rstd:

    spread    sums of x[k, :] - shift and of its square, over k and all lanes
    scale     y[k, :] = h[k, :] * scale[k, :] + bias[k, :]
    columns   sums of a[k, :] and of a[k, :] * h[k, :] over k, added to totals
    rows      adds a[k, :] and a[k, :] * h[k, :] to totals of each k; and sums of
              both times scale[k, :], over k and all lanes
    gradient  y[k, :] = (a[k, :] * scale[k, :] - first - h[k, :] * second) * rstd

There is a function for each number of rows and of lanes; `TABLE` holds their addresses.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import binding, ir

# The entries of a tile and their factors must fit into the vector registers: 32 of 16
# floats, or 16 of 8, or 32 of 4.
_LARGE = binding.get_host_cpu_features().get("avx512f", False)
ROWS, LANES = (14, 32) if _LARGE else (6, 16)
SUM_LANES = (64, 32, 16) if _LARGE else (32, 16, 8)
NORM_LANES = (32, 16, 8) if _LARGE else (16, 8)

ALIGNMENT = 64 if _LARGE else 32  # bytes of a vector register, and of XLA's arrays

TABLE = "linsey_loops"
# Positions of functions in the table: tiles with `a` across and along the rows, with
# all lanes and with half of them, for each number of rows; then the others, by
# `SUM_LANES`, and those of `examples.py`, by `NORM_LANES`.
TILES, FIRST_SUMS, LANE_CHOICES = 0, 4 * ROWS, len(SUM_LANES)
MOMENTS, PRODUCTS, COMBINE, STREAM = range(
    FIRST_SUMS, FIRST_SUMS + 4 * LANE_CHOICES, LANE_CHOICES
)
NORM_CHOICES = len(NORM_LANES)
_FIRST_NORMS = FIRST_SUMS + 4 * LANE_CHOICES
SPREAD, SCALE, COLUMNS, ROW_SUMS, GRADIENT = range(
    _FIRST_NORMS, _FIRST_NORMS + 5 * NORM_CHOICES, NORM_CHOICES
)
TILE_WORDS, SUM_WORDS, COMBINE_WORDS = 11, 7, 10
SPREAD_WORDS, SCALE_WORDS, COLUMNS_WORDS, ROW_WORDS, GRADIENT_WORDS = 5, 8, 6, 8, 8

_WORD, _FLOAT, _INDEX = ir.IntType(64), ir.FloatType(), ir.IntType(32)
_DOUBLE = ir.DoubleType()
Value = ir.Constant | ir.NamedValue


def write_loops() -> ir.Module:
    """Write all functions and the table of their addresses, as an LLVM module."""
    module = ir.Module(TABLE)
    functions = [
        _write_tile(module, rows, lanes, along_rows)
        for along_rows in (False, True)
        for lanes in (LANES, LANES // 2)
        for rows in range(1, ROWS + 1)
    ]
    functions += [
        write(module, lanes, second_kind)
        for write in (_write_sums, _write_combine)
        for second_kind in (False, True)
        for lanes in SUM_LANES
    ]
    functions += [
        write(module, lanes)
        for write in (
            _write_spread,
            _write_scale,
            _write_columns,
            _write_rows,
            _write_gradient,
        )
        for lanes in NORM_LANES
    ]
    kind = ir.ArrayType(_WORD, len(functions))
    table = ir.GlobalVariable(module, kind, TABLE)
    table.initializer = ir.Constant(kind, [f.ptrtoint(_WORD) for f in functions])
    return module


class _Writer:
    """A writer of one function, whose arguments are words. Its result is not used."""

    def __init__(self, module: ir.Module, name: str, words: int, lanes: int) -> None:
        kind = ir.FunctionType(_WORD, [_WORD] * words)
        self.function = ir.Function(module, kind, name)
        self.builder = ir.IRBuilder(self.function.append_basic_block())
        self.lanes = lanes
        self.vector = ir.VectorType(_FLOAT, lanes)
        self.wide = ir.VectorType(_DOUBLE, lanes)
        self.zero = ir.Constant(self.vector, None)
        self.no_sum = ir.Constant(self.wide, None)
        self.first = ir.Constant(ir.VectorType(_INDEX, lanes), None)

    def number(self, value: int) -> Value:
        return ir.Constant(_WORD, value)

    def load(self, address: Value) -> Value:
        pointer = self.builder.inttoptr(address, self.vector.as_pointer())
        return self.builder.load(pointer, align=4)

    def store(self, value: Value, address: Value, stream: bool = False) -> None:
        """Store a vector; if `stream`, bypass the cache, at an aligned address."""
        pointer = self.builder.inttoptr(address, self.vector.as_pointer())
        stored = self.builder.store(value, pointer, align=ALIGNMENT if stream else 4)
        if stream:
            hint = self.function.module.add_metadata([ir.Constant(_INDEX, 1)])
            stored.set_metadata("nontemporal", hint)

    def repeat(self, address: Value, kind: ir.Type = _FLOAT) -> Value:
        """Load a number and repeat it in all lanes."""
        entry = self.builder.load(self.builder.inttoptr(address, kind.as_pointer()))
        undefined = ir.Constant(ir.VectorType(kind, self.lanes), ir.Undefined)
        entry = self.builder.insert_element(undefined, entry, ir.Constant(_INDEX, 0))
        return self.builder.shuffle_vector(entry, undefined, self.first)

    def load_wide(self, address: Value) -> Value:
        """Load a vector of floats as doubles."""
        return self.builder.fpext(self.load(address), self.wide)

    def add_to(self, address: Value, values: Value) -> None:
        """Add doubles to those at an address."""
        pointer = self.builder.inttoptr(address, self.wide.as_pointer())
        total = self.builder.fadd(self.builder.load(pointer, align=8), values)
        self.builder.store(total, pointer, align=8)

    def store_sums(self, address: Value, *values: Value) -> None:
        """Store the sum of all lanes of each value, as doubles."""
        name = f"llvm.vector.reduce.fadd.v{self.lanes}f64"
        total = self.function.module.globals.get(name)
        if total is None:
            kind = ir.FunctionType(_DOUBLE, [_DOUBLE, self.wide])
            total = ir.Function(self.function.module, kind, name)
        for i, value in enumerate(values):
            zero = ir.Constant(_DOUBLE, 0.0)
            found = self.builder.call(total, [zero, value], fastmath=["reassoc"])
            at = self.builder.add(address, self.number(8 * i))
            self.builder.store(found, self.builder.inttoptr(at, _DOUBLE.as_pointer()))

    def add_product(self, total: Value, a: Value, b: Value) -> Value:
        """Add a product, with a single rounding if the processor can do that."""
        product = self.builder.fmul(a, b, flags=["contract"])
        return self.builder.fadd(total, product, flags=["contract"])

    def loop(
        self, count: Value, values: list[Value], body: Callable[..., list[Value]]
    ) -> list[Value]:
        """Repeat `values = body(*values)`, at least once; return the last ones."""
        block = self.function.append_basic_block()
        after = self.function.append_basic_block()
        values = [count, *values]
        changing = []
        before = self.builder.block
        self.builder.branch(block)
        self.builder.position_at_end(block)
        for value in values:
            changing.append(self.builder.phi(value.type))
            changing[-1].add_incoming(value, before)
        left = self.builder.sub(changing[0], self.number(1))
        values = [left, *body(*changing[1:])]
        for phi, value in zip(changing, values, strict=True):
            phi.add_incoming(value, self.builder.block)
        again = self.builder.icmp_signed(">", left, self.number(0))
        self.builder.cbranch(again, block, after)
        self.builder.position_at_end(after)
        return values[1:]

    def finish(self) -> ir.Function:
        self.builder.ret(self.number(0))
        return self.function


def _write_tile(
    module: ir.Module, rows: int, lanes: int, along_rows: bool
) -> ir.Function:
    """Write `tile(c, c_row, a, stride, a2, b, b1, b2, depth, depth2, more)`.

    `a` is contiguous along `m` or along `k`, and `stride` is that of the other axis;
    `more` says whether to add to the values of `c`.
    """
    name = f"tile_{'along' if along_rows else 'across'}_{rows}x{lanes}"
    w = _Writer(module, name, TILE_WORDS, lanes)
    add, mul = w.builder.add, w.builder.mul
    c, c_row, a, stride, a2, b, b1, b2, depth, depth2, more = w.function.args
    row, step = (w.number(4), stride) if along_rows else (stride, w.number(4))
    # Only the address of every fourth row changes; the others are at fixed distances.
    near = [mul(row, w.number(m)) for m in range(4)]
    targets = [add(c, mul(c_row, w.number(m))) for m in range(rows)]
    adds = w.builder.icmp_signed("!=", more, w.number(0))
    sums = [w.builder.select(adds, w.load(target), w.zero) for target in targets]

    def outer(a: Value, b: Value, *sums: Value) -> list[Value]:
        fourths = [add(a, mul(row, w.number(m))) for m in range(0, rows, 4)]

        def inner(b: Value, *values: Value) -> list[Value]:
            fourths, sums = values[:-rows], values[-rows:]
            factors = w.load(b)
            sums = [
                w.add_product(
                    total, w.repeat(add(fourths[m // 4], near[m % 4])), factors
                )
                for m, total in enumerate(sums)
            ]
            return [add(b, b1), *(add(fourth, step) for fourth in fourths), *sums]

        _, *values = w.loop(depth, [b, *fourths, *sums], inner)
        return [add(a, a2), add(b, b2), *values[-rows:]]

    _, _, *sums = w.loop(depth2, [a, b, *sums], outer)
    for total, target in zip(sums, targets, strict=True):
        w.store(total, target)
    return w.finish()


def _write_sums(module: ir.Module, lanes: int, products: bool) -> ir.Function:
    """Write `sums(x, row, shift, prescale, a, count, result)`; moments ignore `a`."""
    name = f"{'products' if products else 'moments'}_{lanes}"
    w = _Writer(module, name, SUM_WORDS, lanes)
    add = w.builder.add
    x, row, shift, prescale, a, count, result = w.function.args
    shift, prescale = w.load(shift), w.load(prescale)

    def body(x: Value, a: Value, first: Value, second: Value) -> list[Value]:
        value = w.builder.fsub(w.builder.fmul(w.load(x), prescale), shift)
        factor = w.load(a) if products else value
        first = w.builder.fadd(first, factor)
        return [add(x, row), add(a, row), first, w.add_product(second, factor, value)]

    _, _, first, second = w.loop(count, [x, a, w.zero, w.zero], body)
    w.store(first, result)
    w.store(second, add(result, w.number(4 * lanes)))
    return w.finish()


def _write_combine(module: ir.Module, lanes: int, stream: bool) -> ir.Function:
    """Write `combine(y, a, x, row, shift, prescale, multiplier, first, second, n)`."""
    w = _Writer(
        module, f"{'stream' if stream else 'combine'}_{lanes}", COMBINE_WORDS, lanes
    )
    add = w.builder.add
    y, a, x, row, *per_channel, count = w.function.args
    shift, prescale, multiplier, first, second = map(w.load, per_channel)

    def body(y: Value, a: Value, x: Value) -> list[Value]:
        value = w.add_product(first, w.load(a), multiplier)
        shifted = w.builder.fsub(w.builder.fmul(w.load(x), prescale), shift)
        w.store(w.add_product(value, shifted, second), y, stream)
        return [add(y, row), add(a, row), add(x, row)]

    w.loop(count, [y, a, x], body)
    return w.finish()


# --- of examples, in float64 ----------------------------------------------------------


def _write_spread(module: ir.Module, lanes: int) -> ir.Function:
    """Write `spread(x, row, count, shift, result)`."""
    w = _Writer(module, f"spread_{lanes}", SPREAD_WORDS, lanes)
    x, row, count, shift, result = w.function.args
    shift = w.repeat(shift, _DOUBLE)

    def body(x: Value, first: Value, second: Value) -> list[Value]:
        value = w.builder.fsub(w.load_wide(x), shift)
        first = w.builder.fadd(first, value)
        return [w.builder.add(x, row), first, w.add_product(second, value, value)]

    _, *sums = w.loop(count, [x, w.no_sum, w.no_sum], body)
    w.store_sums(result, *sums)
    return w.finish()


def _standardized(w: _Writer, moments: Value) -> Callable[[Value], Value]:
    """Load the mean and `rstd`; return a function from an address in `x` to `h`."""
    mean = w.repeat(moments, _DOUBLE)
    rstd = w.repeat(w.builder.add(moments, w.number(8)), _DOUBLE)

    def standardize(x: Value) -> Value:
        return w.builder.fmul(w.builder.fsub(w.load_wide(x), mean), rstd)

    return standardize


def _write_scale(module: ir.Module, lanes: int) -> ir.Function:
    """Write `scale(y, x, row, scale, bias, step, moments, count)`."""
    w = _Writer(module, f"scale_{lanes}", SCALE_WORDS, lanes)
    add = w.builder.add
    y, x, row, scale, bias, step, moments, count = w.function.args
    standardized = _standardized(w, moments)

    def body(y: Value, x: Value, scale: Value, bias: Value) -> list[Value]:
        value = w.builder.fptrunc(standardized(x), w.vector)
        w.store(w.add_product(w.load(bias), value, w.load(scale)), y)
        return [add(y, row), add(x, row), add(scale, step), add(bias, step)]

    w.loop(count, [y, x, scale, bias], body)
    return w.finish()


def _write_columns(module: ir.Module, lanes: int) -> ir.Function:
    """Write `columns(a, x, row, moments, count, totals)`."""
    w = _Writer(module, f"columns_{lanes}", COLUMNS_WORDS, lanes)
    add = w.builder.add
    a, x, row, moments, count, totals = w.function.args
    standardized = _standardized(w, moments)

    def body(a: Value, x: Value, first: Value, second: Value) -> list[Value]:
        factor = w.load_wide(a)
        second = w.add_product(second, factor, standardized(x))
        return [add(a, row), add(x, row), w.builder.fadd(first, factor), second]

    _, _, first, second = w.loop(count, [a, x, w.no_sum, w.no_sum], body)
    w.add_to(totals, first)
    w.add_to(add(totals, w.number(8 * lanes)), second)
    return w.finish()


def _write_rows(module: ir.Module, lanes: int) -> ir.Function:
    """Write `rows(a, x, row, scale, moments, count, totals, result)`."""
    w = _Writer(module, f"rows_{lanes}", ROW_WORDS, lanes)
    add = w.builder.add
    a, x, row, scale, moments, count, totals, result = w.function.args
    standardized = _standardized(w, moments)

    def body(
        a: Value, x: Value, scale: Value, totals: Value, first: Value, second: Value
    ) -> list[Value]:
        factor = w.load_wide(a)
        value = standardized(x)
        w.add_to(totals, factor)
        w.add_to(add(totals, w.number(8 * lanes)), w.builder.fmul(factor, value))
        factor = w.builder.fmul(factor, w.load_wide(scale))
        first = w.builder.fadd(first, factor)
        second = w.add_product(second, factor, value)
        totals = add(totals, w.number(16 * lanes))
        return [add(a, row), add(x, row), add(scale, row), totals, first, second]

    values: list[Value] = [a, x, scale, totals, w.no_sum, w.no_sum]
    *_, first, second = w.loop(count, values, body)
    w.store_sums(result, first, second)
    return w.finish()


def _write_gradient(module: ir.Module, lanes: int) -> ir.Function:
    """Write `gradient(y, a, x, row, scale, step, moments, count)`.

    In `moments`, the mean and `rstd` are followed by `first` and `second`.
    """
    w = _Writer(module, f"gradient_{lanes}", GRADIENT_WORDS, lanes)
    add = w.builder.add
    y, a, x, row, scale, step, moments, count = w.function.args
    standardized = _standardized(w, moments)
    rstd, first, second = (
        w.repeat(add(moments, w.number(8 * i)), _DOUBLE) for i in (1, 2, 3)
    )

    def body(y: Value, a: Value, x: Value, scale: Value) -> list[Value]:
        value = w.builder.fmul(w.load_wide(a), w.load_wide(scale))
        value = w.builder.fsub(value, first)
        part = w.builder.fmul(standardized(x), second)
        value = w.builder.fmul(w.builder.fsub(value, part), rstd)
        w.store(w.builder.fptrunc(value, w.vector), y)
        return [add(y, row), add(a, row), add(x, row), add(scale, step)]

    w.loop(count, [y, a, x, scale], body)
    return w.finish()
