"""The moments of the inputs of each batch norm, inferred without access to the layer.

A training call changes running statistics linearly,

    new = momentum * old + (1 - momentum) * batch,

so two calls that start from different statistics determine the momentum, and then each
call determines the moments of its batch. This needs no access to the layer. It works
for modules of any library, functions and objects, for scanned and mapped layers, for
shared layers, which are treated as one layer that averages over its calls, and for
statistics in groups.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from linsey.batch_stats.calls import Batch, Call, Rngs
from linsey.batch_stats.statistics import (
    Path,
    Variables,
    find_statistics,
    replace_moments,
)

# With larger statistics, the moments of the batch would be lost to rounding in the sum.
_LARGEST = 1e3
# From this momentum on, an update cannot be distinguished from rounding.
_FROZEN = 1 - 1e-5

Moments = tuple[Any, Any]


@dataclass(frozen=True)
class Observed:
    """The inputs of a layer in training.

    Attributes:
        momentum: fraction of the old statistics that an update keeps.
        means: means of the batches, in float64, of shape (batches, ...) where the last
            axes are those of the statistics.
        vars: variances within each batch, of the same shape.
    """

    momentum: float
    means: np.ndarray
    vars: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """The mean, averaged over the batches."""
        return self.means.mean(0)

    @property
    def var(self) -> np.ndarray:
        """The variance, averaged over the batches."""
        return self.vars.mean(0)


def as_batches(batches: Iterable[Batch]) -> list[Batch]:
    """Return a list of batches; a mapping of arrays is split along the first axis."""
    if not isinstance(batches, Mapping):
        return list(batches)
    count = min(np.shape(leaf)[0] for leaf in jax.tree.leaves(batches))
    return [jax.tree.map(lambda leaf, i=i: leaf[i], batches) for i in range(count)]


def observe(
    call: Call, variables: Variables, batches: Iterable[Batch]
) -> dict[Path, Observed]:
    """Return the mean and variance of the inputs of each batch norm, in training.

    Layers whose statistics training does not change are left out. Layers that use
    running statistics in training (frozen and renormalizing layers) use the given ones.

    Args:
        call: the model.
        variables: its variables.
        batches: inputs of calls.

    Example:
        >>> import linsey.linen as nn
        >>> from linsey.batch_stats.calls import find_call
        >>> model, x = nn.BatchNorm(momentum=0.9), np.array([[1.0], [5.0]], np.float32)
        >>> variables = model.init(jax.random.key(0), x, use_running_average=True)
        >>> call = find_call(model, variables, x)
        >>> (found,) = observe(call, variables, [x]).values()
        >>> found.mean.round(4), found.var.round(4)
        (array([3.]), array([4.]))
    """
    start = replace_moments(variables["batch_stats"], _sane)
    far = replace_moments(start, lambda _, a: a + np.maximum(1.0, abs(a)))
    program = _program(_Key(call))

    def run(stats: Variables, batch: Batch) -> list[Moments]:
        others = {k: v for k, v in variables.items() if k != "batch_stats"}
        return _on_host(program(others, stats, call.inputs(batch), dict(call.rngs)))

    paths = [one.path for one in find_statistics(variables)]
    old = _moments({"batch_stats": start})
    pairs: list[list[Moments]] = [[] for _ in paths]
    momenta: list[float] = []
    for batch in batches:
        new = run(start, batch)
        if not momenta:
            other = _moments({"batch_stats": far}), run(far, batch)
            kept = _unchanged(paths, (old, new), other)
            if kept:
                # Frozen layers use their statistics. Changing these would change the
                # inputs of later layers, and distort the estimates of their momentum.
                far = _with(far, start, kept)
                other = _moments({"batch_stats": far}), run(far, batch)
            momenta = list(map(_momentum, old, new, *other))
        for found, momentum, a, b in zip(pairs, momenta, old, new, strict=True):
            found.append(_batch(momentum, a, b))
    return {
        path: Observed(momentum, *map(np.stack, zip(*found, strict=True)))
        for path, momentum, found in zip(paths, momenta, pairs, strict=True)
        if momentum < _FROZEN
    }


class _Key:
    """A key that identifies the program of a call. Equal modules have equal keys."""

    def __init__(self, call: Call) -> None:
        # `call.inputs` is applied by the caller: a batch may hold more than arguments.
        self.call = dataclasses.replace(call, inputs=lambda inputs: inputs)
        settings = (tuple(sorted(call.flags.items())), call.mutable)
        self.value: tuple[object, ...] = (id(call.model), *settings)
        if isinstance(call.model, Hashable):
            with contextlib.suppress(TypeError):  # a field holds an array
                hash(call.model)
                self.value = (call.model, *settings)

    def __hash__(self) -> int:
        return hash(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.value == other.value


@functools.lru_cache(maxsize=16)
def _program(key: _Key) -> Callable[..., list[Moments]]:
    """Return the compiled training call, a function that returns new statistics."""

    @jax.jit
    def updated(
        others: Variables, stats: Variables, inputs: Batch, rngs: Rngs
    ) -> list[Moments]:
        _, updates = key.call.train({**others, "batch_stats": stats}, inputs, rngs)
        return _moments(updates)

    return updated


def _sane(name: str, value: ArrayLike) -> np.ndarray:
    """Replace statistics from which a training call cannot start."""
    # By NumPy: JAX would compile each of these operations for each shape.
    value = np.asarray(value)
    value = value.astype(jnp.promote_types(value.dtype, jnp.float32))
    is_usable = abs(value) < _LARGEST  # False for NaN
    if name == "var":
        is_usable &= value >= 0
    return np.where(is_usable, value, 1.0 if name == "var" else 0.0)


def _moments(variables: Variables) -> list[Moments]:
    return [(one.mean, one.var) for one in find_statistics(variables)]


def _on_host(moments: list[Moments]) -> list[Moments]:
    return [
        (np.asarray(mean, np.float64), np.asarray(var, np.float64))
        for mean, var in moments
    ]


def _unchanged(
    paths: Sequence[Path], *calls: tuple[list[Moments], list[Moments]]
) -> set[Path]:
    """Return the layers whose statistics no call changed, whatever the start."""
    changed = {
        path
        for before, after in calls
        for path, one, other in zip(paths, before, after, strict=True)
        if not all(map(np.array_equal, one, other))
    }
    return {*paths} - changed


def _with(stats: Any, other: Any, paths: set[Path], path: Path = ()) -> Any:
    """Replace the statistics at some paths by those of another collection."""
    if path in paths:
        return other
    if not isinstance(stats, Mapping):
        return stats
    return {
        name: _with(inner, other[name], paths, (*path, name))
        for name, inner in stats.items()
    }


def _momentum(old: Moments, new: Moments, far: Moments, after: Moments) -> float:
    """Return the fraction of the old mean in the new one, the median over channels."""
    before = np.asarray(far[0], np.float64) - np.asarray(old[0], np.float64)
    if not before.any():  # a frozen layer
        return 1.0
    return float(np.clip(np.median((after[0] - new[0]) / before), 0.0, 1.0))


def _batch(momentum: float, old: Moments, new: Moments) -> Moments:
    """Return the moments of the batch that caused an update."""
    (mean, var), (old_mean, old_var) = new, _on_host([old])[0]
    rest = max(1 - momentum, 1e-12)
    mean, var = (mean - momentum * old_mean) / rest, (var - momentum * old_var) / rest
    return mean, np.maximum(var, 0.0)
