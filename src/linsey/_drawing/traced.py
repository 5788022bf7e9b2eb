"""Random initial values in one compiled program, drawn by a few loops.

Inside `jax.jit(model.init)` the program of each random array would be compiled
separately. There, drawing is therefore an operation of its own, and `collected` returns
variables whose random arrays all come from one such operation. On a CPU it is lowered
to loops over blocks of all arrays, with keys, positions and scales as data: one loop
per kind of array, if a kernel can put the blocks where they belong. On other platforms,
and on more than one device, it is lowered to the initializers. Values that the model
computed from arrays drawn one by one are not part of the result, and JAX removes them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from linsey._contexts import BY_DEFINITION, assigned
from linsey._drawing import eager
from linsey._drawing.recipes import Parts, Recipe
from linsey.config import config
from linsey.core import tracers
from linsey.core.frozen_dict import FrozenDict
from linsey.core.rng import LazyRng, hash_suffix
from linsey.ops.cpu import dispatch

T = TypeVar("T")

BLOCK = 256
"""Number of entries that are drawn with one key and one scale."""
BLOCKS = 256
"""Number of blocks that a step of a loop draws."""
SHARE = 12
"""Without a kernel, a loop draws at most this fraction (one in so many) of all entries,
which it holds twice."""


class Draw(NamedTuple):
    """One of several random arrays.

    Attributes:
        root: index of its root key.
        fold: data to fold into the root key, or `None`.
        recipe: how to draw the array from the resulting key.
    """

    root: int
    fold: int | None
    recipe: Recipe


class Collector:
    """The arrays that were drawn in a trace.

    Args:
        trace: the trace, as a token.

    Attributes:
        roots: the root keys.
        drawn: each array that was drawn, and how, by the `id` of the array.
    """

    def __init__(self, trace: object):
        self.trace = trace
        self.roots: list[jax.Array] = []
        self.drawn: dict[int, tuple[jax.Array, Draw]] = {}

    def draw(self, recipe: Recipe, key: LazyRng) -> Any:
        """Draw the array of a recipe, and remember it."""
        indices = [i for i, root in enumerate(self.roots) if root is key.rng]
        if not indices:
            indices = [len(self.roots)]
            self.roots.append(key.rng)
        fold = None
        if key.suffix:
            fold = hash_suffix(key.suffix, config.flax_fix_rng_separator)
        (array,) = draw_p().bind(key.rng, draws=(Draw(0, fold, recipe),))
        self.drawn[id(array)] = array, Draw(indices[0], fold, recipe)
        return jax.tree_util.tree_unflatten(recipe.structure, [array])

    def together(self, variables: T) -> T:
        """Return variables whose random arrays are drawn together."""
        leaves = jax.tree_util.tree_leaves(variables)
        kept = [id(leaf) for leaf in leaves if id(leaf) in self.drawn]
        if not kept:
            return variables
        draws = tuple(self.drawn[key][1] for key in kept)
        arrays = draw_p().bind(*self.roots, draws=draws)
        return replaced(variables, dict(zip(kept, arrays, strict=True)))


def replaced(tree: Any, leaves: dict[int, Any]) -> Any:
    """Return a tree with leaves replaced by `id`; dictionaries keep their key order."""
    if type(tree) is dict or type(tree) is FrozenDict:
        found = {key: replaced(value, leaves) for key, value in tree.items()}
        return found if type(tree) is dict else FrozenDict(found)
    return jax.tree.map(lambda leaf: leaves.get(id(leaf), leaf), tree)


COLLECTOR: ContextVar[Collector | None] = ContextVar("linsey_collector", default=None)


def collected(
    init_with_output: Callable[..., tuple[object, T]], *args: Any, **kwargs: Any
) -> T:
    """Return the variables that a function creates, quickly.

    In a trace, random arrays are drawn together.

    Args:
        init_with_output: takes `rngs`; returns a result and the variables.
        *args: its arguments.
        **kwargs: its keyword arguments.
    """
    if not is_staged():
        # Results are hardly used, so no kernels are loaded for them, and convolutions
        # take the form that XLA compiles fastest (`benchmarks/first_step.py`).
        with assigned(BY_DEFINITION, True), dispatch.plain_convolutions(True):
            return init_with_output(*args, **kwargs)[1]
    collector = Collector(tracers.current_trace())
    with assigned(COLLECTOR, collector):
        variables = init_with_output(*args, **kwargs)[1]
    return collector.together(variables)


def is_staged() -> bool:
    """Return whether operations are staged into a program now, as under `jax.jit`."""
    return _is_of_program(jnp.add(np.float32(0), np.float32(0)))


def _is_of_program(value: object) -> bool:
    # Values under `jax.vmap` or `jax.jvp` are tracers of other types.
    return type(value).__name__ == "DynamicJaxprTracer"


def collector_of(key: object) -> Collector | None:
    """Return the collector of arrays drawn from a key in this trace, if any."""
    collector = COLLECTOR.get()
    if collector is None or collector.trace != tracers.current_trace():
        return None
    is_value = not isinstance(key, jax.core.Tracer)
    return collector if is_value or _is_of_program(key) else None


@functools.cache
def draw_p() -> Any:
    """Return the operation `(*roots, draws) -> arrays`."""
    from jax.extend.core import Primitive
    from jax.interpreters import batching, mlir

    primitive = Primitive("draw")
    primitive.multiple_results = True

    @primitive.def_impl
    def draw_now(*roots: Any, draws: Sequence[Draw]) -> list[Any]:
        keys = keys_of(roots, draws)
        return [eager.array_now(d.recipe, k) for d, k in zip(draws, keys, strict=True)]

    @primitive.def_abstract_eval
    def shapes(*_: Any, draws: Sequence[Draw]) -> list[Any]:
        return [jax.core.ShapedArray(d.recipe.shape, d.recipe.dtype) for d in draws]

    def batch(
        roots: Sequence[Any], axes: Sequence[Any], *, draws: Sequence[Draw]
    ) -> tuple[list[Any], list[int]]:
        run = functools.partial(as_written, draws=draws)
        return jax.vmap(run, in_axes=tuple(axes))(*roots), [0] * len(draws)

    def lower_on_cpu(context: Any, *roots: Any, draws: Sequence[Draw]) -> Any:
        devices = getattr(context.module_context.axis_context, "num_devices", None)
        run: Any = as_written
        if devices == 1:
            in_place = dispatch.loads_kernel(context, "placing")
            run = functools.partial(in_loops, in_place=in_place)
        return mlir.lower_fun(run)(context, *roots, draws=draws)

    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(as_written))
    mlir.register_lowering(primitive, lower_on_cpu, platform="cpu")
    return primitive


def as_written(*roots: Any, draws: Sequence[Draw]) -> list[Any]:
    """Draw arrays as their initializers do."""
    keys = keys_of(roots, draws)
    return [d.recipe.array(key) for d, key in zip(draws, keys, strict=True)]


def keys_of(roots: Sequence[Any], draws: Sequence[Draw]) -> list[Any]:
    """Return the key of each array."""
    keys = [roots[d.root] for d in draws]
    for r, root in enumerate(roots):
        folded = [i for i, d in enumerate(draws) if d.root == r and d.fold is not None]
        if folded:
            data = np.asarray([draws[i].fold for i in folded], np.uint32)
            found = jax.vmap(jax.random.fold_in, (None, 0))(root, data)
            for k, i in enumerate(folded):
                keys[i] = found[k]
    return keys


class Member(NamedTuple):
    """An array that is drawn together with others of its kind.

    Attributes:
        index: its position among the results.
        recipe: its recipe.
        parts: how to draw a block of it.
        keys: the keys to draw from.
    """

    index: int
    recipe: Recipe
    parts: Parts
    keys: Sequence[Any]

    @property
    def blocks(self) -> int:
        """The number of its blocks."""
        return -(-self.recipe.size // BLOCK)


def in_loops(*roots: Any, draws: Sequence[Draw], in_place: bool) -> list[Any]:
    """Draw arrays by loops: arrays of the same kind one after the other.

    Args:
        *roots: the root keys.
        draws: the arrays.
        in_place: whether a kernel copies the blocks that a loop draws into the arrays.
    """
    arrays: list[Any] = [None] * len(draws)
    kinds: dict[Any, list[Member]] = {}
    for i, (draw, key) in enumerate(zip(draws, keys_of(roots, draws), strict=True)):
        parts = draw.recipe.parts(BLOCK)
        if parts is None:
            arrays[i] = draw.recipe.array(key)
        else:
            member = Member(i, draw.recipe, parts, parts.keys(key))
            kinds.setdefault((parts.kind, draw.recipe.dtype), []).append(member)
    most = max(BLOCKS, sum(draw.recipe.size for draw in draws) // (SHARE * BLOCK))
    spare: dict[Any, Any] = {}
    for members in kinds.values():
        members.sort(key=lambda member: member.recipe.size)
        drawn = (
            draw_in_place(members) if in_place else draw_members(members, most, spare)
        )
        for member, array in zip(members, drawn, strict=True):
            arrays[member.index] = array
    return arrays


def draw_in_place(members: Sequence[Member]) -> Sequence[Any]:
    """Draw arrays of one kind with one loop; a kernel copies blocks into the arrays."""
    from linsey.ops.cpu.placing import place, unwritten

    ends = np.cumsum([member.blocks for member in members], dtype=np.int32)
    rows = draw_rows(members, ends)

    def step(i: Any, arrays: list[Any]) -> list[Any]:
        row = i * np.int32(BLOCKS)
        return place(row, rows(row), arrays)

    shapes = [member.recipe.shape for member in members]
    arrays = unwritten(shapes, members[0].recipe.dtype)
    return repeated(ends[-1], step, arrays)


def repeated(rows: int, step: Callable[[Any, T], T], values: T) -> T:
    """Repeat a step, which draws `BLOCKS` rows, until `rows` are drawn."""
    # The loop counts steps, not rows. XLA on CPU never runs a loop from 0 to below 1 in
    # increments of more than 1 (jaxlib 0.10): `while_loop(lambda s: s[0] < 1,
    # lambda s: (s[0] + 4, s[1] + 1), (0, 0))` gives (0, 0).
    count = -(-int(rows) // BLOCKS)
    return lax.fori_loop(np.int32(0), np.int32(count), step, values)


def draw_members(
    members: Sequence[Member], most: int, spare: dict[Any, Any]
) -> Iterator[Any]:
    """Draw arrays of one kind; all loops share one body, which XLA compiles once.

    Args:
        members: the arrays.
        most: the largest number of blocks that one loop draws for several arrays.
        spare: an array of `most` blocks to be reused, for each dtype drawn so far.
    """
    ends = np.cumsum([member.blocks for member in members], dtype=np.int32)
    step = functools.partial(draw_next, draw_rows(members, ends))
    dtype = members[0].recipe.dtype
    for group in portions([member.blocks for member in members], most):
        first, end = ends[group[0]] - members[group[0]].blocks, ends[group[-1]]
        is_large = end - first > most  # a single array, drawn into its final memory
        rows = int(end - first) if is_large else most
        values = None if is_large else spare.get(dtype)
        values = jnp.zeros((rows, BLOCK), dtype) if values is None else values
        carry = np.int32(first), np.int32(end), values
        *_, values = repeated(end - first, step, carry)
        if not is_large:  # the next loop draws into the same memory
            spare[dtype] = values
        flat, begin = values.reshape(-1), 0
        for recipe, blocks in ((members[i].recipe, members[i].blocks) for i in group):
            yield flat[begin : begin + recipe.size].reshape(recipe.shape)
            begin += blocks * BLOCK


def draw_next(rows: Callable[[Any], Any], i: Any, carry: Any) -> Any:
    """Draw the next rows of a group into an array.

    Args:
        rows: draws rows, starting from a given one.
        i: number of the current step.
        carry: the first row and the end of the group, and the array.
    """
    first, end, values = carry
    # Some of the last rows may be drawn twice, so that none is beyond the array's end.
    row = jnp.maximum(jnp.minimum(first + i * np.int32(BLOCKS), end - BLOCKS), first)
    found = rows(row)
    values = lax.dynamic_update_slice(values, found, (row - first, np.int32(0)))
    return first, end, values


def draw_rows(members: Sequence[Member], ends: np.ndarray) -> Callable[[Any], Any]:
    """Return a function that draws blocks, numbered through all arrays of a kind.

    Args:
        members: the arrays.
        ends: number of blocks up to the end of each array.
    """
    begins = ends - np.asarray([member.blocks for member in members], np.int32)
    data = [jnp.stack(keys) for keys in zip(*(m.keys for m in members), strict=True)]
    axes: list[int | None] = [0] * len(data)
    for values in zip(*(member.parts.constants for member in members), strict=True):
        same = all(value.tobytes() == values[0].tobytes() for value in values)
        # A value common to all arrays is a constant of the program, as with one array.
        data.append(values[0] if same else jnp.stack(values))
        axes.append(None if same else 0)
    draw_blocks = jax.vmap(members[0].parts.part, (0, axes))

    def rows_from(row: Any) -> Any:
        rows = row + lax.iota(np.int32, BLOCKS)
        which = jnp.sum(rows[:, None] >= ends[:-1], axis=1, dtype=np.int32)
        positions = (rows - jnp.asarray(begins)[which]).astype(np.uint32)
        inputs = [x if a is None else x[which] for x, a in zip(data, axes, strict=True)]
        return draw_blocks(positions * np.uint32(BLOCK), inputs)

    return rows_from


def portions(counts: Sequence[int], most: int) -> Iterator[list[int]]:
    """Divide arrays into groups of at most `most` blocks; a larger array is alone."""
    group: list[int] = []
    for i, count in enumerate(counts):
        if group and sum(counts[k] for k in group) + count > most:
            yield group
            group = []
        group.append(i)
    if group:
        yield group
