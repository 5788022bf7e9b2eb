"""Optimizers whose rule is a chain of gradient transformations of optax.

A definition declares its hyper-parameters once, as the fields of a dataclass, which its
constructor takes as arguments (`takes_fields_of`). It lists its *stages*: each consists
of a transformation, the class of its state in optax, and the fields of the per-leaf
state that hold its arrays. Three things follow from that list: the update of leaves
stored in the format of this package, the gradient transformation that does the same
(`to_optax`), and the conversion of states between the two.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Concatenate, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from linsey.errors import OptionError
from linsey.errors.base import named
from linsey.optim.base import LearningRate, OptimizerDef, Scalar
from linsey.optim.state import OptimizerState

__all__ = ["OptaxDefinition", "Stage", "takes_fields_of"]

P = ParamSpec("P")
H = TypeVar("H")
D = TypeVar("D", bound=OptimizerDef)

Columns = dict[str, Any]
"""For each field of the per-leaf state, its values for all leaves: a list or a tree."""


def takes_fields_of(
    hyper_params: Callable[P, H],
) -> Callable[[Callable[[D, H], None]], Callable[Concatenate[D, P], None]]:
    """Let a constructor take the fields of a dataclass as its arguments.

    Args:
        hyper_params: the dataclass. The decorated constructor takes an instance of it;
            the resulting one takes its fields, with their names, order and defaults.

    Example:
        >>> from linsey import struct
        >>> @struct.dataclass
        ... class Params:
        ...     learning_rate: LearningRate = None
        >>> class Descent(OptaxDefinition):
        ...     @takes_fields_of(Params)
        ...     def __init__(self, hyper_params):
        ...         super().__init__(hyper_params)
        >>> Descent(learning_rate=0.5).hyper_params
        Params(learning_rate=0.5)
    """

    def decorate(init: Callable[[D, H], None]) -> Callable[Concatenate[D, P], None]:
        @functools.wraps(init)
        def construct(self: D, *args: P.args, **kwargs: P.kwargs) -> None:
            init(self, hyper_params(*args, **kwargs))

        fields = inspect.signature(hyper_params).parameters.values()
        first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        signature = inspect.Signature([first, *fields], return_annotation=None)
        vars(construct)["__signature__"] = signature
        return construct

    return decorate


class Stage(NamedTuple):
    """One transformation of a chain, and how its state is stored.

    Args:
        transformation: the gradient transformation.
        state: the class of its state in optax. If `None`, it has no state.
        fields: for each field of that state, other than `count`, the field of the
            per-leaf state.
    """

    transformation: optax.GradientTransformation
    state: Any = None
    fields: Mapping[str, str] = MappingProxyType({})

    def pack(self, step: jax.Array | int, columns: Columns) -> Any:
        """Return the state of the transformation."""
        if self.state is None:
            return optax.EmptyState()
        values = {name: columns[field] for name, field in self.fields.items()}
        if "count" in self.state._fields:
            values["count"] = jnp.asarray(step, jnp.int32)
        return self.state(**values)

    def unpack(self, state: object) -> Columns:
        """Return the values in a state of the transformation."""
        return {field: getattr(state, name) for name, field in self.fields.items()}


class OptaxDefinition(OptimizerDef):
    """Base class of the definitions whose rule optax computes.

    A subclass declares the state of a leaf, `param_state`, and its `stages`.
    """

    param_state: ClassVar[Callable[..., Any] | None] = None
    """The class of the state of one leaf. If `None`, the leaves have no state."""

    def stages(self, hyper_params: Any) -> list[Stage]:
        """Return the transformations, in the order in which they are applied.

        Args:
            hyper_params: the hyper-parameters of the update.
        """
        raise NotImplementedError

    def init_param_state(self, param: jax.Array) -> Any:
        """Return the first state of one leaf: zeros like the leaf."""
        if self.param_state is None:
            return ()
        return self.param_state(*(zeros_like(param) for _ in self._fields()))

    def apply_param_gradient(  # noqa: D102
        self,
        step: Any,
        hyper_params: Any,
        param: jax.Array,
        state: Any,
        grad: jax.Array,
    ) -> tuple[jax.Array, Any]:
        apply = self._apply_stages
        params, states = apply(step, hyper_params, [param], [state], [grad])
        return params[0], states[0]

    def apply_leaves(  # noqa: D102
        self,
        step: Any,
        hyper_params: Any,
        params: list[jax.Array],
        states: list[Any],
        grads: list[jax.Array],
    ) -> tuple[list[jax.Array], list[Any]]:
        # All leaves at once, so that values which depend only on the step are computed
        # once; unless a subclass has a rule of its own for a leaf.
        own_rule = type(self).apply_param_gradient
        if own_rule is not OptaxDefinition.apply_param_gradient:
            return super().apply_leaves(step, hyper_params, params, states, grads)
        return self._apply_stages(step, hyper_params, params, states, grads)

    def _apply_stages(
        self,
        step: jax.Array | int,
        hyper_params: object,
        params: Iterable[ArrayLike],
        states: list[Any],
        grads: Iterable[ArrayLike],
    ) -> tuple[list[jax.Array], list[Any]]:
        stages = self.stages(hyper_params)
        leaves = [as_array(param) for param in params]
        updates: Any = [self.cast(as_array(grad)) for grad in grads]
        old = jax.tree.map(as_array, self._columns(states))
        new = dict(old)
        seen = [self.cast(leaf) for leaf in leaves]
        for stage in stages:
            state = stage.pack(step, old)
            updates, state = stage.transformation.update(updates, state, seen)
            new.update(stage.unpack(state))
        new = {name: jax.tree.map(like, new[name], old[name]) for name in new}
        moved = jax.tree.map(lambda p, u: like(p + u, p), leaves, updates)
        return moved, self._rows(new, len(leaves))

    def cast(self, leaf: jax.Array) -> jax.Array:
        """Return a gradient or a parameter in the dtype of the computation."""
        return leaf

    def learning_rate_stage(
        self, learning_rate: LearningRate, flip_sign: bool = True
    ) -> Stage:
        """Return the stage that multiplies by the learning rate, or its negative."""
        if learning_rate is None:
            raise OptionError(
                f"no learning rate provided: {named(self)} has `learning_rate=None`.",
                "An update is a multiple of the learning rate.",
                "Give one for all updates, `Adam(learning_rate=1e-3)`, or for this "
                "one, `optimizer.apply_gradient(grads, learning_rate=1e-3)`.",
            )
        scale = optax.scale_by_learning_rate(learning_rate, flip_sign=flip_sign)
        state = optax.ScaleByScheduleState if callable(learning_rate) else None
        return Stage(scale, state)

    def decay_stages(self, weight_decay: Scalar) -> list[Stage]:
        """Return the stage that adds `weight_decay * param`, unless that is zero."""
        if isinstance(weight_decay, int | float) and not weight_decay:
            return []
        return [Stage(optax.add_decayed_weights(weight_decay))]

    # ------------------------------------------------------------------ optax

    def to_optax(self, **overrides: Any) -> optax.GradientTransformation:  # noqa: D102
        stages = self.stages(self.update_hyper_params(**overrides))
        return optax.chain(*(stage.transformation for stage in stages))

    def to_optax_state(  # noqa: D102
        self, params: object, state: OptimizerState, **overrides: Any
    ) -> Any:
        treedef = jax.tree.structure(params)
        columns = self._columns(treedef.flatten_up_to(state.param_states))
        trees = {name: treedef.unflatten(column) for name, column in columns.items()}
        stages = self.stages(self.update_hyper_params(**overrides))
        return tuple(stage.pack(state.step, trees) for stage in stages)

    def from_optax_state(  # noqa: D102
        self, params: object, opt_state: Any, step: jax.Array | int, **overrides: Any
    ) -> OptimizerState:
        leaves, treedef = jax.tree.flatten(params)
        columns = self._columns([self.init_param_state(leaf) for leaf in leaves])
        stages = self.stages(self.update_hyper_params(**overrides))
        for stage, state in zip(stages, opt_state, strict=True):
            for name, tree in stage.unpack(state).items():
                columns[name] = treedef.flatten_up_to(tree)
        states = treedef.unflatten(self._rows(columns, len(leaves)))
        return OptimizerState(jnp.asarray(step, jnp.int32), states)

    # ------------------------------------------------------------------ layout

    def _fields(self) -> tuple[str, ...]:
        return tuple(getattr(self.param_state, "__dataclass_fields__", ()))

    def _columns(self, states: list[Any]) -> Columns:
        """Return the states of the leaves, field by field."""
        fields = self._fields()
        return {name: [getattr(state, name) for state in states] for name in fields}

    def _rows(self, columns: Columns, count: int) -> list[Any]:
        """Return the states of the leaves, leaf by leaf."""
        if self.param_state is None:
            return [()] * count
        rows = zip(*(columns[name] for name in self._fields()), strict=True)
        return [self.param_state(*row) for row in rows]


def as_array(value: ArrayLike) -> jax.Array:
    """Convert a number or a NumPy array, made by hand in a program, to an array."""
    return value if isinstance(value, jax.Array) else jnp.asarray(value)


def zeros_like(param: ArrayLike) -> jax.Array:
    """Return zeros of the shape and dtype of a leaf."""
    return jnp.zeros_like(as_array(param))


def like(new: jax.Array, old: jax.Array) -> jax.Array:
    """Return a new value in the dtype of the old one, so that dtypes are preserved.

    Otherwise, gradients or hyper-parameters of a wider dtype would turn bfloat16
    parameters into float32.
    """
    keep = new.dtype == old.dtype or not jnp.issubdtype(old.dtype, jnp.inexact)
    return new if keep else new.astype(old.dtype)
