"""Functions of variables and a batch, compiled and run over all batches.

Values in a batch that are not arrays, such as flags and strings, are static. The
results of a batch are fetched while the next batch runs.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sized
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.tree_util import PyTreeDef
from jax.typing import ArrayLike

from linsey.batch_stats.calls import Batch, Rngs, Variables
from linsey.batch_stats.layer_moments import is_traced
from linsey.batch_stats.merging import Values, exact
from linsey.batch_stats.observed import Observed, Seen, combine
from linsey.errors import OptionError

R = TypeVar("R")
Statics = tuple[Hashable, ...]

Batches = Iterable[Batch]
Step = Callable[[Variables, Batch, Rngs], R]
Progress = bool | Callable[[int, int | None], None] | None


def compiled(step: Step[R]) -> Step[R]:
    """Compile a function once for each shape of a batch.

    Example:
        >>> step = compiled(lambda variables, batch, rngs: batch["x"] * batch["n"])
        >>> step({}, {"x": np.ones(2, np.float32), "n": 3}, {}).tolist()
        [3.0, 3.0]
    """

    def run(
        variables: Variables,
        arrays: list[Values | None],
        rngs: Rngs,
        statics: Statics,
        tree: PyTreeDef,
    ) -> R:
        leaves = [a if s is None else s for a, s in zip(arrays, statics, strict=True)]
        return step(variables, jax.tree.unflatten(tree, leaves), rngs)

    jitted = jax.jit(run, static_argnums=(3, 4))

    def call(variables: Variables, batch: Batch, rngs: Rngs) -> R:
        leaves, tree = jax.tree.flatten(batch)
        are_arrays = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]
        pairs = list(zip(leaves, are_arrays, strict=True))
        arrays = [leaf if is_array else None for leaf, is_array in pairs]
        statics = tuple(None if is_array else leaf for leaf, is_array in pairs)
        return jitted(variables, arrays, rngs, statics, tree)

    return call


def keys_for(rngs: Rngs, index: ArrayLike) -> Rngs:
    """Derive the random keys of one batch."""
    return {name: jax.random.fold_in(key, index) for name, key in rngs.items()}


def reporter(progress: Progress, total: int | None) -> Callable[[int], None]:
    """Return a function that reports the number of batches done."""
    if callable(progress):
        return lambda done: progress(done, total)
    if not progress:
        return lambda done: None

    def show(done: int) -> None:
        end = "\n" if done == total else ""
        of = "" if total is None else f" of {total}"
        print(f"\r{done}{of} batches", end=end, file=sys.stderr, flush=True)

    return show


class Data:
    """Batches, their weights, and how progress is shown.

    Args:
        batches: an iterable of batches; or one array, or a dictionary of arrays, whose
            first axis runs over batches.
        weights: a factor for each batch. If `None`, all are 1.
        progress: as for `recalibrate`.

    Raises:
        OptionError: there are more or fewer weights than batches.
    """

    def __init__(
        self,
        batches: Batches,
        weights: Iterable[ArrayLike] | None = None,
        progress: Progress = None,
    ) -> None:
        self.batches, self.progress = batches, progress
        self.is_read_once = isinstance(batches, Iterator)
        self.weights = None if weights is None else list(weights)
        count = self._count()
        if self.weights is not None and count not in (None, len(self.weights)):
            raise OptionError(
                f"There are {len(self.weights)} `weights` and {count} batches.",
                "Each batch has a weight of its own.",
                "Give as many weights as batches.",
            )

    def first(self) -> Batch:
        """Return the first batch, without consuming it.

        Raises:
            StopIteration: there are no batches.
        """
        if not isinstance(self.batches, Iterator):
            return next(self._each())
        first = next(self.batches)
        self.batches = itertools.chain([first], self.batches)
        return first

    def pool(self, step: Step[Seen], variables: Variables, rngs: Rngs) -> Seen:
        """Return the observations of layers in all batches together."""
        if self._is_stacked:
            return self._scan(step, variables, rngs)
        report = reporter(self.progress, self._count())
        total: Seen = {}
        waiting: tuple[Seen, ArrayLike] | None = None
        for index, (batch, weight) in enumerate(self._weighted()):
            seen = step(variables, batch, keys_for(rngs, index))
            if waiting is not None:  # fetched while the next batch is computed
                total = added(total, *waiting)
            waiting = seen, weight
            report(index + 1)
        return total if waiting is None else added(total, *waiting)

    def _scan(self, step: Step[Seen], variables: Variables, rngs: Rngs) -> Seen:
        """Process traced batches in one `lax.scan`."""
        count = self._count()
        weights = (
            jnp.ones(count)
            if self.weights is None
            else jnp.stack([jnp.asarray(weight) for weight in self.weights])
        )
        shapes = jax.eval_shape(step, variables, self.first(), rngs)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        def body(total: Seen, item: tuple[Array, Batch, Array]) -> tuple[Seen, None]:
            index, batch, weight = item
            seen = step(variables, batch, keys_for(rngs, index))
            return added(total, seen, weight), None

        items = jnp.arange(count), self.batches, weights
        return jax.lax.scan(body, zeros, items)[0]

    def _weighted(self) -> Iterator[tuple[Batch, ArrayLike]]:
        if self.weights is None:
            return zip(self._each(), itertools.repeat(1.0), strict=False)
        return zip(self._each(), self.weights, strict=True)

    def _each(self) -> Iterator[Batch]:
        if not isinstance(self.batches, Mapping):
            yield from self.batches
            return
        for index in range(self._count() or 0):
            yield jax.tree.map(lambda leaf, index=index: leaf[index], self.batches)

    def _count(self) -> int | None:
        """Return the number of batches, or `None` if it is unknown."""
        if isinstance(self.batches, Mapping):
            return min(np.shape(leaf)[0] for leaf in jax.tree.leaves(self.batches))
        return len(self.batches) if isinstance(self.batches, Sized) else None

    @property
    def _is_stacked(self) -> bool:
        is_one = isinstance(self.batches, Mapping) or is_traced(self.batches)
        return is_one and any(map(is_traced, jax.tree.leaves(self.batches)))


def added(total: Seen, seen: Seen, weight: ArrayLike) -> Seen:
    """Add the observations in a batch, times its weight, to a total."""
    new = {}
    for path, one in seen.items():
        one = Observed(*map(exact, one))
        one = one._replace(count=one.count * weight)
        new[path] = combine(total[path], one) if path in total else one
    return new
