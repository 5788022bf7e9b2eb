"""Steps that only rearrange entries, and how they move the axes."""

from __future__ import annotations

from jax.core import ShapedArray
from jax.extend.core import JaxprEqn, Literal, Var

Shape = tuple[int, ...]


def shape_of(var: Var | Literal) -> Shape:
    """Return the shape of a variable of a jaxpr; sizes may be symbolic."""
    assert isinstance(var.aval, ShapedArray)
    return tuple(var.aval.shape)


def moved_axes(eqn: JaxprEqn) -> dict[int, int] | None:
    """Map the axes that a step keeps to their new positions.

    Returns `None` if the step does more than rearrange entries.
    """
    name, before = eqn.primitive.name, shape_of(eqn.invars[0]) if eqn.invars else ()
    if name == "transpose":
        return {axis: i for i, axis in enumerate(eqn.params["permutation"])}
    if name == "broadcast_in_dim" and len(eqn.invars) == 1:
        after = eqn.params["shape"]
        pairs = enumerate(eqn.params["broadcast_dimensions"])
        return {i: axis for i, axis in pairs if before[i] == after[axis]}
    if name in ("reshape", "squeeze", "expand_dims") and len(eqn.invars) == 1:
        return _kept_axes(before, shape_of(eqn.outvars[0]))
    if name in ("sharding_constraint", "optimization_barrier", "copy", "copy_p"):
        return {i: i for i in range(len(before))} if len(eqn.invars) == 1 else None
    return None


def _kept_axes(before: Shape, after: Shape) -> dict[int, int]:
    """Return the axes that a reshape keeps: those before and after the changed ones."""
    kept: dict[int, int] = {}
    for skipped in (1, None):  # first ignore axes of size one, which may come and go
        left = [i for i, n in enumerate(before) if n != skipped]
        right = [i for i, n in enumerate(after) if n != skipped]
        for order in (1, -1):
            for i, j in zip(left[::order], right[::order], strict=False):
                if before[i] != after[j]:
                    break
                kept[i] = j
    return kept
