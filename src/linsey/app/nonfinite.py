"""The search for what first became NaN or infinite in a step, and in which examples.

The training step only tells that something was not finite. Then, and only then, the
batch is passed through the model once more, and every module is checked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

from linsey.app import steps

Flags = dict[tuple[int, str], jax.Array]


@dataclasses.dataclass(frozen=True)
class Culprit:
    """The first part of a step that was not finite.

    Attributes:
        part: a description, with the path of the module.
        rows: the rows of the batch in which it was not finite; all rows if the part
            does not belong to single examples.
    """

    part: str
    rows: np.ndarray


def diagnose(
    state: steps.TrainState,
    x: jax.Array,
    y: jax.Array,
    fetch: Callable[[Flags], Flags] = jax.device_get,
) -> Culprit:
    """Find the first part of a step that is not finite: forward pass, then backward.

    Args:
        state: the state before the step.
        x: (batch, ...) its examples.
        y: (batch,) their labels.
        fetch: brings the flags of all parts to the host.

    Returns:
        The first part that is not finite.
    """
    everything = np.arange(len(y))
    for (_, part), is_finite in fetch(_finite_parts(state, x, y)).items():
        if not is_finite.all():
            rows = np.flatnonzero(~is_finite) if is_finite.ndim else everything
            return Culprit(part, rows)
    # This pass is compiled differently, and a sum close to the largest number may come
    # out finite here.
    return Culprit(
        "something that a second pass over the batch did not find", everything
    )


@jax.jit
def _finite_parts(state: steps.TrainState, x: jax.Array, y: jax.Array) -> Flags:
    """Tell for each part, in the order of computation, whether it is finite.

    Outputs are checked row by row, everything else as a whole.
    """
    modules: list[str] = []

    def add(found: Flags, part: str, tree: Any, by_row: bool = False) -> None:
        found[len(found), part] = _is_finite(tree, len(y) if by_row else 0)

    def forward(params: Any) -> tuple[jax.Array, tuple[Any, Flags]]:
        found: Flags = {}
        add(found, "the batch", x, by_row=True)

        def look(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            output, module = call(*args, **kwargs), context.module
            name = "/".join(module.path)
            modules.append(name)
            add(found, f"the output of {name or 'the model'}", output, by_row=True)
            if "batch_stats" in module.variables:
                statistics = module.variables["batch_stats"]
                add(found, f"the statistics of {name or 'the model'}", statistics)
            return output

        augmented = state.recipe.augmented(x, state.key)
        with state.network.intercept(look):
            loss, (_, changed) = steps.loss_fn(params, state, augmented, y)
        add(found, "the loss", loss)
        return loss, (changed, found)

    gradient_fn = jax.grad(forward, has_aux=True)
    grads, (changed, found) = gradient_fn(state.params)
    # The last module comes first in the backward pass.
    order = {name: index for index, name in enumerate(modules)}
    leaves = [(_path(path), leaf) for path, leaf in jax.tree.leaves_with_path(grads)]
    leaves.sort(key=lambda item: -order.get(item[0].rpartition("/")[0], 0))
    for path, leaf in leaves:
        add(found, f"the gradient of {path}", leaf)
    proposed = state.apply_gradients(grads=grads, **changed).moved()
    for path, leaf in jax.tree.leaves_with_path(proposed):
        add(found, f"the new value of {_path(path)}", leaf)
    return found


def _is_finite(tree: Any, rows: int) -> jax.Array:
    """Tell whether arrays are finite, for each row if `rows` is their first axis."""
    flags = []
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            has_rows = rows > 0 and leaf.shape[:1] == (rows,)
            axes = tuple(range(1, leaf.ndim)) if has_rows else None
            flags.append(jnp.isfinite(leaf).all(axes))
    if not flags:
        return jnp.array(True)
    return jnp.stack(jnp.broadcast_arrays(*flags)).all(0)


def _path(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def infinite_leaves(tree: Any) -> frozenset[str]:
    """List the paths of the arrays that hold NaN or infinite numbers.

    Of arrays that are sharded over processes, each process checks its own shards.

    Example:
        >>> sorted(infinite_leaves({"a": jnp.ones(2), "b": jnp.array([1.0, jnp.inf])}))
        ['b']
    """
    return frozenset(
        _path(path)
        for path, leaf in jax.tree.leaves_with_path(tree)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
        and not all(np.isfinite(part).all() for part in _own_parts(leaf))
    )


def _own_parts(leaf: Any) -> list[Any]:
    if getattr(leaf, "is_fully_addressable", True):
        return [leaf]
    return [shard.data for shard in leaf.addressable_shards]
