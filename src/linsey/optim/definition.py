"""What an optimizer is, apart from the parameters that it moves.

An `OptimizerDef` is an algorithm with default *hyper-parameters*. It turns one leaf of
a tree of parameters into the first *state* of that leaf (`init_param_state`), and leaf,
state and gradient into the next ones (`apply_param_gradient`). Everything that is said
of whole trees follows from these two.

Definitions are no pytrees. They are compared by identity, so that programs compiled
for one of them are not mistaken for programs of another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from linsey import serialization
from linsey.errors import (
    GradientStructureError,
    HyperParamUnknownError,
    OptimizerStateDictError,
    StateDictMismatchError,
)
from linsey.optim.state import OptimizerState

if TYPE_CHECKING:
    from linsey.optim.optimizer import Optimizer
    from linsey.traverse_util import Traversal

__all__ = ["OptimizerDef"]

Leaves = list[Any]


class OptimizerDef:
    """Base class of optimizer definitions.

    A subclass calls this constructor with its hyper-parameters, a `struct.dataclass`,
    and says how a leaf starts and how it moves.

    Args:
        hyper_params: the values that hold unless an update overrides them.

    Example:
        >>> from typing import Any
        >>> from linsey import struct
        >>> @struct.dataclass
        ... class SignParams:
        ...     learning_rate: Any
        >>> class SignDescent(OptimizerDef):
        ...     def __init__(self, learning_rate=None):
        ...         super().__init__(SignParams(learning_rate))
        ...
        ...     def init_param_state(self, param):
        ...         return ()
        ...
        ...     def apply_param_gradient(self, step, hyper_params, param, state, grad):
        ...         return param - hyper_params.learning_rate * jnp.sign(grad), state
        >>> optimizer = SignDescent(0.5).create({"w": jnp.array([1.0, 2.0])})
        >>> optimizer = optimizer.apply_gradient({"w": jnp.array([-3.0, 4.0])})
        >>> optimizer.target["w"].tolist()
        [1.5, 1.5]
    """

    hyper_params: Any

    def __init__(self, hyper_params: Any) -> None:
        self.hyper_params = hyper_params

    # ------------------------------------------------------------------ one leaf

    def init_param_state(self, param: Any) -> Any:
        """Returns the first state of one leaf.

        Args:
            param: the leaf.
        """
        raise NotImplementedError

    def apply_param_gradient(
        self, step: Any, hyper_params: Any, param: Any, state: Any, grad: Any
    ) -> tuple[Any, Any]:
        """Returns one leaf and its state after an update.

        Args:
            step: number of updates made before this one.
            hyper_params: those of this update.
            param: the leaf.
            state: its state.
            grad: its gradient.
        """
        raise NotImplementedError

    def apply_leaves(
        self,
        step: Any,
        hyper_params: Any,
        params: Leaves,
        states: Leaves,
        grads: Leaves,
    ) -> tuple[Leaves, Leaves]:
        """Returns several leaves and their states after an update, see above."""
        pairs = [
            self.apply_param_gradient(step, hyper_params, param, state, grad)
            for param, state, grad in zip(params, states, grads, strict=True)
        ]
        return [param for param, _ in pairs], [state for _, state in pairs]

    # ------------------------------------------------------------------ trees

    def init_state(self, params: Any) -> OptimizerState:
        """Returns the state before the first update.

        Args:
            params: a tree of arrays.
        """
        states = jax.tree.map(self.init_param_state, params)
        return OptimizerState(jnp.zeros((), jnp.int32), states)

    def apply_gradient(
        self, hyper_params: Any, params: Any, state: OptimizerState, grads: Any
    ) -> tuple[Any, OptimizerState]:
        """Returns parameters and state after an update.

        Args:
            hyper_params: those of this update, see `update_hyper_params`.
            params: a tree of arrays.
            state: its state.
            grads: the gradients, with the structure of `params`.

        Raises:
            GradientStructureError: if the gradients have another structure.
        """
        leaves, treedef = jax.tree.flatten(params)
        leaves, states = self.apply_leaves(
            state.step,
            hyper_params,
            leaves,
            treedef.flatten_up_to(state.param_states),
            gradients_of(treedef, grads),
        )
        states = treedef.unflatten(states)
        return treedef.unflatten(leaves), OptimizerState(state.step + 1, states)

    def update_hyper_params(self, **overrides: Any) -> Any:
        """Returns the hyper-parameters with some replaced.

        Args:
            **overrides: new values by name; `hyper_params` is a whole set that takes
                the place of the defaults, below the other names.

        Raises:
            HyperParamUnknownError: if there is no hyper-parameter of that name.
        """
        hyper_params = overrides.pop("hyper_params", self.hyper_params)
        return replaced(self, hyper_params, overrides)

    def create(self, target: Any, focus: Traversal | None = None) -> Optimizer:
        """Returns an optimizer that holds parameters and their state.

        Args:
            target: the parameters, a tree of arrays.
            focus: selects the leaves to optimize; None means all.
        """
        from linsey.optim.multi import MultiOptimizer
        from linsey.optim.optimizer import Optimizer

        definition = self if focus is None else MultiOptimizer((focus, self))
        return Optimizer(definition, definition.init_state(target), target)

    # ------------------------------------------------------------------ storing

    def state_dict(self, target: Any, state: OptimizerState) -> dict[str, Any]:
        """Returns parameters and state as nested dictionaries with string keys.

        Args:
            target: the parameters.
            state: their state.
        """
        return {
            "target": serialization.to_state_dict(target),
            "state": serialization.to_state_dict(state),
        }

    def restore_state(
        self, target: Any, state: OptimizerState, state_dict: Any
    ) -> tuple[Any, OptimizerState]:
        """Returns parameters and state from what `state_dict` gave.

        Args:
            target: parameters with the structure wanted.
            state: their state.
            state_dict: what was stored.

        Raises:
            OptimizerStateDictError: if the target or a parameter is missing.
            StateDictMismatchError: if the state has missing or unknown fields.
        """
        found = list(state_dict) if isinstance(state_dict, Mapping) else []
        for part in ("target", "state"):
            if part not in found:
                raise OptimizerStateDictError(
                    f"The state dict of an optimizer has no {part!r}.",
                    f"It has {found}; expected 'target' and 'state'.",
                )
        try:
            target = serialization.from_state_dict(target, state_dict["target"])
        except StateDictMismatchError as error:
            raise OptimizerStateDictError(error.found, error.why) from error
        return target, serialization.from_state_dict(state, state_dict["state"])

    # ------------------------------------------------------------------ optax

    def to_optax(self, **overrides: Any) -> optax.GradientTransformation:
        """Returns a gradient transformation that makes the same updates.

        Args:
            **overrides: hyper-parameters that differ from the defaults; for the
                optimizers of this package the learning rate may be a schedule, a
                function of the step.
        """
        hyper_params = self.update_hyper_params(**overrides)

        def init(params: Any) -> Any:
            return self.init_state(params)

        def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            moved, state = self.apply_gradient(hyper_params, params, state, updates)
            return jax.tree.map(lambda new, old: new - old, moved, params), state

        return optax.GradientTransformation(init, update)

    def to_optax_state(
        self, params: Any, state: OptimizerState, **overrides: Any
    ) -> Any:
        """Returns the state of `to_optax(**overrides)` that continues from `state`.

        Args:
            params: the parameters.
            state: their state here.
            **overrides: as for `to_optax`.
        """
        return state

    def from_optax_state(
        self, params: Any, opt_state: Any, step: Any, **overrides: Any
    ) -> OptimizerState:
        """Returns the state that continues from one of `to_optax(**overrides)`.

        Args:
            params: the parameters.
            opt_state: their state there.
            step: number of updates made.
            **overrides: as for `to_optax`.
        """
        return opt_state


def gradients_of(treedef: Any, grads: Any) -> Leaves:
    """Returns the gradients of the leaves of a tree."""
    try:
        return treedef.flatten_up_to(grads)
    except (ValueError, TypeError) as error:
        raise GradientStructureError(error) from error


def replaced(owner: OptimizerDef, hyper_params: Any, changes: dict[str, Any]) -> Any:
    """Returns hyper-parameters with some replaced, if they have all of these."""
    if dataclasses.is_dataclass(hyper_params):
        known = [field.name for field in dataclasses.fields(hyper_params)]
        unknown = [name for name in changes if name not in known]
        if unknown:
            raise HyperParamUnknownError(owner, unknown, known)
    return hyper_params.replace(**changes) if changes else hyper_params
