"""What a program is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def primitive_names(jaxpr: Any) -> Iterator[str]:
    """The operations of a program; those of functions that are put into it as well.

    From jax 0.11 on, such functions are put there when the program is lowered.
    """
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if equation.primitive.name in ("jit", "pjit") and equation.params["inline"]:
            yield from primitive_names(equation.params["jaxpr"])
        else:
            yield equation.primitive.name
