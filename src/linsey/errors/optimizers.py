"""Mistakes with the optimizers of `linsey.optim`."""

from __future__ import annotations

from collections.abc import Iterable

from linsey.errors.base import LinseyError, listed, named
from linsey.errors.trees import StateDictMismatchError


class HyperParamUnknownError(LinseyError, TypeError):
    """An override names a hyper-parameter that the optimizer does not have."""

    def __init__(
        self, optimizer: object, unknown: Iterable[str], known: Iterable[str]
    ) -> None:
        super().__init__(
            f"{named(optimizer)} has no hyper-parameter {listed(unknown)}.",
            f"It has: {listed(known)}.",
            "Override one of these: `optimizer.apply_gradient(grads, "
            "learning_rate=1e-3)`.",
        )


class GradientStructureError(LinseyError, ValueError):
    """The gradients have a different structure than the parameters."""

    def __init__(self, cause: object) -> None:
        super().__init__(
            f"The gradients do not have the structure of the target: {cause}",
            "Each leaf is updated with the gradient at the same path; the containers "
            "along the path must be of the same types.",
            "Pass what `jax.grad(loss)(optimizer.target)` returns.",
        )


class OptimizerStateDictError(StateDictMismatchError, KeyError):
    """A stored optimizer lacks the target or one of its parameters."""

    # The `__str__` of KeyError shows the text in quotes, on one line.
    __str__ = Exception.__str__
