"""Optimizers whose rule is a chain of gradient transformations of optax.

A definition lists its *stages*, each a transformation together with the place of its
state: which class optax keeps it in, and which field of the per-leaf state holds each
of its arrays. From that list follow an update of leaves that are kept as this package
keeps them, the gradient transformation that does the same (`to_optax`), and the
conversion of states between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from linsey.errors import LearningRateMissingError
from linsey.optim.definition import Leaves, OptimizerDef
from linsey.optim.state import OptimizerState

__all__ = ["OptaxDefinition", "Stage"]

Columns = dict[str, Any]
"""For each field of the per-leaf state, its values for all leaves: a list or a tree."""


class Stage(NamedTuple):
    """One transformation of a chain, and where its state is kept.

    Args:
        transformation: what is done to the updates.
        state: the class of its state in optax; None if it has none.
        fields: for each field of that state, other than `count`, the field of the
            per-leaf state.
    """

    transformation: optax.GradientTransformation
    state: Any = None
    fields: Mapping[str, str] = MappingProxyType({})

    def pack(self, step: Any, columns: Columns) -> Any:
        """Returns the state of the transformation."""
        if self.state is None:
            return optax.EmptyState()
        values = {name: columns[field] for name, field in self.fields.items()}
        if "count" in self.state._fields:
            values["count"] = jnp.asarray(step, jnp.int32)
        return self.state(**values)

    def unpack(self, state: Any) -> Columns:
        """Returns the values that a state of the transformation holds."""
        return {field: getattr(state, name) for name, field in self.fields.items()}


def learning_rate_stage(
    owner: OptimizerDef, learning_rate: Any, flip_sign: bool = True
) -> Stage:
    """Returns the multiplication with the learning rate, downhill unless told."""
    if learning_rate is None:
        raise LearningRateMissingError(owner)
    scale = optax.scale_by_learning_rate(learning_rate, flip_sign=flip_sign)
    return Stage(scale, optax.ScaleByScheduleState if callable(learning_rate) else None)


def decay_stages(weight_decay: Any) -> list[Stage]:
    """Returns the addition of `weight_decay * param`, if it is not a plain zero."""
    if isinstance(weight_decay, int | float) and not weight_decay:
        return []
    return [Stage(optax.add_decayed_weights(weight_decay))]


class OptaxDefinition(OptimizerDef):
    """Base class of the definitions whose rule optax computes.

    A subclass says what the state of a leaf is, and its stages.
    """

    param_state: ClassVar[Callable[..., Any] | None] = None
    """The class of the state of one leaf; None if the leaves have none."""

    def stages(self, hyper_params: Any) -> list[Stage]:
        """Returns the transformations, in the order in which they are done.

        Args:
            hyper_params: those of the update.
        """
        raise NotImplementedError

    def init_param_state(self, param: Any) -> Any:
        """Returns the first state of one leaf: zeros like the leaf."""
        if self.param_state is None:
            return ()
        return self.param_state(*(zeros_like(param) for _ in self._fields()))

    def apply_param_gradient(  # noqa: D102
        self, step: Any, hyper_params: Any, param: Any, state: Any, grad: Any
    ) -> tuple[Any, Any]:
        params, states = self._apply_stages(
            step, hyper_params, [param], [state], [grad]
        )
        return params[0], states[0]

    def apply_leaves(  # noqa: D102
        self,
        step: Any,
        hyper_params: Any,
        params: Leaves,
        states: Leaves,
        grads: Leaves,
    ) -> tuple[Leaves, Leaves]:
        # All leaves at once, so that what depends on the step alone is done once;
        # unless a subclass has a rule of its own for a leaf.
        own_rule = type(self).apply_param_gradient
        if own_rule is not OptaxDefinition.apply_param_gradient:
            return super().apply_leaves(step, hyper_params, params, states, grads)
        return self._apply_stages(step, hyper_params, params, states, grads)

    def _apply_stages(
        self,
        step: Any,
        hyper_params: Any,
        params: Leaves,
        states: Leaves,
        grads: Leaves,
    ) -> tuple[Leaves, Leaves]:
        stages = self.stages(hyper_params)
        params = [as_array(param) for param in params]
        updates: Any = [self.cast(as_array(grad)) for grad in grads]
        old = jax.tree.map(as_array, self._columns(states))
        new = dict(old)
        seen = [self.cast(param) for param in params]
        for stage in stages:
            state = stage.pack(step, old)
            updates, state = stage.transformation.update(updates, state, seen)
            new.update(stage.unpack(state))
        new = {name: jax.tree.map(like, new[name], old[name]) for name in new}
        moved = jax.tree.map(lambda p, u: like(p + u, p), params, updates)
        return moved, self._rows(new, len(params))

    def cast(self, leaf: jax.Array) -> jax.Array:
        """Returns a gradient or a parameter in the dtype to compute with."""
        return leaf

    # ------------------------------------------------------------------ optax

    def to_optax(self, **overrides: Any) -> optax.GradientTransformation:  # noqa: D102
        stages = self.stages(self.update_hyper_params(**overrides))
        return optax.chain(*(stage.transformation for stage in stages))

    def to_optax_state(  # noqa: D102
        self, params: Any, state: OptimizerState, **overrides: Any
    ) -> Any:
        treedef = jax.tree.structure(params)
        columns = self._columns(treedef.flatten_up_to(state.param_states))
        trees = {name: treedef.unflatten(column) for name, column in columns.items()}
        stages = self.stages(self.update_hyper_params(**overrides))
        return tuple(stage.pack(state.step, trees) for stage in stages)

    def from_optax_state(  # noqa: D102
        self, params: Any, opt_state: Any, step: Any, **overrides: Any
    ) -> OptimizerState:
        leaves, treedef = jax.tree.flatten(params)
        columns = self._columns([self.init_param_state(leaf) for leaf in leaves])
        stages = self.stages(self.update_hyper_params(**overrides))
        for stage, state in zip(stages, opt_state, strict=True):
            trees = stage.unpack(state)
            columns.update(
                {name: treedef.flatten_up_to(tree) for name, tree in trees.items()}
            )
        states = treedef.unflatten(self._rows(columns, len(leaves)))
        return OptimizerState(jnp.asarray(step, jnp.int32), states)

    # ------------------------------------------------------------------ layout

    def _fields(self) -> tuple[str, ...]:
        return tuple(getattr(self.param_state, "__dataclass_fields__", ()))

    def _columns(self, states: Leaves) -> Columns:
        """Returns the states of the leaves, field by field."""
        fields = self._fields()
        return {name: [getattr(state, name) for state in states] for name in fields}

    def _rows(self, columns: Columns, count: int) -> Leaves:
        """Returns the states of the leaves, leaf by leaf."""
        if self.param_state is None:
            return [()] * count
        rows = zip(*(columns[name] for name in self._fields()), strict=True)
        return [self.param_state(*row) for row in rows]


def as_array(value: Any) -> jax.Array:
    """Returns an array, of a number or a NumPy array that a program made by hand."""
    return value if isinstance(value, jax.Array) else jnp.asarray(value)


def zeros_like(param: Any) -> jax.Array:
    """Returns zeros of the shape and dtype of a leaf."""
    return jnp.zeros_like(as_array(param))


def like(new: jax.Array, old: jax.Array) -> jax.Array:
    """Returns a new value in the dtype of the old one, so that structures last.

    Without this, gradients or hyper-parameters of a wider dtype would turn bfloat16
    parameters into float32 ones.
    """
    keep = new.dtype == old.dtype or not jnp.issubdtype(old.dtype, jnp.inexact)
    return new if keep else new.astype(old.dtype)
