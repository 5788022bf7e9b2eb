"""Mistakes with the optimizers of `linsey.optim`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from linsey.errors.base import LinseyError, listed, named
from linsey.errors.trees import StateDictMismatchError


class LearningRateMissingError(LinseyError, AssertionError):
    """An update is asked of an optimizer that has no learning rate."""

    def __init__(self, optimizer: object = None) -> None:
        super().__init__(
            f"no learning rate provided: {named(optimizer)} has `learning_rate=None`.",
            "An update is a multiple of the learning rate.",
            "Give one for all updates, `Adam(learning_rate=1e-3)`, or for this one, "
            "`optimizer.apply_gradient(grads, learning_rate=1e-3)`.",
        )


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


class HyperParamsCountError(LinseyError, ValueError):
    """The list of hyper-parameters does not have one entry per optimizer."""

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(
            f"`hyper_params` has {found} entries for {expected} optimizers.",
            "A `MultiOptimizer` takes one set for each of its optimizers, in their "
            "order.",
            "Start from the list it has: `hyper_params = "
            "list(optimizer.optimizer_def.hyper_params)`, and replace entries.",
        )


class MultipleOptimizersMatchError(LinseyError, ValueError):
    """Two traversals of a `MultiOptimizer` select the same parameter."""

    def __init__(self, matches: Any) -> None:
        super().__init__(
            f"Multiple optimizers match the same leaves: {matches}",
            "The lists hold the numbers of the optimizers that select each leaf; a "
            "leaf has the state of one.",
            "Let each traversal exclude what another one selects.",
        )


class TraversalSelectionError(LinseyError, ValueError):
    """A traversal selects what an optimizer cannot work on."""

    def __init__(self, found: str, why: str, fix: str) -> None:
        super().__init__(found, why, fix)


class GradientStructureError(LinseyError, ValueError):
    """The gradients have another structure than the parameters."""

    def __init__(self, cause: object) -> None:
        super().__init__(
            f"The gradients do not have the structure of the target: {cause}",
            "Each leaf is updated with the gradient at its place; the containers on "
            "the way there must be of the same types.",
            "Pass what `jax.grad(loss)(optimizer.target)` returns.",
        )


class LossValueError(LinseyError, TypeError):
    """A loss function returns neither an array nor an array with something beside."""

    def __init__(self, value: Any) -> None:
        kind = type(value).__name__
        size = f" of {len(value)}" if isinstance(value, tuple) else ""
        super().__init__(
            f"The loss function returned a {kind}{size}.",
            "It must return a scalar array, or a pair of one and anything else.",
            "Write `return loss` or `return loss, aux`.",
        )


class NotReplicatedError(LinseyError, ValueError):
    """An optimizer that is on one device is asked to leave the others."""

    def __init__(self, optimizer: object = None) -> None:
        super().__init__(
            f"Cannot unreplicate {named(optimizer)}: it is not replicated.",
            "Only what `replicate` returned has a copy for each device.",
            "Use the optimizer as it is.",
        )


class PerLeafRuleError(LinseyError, NotImplementedError):
    """An optimizer that works on whole trees is asked for one leaf."""

    def __init__(self, optimizer: object = None) -> None:
        super().__init__(
            f"{named(optimizer)} has no rule for a single leaf.",
            "A focus and a `MultiOptimizer` give each leaf a state of its own; this "
            "optimizer keeps one for a whole tree.",
            "Put it outside: `WeightNorm(MultiOptimizer(...))`, or use "
            "`optax.multi_transform`.",
        )


class OptimizerStateDictError(StateDictMismatchError, KeyError):
    """A stored optimizer lacks the target or one of its parameters."""

    # That of KeyError shows the text between quotes, in one line.
    __str__ = Exception.__str__
