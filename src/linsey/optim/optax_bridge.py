"""Conversion from this package to optax, and back.

`OptimizerDef.to_optax` returns the gradient transformation of a definition. This module
contains the other direction, `from_optax`, and the conversion of trained state: from an
`Optimizer`, or a stored one, to a `TrainState` and back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from linsey import serialization, struct
from linsey.errors import HyperParamUnknownError
from linsey.optim.base import Optimizer, OptimizerDef
from linsey.optim.optax_definition import like
from linsey.optim.state import OptimizerState
from linsey.training.train_state import TrainState

S = TypeVar("S", bound=TrainState)


@struct.dataclass
class _NoHyperParams:
    """No hyper-parameters: those of a gradient transformation are inside it."""


class OptaxOptimizer(OptimizerDef):
    """Updates with a gradient transformation; its state is that of optax.

    Args:
        tx: the gradient transformation. If it comes from `optax.inject_hyperparams`,
            its hyper-parameters can be overridden for an update.
    """

    def __init__(self, tx: optax.GradientTransformation) -> None:
        super().__init__(_NoHyperParams())
        self.tx = tx

    def init_state(self, params: Any) -> OptimizerState:  # noqa: D102
        return OptimizerState(jnp.zeros((), jnp.int32), self.tx.init(params))

    def update_hyper_params(self, **overrides: object) -> dict[str, object]:
        """Return the overrides, which can be checked only with the state."""
        overrides.pop("hyper_params", None)
        return overrides

    def apply_gradient(  # noqa: D102
        self, hyper_params: Any, params: Any, state: OptimizerState, grads: Any
    ) -> tuple[Any, OptimizerState]:
        opt_state = self._with(state.param_states, hyper_params)
        updates, opt_state = self.tx.update(grads, opt_state, params)
        defaults = {name: state.param_states.hyperparams[name] for name in hyper_params}
        opt_state = self._with(opt_state, defaults)
        opt_state = jax.tree.map(like, opt_state, state.param_states)
        params = optax.apply_updates(params, updates)
        return params, OptimizerState(state.step + 1, opt_state)

    def _with(self, opt_state: Any, overrides: Mapping[str, ArrayLike]) -> Any:
        """Return a state of `inject_hyperparams` with other values in it."""
        if not overrides:
            return opt_state
        known = dict(getattr(opt_state, "hyperparams", {}))
        # The value of a schedule would be recomputed, so setting it has no effect.
        for name in getattr(opt_state, "hyperparams_states", {}):
            known.pop(name, None)
        unknown = [name for name in overrides if name not in known]
        if unknown:
            raise HyperParamUnknownError(self, unknown, known)
        new = dict(opt_state.hyperparams)
        for name, value in overrides.items():
            new[name] = jnp.asarray(value, known[name].dtype)
        return opt_state._replace(hyperparams=new)

    def to_optax(self, **overrides: object) -> optax.GradientTransformation:
        """Return the gradient transformation itself; no overrides are allowed."""
        if overrides.pop("hyper_params", None) is None and overrides:
            raise HyperParamUnknownError(self, overrides, [])
        return self.tx

    def to_optax_state(  # noqa: D102
        self, params: object, state: OptimizerState, **overrides: object
    ) -> Any:
        return state.param_states

    def from_optax_state(  # noqa: D102
        self, params: object, opt_state: Any, step: jax.Array | int, **overrides: object
    ) -> OptimizerState:
        return OptimizerState(jnp.asarray(step, jnp.int32), opt_state)


def from_optax(tx: optax.GradientTransformation) -> OptaxOptimizer:
    """Return the definition of an optimizer whose updates optax computes.

    Args:
        tx: a gradient transformation. If it comes from `optax.inject_hyperparams`,
            `Optimizer.apply_gradient` can override its hyper-parameters.

    Example:
        >>> adam = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)
        >>> optimizer = from_optax(adam).create({"w": jnp.ones(2)})
        >>> grads = {"w": jnp.ones(2)}
        >>> optimizer.apply_gradient(grads).target["w"].tolist()
        [0.5, 0.5]
        >>> optimizer.apply_gradient(grads, learning_rate=2.0).target["w"].tolist()
        [-1.0, -1.0]
    """
    return OptaxOptimizer(tx)


def to_train_state(
    optimizer: Optimizer,
    *,
    apply_fn: Callable[..., object] | None,
    hyper_params: Mapping[str, object] | None = None,
    cls: type[S] = TrainState,
    **fields: object,
) -> S:
    """Return a `TrainState` that continues the training of an optimizer.

    It has the same step, the same parameters and the same state of each leaf.

    Args:
        optimizer: parameters, state and definition.
        apply_fn: usually `model.apply`.
        hyper_params: hyper-parameters that differ from the definition's defaults, such
            as a learning rate that was passed to each update. It may be a schedule.
        cls: the class to make, if it has additional fields.
        **fields: the values of these fields, such as `batch_stats`.

    Example:
        >>> from linsey import optim
        >>> optimizer = optim.Momentum(0.5).create({"w": jnp.zeros(2)})
        >>> optimizer = optimizer.apply_gradient({"w": jnp.ones(2)})
        >>> state = to_train_state(optimizer, apply_fn=None)
        >>> state = state.apply_gradients(grads={"w": jnp.ones(2)})
        >>> int(state.step), [round(x, 6) for x in state.params["w"].tolist()]
        (2, [-1.45, -1.45])
    """
    definition, params = optimizer.optimizer_def, optimizer.target
    overrides = dict(hyper_params or {})
    return cls(
        step=optimizer.state.step,
        apply_fn=apply_fn,
        params=params,
        tx=definition.to_optax(**overrides),
        opt_state=definition.to_optax_state(params, optimizer.state, **overrides),
        **fields,
    )


def from_train_state(
    state: TrainState, definition: OptimizerDef, **overrides: object
) -> Optimizer:
    """Return an optimizer that continues the training of a `TrainState`.

    Args:
        state: its `tx` is `definition.to_optax(**overrides)`, or has a state of the
            same structure.
        definition: the algorithm.
        **overrides: hyper-parameters that differ from the defaults there.
    """
    restored = definition.from_optax_state(
        state.params, state.opt_state, state.step, **overrides
    )
    return Optimizer(definition, restored, state.params)


def restore_train_state(
    checkpoint: bytes | Mapping[str, object],
    definition: OptimizerDef,
    *,
    apply_fn: Callable[..., object] | None,
    target: object = None,
    hyper_params: Mapping[str, object] | None = None,
    cls: type[S] = TrainState,
    strict: bool = False,
    **fields: object,
) -> S:
    """Return a `TrainState` from the checkpoint of an optimizer, old or new.

    Args:
        checkpoint: the result of `to_bytes(optimizer)` or `to_state_dict(optimizer)`,
            from linsey or from Flax before 0.6: `{"target": ..., "state": ...}`.
        definition: the algorithm used in training, which a checkpoint does not contain.
        apply_fn: usually `model.apply`.
        target: parameters with the desired structure. If `None`, the nested
            dictionaries of the checkpoint.
        hyper_params: see `to_train_state`.
        cls: the class to make, if it has further fields.
        strict: whether shapes, dtypes and names must be those of the target, and of
            the state that the definition makes for it.
        **fields: their values, such as `batch_stats`.

    Raises:
        MalformedBytesError: if the bytes are damaged.
        StateDictMismatchError: if the checkpoint is of another model or optimizer.

    Example:
        >>> from linsey import optim
        >>> adam = optim.Adam(learning_rate=1e-3)
        >>> stored = serialization.to_bytes(adam.create({"w": jnp.ones(2)}))
        >>> state = restore_train_state(stored, adam, apply_fn=None)
        >>> state.params["w"].tolist(), int(state.step)
        ([1.0, 1.0], 0)
    """
    if isinstance(checkpoint, bytes):
        checkpoint = serialization.msgpack_restore(checkpoint)
    if target is None and isinstance(checkpoint, Mapping):
        target = jax.tree.map(jnp.asarray, checkpoint.get("target"))
    optimizer = definition.create(target).restore_state(checkpoint, strict=strict)
    optimizer = jax.tree.map(jnp.asarray, optimizer)
    return to_train_state(
        optimizer, apply_fn=apply_fn, hyper_params=hyper_params, cls=cls, **fields
    )
