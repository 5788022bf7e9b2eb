"""Several optimizers for one tree of parameters, each with leaves of its own.

A traversal selects leaves. It is asked once for each update, with the parameters
themselves, so that its filters see paths and arrays; the gradients and states of the
leaves it selects are found by their place.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from linsey.errors import (
    GradientStructureError,
    HyperParamsCountError,
    MultipleOptimizersMatchError,
    TraversalSelectionError,
)
from linsey.optim.definition import Leaves, OptimizerDef, replaced
from linsey.optim.state import OptimizerState
from linsey.traverse_util import Traversal

__all__ = ["MultiOptimizer"]

FROZEN = "frozen"
"""The label, in optax, of the leaves that no traversal selects."""


class MultiOptimizer(OptimizerDef):
    """Updates each leaf with the optimizer whose traversal selects it.

    A leaf that no traversal selects has the state None and never changes. All
    optimizers share one step. Hyper-parameters are a list with a set for each; an
    override by name is for all of them.

    Args:
        *traversals_and_optimizers: pairs of a traversal, which selects leaves, and a
            definition.

    Raises:
        MultipleOptimizersMatchError: by `create`, if a leaf is selected twice.
        TraversalSelectionError: if there is no pair; by `create`, if a traversal
            selects more than leaves.

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
            raise TraversalSelectionError(
                "A `MultiOptimizer` was given no optimizer.",
                "It has no rule of its own.",
                "Give pairs: `MultiOptimizer((traversal, Adam(1e-3)), ...)`.",
            )
        self.traversals = tuple(pair[0] for pair in traversals_and_optimizers)
        self.sub_optimizers = tuple(pair[1] for pair in traversals_and_optimizers)
        super().__init__([sub.hyper_params for sub in self.sub_optimizers])

    def init_state(self, params: Any) -> OptimizerState:  # noqa: D102
        leaves, treedef = jax.tree.flatten(params)
        states: Leaves = [None] * len(leaves)
        for places, sub in zip(self._select(params), self.sub_optimizers, strict=True):
            for place in places:
                states[place] = sub.init_param_state(leaves[place])
        return OptimizerState(jnp.zeros((), jnp.int32), treedef.unflatten(states))

    def apply_gradient(
        self, hyper_params: Any, params: Any, state: OptimizerState, grads: Any
    ) -> tuple[Any, OptimizerState]:
        """Returns parameters and state after an update.

        Args:
            hyper_params: a set for each optimizer.
            params: a tree of arrays.
            state: its state.
            grads: the gradients; only those of selected leaves are needed.
        """
        self._check_count(hyper_params)
        leaves, treedef = jax.tree.flatten(params)
        states = treedef.flatten_up_to(state.param_states)
        gradient_at = _Gradients(params, grads)
        chosen = zip(
            self._select(params), self.sub_optimizers, hyper_params, strict=True
        )
        for places, sub, values in chosen:
            moved, new = sub.apply_gradient(
                values,
                tuple(leaves[place] for place in places),
                OptimizerState(state.step, tuple(states[place] for place in places)),
                tuple(gradient_at[place] for place in places),
            )
            for place, leaf, leaf_state in zip(
                places, moved, new.param_states, strict=True
            ):
                leaves[place], states[place] = leaf, leaf_state
        states = treedef.unflatten(states)
        return treedef.unflatten(leaves), OptimizerState(state.step + 1, states)

    def update_hyper_params(self, **overrides: Any) -> list[Any]:
        """Returns the list of hyper-parameters with some replaced in each.

        Args:
            **overrides: new values by name; `hyper_params` is a list that takes the
                place of the defaults.
        """
        hyper_params = overrides.pop("hyper_params", self.hyper_params)
        self._check_count(hyper_params)
        return [
            replaced(sub, values, overrides)
            for sub, values in zip(self.sub_optimizers, hyper_params, strict=True)
        ]

    def to_optax(self, **overrides: Any) -> optax.GradientTransformation:  # noqa: D102
        transformations: dict[Hashable, optax.GradientTransformation] = {
            str(i): sub.to_optax(hyper_params=values)
            for i, (sub, values) in enumerate(self._each(overrides))
        }
        transformations[FROZEN] = optax.set_to_zero()
        return optax.multi_transform(transformations, self._labels)

    def to_optax_state(  # noqa: D102
        self, params: Any, state: OptimizerState, **overrides: Any
    ) -> Any:
        inner: dict[Hashable, Any] = {FROZEN: optax.MaskedState(optax.EmptyState())}
        for i, (sub, values) in enumerate(self._each(overrides)):
            masked = OptimizerState(
                state.step, self._masked(params, state.param_states, i)
            )
            inner[str(i)] = optax.MaskedState(
                sub.to_optax_state(
                    self._masked(params, params, i), masked, hyper_params=values
                )
            )
        return optax.MultiTransformState(inner)

    def from_optax_state(  # noqa: D102
        self, params: Any, opt_state: Any, step: Any, **overrides: Any
    ) -> OptimizerState:
        treedef = jax.tree.structure(params)
        states: Leaves = [None] * treedef.num_leaves
        places_of = self._select(params)
        for i, (sub, values) in enumerate(self._each(overrides)):
            masked = self._masked(params, params, i)
            inner = opt_state.inner_states[str(i)].inner_state
            restored = sub.from_optax_state(masked, inner, step, hyper_params=values)
            found = jax.tree.structure(masked).flatten_up_to(restored.param_states)
            for place, leaf_state in zip(places_of[i], found, strict=True):
                states[place] = leaf_state
        return OptimizerState(jnp.asarray(step, jnp.int32), treedef.unflatten(states))

    # ------------------------------------------------------------------ selection

    def _select(self, params: Any) -> list[list[int]]:
        """Returns for each traversal the places of the leaves it selects."""
        treedef = jax.tree.structure(params)
        # By path and not by structure: a traversal may give plain dictionaries where
        # the parameters have frozen ones.
        paths = [path for path, _ in jax.tree.leaves_with_path(params)]
        matches: list[list[int]] = [[] for _ in paths]
        for i, traversal in enumerate(self.traversals):
            marked = jax.tree.leaves_with_path(traversal.update(_mark, params))
            marks = {path: mark for path, mark in marked if isinstance(mark, _Mark)}
            for path, found in zip(paths, matches, strict=True):
                found.extend([i] * marks.pop(path).times if path in marks else [])
            for path in marks:
                raise TraversalSelectionError(
                    f"The traversal of optimizer {i} selects a subtree: "
                    f"{jax.tree_util.keystr(path) or 'the whole target'}.",
                    "An optimizer gives each leaf a state; it needs the leaves.",
                    "Go on to them: `t_identity['encoder'].tree()`.",
                )
        if any(len(found) > 1 for found in matches):
            raise MultipleOptimizersMatchError(treedef.unflatten(matches))
        return [
            [place for place, found in enumerate(matches) if found == [i]]
            for i in range(len(self.traversals))
        ]

    def _labels(self, params: Any) -> Any:
        """Returns the tree with the number of each leaf's optimizer in its place."""
        treedef = jax.tree.structure(params)
        labels: Leaves = [FROZEN] * treedef.num_leaves
        for i, places in enumerate(self._select(params)):
            for place in places:
                labels[place] = str(i)
        return treedef.unflatten(labels)

    def _masked(self, params: Any, tree: Any, i: int) -> Any:
        """Returns a tree without what belongs to leaves of other optimizers."""
        treedef = jax.tree.structure(params)
        own = set(self._select(params)[i])
        return treedef.unflatten(
            value if place in own else optax.MaskedNode()
            for place, value in enumerate(treedef.flatten_up_to(tree))
        )

    # ------------------------------------------------------------------ hyper-params

    def _each(self, overrides: dict[str, Any]) -> list[tuple[OptimizerDef, Any]]:
        hyper_params = self.update_hyper_params(**overrides)
        return list(zip(self.sub_optimizers, hyper_params, strict=True))

    def _check_count(self, hyper_params: Any) -> None:
        if len(hyper_params) != len(self.sub_optimizers):
            raise HyperParamsCountError(len(self.sub_optimizers), len(hyper_params))


class _Mark:
    """Stands for a leaf that a traversal has selected.

    Filters further on see the leaf's own attributes, such as its dtype.
    """

    def __init__(self, leaf: Any, times: int) -> None:
        self.leaf, self.times = leaf, times

    def __getattr__(self, name: str) -> Any:
        return getattr(self.leaf, name)


def _mark(leaf: Any) -> Any:
    if isinstance(leaf, _Mark):
        return _Mark(leaf.leaf, leaf.times + 1)
    # What holds no leaf, such as None or (), has no state and is left alone.
    return _Mark(leaf, 1) if jax.tree.leaves(leaf) else leaf


class _Gradients:
    """The gradients of the leaves of a tree, of which some may be missing."""

    def __init__(self, params: Any, grads: Any) -> None:
        self.paths: list[Any] | None = None
        treedef = jax.tree.structure(params)
        if jax.tree.structure(grads) == treedef:
            self.at: Any = jax.tree.leaves(grads)
            return
        self.paths = [path for path, _ in jax.tree.leaves_with_path(params)]
        self.at = dict(jax.tree.leaves_with_path(grads))

    def __getitem__(self, place: int) -> Any:
        if self.paths is None:
            return self.at[place]
        path = self.paths[place]
        if path not in self.at:
            raise GradientStructureError(
                f"there is no gradient of {jax.tree_util.keystr(path)}."
            )
        return self.at[path]
