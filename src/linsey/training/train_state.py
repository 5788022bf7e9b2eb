"""The state of a training run: step, parameters and optimizer state in one pytree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

import jax

from linsey import struct
from linsey.core.frozen_dict import FrozenDict

if TYPE_CHECKING:
    import optax

__all__ = ["OVERWRITE_WITH_GRADIENT", "TrainState"]

OVERWRITE_WITH_GRADIENT = "_overwrite_with_gradient"
"""The collection whose "gradients" are its new values (scales of fp8)."""


class TrainState(struct.PyTreeNode):
    """Step, parameters and optimizer state; the model and optimizer are static.

    Further state, such as running statistics, goes into a subclass:

        class TrainState(train_state.TrainState):
            batch_stats: Any

    `create` and `apply_gradients` take such fields as keyword arguments.

    To restore a stored state, create a state in the same way and call
    `serialization.from_bytes(state, data, strict=True)` or `restore_checkpoint`.

    Args:
        step: number of updates made.
        apply_fn: usually `model.apply`; stored here so that a training step needs only
            one object.
        params: the parameters.
        tx: an optax gradient transformation.
        opt_state: the state of `tx`.

    Example:
        >>> import optax
        >>> state = TrainState.create(
        ...     apply_fn=None, params={"w": jax.numpy.ones(2)}, tx=optax.sgd(0.5)
        ... )
        >>> state = state.apply_gradients(grads={"w": jax.numpy.ones(2)})
        >>> state.step, state.params["w"].tolist()
        (1, [0.5, 0.5])
    """

    step: int | jax.Array
    apply_fn: Callable[..., Any] | None = struct.field(pytree_node=False)
    params: Any = struct.field(pytree_node=True)
    tx: optax.GradientTransformation = struct.field(pytree_node=False)
    opt_state: Any = struct.field(pytree_node=True)

    def apply_gradients(self, *, grads: Any, **kwargs: object) -> Self:
        """Return the state after one step of the optimizer.

        If the parameters have the collection `OVERWRITE_WITH_GRADIENT` in addition to
        `params`, only `params` is optimized and that collection is replaced with its
        gradient.

        Args:
            grads: gradients with the structure of `params`.
            **kwargs: new values of other fields, such as `batch_stats`.
        """
        import optax

        whole, params = self.params, _optimized(self.params)
        optimized_grads = grads if params is whole else _optimized(grads)
        updates, opt_state = self.tx.update(optimized_grads, self.opt_state, params)
        new_params = optax.apply_updates(params, updates)
        if params is not whole:
            overwritten = grads[OVERWRITE_WITH_GRADIENT]
            new = {"params": new_params, OVERWRITE_WITH_GRADIENT: overwritten}
            # A mapping of the same kind, so that the structure does not change.
            is_frozen = isinstance(whole, FrozenDict)
            new_params = whole.copy(new) if is_frozen else {**whole, **new}
        return self.replace(
            step=self.step + 1, params=new_params, opt_state=opt_state, **kwargs
        )

    @classmethod
    def create(
        cls,
        *,
        apply_fn: Callable[..., Any] | None,
        params: Any,
        tx: optax.GradientTransformation,
        **kwargs: object,
    ) -> Self:
        """Return the state at step 0.

        Args:
            apply_fn: usually `model.apply`.
            params: the parameters.
            tx: an optax gradient transformation; its state is initialised here.
            **kwargs: values of fields that a subclass adds.
        """
        return cls(
            step=0,
            apply_fn=apply_fn,
            params=params,
            tx=tx,
            opt_state=tx.init(_optimized(params)),
            **kwargs,
        )


def _optimized(params: Any) -> Any:
    """Return the part of the parameters that the optimizer updates."""
    if isinstance(params, Mapping) and OVERWRITE_WITH_GRADIENT in params:
        return params["params"]
    return params
