"""`jax.lax.scan` over any axes, with values that are the same at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax import lax

from linsey.core.partial_eval import evaluate_known
from linsey.errors import _texts as texts

B = TypeVar("B")
C = TypeVar("C")
Y = TypeVar("Y")


class _Broadcast:
    def __repr__(self) -> str:
        return "broadcast"


broadcast = _Broadcast()
"""In place of an axis: the value is not scanned over and is the same at every step."""

ScanAxis = int | _Broadcast
Leaves = dict[int, jax.Array]  # some leaves of a tree, by their index


def scan(
    fn: Callable[..., tuple[B, C, Y]],
    in_axes: object,
    out_axes: object,
    length: int | None = None,
    reverse: bool = False,
    unroll: int = 1,
    _split_transpose: bool = False,
    check_constancy_invariants: bool = True,
    start: Callable[[B, C], C] = lambda broadcast, init: init,
) -> Callable[..., tuple[B, C, Y]]:
    """Scan `fn` over chosen axes of its arguments.

    Args:
        fn: called as `fn(broadcast, carry, *args) -> (broadcast, carry, ys)`.
        in_axes: for each argument (or a prefix of its tree) the axis to scan over, or
            `broadcast`.
        out_axes: for `ys` (or a prefix) the axis to stack along, or `broadcast`.
        length: number of steps, needed if no argument has a scan axis.
        reverse: go from the last element to the first.
        unroll: steps in one iteration of the compiled loop.
        _split_transpose: see `jax.lax.scan`.
        check_constancy_invariants: compute the broadcast results first, in a separate
            trace; otherwise `fn` must return `broadcast` unchanged.
        start: computes the first carry from the broadcast results and `init`.

    Returns:
        A function `(broadcast, carry, *args) -> (broadcast, carry, ys)`.

    Raises:
        MismatchError: a broadcast result depends on the carry or on a scanned argument.
    """

    def scanned(broadcast_in: B, init: C, *args: object) -> tuple[B, C, Y]:
        leaves, tree = jax.tree_util.tree_flatten(args)
        axes = enumerate(flatten_axes(in_axes, args))
        xs = {i: _move(leaves[i], ax, 0) for i, ax in axes if ax is not broadcast}
        out_tree: Any = None
        ys_axes: dict[int, Any] = {}  # of the leaves of `ys`, known after a trace

        def run(carry: C, xs: Leaves) -> tuple[tuple[B, Leaves], tuple[C, Leaves]]:
            nonlocal out_tree, ys_axes
            now = [xs.get(i, leaf) for i, leaf in enumerate(leaves)]
            step_args = jax.tree_util.tree_unflatten(tree, now)
            broadcast_out, carry, ys = fn(broadcast_in, carry, *step_args)
            ys_axes = dict(enumerate(flatten_axes(out_axes, ys)))
            ys, out_tree = jax.tree_util.tree_flatten(ys)
            same = {i: ys[i] for i, ax in ys_axes.items() if ax is broadcast}
            if same and not check_constancy_invariants:
                raise texts.broadcast_without_check()
            stacked = {i: y for i, y in enumerate(ys) if i not in same}
            return (broadcast_out, same), (carry, stacked)

        constants: Leaves = {}
        if check_constancy_invariants:
            first = {
                i: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for i, x in xs.items()
            }
            before = jax.eval_shape(lambda carry: carry, init)
            known_part = evaluate_known(
                lambda *step: run(*step)[0], texts.data_dependency
            )
            broadcast_in, constants = known_part(before, first)

        def step(carry: C, xs: Leaves) -> tuple[C, Leaves]:
            return run(carry, xs)[1]

        # A symbolic length, as in exported programs, is taken from the scanned arrays.
        steps = None if xs and not isinstance(length, int) else length
        loop = (steps, reverse, unroll, _split_transpose)
        carry, stacked = lax.scan(step, start(broadcast_in, init), xs, *loop)
        for i, y in stacked.items():
            constants[i] = _move(y, 0, ys_axes[i])
        ys = [constants[i] for i in ys_axes]
        return broadcast_in, carry, jax.tree_util.tree_unflatten(out_tree, ys)

    return scanned


def flatten_axes(axes: object, tree: object) -> list[Any]:
    """Return the axis of each leaf of `tree`, where `axes` is a prefix of it.

    `None` and `broadcast` count as axes.
    """
    flat: list[object] = []

    def extend(axis: object, subtree: object) -> None:
        flat.extend([axis] * len(jax.tree_util.tree_leaves(subtree)))

    if isinstance(axes, list):
        axes = tuple(axes)
    jax.tree_util.tree_map(extend, axes, tree, is_leaf=lambda x: x is None)
    return flat


def checked_axis(axis: Any, shape: tuple[int, ...]) -> int:
    """Return an axis of an array of this shape, or raise if it has no such axis."""
    if isinstance(axis, int) and -len(shape) <= axis < len(shape):
        return axis
    raise texts.no_such_axis(axis, shape)


def _move(x: jax.Array, axis: object, to: object) -> jax.Array:
    ends = [checked_axis(end, np.shape(x)) for end in (axis, to)]
    return x if axis == to else jax.numpy.moveaxis(x, *ends)
