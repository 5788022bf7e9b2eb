"""Optimizers of optax as objects that carry their state."""

from __future__ import annotations

from typing import Any, Self

import jax

from linsey.errors.treex import (
    LeafCountError,
    OptimizerParamsError,
    OptimizerStateError,
)
from linsey.treex.kinds import OptState
from linsey.treex.treeo import copy
from linsey.treex.treex import Treex


class Optimizer(Treex):
    """Wraps a gradient transformation of optax with its state.

    The state is made for the leaves in their order, so static parts do not matter.

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

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.opt_state = None
        self._n_params: int | None = None
        self._initialized = False

    @property
    def initialized(self) -> bool:
        """Whether there is a state."""
        return self._initialized

    def init(self, params: Any) -> Self:
        """An optimizer with a new state, for parameters given as any pytree."""
        made = copy(self)
        leaves = jax.tree.leaves(params)
        made.opt_state = made.optimizer.init(leaves)
        made._n_params = len(leaves)
        made._initialized = True
        return made

    def update(self, grads: Any, params: Any = None, apply_updates: bool = True) -> Any:
        """Updates the state in place and returns new parameters.

        Args:
            grads: gradients, with the leaves that `init` was given.
            params: parameters; needed to apply updates, and by some optimizers.
            apply_updates: whether to return new parameters or the updates to them.

        Returns:
            A pytree of the structure of `grads`.

        Raises:
            OptimizerStateError: there is no state yet.
            OptimizerParamsError: updates are to be applied to nothing.
            LeafCountError: the number of leaves is not that of `init`.
        """
        if not self._initialized:
            raise OptimizerStateError()
        if apply_updates and params is None:
            raise OptimizerParamsError()
        grad_leaves, structure = jax.tree.flatten(grads)
        self._check_count("grads", grad_leaves)
        leaves: Any = None
        if params is not None:
            leaves = jax.tree.leaves(params)
            self._check_count("params", leaves)
        updates, self.opt_state = self.optimizer.update(
            grad_leaves, self.opt_state, leaves
        )
        if apply_updates:
            import optax  # what made the optimizer

            updates = optax.apply_updates(leaves, updates)
        return jax.tree.unflatten(structure, updates)

    def _check_count(self, what: str, leaves: list[Any]) -> None:
        if self._n_params is not None and len(leaves) != self._n_params:
            raise LeafCountError(what, self._n_params, len(leaves))
