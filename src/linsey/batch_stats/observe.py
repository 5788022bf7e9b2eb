"""The moments of the inputs that the layers of a model see in one call of the model.

An interceptor watches each call of a module that owns `mean` and `var` in the
collection `batch_stats`, and computes the moments of its input. Inside `nn.scan` and
`nn.vmap` these moments are traced values, which must not leave the body. They are
therefore stored in extra variables of the layer, *slots* next to its statistics, which
are passed to the model with the other variables: a transform slices, stacks or carries
slots in the same way as running statistics. If a layer is called several times in one
call of the model, the moments of a later call are merged with those in the slots.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from linsey.batch_stats.calls import Batch, Call, Rngs, Variables
from linsey.batch_stats.layer_moments import LayerCall, read_call
from linsey.batch_stats.observed import Observed, Seen, combine
from linsey.batch_stats.statistics import Path, nodes, unbox

STATS = "batch_stats"
SERIAL = itertools.count()


class Observer:
    """Computes the moments of the inputs of layers in calls of a model.

    Args:
        call: the model.
        train: whether it is called in training mode.
        noise: whether dropout is active.
        within: whether to compute the variance within examples as well.
    """

    def __init__(
        self, call: Call, train: bool = True, noise: bool = True, within: bool = False
    ) -> None:
        self.call, self.train, self.noise, self.within = call, train, noise, within
        # Unique names, so that a program traced for another observer, such as that of
        # a block under `nn.jit`, is not reused for this one.
        serial = next(SERIAL)
        self.slots = {name: f"{name} seen by {serial}" for name in Observed._fields}
        self.calls = 0
        self.last: Path | None = None

    def __call__(
        self, variables: Variables, batch: Batch, rngs: Rngs | None = None
    ) -> Seen:
        """Call the model and return what its layers saw. Works under `jax.jit`."""
        given = {**variables, STATS: self._with_slots(variables.get(STATS, {}))}
        mutable = self.call.mutable if self.train else (STATS,)
        with self.call.intercept(self._interceptor):
            _, updates = self.call.apply(given, batch, self.train, mutable, rngs)
        return dict(self._found(updates.get(STATS, {})))

    def _with_slots(self, stats: Variables) -> dict[str, object]:
        """Add empty slots to the statistics, and return plain dictionaries."""
        out: dict[str, object] = {
            str(name): self._with_slots(inner) if isinstance(inner, Mapping) else inner
            for name, inner in stats.items()
        }
        if "mean" in out and "var" in out:
            for field, slot in self.slots.items():
                likeness = out["mean" if field == "mean" else "var"]
                out[slot] = jax.tree.map(_empty, likeness)
        return out

    def _found(self, stats: Variables) -> Iterator[tuple[Path, Observed]]:
        for path, node in nodes(stats, ()):
            if self.slots["mean"] in node:
                slots = self.slots.items()
                yield path, Observed(**{f: unbox(node[slot]) for f, slot in slots})

    def _interceptor(
        self,
        next_fun: Callable[..., object],
        args: tuple[object, ...],
        kwargs: dict[str, object],
        context: Any,
    ) -> object:
        module = context.module
        if context.method_name != "__call__":
            return next_fun(*args, **kwargs)
        if not self.noise and is_dropout(module):
            return args[0]
        if not module.has_variable(STATS, self.slots["mean"]):
            return next_fun(*args, **kwargs)
        # If `__call__` calls the one of its base class, only the inner call counts.
        calls, before = self.calls, module.get_variable(STATS, "mean")
        y = next_fun(*args, **kwargs)
        path = tuple(module.path)
        if calls == self.calls or self.last != path:
            self.calls, self.last = self.calls + 1, path
            moved = module.get_variable(STATS, "mean") is not before
            self._put(module, args, kwargs, moved)
        return y

    def _put(
        self,
        module: Any,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        moved: bool,
    ) -> None:
        kept = {
            field: module.get_variable(STATS, slot)
            for field, slot in self.slots.items()
        }
        old = Observed(**{field: unbox(value) for field, value in kept.items()})
        read = read_call(module, args, kwargs, old.mean.shape)
        row = old
        if read.domain is not None:
            row = Observed(*(jnp.asarray(value)[read.domain] for value in old))
        new = combine(row, self._taken(read, jnp.shape(row.mean), moved))
        if read.domain is not None:
            pairs = zip(old, new, strict=True)
            new = Observed(*(jnp.asarray(a).at[read.domain].set(b) for a, b in pairs))
        for field, slot in self.slots.items():
            box, value = kept[field], getattr(new, field)
            boxed = box.replace_boxed(value) if hasattr(box, "unbox") else value
            module.put_variable(STATS, slot, boxed)

    def _taken(self, read: LayerCall, shape: tuple[int, ...], moved: bool) -> Observed:
        """Return what is observed in one call of a layer."""
        mean, var, count = read.moments(shape)
        within = read.within(shape) if self.within else var * 0
        facts: dict[str, float] = {
            "examples": read.examples,
            "grouped": read.groups is not None,
            "unbiased": read.is_unbiased,
            "moved": moved,
            "epsilon": read.epsilon,
            "order": self.calls,
        }
        arrays = {
            name: jnp.full(shape, value, var.dtype) for name, value in facts.items()
        }
        return Observed(mean, var, count, within, **arrays)


def is_dropout(module: object) -> bool:
    """Tell whether a module is a dropout layer, judging by its fields."""
    return hasattr(module, "rate") and hasattr(module, "deterministic")


def _empty(like: ArrayLike) -> Array:
    dtype = jnp.promote_types(jnp.result_type(like), jnp.float32)
    return jnp.zeros(jnp.shape(like), dtype)
