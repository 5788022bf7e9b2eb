"""`jax.lax.scan` over any axes, with values that are the same at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from linsey.core.partial_eval import evaluate_known


class _Broadcast:
    def __repr__(self) -> str:
        return "broadcast"


broadcast = _Broadcast()
"""As an axis: the value has none, it is the same at every step."""

ScanAxis = int | _Broadcast


def scan(
    fn: Callable[..., Any],
    in_axes: Any,
    out_axes: Any,
    length: int | None = None,
    reverse: bool = False,
    unroll: int = 1,
    _split_transpose: bool = False,
    check_constancy_invariants: bool = True,
) -> Callable[..., Any]:
    """Scans `fn` over chosen axes of its arguments.

    Args:
        fn: called as `fn(broadcast, carry, *args) -> (broadcast, carry, ys)`.
        in_axes: for each argument (or a prefix of its tree) the axis to scan over, or
            `broadcast`.
        out_axes: for `ys` (or a prefix) the axis to stack along, or `broadcast`.
        length: number of steps, needed if no argument has a scan axis.
        reverse: go from the last element to the first.
        unroll: steps in one iteration of the compiled loop.
        _split_transpose: see `jax.lax.scan`.
        check_constancy_invariants: compute the broadcast results first, by a trace of
            their own; without it `fn` must return `broadcast` as it came.

    Returns:
        A function `(broadcast, carry, *args) -> (broadcast, carry, ys)`.

    Raises:
        ValueError: a broadcast result depends on the carry or on a scanned argument.
    """

    def scanned(broadcast_in: Any, init: Any, *args: Any) -> Any:
        leaves, tree = jax.tree_util.tree_flatten(args)
        axes = flatten_axes(in_axes, args)
        moving = [ax is not broadcast for ax in axes]
        xs = [
            _to_front(x, ax) for x, ax, m in zip(leaves, axes, moving, strict=True) if m
        ]
        steps = length if length is not None or not xs else xs[0].shape[0]
        out_tree: Any = None
        out_moving: list[int] = []

        def run(broadcast_value: Any, carry: Any, xs: Any) -> Any:
            nonlocal out_tree, out_moving
            rest = iter(xs)
            step_args = jax.tree_util.tree_unflatten(
                tree,
                [next(rest) if m else x for x, m in zip(leaves, moving, strict=True)],
            )
            broadcast_out, carry, ys = fn(broadcast_value, carry, *step_args)
            out_leaves, out_tree = jax.tree_util.tree_flatten(ys)
            out_axes_flat = flatten_axes(out_axes, ys)
            out_moving = [ax for ax in out_axes_flat]
            return broadcast_out, carry, out_leaves

        constants: list[Any] = []
        if check_constancy_invariants:

            def constant_part(carry: Any, xs: Any) -> Any:
                broadcast_out, _, ys = run(broadcast_in, carry, xs)
                return broadcast_out, [
                    y for y, ax in zip(ys, out_moving, strict=True) if ax is broadcast
                ]

            first = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in xs]
            broadcast_in, constants = evaluate_known(constant_part, _data_dependency)(
                jax.eval_shape(lambda carry: carry, init), first
            )

        def step(carry: Any, xs: Any) -> Any:
            _, carry, ys = run(broadcast_in, carry, xs)
            return carry, [
                y for y, ax in zip(ys, out_moving, strict=True) if ax is not broadcast
            ]

        carry, stacked = lax.scan(
            step,
            init,
            xs,
            length=steps,
            reverse=reverse,
            unroll=unroll,
            _split_transpose=_split_transpose,
        )
        ys_iter, const_iter = iter(stacked), iter(constants)
        ys = [
            next(const_iter) if ax is broadcast else _from_front(next(ys_iter), ax)
            for ax in out_moving
        ]
        return broadcast_in, carry, jax.tree_util.tree_unflatten(out_tree, ys)

    return scanned


def flatten_axes(axes: Any, tree: Any) -> list[Any]:
    """The axis of each leaf of `tree`, where `axes` is a prefix of it.

    `None` and `broadcast` count as axes.
    """
    flat: list[Any] = []

    def extend(axis: Any, subtree: Any) -> None:
        flat.extend([axis] * len(jax.tree_util.tree_leaves(subtree)))

    if isinstance(axes, list):
        axes = tuple(axes)
    jax.tree_util.tree_map(extend, axes, tree, is_leaf=lambda x: x is None)
    return flat


def _to_front(x: Any, axis: int) -> Any:
    return x if axis == 0 else jax.numpy.moveaxis(x, axis, 0)


def _from_front(x: Any, axis: int) -> Any:
    return x if axis == 0 else jax.numpy.moveaxis(x, 0, axis)


def _data_dependency(value: Any) -> Exception:
    return ValueError(
        "broadcasted variable has a data dependency on the scan body: a value of shape"
        f" {value.shape} that must be the same at every step is computed from the carry"
        " or from a scanned input. Give it a scan axis, or make it a carry."
    )
