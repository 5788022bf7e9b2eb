"""The common parts of all optimizers: definitions, and the optimizers they create.

An `OptimizerDef` is an algorithm with default *hyper-parameters*. It computes the first
*state* of a leaf of the parameters (`init_param_state`), and the next leaf and state
from leaf, state and gradient (`apply_param_gradient`). Updates of whole trees follow
from these two. `create` returns an `Optimizer`: parameters, their state and the
definition in one immutable object. `MultiOptimizer` and `ReplicatedOptimizer` are
definitions made from others: the former has one for each part of a tree, the latter
updates a copy on each device.

Definitions are not pytrees. They are compared by identity, so that a program compiled
for one of them is not mistaken for a program of another.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from linsey import errors, serialization, struct
from linsey.errors.base import named
from linsey.jax_utils import replicate, unreplicate
from linsey.optim._selection import gradients_at, gradients_of, masked, select
from linsey.optim.state import OptimizerState as OptimizerState
from linsey.traverse_util import ModelParamTraversal as ModelParamTraversal
from linsey.traverse_util import Traversal

T = TypeVar("T")

Scalar = float | jax.Array
"""A hyper-parameter: a number, traced or not."""
LearningRate = Scalar | optax.Schedule | None
"""A learning rate, a schedule, or `None` if each update is given a learning rate."""

LossFn = Callable[[Any], object]
"""A function of the parameters that returns a loss, or a loss and another value."""

FROZEN = "frozen"
"""The label, in optax, of the leaves that no traversal selects."""


class OptimizerDef:
    """Base class of optimizer definitions.

    A subclass calls this constructor with its hyper-parameters, a `struct.dataclass`,
    and defines the first state and the update of a leaf.

    Args:
        hyper_params: the values that apply unless an update overrides them.

    Example:
        >>> from linsey import struct
        >>> @struct.dataclass
        ... class SignParams:
        ...     learning_rate: float | None
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

    def __init__(self, hyper_params: object) -> None:
        self.hyper_params = hyper_params

    # ------------------------------------------------------------------ one leaf

    def init_param_state(self, param: jax.Array) -> Any:
        """Return the first state of one leaf.

        Args:
            param: the leaf.

        Raises:
            UnsupportedError: if the algorithm works on whole trees only.
        """
        raise _no_rule_for_a_leaf(self)

    def apply_param_gradient(
        self,
        step: Any,
        hyper_params: Any,
        param: jax.Array,
        state: Any,
        grad: jax.Array,
    ) -> tuple[jax.Array, Any]:
        """Return one leaf and its state after an update.

        Args:
            step: number of updates made before this one.
            hyper_params: the hyper-parameters of this update.
            param: the leaf.
            state: its state.
            grad: its gradient.

        Raises:
            UnsupportedError: if the algorithm works on whole trees only.
        """
        raise _no_rule_for_a_leaf(self)

    def apply_leaves(
        self,
        step: Any,
        hyper_params: Any,
        params: list[jax.Array],
        states: list[Any],
        grads: list[jax.Array],
    ) -> tuple[list[jax.Array], list[Any]]:
        """Return several leaves and their states; see `apply_param_gradient`."""
        pairs = [
            self.apply_param_gradient(step, hyper_params, param, state, grad)
            for param, state, grad in zip(params, states, grads, strict=True)
        ]
        return [param for param, _ in pairs], [state for _, state in pairs]

    # ------------------------------------------------------------------ trees

    def init_state(self, params: object) -> OptimizerState:
        """Return the state before the first update.

        Args:
            params: a tree of arrays.
        """
        states = jax.tree.map(self.init_param_state, params)
        return OptimizerState(jnp.zeros((), jnp.int32), states)

    def apply_gradient(
        self, hyper_params: Any, params: T, state: OptimizerState, grads: object
    ) -> tuple[T, OptimizerState]:
        """Return parameters and state after an update.

        Args:
            hyper_params: hyper-parameters of this update; see `update_hyper_params`.
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
        """Return the hyper-parameters with some replaced.

        Args:
            **overrides: new values by name; `hyper_params` is a complete set that
                replaces the defaults before the other names are applied.

        Raises:
            HyperParamUnknownError: if there is no hyper-parameter of that name.
        """
        hyper_params = overrides.pop("hyper_params", self.hyper_params)
        return self._replaced(hyper_params, overrides)

    def _replaced(self, hyper_params: Any, changes: Mapping[str, object]) -> Any:
        """Return hyper-parameters with some replaced, or raise if one is unknown."""
        if dataclasses.is_dataclass(hyper_params):
            known = [field.name for field in dataclasses.fields(hyper_params)]
            unknown = [name for name in changes if name not in known]
            if unknown:
                raise errors.HyperParamUnknownError(self, unknown, known)
        return hyper_params.replace(**changes) if changes else hyper_params

    def create(self, target: object, focus: Traversal | None = None) -> Optimizer:
        """Return an optimizer that holds parameters and their state.

        Args:
            target: the parameters, a tree of arrays.
            focus: selects the leaves to optimize. If `None`, all are optimized.
        """
        definition = self if focus is None else MultiOptimizer((focus, self))
        return Optimizer(definition, definition.init_state(target), target)

    # ------------------------------------------------------------------ storing

    def state_dict(self, target: object, state: OptimizerState) -> dict[str, Any]:
        """Return parameters and state as nested dictionaries with string keys.

        Args:
            target: the parameters.
            state: their state.
        """
        return serialization.to_state_dict({"target": target, "state": state})

    def restore_state(
        self,
        target: T,
        state: OptimizerState,
        state_dict: object,
        *,
        strict: bool = False,
    ) -> tuple[T, OptimizerState]:
        """Return parameters and state from a result of `state_dict`.

        Args:
            target: parameters with the desired structure.
            state: their state.
            state_dict: the stored dictionaries.
            strict: whether shapes, dtypes and names must be those of the target.

        Raises:
            OptimizerStateDictError: if the target or a parameter is missing.
            StateDictMismatchError: if the state has missing or unknown fields, or,
                with `strict`, if anything differs.
        """
        if strict:
            both = {"target": target, "state": state}
            serialization.refuse_differences(both, state_dict, "of an optimizer")
        found = state_dict if isinstance(state_dict, Mapping) else {}
        for part in ("target", "state"):
            if part not in found:
                raise errors.OptimizerStateDictError(
                    f"The state dict of an optimizer has no {part!r}.",
                    f"It has {list(found)}; expected 'target' and 'state'.",
                )
        try:
            target = serialization.from_state_dict(target, found["target"])
        except errors.StateDictMismatchError as error:
            raise errors.OptimizerStateDictError(error.found, error.why) from error
        return target, serialization.from_state_dict(state, found["state"])

    # ------------------------------------------------------------------ optax

    def to_optax(self, **overrides: Any) -> optax.GradientTransformation:
        """Return a gradient transformation that makes the same updates.

        Args:
            **overrides: hyper-parameters that differ from the defaults. For the
                optimizers of this package, the learning rate may be a schedule, that
                is, a function of the step.
        """
        hyper_params = self.update_hyper_params(**overrides)

        def update(
            updates: optax.Updates, state: Any, params: optax.Params | None = None
        ) -> tuple[optax.Updates, Any]:
            moved, state = self.apply_gradient(hyper_params, params, state, updates)
            return jax.tree.map(lambda new, old: new - old, moved, params), state

        return optax.GradientTransformation(self.init_state, update)  # type: ignore

    def to_optax_state(
        self, params: object, state: OptimizerState, **overrides: Any
    ) -> Any:
        """Return the state of `to_optax(**overrides)` that continues from `state`.

        Args:
            params: the parameters.
            state: their state in this package.
            **overrides: as for `to_optax`.
        """
        return state

    def from_optax_state(
        self, params: object, opt_state: Any, step: jax.Array | int, **overrides: Any
    ) -> OptimizerState:
        """Return the state that continues from one of `to_optax(**overrides)`.

        Args:
            params: the parameters.
            opt_state: their state in optax.
            step: number of updates made.
            **overrides: as for `to_optax`.
        """
        return opt_state


def _no_rule_for_a_leaf(definition: OptimizerDef) -> errors.UnsupportedError:
    return errors.UnsupportedError(
        f"{named(definition)} has no rule for a single leaf.",
        "A focus and a `MultiOptimizer` give each leaf a state of its own; this "
        "optimizer keeps one for a whole tree.",
        "Put it outside: `WeightNorm(MultiOptimizer(...))`, or use "
        "`optax.multi_transform`. A rule of your own defines `init_param_state` and "
        "`apply_param_gradient`.",
    )


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

    def apply_gradient(self, grads: object, **hyper_param_overrides: Any) -> Self:
        """Return the optimizer after one update.

        Args:
            grads: gradients with the structure of `target`.
            **hyper_param_overrides: hyper-parameters of this update only, such as
                `learning_rate`; the values may be traced. `hyper_params` replaces
                the whole set.

        Raises:
            GradientStructureError: if `grads` has another structure.
            HyperParamUnknownError: if there is no hyper-parameter of that name.
            OptionError: if there is no learning rate.
        """
        definition = self.optimizer_def
        hyper_params = definition.update_hyper_params(**hyper_param_overrides)
        update = definition.apply_gradient
        target, state = update(hyper_params, self.target, self.state, grads)
        return self.replace(state=state, target=target)

    def compute_gradient(self, loss_fn: LossFn) -> tuple[Any, ...]:
        """Return the loss and its gradient. Deprecated: use `jax.value_and_grad`.

        Args:
            loss_fn: takes the parameters and returns the loss, a scalar array, or a
                pair of the loss and any auxiliary value.

        Returns:
            `(loss, grad)`, or `(loss, aux, grad)` if the function returns a pair.

        Raises:
            ArgumentTypeError: if the function returns anything else.
        """
        _deprecated("compute_gradient", "jax.grad or jax.value_and_grad")
        return _loss_and_gradient(loss_fn, self.target)

    compute_gradients = compute_gradient

    def optimize(
        self, loss_fn: LossFn, **hyper_param_overrides: Any
    ) -> tuple[Any, ...]:
        """Return the optimizer after one update, and the loss before. Deprecated.

        Args:
            loss_fn: see `compute_gradient`.
            **hyper_param_overrides: see `apply_gradient`.

        Returns:
            `(optimizer, loss)`, or `(optimizer, loss, aux)` if the function returns
            a pair.
        """
        _deprecated("optimize", "jax.value_and_grad and apply_gradient")
        *values, grads = _loss_and_gradient(loss_fn, self.target)
        return self.apply_gradient(grads, **hyper_param_overrides), *values

    def replicate(
        self, devices: Sequence[jax.Device] | None = None, axis_name: str = "batch"
    ) -> Self:
        """Return a copy of the optimizer for each device, for `jax.pmap`.

        Args:
            devices: the devices that get a copy. If `None`, all local devices.
            axis_name: the axis of the `pmap`, over which gradients are averaged.
        """
        definition = ReplicatedOptimizer(self.optimizer_def, devices, axis_name)
        state, target = replicate((self.state, self.target), definition.devices)
        return self.replace(optimizer_def=definition, state=state, target=target)

    def unreplicate(self) -> Self:
        """Return the optimizer of the first device, undoing `replicate`.

        Raises:
            OptionError: if it was not replicated.
        """
        definition = self.optimizer_def
        if not isinstance(definition, ReplicatedOptimizer):
            raise errors.OptionError(
                f"Cannot unreplicate {named(definition)}: it is not replicated.",
                "Only the result of `replicate` has a copy for each device.",
                "Use the optimizer as it is.",
            )
        state, target = unreplicate((self.state, self.target))
        definition = definition.optimizer_def
        return self.replace(optimizer_def=definition, state=state, target=target)

    def state_dict(self) -> dict[str, Any]:
        """Return target and state as nested dictionaries with string keys."""
        return self.optimizer_def.state_dict(self.target, self.state)

    def restore_state(self, state: object, *, strict: bool = False) -> Self:
        """Return an optimizer like this one with the contents of a state dict.

        Args:
            state: the result of `state_dict`, from linsey or from Flax before 0.6.
            strict: whether shapes, dtypes and names must be those of this optimizer.

        Raises:
            OptimizerStateDictError: if the target or a parameter is missing.
            StateDictMismatchError: if the state has missing or unknown fields, or,
                with `strict`, if anything differs.
        """
        if strict:
            serialization.refuse_differences(self, state, "of an optimizer")
        restore = self.optimizer_def.restore_state
        target, restored = restore(self.target, self.state, state)
        return self.replace(state=restored, target=target)


serialization.register_serialization_state(
    Optimizer, Optimizer.state_dict, Optimizer.restore_state, override=True
)


def _deprecated(method: str, instead: str) -> None:
    text = f"{method} is deprecated: use {instead}."
    warnings.warn(text, DeprecationWarning, stacklevel=3)


def _loss_and_gradient(loss_fn: LossFn, target: object) -> tuple[Any, ...]:
    """Return the loss, the auxiliary value if there is one, and the gradient."""
    has_aux = False

    def pair(target: object) -> tuple[object, object]:
        nonlocal has_aux
        value = loss_fn(target)
        if isinstance(value, tuple) and len(value) == 2:
            has_aux = True
            return value
        if not isinstance(value, jax.Array | np.ndarray | np.generic):
            size = f" of {len(value)}" if isinstance(value, tuple) else ""
            raise errors.ArgumentTypeError(
                f"The loss function returned a {type(value).__name__}{size}.",
                "It must return a scalar array, or a pair of one and anything else.",
                "Write `return loss` or `return loss, aux`.",
            )
        return value, None

    (loss, aux), grad = jax.value_and_grad(pair, has_aux=True)(target)
    return (loss, aux, grad) if has_aux else (loss, grad)


class ReplicatedOptimizer(OptimizerDef):
    """Average the gradients over a named axis, then update as another optimizer.

    Args:
        optimizer_def: the other optimizer.
        devices: the devices that hold the copies. If `None`, all local devices.
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

    def init_state(self, params: object) -> OptimizerState:  # noqa: D102
        return self.optimizer_def.init_state(params)

    def update_hyper_params(self, **overrides: Any) -> Any:  # noqa: D102
        return self.optimizer_def.update_hyper_params(**overrides)

    def apply_gradient(  # noqa: D102
        self, hyper_params: Any, params: T, state: OptimizerState, grads: object
    ) -> tuple[T, OptimizerState]:
        grads = lax.pmean(grads, self.axis_name)
        return self.optimizer_def.apply_gradient(hyper_params, params, state, grads)

    def state_dict(self, target: object, state: OptimizerState) -> dict[str, Any]:
        """Return the state dict of the first copy."""
        return self.optimizer_def.state_dict(*unreplicate((target, state)))

    def restore_state(
        self,
        target: T,
        state: OptimizerState,
        state_dict: object,
        *,
        strict: bool = False,
    ) -> tuple[T, OptimizerState]:
        """Return a copy of the stored parameters and state for each device."""
        target, state = unreplicate((target, state))
        restore = self.optimizer_def.restore_state
        restored = restore(target, state, state_dict, strict=strict)
        return replicate(restored, self.devices)

    def to_optax(self, **overrides: Any) -> optax.GradientTransformation:
        """Return the average over the axis, followed by the other transformation."""
        average = optax.stateless(lambda grads, _: lax.pmean(grads, self.axis_name))
        return optax.chain(average, self.optimizer_def.to_optax(**overrides))

    def to_optax_state(  # noqa: D102
        self, params: object, state: OptimizerState, **overrides: Any
    ) -> Any:
        inner = self.optimizer_def.to_optax_state(params, state, **overrides)
        return optax.EmptyState(), inner

    def from_optax_state(  # noqa: D102
        self, params: object, opt_state: Any, step: jax.Array | int, **overrides: Any
    ) -> OptimizerState:
        _, inner = opt_state
        return self.optimizer_def.from_optax_state(params, inner, step, **overrides)


class MultiOptimizer(OptimizerDef):
    """Update each leaf with the optimizer whose traversal selects it.

    A leaf that no traversal selects has the state `None` and never changes. All
    optimizers share one step. Hyper-parameters are a list with one set for each
    optimizer; an override by name applies to all of them.

    The traversals are applied once per update to the parameters themselves, so that
    their filters see paths and arrays. The gradients and states of the leaves they
    select are found by path.

    Args:
        *traversals_and_optimizers: pairs of a traversal, which selects leaves, and a
            definition.

    Raises:
        OptionError: if there is no pair. `create` raises it if a leaf is selected
            twice or a traversal selects more than leaves.

    Example:
        >>> from linsey import optim
        >>> kernels = optim.ModelParamTraversal(lambda path, _: "kernel" in path)
        >>> biases = optim.ModelParamTraversal(lambda path, _: "bias" in path)
        >>> definition = optim.MultiOptimizer(
        ...     (kernels, optim.GradientDescent(0.5)),
        ...     (biases, optim.GradientDescent(1.0)),
        ... )
        >>> params = {"kernel": jnp.array(2.0), "bias": jnp.array(2.0)}
        >>> optimizer = definition.create(params).apply_gradient(params)
        >>> {name: float(x) for name, x in optimizer.target.items()}
        {'bias': 0.0, 'kernel': 1.0}
    """

    def __init__(
        self, *traversals_and_optimizers: tuple[Traversal, OptimizerDef]
    ) -> None:
        if not traversals_and_optimizers:
            raise errors.OptionError(
                "A `MultiOptimizer` was given no optimizer.",
                "It has no rule of its own.",
                "Give pairs: `MultiOptimizer((traversal, Adam(1e-3)), ...)`.",
            )
        self.traversals = tuple(pair[0] for pair in traversals_and_optimizers)
        self.sub_optimizers = tuple(pair[1] for pair in traversals_and_optimizers)
        super().__init__([sub.hyper_params for sub in self.sub_optimizers])

    def init_state(self, params: object) -> OptimizerState:  # noqa: D102
        leaves, treedef = jax.tree.flatten(params)
        states: list[Any] = [None] * len(leaves)
        selected = select(self.traversals, params)
        for numbers, sub in zip(selected, self.sub_optimizers, strict=True):
            for leaf in numbers:
                states[leaf] = sub.init_param_state(leaves[leaf])
        return OptimizerState(jnp.zeros((), jnp.int32), treedef.unflatten(states))

    def apply_gradient(
        self, hyper_params: Any, params: T, state: OptimizerState, grads: object
    ) -> tuple[T, OptimizerState]:
        """Return parameters and state after an update.

        Args:
            hyper_params: one set for each optimizer.
            params: a tree of arrays.
            state: its state.
            grads: the gradients; only those of selected leaves are needed.
        """
        self._check_count(hyper_params)
        leaves, treedef = jax.tree.flatten(params)
        states = treedef.flatten_up_to(state.param_states)
        selected = select(self.traversals, params)
        own_grads = gradients_at(selected, params, grads)
        parts = zip(selected, own_grads, self.sub_optimizers, hyper_params, strict=True)
        for numbers, grads, sub, values in parts:
            own = tuple(leaves[leaf] for leaf in numbers)
            own_states = tuple(states[leaf] for leaf in numbers)
            own_state = OptimizerState(state.step, own_states)
            moved, new = sub.apply_gradient(values, own, own_state, grads)
            for i, leaf in enumerate(numbers):
                leaves[leaf], states[leaf] = moved[i], new.param_states[i]
        states = treedef.unflatten(states)
        return treedef.unflatten(leaves), OptimizerState(state.step + 1, states)

    def update_hyper_params(self, **overrides: Any) -> list[Any]:
        """Return the list of hyper-parameters with some replaced in each.

        Args:
            **overrides: new values by name; `hyper_params` is a list that replaces
                the defaults.
        """
        hyper_params = overrides.pop("hyper_params", self.hyper_params)
        self._check_count(hyper_params)
        return [
            sub._replaced(values, overrides)
            for sub, values in zip(self.sub_optimizers, hyper_params, strict=True)
        ]

    def _check_count(self, hyper_params: Sequence[object]) -> None:
        found, expected = len(hyper_params), len(self.sub_optimizers)
        if found != expected:
            raise errors.MismatchError(
                f"`hyper_params` has {found} entries for {expected} optimizers.",
                "A `MultiOptimizer` takes one set for each of its optimizers, in their "
                "order.",
                "Start from the list it has: `hyper_params = "
                "list(optimizer.optimizer_def.hyper_params)`, and replace entries.",
            )

    # ------------------------------------------------------------------ optax

    def to_optax(self, **overrides: Any) -> optax.GradientTransformation:  # noqa: D102
        transformations: dict[Hashable, optax.GradientTransformation] = {
            str(i): sub.to_optax(hyper_params=values)
            for i, (sub, values) in enumerate(self._each(overrides))
        }
        transformations[FROZEN] = optax.set_to_zero()
        return optax.multi_transform(transformations, self._labels)

    def to_optax_state(  # noqa: D102
        self, params: object, state: OptimizerState, **overrides: Any
    ) -> Any:
        inner: dict[Hashable, Any] = {FROZEN: optax.MaskedState(optax.EmptyState())}
        selected = select(self.traversals, params)
        for i, (sub, values) in enumerate(self._each(overrides)):
            own = masked(params, params, selected[i])
            states = masked(params, state.param_states, selected[i])
            own_state = sub.to_optax_state(
                own, OptimizerState(state.step, states), hyper_params=values
            )
            inner[str(i)] = optax.MaskedState(own_state)
        return optax.MultiTransformState(inner)

    def from_optax_state(  # noqa: D102
        self, params: object, opt_state: Any, step: jax.Array | int, **overrides: Any
    ) -> OptimizerState:
        treedef = jax.tree.structure(params)
        states: list[Any] = [None] * treedef.num_leaves
        selected = select(self.traversals, params)
        for i, (sub, values) in enumerate(self._each(overrides)):
            own = masked(params, params, selected[i])
            inner = opt_state.inner_states[str(i)].inner_state
            restored = sub.from_optax_state(own, inner, step, hyper_params=values)
            found = jax.tree.structure(own).flatten_up_to(restored.param_states)
            for leaf, leaf_state in zip(selected[i], found, strict=True):
                states[leaf] = leaf_state
        return OptimizerState(jnp.asarray(step, jnp.int32), treedef.unflatten(states))

    def _each(self, overrides: dict[str, Any]) -> Iterable[tuple[OptimizerDef, Any]]:
        hyper_params = self.update_hyper_params(**overrides)
        return zip(self.sub_optimizers, hyper_params, strict=True)

    def _labels(self, params: object) -> object:
        """Return the tree with each leaf replaced by the index of its optimizer."""
        treedef = jax.tree.structure(params)
        labels = [FROZEN] * treedef.num_leaves
        for i, numbers in enumerate(select(self.traversals, params)):
            for leaf in numbers:
                labels[leaf] = str(i)
        return treedef.unflatten(labels)
