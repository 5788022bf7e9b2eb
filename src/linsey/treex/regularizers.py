"""Losses that depend on the parameters only."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp

from linsey.treex.losses import Loss, On, Reduction

__all__ = ["L1", "L2", "L1L2"]


class L1L2(Loss):
    """l1 sum |w| + l2 sum w^2 over all leaves of `parameters`.

    Args:
        l1: factor for the absolute values.
        l2: factor for the squares.
        reduction: see `Loss`, also for the arguments that follow.
        weight: factor for the result.
        on: has no effect.
        name: name in logs.

    Example:
        >>> import linsey.treex as tx
        >>> loss = tx.regularizers.L1L2(l1=1.0, l2=0.5)
        >>> print(loss(parameters={"w": jnp.array([1.0, -2.0])}))
        5.5
    """

    def __init__(
        self,
        l1: float = 0.0,
        l2: float = 0.0,
        reduction: Reduction | str | None = None,
        weight: float | None = None,
        on: On = None,
        name: str | None = None,
    ) -> None:
        super().__init__(reduction=reduction, weight=weight, on=on, name=name)
        self.l1 = l1
        self.l2 = l2

    def call(self, parameters: object) -> jax.Array:
        """Return the value for a pytree, usually `model.parameters()`."""
        total = jnp.array(0.0)
        for leaf in jax.tree.leaves(parameters):
            if self.l1:
                total += self.l1 * jnp.sum(jnp.abs(leaf))
            if self.l2:
                total += self.l2 * jnp.sum(jnp.square(leaf))
        return total


class _OneTerm(L1L2):
    """One of the two terms, with its factor."""

    _of_squares: ClassVar[bool]

    def __init__(
        self,
        l: float = 0.01,  # noqa: E741
        reduction: Reduction | str | None = None,
        weight: float | None = None,
        on: On = None,
        name: str | None = None,
    ) -> None:
        l1, l2 = (0.0, l) if self._of_squares else (l, 0.0)
        super().__init__(l1, l2, reduction, weight, on, name)


class L1(_OneTerm):
    """l sum |w| over all leaves of `parameters`; see `L1L2`."""

    _of_squares = False


class L2(_OneTerm):
    """l sum w^2 over all leaves of `parameters`; see `L1L2`."""

    _of_squares = True
