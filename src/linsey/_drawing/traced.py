"""Random initial values in one compiled program, drawn by a few loops.

Inside of `jax.jit(model.init)` the program of each random array would be compiled for
itself. So there `draw` is an operation of its own, and `collected` returns variables whose
random arrays come from one such operation. On a CPU it becomes a loop over blocks for each
kind of distribution, with keys, positions and scales as data; elsewhere, and on more than
one device, it is what the initializers are. What the model computed with the arrays that
were drawn one by one is not part of the result, and JAX removes it.
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

from linsey._contexts import assigned
from linsey._drawing.recipes import Parts, Recipe
from linsey.config import config
from linsey.core import tracers
from linsey.core.rng import LazyRng, hash_suffix

T = TypeVar("T")

BLOCK = 256
"""Entries with one key and one scale."""
BLOCKS = 256
"""Blocks that a loop draws at once."""
SHARE = 12
"""The arrays that one loop draws are held twice: they are a part of all, one of so many."""
SMALL = 2**18
"""Entries, so few that they may be held twice."""


class Draw(NamedTuple):
    """One random array of several.

    Attributes:
        root: which of the keys.
        fold: what is folded into it.
        recipe: what is done with the key.
    """

    root: int
    fold: int | None
    recipe: Recipe


class Collector:
    """What was drawn in a trace.

    Args:
        trace: the trace, as a token.

    Attributes:
        roots: the keys.
        drawn: what was drawn with one of them, and how, by the identity of the value.
    """

    def __init__(self, trace: object):
        self.trace = trace
        self.roots: list[jax.Array] = []
        self.drawn: dict[int, tuple[jax.Array, Draw]] = {}

    def draw(self, recipe: Recipe, key: LazyRng) -> Any:
        """Draw the array of a recipe, and remember it."""
        root = next((i for i, r in enumerate(self.roots) if r is key.rng), None)
        if root is None:
            root = len(self.roots)
            self.roots.append(key.rng)
        fold = None
        if key.suffix:
            fold = hash_suffix(key.suffix, config.flax_fix_rng_separator)
        (array,) = draw_p().bind(key.rng, draws=(Draw(0, fold, recipe),))
        self.drawn[id(array)] = array, Draw(root, fold, recipe)
        return jax.tree_util.tree_unflatten(recipe.structure, [array])

    def together(self, variables: T) -> T:
        """Return variables whose random arrays are drawn together."""
        leaves, tree = jax.tree_util.tree_flatten(variables)
        places = [i for i, leaf in enumerate(leaves) if id(leaf) in self.drawn]
        if not places:
            return variables
        draws = tuple(self.drawn[id(leaves[i])][1] for i in places)
        arrays = draw_p().bind(*self.roots, draws=draws)
        for i, array in zip(places, arrays, strict=True):
            leaves[i] = array
        return jax.tree_util.tree_unflatten(tree, leaves)


COLLECTOR: ContextVar[Collector | None] = ContextVar("linsey_collector", default=None)


def collected(
    init_with_output: Callable[..., tuple[object, T]], *args: Any, **kwargs: Any
) -> T:
    """Return the variables that a function creates; in a trace they are drawn together.

    Args:
        init_with_output: takes `rngs`, returns a result and the variables.
        *args: its arguments.
        **kwargs: its keyword arguments.
    """
    keys = jax.tree_util.tree_leaves((args[:1], kwargs.get("rngs")))
    if not any(isinstance(key, jax.core.Tracer) for key in keys):
        return init_with_output(*args, **kwargs)[1]
    collector = Collector(tracers.current_trace())
    with assigned(COLLECTOR, collector):
        variables = init_with_output(*args, **kwargs)[1]
    return collector.together(variables)


def collector_of(key: object) -> Collector | None:
    """Return what collects the values that are drawn from a key in the present trace."""
    collector = COLLECTOR.get()
    # Only in a program; a key under `jax.vmap` or `jax.jvp` is another kind of tracer.
    if collector is None or type(key).__name__ != "DynamicJaxprTracer":
        return None
    return collector if collector.trace == tracers.current_trace() else None


@functools.cache
def draw_p() -> Any:
    """Return the operation `(*keys, draws) -> arrays`."""
    from jax.extend.core import Primitive
    from jax.interpreters import batching, mlir

    primitive = Primitive("draw")
    primitive.multiple_results = True
    primitive.def_impl(one_by_one)

    @primitive.def_abstract_eval
    def shapes(*_: Any, draws: Sequence[Draw]) -> list[Any]:
        return [jax.core.ShapedArray(d.recipe.shape, d.recipe.dtype) for d in draws]

    def batch(keys: Any, axes: Any, *, draws: Sequence[Draw]) -> tuple[Any, list[int]]:
        run = functools.partial(one_by_one, draws=draws)
        return jax.vmap(run, in_axes=axes)(*keys), [0] * len(draws)

    def lower_on_cpu(context: Any, *keys: Any, draws: Sequence[Draw]) -> Any:
        devices = getattr(context.module_context.axis_context, "num_devices", None)
        run = in_loops if devices == 1 else one_by_one
        return mlir.lower_fun(run, multiple_results=True)(context, *keys, draws=draws)

    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(one_by_one, multiple_results=True))
    mlir.register_lowering(primitive, lower_on_cpu, platform="cpu")
    return primitive


def one_by_one(*roots: Any, draws: Sequence[Draw]) -> list[Any]:
    """Draw arrays as their initializers do."""
    return [d.recipe.array(key) for d, key in zip(draws, keys_of(roots, draws))]


def keys_of(roots: Sequence[Any], draws: Sequence[Draw]) -> Iterator[Any]:
    """Return the key of each array."""
    keys: dict[int, Any] = {}
    for r, root in enumerate(roots):
        folded = [i for i, d in enumerate(draws) if d.root == r and d.fold is not None]
        if folded:
            data = np.asarray([draws[i].fold for i in folded], np.uint32)
            found = jax.vmap(jax.random.fold_in, (None, 0))(root, data)
            keys.update((i, found[k]) for k, i in enumerate(folded))
    return (keys.get(i, roots[d.root]) for i, d in enumerate(draws))


def in_loops(*roots: Any, draws: Sequence[Draw]) -> list[Any]:
    """Draw arrays by loops: those of a kind one after the other, some at a time."""
    keys = list(keys_of(roots, draws))
    arrays: list[Any] = [None] * len(draws)
    kinds: dict[Any, list[int]] = {}
    parts = [draw.recipe.parts(BLOCK) for draw in draws]
    for i, (draw, found) in enumerate(zip(draws, parts, strict=True)):
        if found is None:
            arrays[i] = draw.recipe.array(keys[i])
        else:
            kinds.setdefault((found.kind, draw.recipe.dtype), []).append(i)
    most = max(SMALL, sum(draw.recipe.size for draw in draws) // SHARE)
    for members in kinds.values():
        # A large array is drawn where it will be, if no other comes after it.
        members.sort(key=lambda i: draws[i].recipe.size)
        drawn = draw_blocks(
            [parts[i] for i in members],
            [parts[i].keys(keys[i]) for i in members],
            [draws[i].recipe for i in members],
            -(-most // BLOCK),
        )
        for i, array in zip(members, drawn, strict=True):
            arrays[i] = array
    return arrays


def draw_blocks(
    parts: Sequence[Parts],
    keys: Sequence[Sequence[Any]],
    recipes: Sequence[Recipe],
    most: int,
) -> Iterator[Any]:
    """Draw arrays of one kind, block by block.

    All loops have the same body, which XLA then compiles once.

    Args:
        parts: how to draw a block, for each array.
        keys: what is drawn from, for each array.
        recipes: of the arrays.
        most: blocks of several arrays that are drawn by one loop.
    """
    counts = [-(-recipe.size // BLOCK) for recipe in recipes]
    ends = np.cumsum(counts, dtype=np.int32)
    columns = [jnp.stack(column) for column in zip(*keys, strict=True)]
    for column in zip(*(part.constants for part in parts), strict=True):
        same = all(x.tobytes() == column[0].tobytes() for x in column)
        # What is the same for all is a constant of the program, as it is in one array.
        columns.append(column[0] if same else np.stack(column))
    is_data = [i < len(keys[0]) or c.ndim > 0 for i, c in enumerate(columns)]
    draw_part = jax.vmap(parts[0].part, (0, [0 if data else None for data in is_data]))

    def draw_from(row: Any, n: int) -> Any:
        """Draw `n` blocks, counted through all arrays."""
        rows = row + lax.iota(np.int32, n)
        which = jnp.sum(rows[:, None] >= ends[:-1], axis=1, dtype=np.int32)
        starts = (rows - jnp.asarray(ends - counts, np.int32)[which]).astype(np.uint32)
        inputs = [
            jnp.asarray(column)[which] if data else column
            for column, data in zip(columns, is_data, strict=True)
        ]
        return draw_part(starts * np.uint32(BLOCK), inputs)

    def step(n: int, carry: Any) -> Any:
        row, first, end, values = carry
        # The last blocks may be drawn twice: so no block is beyond the end.
        place = jnp.maximum(jnp.minimum(row, end - n), first)
        found = draw_from(place, n)
        values = lax.dynamic_update_slice(values, found, (place - first, np.int32(0)))
        return row + n, first, end, values

    dtype, shared = recipes[0].dtype, None
    for group in portions(counts, most):
        first, end = ends[group[0]] - counts[group[0]], ends[group[-1]]
        values, is_large = shared, end - first > most
        if shared is None or is_large:
            size = int(end - first) if is_large else min(most, int(ends[-1]))
            values = jnp.zeros((size, BLOCK), dtype)
        carry = np.int32(first), np.int32(first), np.int32(end), values
        n = min(len(values), BLOCKS)
        go_on = lambda carry: carry[0] < carry[2]  # noqa: E731
        values = lax.while_loop(go_on, functools.partial(step, n), carry)[3]
        flat, begin = values.reshape(-1), 0
        for i in group:
            array = flat[begin : begin + recipes[i].size]
            yield array.reshape(recipes[i].shape)
            begin += counts[i] * BLOCK
        # The next loop draws in the same memory.
        shared = shared if is_large else values


def portions(counts: Sequence[int], most: int) -> Iterator[list[int]]:
    """Divide arrays into groups of at most so many blocks, a larger array alone."""
    group: list[int] = []
    for i, count in enumerate(counts):
        if group and sum(counts[k] for k in group) + count > most:
            yield group
            group = []
        group.append(i)
    if group:
        yield group
