"""An optimizer with a copy on each device, for `jax.pmap`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from linsey.optim.definition import OptimizerDef
from linsey.optim.state import OptimizerState

__all__ = ["ReplicatedOptimizer"]

T = TypeVar("T")


class ReplicatedOptimizer(OptimizerDef):
    """Averages the gradients over a named axis, then updates as another optimizer.

    Args:
        optimizer_def: the other optimizer.
        devices: those that hold the copies.
        axis_name: the axis of the `pmap` around the update.
    """

    def __init__(
        self,
        optimizer_def: OptimizerDef,
        devices: Sequence[jax.Device] | None = None,
        axis_name: str = "batch",
    ) -> None:
        super().__init__(optimizer_def.hyper_params)
        self.optimizer_def = optimizer_def
        self.devices = jax.local_devices() if devices is None else list(devices)
        self.axis_name = axis_name

    def init_state(self, params: Any) -> OptimizerState:  # noqa: D102
        return self.optimizer_def.init_state(params)

    def update_hyper_params(self, **overrides: Any) -> Any:  # noqa: D102
        return self.optimizer_def.update_hyper_params(**overrides)

    def apply_gradient(  # noqa: D102
        self, hyper_params: Any, params: Any, state: OptimizerState, grads: Any
    ) -> tuple[Any, OptimizerState]:
        grads = lax.pmean(grads, self.axis_name)
        return self.optimizer_def.apply_gradient(hyper_params, params, state, grads)

    def state_dict(self, target: Any, state: OptimizerState) -> dict[str, Any]:
        """Returns the state dict of the first copy."""
        return self.optimizer_def.state_dict(*unreplicate((target, state)))

    def restore_state(
        self, target: Any, state: OptimizerState, state_dict: Any
    ) -> tuple[Any, OptimizerState]:
        """Returns copies, for each device, of what was stored."""
        target, state = unreplicate((target, state))
        restored = self.optimizer_def.restore_state(target, state, state_dict)
        return replicate(restored, self.devices)

    def to_optax(self, **overrides: Any) -> optax.GradientTransformation:
        """Returns the average over the axis, then the other optimizer's."""
        average = optax.stateless(lambda grads, _: lax.pmean(grads, self.axis_name))
        return optax.chain(average, self.optimizer_def.to_optax(**overrides))

    def to_optax_state(  # noqa: D102
        self, params: Any, state: OptimizerState, **overrides: Any
    ) -> Any:
        inner = self.optimizer_def.to_optax_state(params, state, **overrides)
        return optax.EmptyState(), inner

    def from_optax_state(  # noqa: D102
        self, params: Any, opt_state: Any, step: Any, **overrides: Any
    ) -> OptimizerState:
        _, inner = opt_state
        return self.optimizer_def.from_optax_state(params, inner, step, **overrides)


def replicate(tree: T, devices: Sequence[jax.Device]) -> T:
    """Returns a tree whose leaves have a new first axis, one entry on each device."""
    sharding = NamedSharding(
        Mesh(np.array(devices), ("device",)), PartitionSpec("device")
    )

    def stack(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        stacked = jnp.broadcast_to(leaf, (len(devices), *leaf.shape))
        return jax.device_put(stacked, sharding)

    return jax.tree.map(stack, tree)


def unreplicate(tree: T) -> T:
    """Returns the tree of the first device."""
    return jax.tree.map(lambda leaf: leaf[0], tree)
