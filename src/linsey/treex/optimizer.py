"""Optax optimizers as objects that hold their state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeVar

import jax

from linsey.errors.base import MismatchError, OptionError, UsageError
from linsey.treex.treeo import copy
from linsey.treex.treex import Treex
from linsey.treex.types import OptState

if TYPE_CHECKING:
    import optax


T = TypeVar("T")


class Optimizer(Treex):
    """Wraps an optax gradient transformation together with its state.

    The state is created for the list of leaves, so static parts do not matter.

    Args:
        optimizer: an `optax.GradientTransformation`.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> import linsey.treex as tx
        >>> params = {"w": jnp.array(1.0)}
        >>> optimizer = tx.Optimizer(optax.sgd(0.5)).init(params)
        >>> print(optimizer.update({"w": jnp.array(1.0)}, params)["w"])
        0.5
    """

    opt_state: Any = OptState.node()

    def __init__(self, optimizer: optax.GradientTransformation) -> None:
        self.optimizer: Any = optimizer
        self.opt_state = None
        self._n_params: int | None = None
        self._initialized = False

    @property
    def initialized(self) -> bool:
        """Whether the optimizer has a state."""
        return self._initialized

    def init(self, params: object) -> Self:
        """Return an optimizer with a new state for parameters, given as any pytree."""
        made = copy(self)
        leaves = jax.tree.leaves(params)
        made.opt_state = made.optimizer.init(leaves)
        made._n_params = len(leaves)
        made._initialized = True
        return made

    def update(self, grads: T, params: object = None, apply_updates: bool = True) -> T:
        """Update the state in place and return new parameters.

        Args:
            grads: gradients, with the same number of leaves as the parameters given to
                `init`.
            params: parameters; needed to apply updates, and by some optimizers.
            apply_updates: whether to return new parameters; otherwise the updates are
                returned.

        Returns:
            A pytree with the structure of `grads`.

        Raises:
            UsageError: there is no state yet.
            OptionError: updates are to be applied but `params` is not given.
            MismatchError: the number of leaves differs from that given to `init`.
        """
        if not self._initialized:
            raise UsageError(
                "`Optimizer.update` was called before `init`.",
                "Its state is made for the parameters that it will update.",
                "Write `optimizer = optimizer.init(model.parameters())`.",
            )
        if apply_updates and params is None:
            raise OptionError(
                "`Optimizer.update` was called without `params`.",
                "By default it applies the updates to them.",
                "Pass `params`, or `apply_updates=False` to get the updates.",
            )
        grad_leaves, structure = jax.tree.flatten(grads)
        leaves: Any = None if params is None else jax.tree.leaves(params)
        for what, given in (("grads", grad_leaves), ("params", leaves)):
            if given is not None and len(given) != self._n_params:
                raise MismatchError(
                    f"`{what}` has {len(given)} leaves, and the optimizer was "
                    f"initialized with {self._n_params}.",
                    "States belong to parameters by their order.",
                    "Pass the same selection to `init`, `jax.grad` and `update`, for "
                    "example `model.parameters()` each time.",
                )
        updates, self.opt_state = self.optimizer.update(
            grad_leaves, self.opt_state, leaves
        )
        if apply_updates:
            import optax  # installed, since it made the optimizer

            updates = optax.apply_updates(leaves, updates)
        return jax.tree.unflatten(structure, updates)
