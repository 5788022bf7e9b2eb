"""How an initializer draws an array, read from the program that JAX traces of it.

Values whose shape differs from that of the result, such as keys and standard
deviations, are computed once, as in the program. Values of that shape must be random
bits and elementwise operations on them. With threefry keys, an entry then depends only
on the key and its position, and any part of the array can be drawn without the rest.
Otherwise, as for the decomposition into orthogonal matrices, the array cannot be drawn
in parts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters.partial_eval import dce_jaxpr

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

Shape = tuple[int, ...]
# Computes the results of one equation, or of all, from a position and the inputs.
Step = Callable[[Any, Sequence[Any]], list[Any]]

SMALLEST = 32
"""Number of entries; the shape of a smaller array could be that of a key."""

# Equations that only call a program, and the parameter that holds the program.
CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr"}
CALLS["custom_jvp_call"] = "call_jaxpr"
ELEMENTWISE = frozenset(
    "abs add and atan2 bitcast_convert_type broadcast_in_dim cbrt ceil clamp "
    "complex conj convert_element_type copy cos cosh div eq erf erf_inv erfc exp "
    "exp2 expm1 floor ge gt imag integer_pow is_finite le log log1p logistic lt max "
    "min mul ne neg nextafter not or pow real reduce_precision rem round rsqrt "
    "select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh "
    "sqrt square stop_gradient sub tan tanh xor".split()
)


class NotInChunks(Exception):  # noqa: N818
    """An entry depends on more than the key and its position."""


class Recipe(NamedTuple):
    """The way in which an initializer draws an array from a key.

    Attributes:
        run: the initializer, as a function of a key.
        program: the traced program, without reshaping at the end.
        structure: tree structure of the result, which holds one array.
        drawn: shape that the program draws.
        shape: shape of the array.
        dtype: dtype of the array.
    """

    run: Callable[[Any], Any]
    program: Jaxpr
    structure: jax.tree_util.PyTreeDef
    drawn: Shape
    shape: Shape
    dtype: np.dtype

    @property
    def size(self) -> int:
        """The number of entries of the array."""
        return math.prod(self.shape)

    def array(self, key: Any) -> Any:
        """Draw the array as the initializer does."""
        return jax.tree_util.tree_leaves(self.run(key))[0]

    def parts(self, size: int) -> Parts | None:
        """Return how to draw `size` entries at a time, or `None` if impossible."""
        return _parts(self, size)


@functools.lru_cache(maxsize=1024)
def recipe(
    init_fn: Callable[..., Any],
    key: tuple[Shape, Any],
    args: tuple[Hashable, ...],
    kwargs: tuple[tuple[str, Hashable], ...],
    x64: bool,
) -> Recipe | None:
    """Trace an initializer; return `None` if its result is not one real array.

    Args:
        init_fn: the initializer.
        key: shape and dtype of its key.
        args: its other arguments.
        kwargs: its keyword arguments, as pairs.
        x64: whether 64 bits are enabled.
    """

    def run(key: Any) -> Any:
        return init_fn(key, *args, **dict(kwargs))

    closed, found = jax.make_jaxpr(run, return_shape=True)(jax.ShapeDtypeStruct(*key))
    (array, *others), structure = jax.tree_util.tree_flatten(found)
    if others or array.weak_type or closed.consts:
        return None
    if not all(isinstance(n, int) for n in array.shape):  # a symbolic shape, for export
        return None
    if not SMALLEST <= math.prod(array.shape) < 2**32:
        return None
    if jnp.issubdtype(array.dtype, np.complexfloating):
        return None  # XLA's sines in the last entries of an array differ in some bits
    program = before_reshape(closed.jaxpr)
    drawn = program.outvars[0].aval.shape  # type: ignore[attr-defined]
    return Recipe(run, program, structure, drawn, array.shape, array.dtype)


def before_reshape(program: Jaxpr) -> Jaxpr:
    """Leave out the equations that reshape the result of a program."""
    (result,) = program.outvars
    for eqn in program.eqns:
        is_last = eqn.outvars == [result] and eqn.primitive.name == "reshape"
        if is_last and eqn.params["dimensions"] is None:
            shorter, _ = dce_jaxpr(
                program.replace(outvars=eqn.invars), [True], instantiate=True
            )
            return before_reshape(shorter)
    return program


class Parts(NamedTuple):
    """The functions and constants to draw an array part by part.

    Attributes:
        keys: computes the keys to draw from, given the key of the initializer.
        constants: numbers that the computation of all parts uses.
        part: computes the entries from a position on, from keys and constants.
        kind: equal if `part` computes the same, with the constants as inputs.
    """

    keys: Callable[[Any], list[Any]]
    constants: tuple[np.ndarray, ...]
    part: Callable[[Any, Sequence[Any]], jax.Array]
    kind: Hashable


@functools.lru_cache(maxsize=1024)
def _parts(one: Recipe, size: int) -> Parts | None:
    try:
        return Chunked(one.drawn, size).divide(one.program)
    except NotInChunks:
        return None


class Chunked(NamedTuple):
    """A conversion of programs on arrays of one shape to programs on chunks of them.

    Attributes:
        shape: shape of the arrays. Values of other shapes are computed unchanged.
        size: number of entries in a chunk, in the order of the array.
    """

    shape: Shape
    size: int

    def is_whole(self, var: Var | Literal) -> bool:
        """Return whether a variable is an array of shape `shape`."""
        return getattr(var.aval, "shape", None) == self.shape

    def divide(self, program: Jaxpr) -> Parts:
        """Divide a program of a key into one part that runs once, and one per chunk."""
        steps = [e for e in program.eqns if any(map(self.is_whole, e.outvars))]
        others = [e for e in program.eqns if e not in steps]
        (result,) = program.outvars
        if not self.is_whole(result) or self.takes_whole(others):
            raise NotInChunks
        known = dict.fromkeys(v for eqn in steps for v in variables(eqn))
        random = reached(program.invars, others)
        keys = [v for v in known if v in random and not self.is_whole(v)]
        numbers = [v for v in known if v not in random and not self.is_whole(v)]
        inputs = [*keys, *numbers]
        runs = [(*self.compiled(eqn), eqn) for eqn in steps]

        def chunk(start: Any, values: Sequence[Any]) -> jax.Array:
            env: dict[Any, Any] = dict(zip(inputs, values, strict=True))
            for run, _, eqn in runs:
                made = run(start, read(env, eqn.invars))
                env.update(zip(eqn.outvars, made, strict=True))
            return env[result]

        constants = numbers_of(program, numbers)
        merged = self.merged(program, steps)
        kind: list[Hashable] = [tuple(str(v.aval) for v in inputs)]
        for number, value in zip(numbers, constants, strict=True):
            kind.append(value.tobytes() if number in merged else None)
        names: dict[Any, int] = {v: i for i, v in enumerate(inputs)}
        for _, text, eqn in runs:
            names.update((v, len(names) + i) for i, v in enumerate(eqn.outvars))
            used = (str(v.val) if hasattr(v, "val") else names[v] for v in eqn.invars)
            kind.append((text, *used))
        return Parts(
            function_of(program, keys, program.invars),
            constants,
            chunk,
            (*kind, names[result]),
        )

    def merged(self, program: Jaxpr, steps: Sequence[JaxprEqn]) -> set[Any]:
        """Return scalars that XLA merges with another constant, rounding only once.

        This happens in a product with a constant that is itself multiplied by one.
        """
        found: set[Any] = set()
        for eqn in steps:
            whole = [v for v in eqn.invars if self.is_whole(v)]
            if {last_operation(program, v) for v in whole} & {"mul", "div"}:
                found.update(v for v in variables(eqn) if v not in whole)
        return found

    def takes_whole(self, eqns: Iterable[JaxprEqn]) -> bool:
        """Return whether an equation has an array of shape `shape` as an input."""
        return any(self.is_whole(v) for eqn in eqns for v in eqn.invars)

    def compiled(self, eqn: JaxprEqn) -> tuple[Step, str]:
        """Compile an equation; equal equations share a program, whatever the shape.

        Returns:
            The compiled equation and its text.
        """
        from jax.extend import core as jex_core

        avals = [self.chunk_of(v.aval) for v in eqn.invars]
        position = jax.ShapeDtypeStruct((), np.uint32)
        closed = jax.make_jaxpr(functools.partial(self.step, eqn))(position, avals)
        if closed.consts:
            raise NotInChunks
        run = jex_core.jaxpr_as_fun(closed)

        def draw_chunk(start: Any, values: Sequence[Any]) -> list[Any]:
            return run(start, *values)

        text = str(closed)
        return PROGRAMS.setdefault(text, jax.jit(draw_chunk)), text

    def chunk_of(self, aval: Any) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of a chunk of an array, or of another value."""
        shape = (self.size,) if aval.shape == self.shape else aval.shape
        return jax.ShapeDtypeStruct(shape, aval.dtype, weak_type=aval.weak_type)

    def step(self, eqn: JaxprEqn, start: Any, values: Sequence[Any]) -> list[Any]:
        """Run an equation on the chunk at a position."""
        name, params = eqn.primitive.name, eqn.params
        if name in CALLS:
            return self.run(params[CALLS[name]], start, values)
        shape: Shape = eqn.outvars[0].aval.shape  # type: ignore[attr-defined]
        is_one = shape == (1,) * len(self.shape)  # a scalar, of the rank of the array
        if shape != self.shape and not (is_one and name in ELEMENTWISE):
            if self.takes_whole([eqn]):
                raise NotInChunks
            found = eqn.primitive.bind(*values, **params)
            return list(found) if eqn.primitive.multiple_results else [found]
        if name == "random_bits":
            return [random_bits(values[0], start, self.size, params["bit_width"])]
        if name not in ELEMENTWISE:
            raise NotInChunks
        operands = [
            x if self.is_whole(v) else one_value(x)
            for v, x in zip(eqn.invars, values, strict=True)
        ]
        if name == "broadcast_in_dim":
            size = () if is_one else (self.size,)
            return [jnp.broadcast_to(operands[0], size)]
        return [eqn.primitive.bind(*operands, **params)]

    def run(self, closed: ClosedJaxpr, start: Any, values: Sequence[Any]) -> list[Any]:
        """Run a program on the chunk at a position."""
        program = closed.jaxpr
        env = dict(zip(program.constvars, closed.consts, strict=True))
        env |= dict(zip(program.invars, values, strict=True))
        for eqn in program.eqns:
            found = self.step(eqn, start, read(env, eqn.invars))
            env.update(zip(eqn.outvars, found, strict=True))
        return read(env, program.outvars)


PROGRAMS: dict[str, Step] = {}
"""The compiled equations, by their text."""


def random_bits(key: jax.Array, start: Any, size: int, width: int) -> jax.Array:
    """Draw bits as `jax.random.bits` does, from a position on.

    Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3.

    Args:
        key: a threefry key, typed or raw.
        start: the first position, a `uint32`.
        size: number of values to draw.
        width: number of bits per value.

    Returns:
        Unsigned integers of that width.
    """
    from jax.extend.random import threefry2x32_p

    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    lower = lax.iota(np.uint32, size) + start
    first, second = threefry2x32_p.bind(key[0], key[1], lax.full_like(lower, 0), lower)
    if width == 64:
        return first.astype(np.uint64) << np.uint64(32) | second.astype(np.uint64)
    return (first ^ second).astype(f"uint{width}")


# Rounded as IEEE 754 says, by NumPy as by XLA, which would compile each of them.
ROUNDED = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "sqrt": np.sqrt,
}


def numbers_of(program: Jaxpr, outputs: Sequence[Var]) -> tuple[np.ndarray, ...]:
    """Return the values of variables that depend on no input of a program."""
    part, _ = dce_jaxpr(program.replace(outvars=list(outputs)), [True] * len(outputs))
    env: dict[Any, Any] = {}
    for eqn in part.eqns:
        made = _rounded(eqn, read(env, eqn.invars))
        if made is None:
            with jax.ensure_compile_time_eval():
                return tuple(map(np.asarray, function_of(program, outputs)()))
        env[eqn.outvars[0]] = made
    return tuple(map(np.asarray, read(env, outputs)))


def _rounded(eqn: JaxprEqn, inputs: Sequence[Any]) -> np.ndarray | None:
    """Compute an operation by NumPy; return `None` if XLA might round differently."""
    operation = ROUNDED.get(eqn.primitive.name)
    dtype = eqn.outvars[0].aval.dtype  # type: ignore[attr-defined]
    if operation is None or dtype not in (np.float32, np.float64):
        return None
    values = [np.asarray(value, dtype) for value in inputs]
    with np.errstate(all="ignore"):
        values.append(np.asarray(operation(*values)))
    # XLA on CPU takes subnormal numbers for zero.
    is_normal = all(np.all(abs(x) >= np.finfo(dtype).tiny) for x in values)
    return values[-1] if is_normal else None


def function_of(
    program: Jaxpr, outputs: Sequence[Var], inputs: Sequence[Var] = ()
) -> Callable[..., list[Any]]:
    """Return the part of a program that computes some variables, as a function."""
    from jax.extend import core as jex_core

    part = program.replace(outvars=list(outputs))
    part, _ = dce_jaxpr(part, [True] * len(outputs), instantiate=bool(inputs))
    return jex_core.jaxpr_as_fun(jex_core.ClosedJaxpr(part, ()))


def reached(inputs: Iterable[Var], eqns: Iterable[JaxprEqn]) -> set[Any]:
    """Return the variables that depend on `inputs`."""
    found: set[Any] = set(inputs)
    for eqn in eqns:
        if found.intersection(variables(eqn)):
            found.update(eqn.outvars)
    return found


def variables(eqn: JaxprEqn) -> list[Any]:
    """Return the inputs of an equation that are not literals."""
    return [v for v in eqn.invars if not hasattr(v, "val")]


def last_operation(program: Jaxpr, var: Any) -> str | None:
    """Return the name of the operation that computes a variable, also inside calls."""
    for eqn in program.eqns:
        if var in eqn.outvars:
            if eqn.primitive.name not in CALLS:
                return eqn.primitive.name
            inner = eqn.params[CALLS[eqn.primitive.name]].jaxpr
            return last_operation(inner, inner.outvars[eqn.outvars.index(var)])
    return None


def one_value(x: Any) -> Any:
    """Return the scalar that will be combined with each entry.

    Raises:
        NotInChunks: there are several values.
    """
    if np.size(x) != 1:
        raise NotInChunks
    return jnp.reshape(x, ())


def read(env: Mapping[Any, Any], variables: Sequence[Var | Literal]) -> list[Any]:
    """Look up the values of variables; a literal is its own value."""
    return [v.val if hasattr(v, "val") else env[v] for v in variables]
