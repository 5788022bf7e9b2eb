"""Random initial values of any shape, drawn by few compiled programs.

XLA compiles a program that draws random numbers for each shape anew, which takes longer
than to draw them. Where keys are those of threefry, an entry of a random array depends
on the key and on its position alone. So `draw` runs an initializer on chunks of one
size, by programs that have the position as an input and serve every shape; the values
are the same to the bit.

An initializer is read as the program that JAX traces. What has another shape than the
result, such as keys and deviations, is computed once, as it is written. What has that
shape must be random bits and elementwise operations on them; else (a decomposition into
orthogonal matrices, say) the initializer runs as it is.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

Shape = tuple[int, ...]
# Computes the results of an equation, or of all, from a position and its inputs.
Step = Callable[[Any, Sequence[Any]], list[Any]]

HOME = "jax._src.nn.initializers"
"""The module whose initializers are functions of their arguments alone."""
SMALLEST = 32
"""Entries; the shape of fewer could be that of a key."""
CHUNKS = 2**12, 2**16
"""Entries that are drawn at once, of small and of large arrays."""
LARGE = 2**14

# Equations that only call a program, and the parameter that holds it.
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


def draw(
    init_fn: Callable[..., Any],
    key: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    """Return `init_fn(key, *args, **kwargs)`, to the bit.

    Args:
        init_fn: an initializer.
        key: a JAX key, or `None`.
        args: its other arguments, such as a shape and a dtype.
        kwargs: its keyword arguments.
    """
    if getattr(init_fn, "__module__", None) == HOME and _is_simple(key):
        x64 = bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]
        given = tuple(args), tuple(kwargs.items())
        with contextlib.suppress(NotInChunks, TypeError):  # arguments without a hash
            recipe = _recipe(init_fn, (key.shape, key.dtype), *given, x64)
            if recipe is not None:
                return recipe.draw(key)
    return init_fn(key, *args, **kwargs)


def _is_simple(key: object) -> bool:
    """Return whether a key is a value of threefry, and all is on the CPU."""
    if not isinstance(key, jax.Array) or isinstance(key, jax.core.Tracer):
        return False
    config: Any = jax.config
    impl = config.jax_default_prng_impl
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        impl = str(jax.random.key_impl(key))
    device, *others = key.devices()
    return (
        impl == "threefry2x32"
        and config.jax_threefry_partitionable
        and not (others or key.committed or config.jax_default_device)
        and device.platform == "cpu"
        and jax.sharding.get_abstract_mesh().empty
    )


class Recipe(NamedTuple):
    """How an initializer draws an array.

    Attributes:
        once: computes from the key what serves all chunks.
        chunk: computes the entries from a position on, from that.
        structure: of the result, which holds one array.
        shape: of the array.
        dtype: of the array.
    """

    once: Callable[[jax.Array], list[Any]]
    chunk: Callable[[Any, Sequence[Any]], jax.Array]
    structure: jax.tree_util.PyTreeDef
    shape: Shape
    dtype: np.dtype

    def draw(self, key: jax.Array) -> Any:
        """Draw the array."""
        n, inputs = math.prod(self.shape), self.once(key)
        values, size = _aligned(n, self.dtype), chunk_size(n)
        for start in range(0, n, size):
            chunk = self.chunk(np.uint32(start), inputs)
            if isinstance(chunk, jax.core.Tracer):  # inside of a trace, from a constant
                raise NotInChunks
            values[start : start + size] = np.asarray(chunk)[: n - start]
        array = jax.device_put(values.reshape(self.shape), may_alias=True)
        return jax.tree_util.tree_unflatten(self.structure, [array])


@functools.lru_cache(maxsize=512)
def _recipe(
    init_fn: Callable[..., Any],
    key: tuple[Shape, Any],
    args: tuple[Hashable, ...],
    kwargs: tuple[tuple[str, Hashable], ...],
    x64: bool,
) -> Recipe | None:
    """Find out how an initializer draws; `None` if not in chunks."""
    make = jax.make_jaxpr(
        lambda key: init_fn(key, *args, **dict(kwargs)), return_shape=True
    )
    closed, found = make(jax.ShapeDtypeStruct(*key))
    (array, *others), structure = jax.tree_util.tree_flatten(found)
    n = math.prod(array.shape)
    if others or array.weak_type or closed.consts or not SMALLEST <= n < 2**32:
        return None
    try:
        once, chunk = Chunked(array.shape, chunk_size(n)).divide(closed.jaxpr)
    except NotInChunks:
        return None
    return Recipe(once, chunk, structure, array.shape, array.dtype)


def chunk_size(n: int) -> int:
    """Return how many entries of `n` are drawn at once."""
    return CHUNKS[n > LARGE]


class Chunked(NamedTuple):
    """Programs on arrays of one shape as programs on chunks of these.

    Attributes:
        shape: of the arrays. What has another one is computed as it is.
        size: how many entries a chunk has, in the order of the array.
    """

    shape: Shape
    size: int

    def is_whole(self, var: Var | Literal) -> bool:
        """Return whether a variable is an array of the shape."""
        return getattr(var.aval, "shape", None) == self.shape

    def divide(
        self, program: Jaxpr
    ) -> tuple[
        Callable[[jax.Array], list[Any]], Callable[[Any, Sequence[Any]], jax.Array]
    ]:
        """Divide a program of a key into what is run once and what for each chunk."""
        from jax.extend import core as jex_core

        steps = [e for e in program.eqns if any(map(self.is_whole, e.outvars))]
        others = [e for e in program.eqns if e not in steps]
        (result,) = program.outvars
        if not self.is_whole(result) or self.takes_whole(others):
            raise NotInChunks
        needed = (v for eqn in steps for v in eqn.invars if not hasattr(v, "val"))
        inputs = list(dict.fromkeys(v for v in needed if not self.is_whole(v)))
        part = program.replace(eqns=others, outvars=inputs)
        once = jex_core.jaxpr_as_fun(jex_core.ClosedJaxpr(part, ()))
        runs = [(self.compiled(eqn), eqn) for eqn in steps]

        def chunk(start: Any, values: Sequence[Any]) -> jax.Array:
            env: dict[Any, Any] = dict(zip(inputs, values, strict=True))
            for run, eqn in runs:
                found = run(start, read(env, eqn.invars))
                env.update(zip(eqn.outvars, found, strict=True))
            return env[result]

        return once, chunk

    def takes_whole(self, eqns: Iterable[JaxprEqn]) -> bool:
        """Return whether an equation has an array of the shape among its inputs."""
        return any(self.is_whole(v) for eqn in eqns for v in eqn.invars)

    def compiled(self, eqn: JaxprEqn) -> Step:
        """Compile an equation; equal ones on arrays of any shape share a program."""
        from jax.extend import core as jex_core

        avals = [self.chunk_of(v.aval) for v in eqn.invars]
        position = jax.ShapeDtypeStruct((), np.uint32)
        closed = jax.make_jaxpr(functools.partial(self.step, eqn))(position, avals)
        if closed.consts:
            raise NotInChunks
        run = jex_core.jaxpr_as_fun(closed)

        def draw_chunk(start: Any, values: Sequence[Any]) -> list[Any]:
            return run(start, *values)

        return PROGRAMS.setdefault(str(closed), jax.jit(draw_chunk))

    def chunk_of(self, aval: Any) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of a chunk of an array, or of another one."""
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
"""What was compiled, by its text."""


def random_bits(key: jax.Array, start: Any, size: int, width: int) -> jax.Array:
    """Draw bits as `jax.random.bits` does, from a position on.

    Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3.

    Args:
        key: of threefry, typed or raw.
        start: the first position, a `uint32`.
        size: how many numbers.
        width: bits of a number.

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


def one_value(x: Any) -> Any:
    """Return the scalar that is to be combined with each entry.

    Raises:
        NotInChunks: there are several.
    """
    if np.size(x) != 1:
        raise NotInChunks
    return jnp.reshape(x, ())


def read(env: Mapping[Any, Any], variables: Sequence[Var | Literal]) -> list[Any]:
    """Look up the values of variables; a literal is its own value."""
    return [v.val if hasattr(v, "val") else env[v] for v in variables]


def _aligned(n: int, dtype: np.dtype) -> np.ndarray:
    """Return an array without values, in memory that XLA takes over as it is."""
    n_bytes = n * np.dtype(dtype).itemsize
    memory = np.empty(n_bytes + 64, np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : first + n_bytes].view(dtype)
