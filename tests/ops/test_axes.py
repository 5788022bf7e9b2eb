"""Axes that are not there, and weights that do not fit: the full texts."""

from __future__ import annotations

import jax.numpy as jnp
import pytest

from linsey.errors import ShapeError
from linsey.ops.batch_norm import batch_norm
from linsey.ops.moments import moments


@pytest.mark.parametrize("axis", [2, -3, (0, 2)])
def test_an_axis_that_is_not_there_is_named(axis):
    number = max(axis) if isinstance(axis, tuple) else axis
    for kinds in (ShapeError, ValueError, IndexError):
        with pytest.raises(kinds) as caught:
            moments(jnp.ones((4, 3)), axis)
    assert str(caught.value) == (
        f"Axis {number} was given for an array of rank 2.\n"
        "Its axes are those in [-2, 2).\n"
        "Pass one of these, or an array with more axes."
    )


def test_weights_that_do_not_broadcast_are_named():
    x = jnp.ones((4, 3))
    with pytest.raises(ShapeError) as caught:
        batch_norm(x, weights=jnp.ones(4))
    assert str(caught.value) == (
        "A mask or weights of shape (4,) do not broadcast to the shape (4, 3) of the "
        "input.\n"
        "Axes are aligned from the last one, and each must be as long as that of the "
        "input, or 1 where one weight serves all entries along it.\n"
        "Pass one weight for each entry, of shape (4, 3), or one for each example, of "
        "shape (4, 1)."
    )
    for shape in ((4, 3), (4, 1)):
        batch_norm(x, weights=jnp.ones(shape))
