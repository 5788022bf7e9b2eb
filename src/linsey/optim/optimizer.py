"""The `Optimizer`: parameters, their optimizer state and how to update them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Self

import jax
import numpy as np

from linsey import serialization, struct
from linsey.errors import LossValueError, NotReplicatedError
from linsey.optim.definition import OptimizerDef
from linsey.optim.state import OptimizerState

__all__ = ["Optimizer"]


class Optimizer(struct.PyTreeNode):
    """Parameters with an optimizer: one immutable object, and a pytree.

    `OptimizerDef.create` makes it; each update returns a new one.

    Args:
        optimizer_def: the algorithm with its default hyper-parameters; static.
        state: step and state of each leaf.
        target: the parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> from linsey import optim
        >>> optimizer = optim.Momentum(0.5).create({"w": jnp.ones(2)})
        >>> optimizer = optimizer.apply_gradient({"w": jnp.array([1.0, -1.0])})
        >>> optimizer.target["w"].tolist(), int(optimizer.state.step)
        ([0.5, 1.5], 1)
        >>> optimizer = optimizer.apply_gradient(
        ...     {"w": jnp.zeros(2)}, learning_rate=1.0
        ... )
        >>> [round(x, 6) for x in optimizer.target["w"].tolist()]
        [-0.4, 2.4]
    """

    optimizer_def: OptimizerDef = struct.field(pytree_node=False)
    state: OptimizerState = struct.field(pytree_node=True)
    target: Any = struct.field(pytree_node=True)

    def apply_gradient(self, grads: Any, **hyper_param_overrides: Any) -> Self:
        """Returns the optimizer after one update.

        Args:
            grads: gradients with the structure of `target`.
            **hyper_param_overrides: hyper-parameters of this update only, such as
                `learning_rate`; traced values are welcome. `hyper_params` replaces
                the whole set.

        Raises:
            GradientStructureError: if `grads` has another structure.
            HyperParamUnknownError: if there is no hyper-parameter of that name.
            LearningRateMissingError: if there is no learning rate.
        """
        definition = self.optimizer_def
        hyper_params = definition.update_hyper_params(**hyper_param_overrides)
        target, state = definition.apply_gradient(
            hyper_params, self.target, self.state, grads
        )
        return self.replace(state=state, target=target)

    def compute_gradient(self, loss_fn: Callable[[Any], Any]) -> tuple[Any, ...]:
        """Returns loss and gradient at `target`. Deprecated: use `jax.value_and_grad`.

        Args:
            loss_fn: takes the parameters and returns the loss, a scalar array, or a
                pair of it and anything else.

        Returns:
            `(loss, grad)`, or `(loss, aux, grad)` if the function returns a pair.

        Raises:
            LossValueError: if the function returns anything else.
        """
        warnings.warn(
            "compute_gradient is deprecated: use jax.grad or jax.value_and_grad.",
            DeprecationWarning,
            stacklevel=2,
        )
        return _loss_and_gradient(loss_fn, self.target)

    compute_gradients = compute_gradient

    def optimize(
        self, loss_fn: Callable[[Any], Any], **hyper_param_overrides: Any
    ) -> tuple[Any, ...]:
        """Returns the optimizer after an update, and the loss before it. Deprecated.

        Args:
            loss_fn: see `compute_gradient`.
            **hyper_param_overrides: see `apply_gradient`.

        Returns:
            `(optimizer, loss)`, or `(optimizer, loss, aux)` if the function returns
            a pair.
        """
        warnings.warn(
            "optimize is deprecated: use jax.value_and_grad and apply_gradient.",
            DeprecationWarning,
            stacklevel=2,
        )
        *values, grads = _loss_and_gradient(loss_fn, self.target)
        return self.apply_gradient(grads, **hyper_param_overrides), *values

    def replicate(
        self, devices: Sequence[jax.Device] | None = None, axis_name: str = "batch"
    ) -> Self:
        """Returns a copy of the optimizer for each device, for `jax.pmap`.

        Args:
            devices: all local devices unless given.
            axis_name: the axis of the `pmap`, over which gradients are averaged.
        """
        from linsey.optim.replicated import ReplicatedOptimizer, replicate

        devices = jax.local_devices() if devices is None else list(devices)
        definition = ReplicatedOptimizer(self.optimizer_def, devices, axis_name)
        state, target = replicate((self.state, self.target), devices)
        return self.replace(optimizer_def=definition, state=state, target=target)

    def unreplicate(self) -> Self:
        """Returns the optimizer of the first device, undoing `replicate`.

        Raises:
            NotReplicatedError: if it was not replicated.
        """
        from linsey.optim.replicated import ReplicatedOptimizer, unreplicate

        definition = self.optimizer_def
        if not isinstance(definition, ReplicatedOptimizer):
            raise NotReplicatedError(definition)
        state, target = unreplicate((self.state, self.target))
        definition = definition.optimizer_def
        return self.replace(optimizer_def=definition, state=state, target=target)

    def state_dict(self) -> dict[str, Any]:
        """Returns target and state as nested dictionaries with string keys."""
        return self.optimizer_def.state_dict(self.target, self.state)

    def restore_state(self, state: Any) -> Self:
        """Returns an optimizer like this one with the contents of a state dict.

        Args:
            state: what `state_dict` gave, here or in Flax before 0.6.

        Raises:
            OptimizerStateDictError: if the target or a parameter is missing.
            StateDictMismatchError: if the state has missing or unknown fields.
        """
        target, restored = self.optimizer_def.restore_state(
            self.target, self.state, state
        )
        return self.replace(state=restored, target=target)


serialization.register_serialization_state(
    Optimizer, Optimizer.state_dict, Optimizer.restore_state, override=True
)


def _loss_and_gradient(loss_fn: Callable[[Any], Any], target: Any) -> tuple[Any, ...]:
    """Returns the loss, what the function gives beside it if it does, the gradient."""
    has_aux = False

    def pair(target: Any) -> tuple[Any, Any]:
        nonlocal has_aux
        value = loss_fn(target)
        has_aux = isinstance(value, tuple) and len(value) == 2
        if has_aux:
            return value
        if not isinstance(value, jax.Array | np.ndarray | np.generic):
            raise LossValueError(value)
        return value, None

    (loss, aux), grad = jax.value_and_grad(pair, has_aux=True)(target)
    return (loss, aux, grad) if has_aux else (loss, grad)
