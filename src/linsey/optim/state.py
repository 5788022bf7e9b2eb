"""The step and the state of all leaves, which an optimizer stores with the parameters.

There is one state object for each leaf, hundreds in a large model, and JAX would
flatten and rebuild each of them at every call of a compiled step. Therefore, as a
pytree, an `OptimizerState` has the arrays of all of them as its own children, and the
tree of state objects is built only when `param_states` is read.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from functools import partial
from typing import Any, Self

import jax

from linsey import serialization, struct

__all__ = ["OptimizerState"]


@dataclasses.dataclass(frozen=True)
class OptimizerState:
    """The step and the state of every leaf; a pytree.

    Args:
        step: number of updates made, int32.
        param_states: the tree of parameters with the state of each leaf in its place.

    Example:
        >>> state = OptimizerState(0, {"a": (1.0, 2.0), "b": ()})
        >>> jax.tree.map(lambda x: x + 1, state)
        OptimizerState(step=1, param_states={'a': (2.0, 3.0), 'b': ()})
    """

    step: jax.Array | int
    param_states: Any

    def __getattr__(self, name: str) -> Any:
        # Called only for missing attributes: `param_states` is missing after
        # `_unflatten`, until it is read.
        values = self.__dict__
        if name != "param_states" or "_leaves" not in values:
            raise AttributeError(name)
        values["param_states"] = values["_structure"][0].unflatten(values["_leaves"])
        # The leaves are kept, but from now on the tree is authoritative: its
        # dictionaries may be changed in place.
        return values["param_states"]

    def __reduce__(self) -> tuple[type[OptimizerState], tuple[object, object]]:
        return OptimizerState, (self.step, self.param_states)

    def replace(self, **updates: object) -> Self:
        """Return a copy with some fields given new values."""
        return dataclasses.replace(self, **updates)


# One object for all equal structures: JAX compares them at every call, which takes no
# time if they are identical (`benchmarks/dispatch.py`). They are wrapped in tuples,
# because Python compares the items of tuples by identity first.
Structure = tuple[jax.tree_util.PyTreeDef]
_structures: dict[jax.tree_util.PyTreeDef, Structure] = {}


def _flatten(state: OptimizerState) -> tuple[tuple[object, ...], Structure]:
    values = state.__dict__
    if "param_states" not in values:
        return (state.step, *values["_leaves"]), values["_structure"]
    structure = values.get("_structure")
    if structure is not None:
        # In place of leaves there may be trees or None, as in a specification of axes.
        # The structure is the same whether or not the tree has been read.
        with contextlib.suppress(ValueError, TypeError):
            leaves = structure[0].flatten_up_to(state.param_states)
            return (state.step, *leaves), structure
    leaves, treedef = jax.tree.flatten(state.param_states)
    return (state.step, *leaves), _structures.setdefault(treedef, (treedef,))


def _flatten_with_keys(
    state: OptimizerState,
) -> tuple[tuple[tuple[jax.tree_util.GetAttrKey, object], ...], Structure]:
    (step, *leaves), structure = _flatten(state)
    # Numbers are leaves and have paths, unlike values such as None.
    tree = structure[0].unflatten(range(len(leaves)))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(tree)]
    keys = [jax.tree_util.GetAttrKey(f"param_states{path}") for path in paths]
    named_leaves = zip(keys, leaves, strict=True)
    return ((jax.tree_util.GetAttrKey("step"), step), *named_leaves), structure


def _unflatten(structure: Structure, children: Iterable[object]) -> OptimizerState:
    state = object.__new__(OptimizerState)
    step, *leaves = children
    state.__dict__.update(step=step, _structure=structure, _leaves=leaves)
    return state


jax.tree_util.register_pytree_with_keys(
    OptimizerState, _flatten_with_keys, _unflatten, _flatten
)
_FIELDS = ("step", "param_states")
serialization.register_serialization_state(
    OptimizerState,
    partial(struct.fields_to_state, _FIELDS),
    partial(struct.fields_from_state, _FIELDS),
)
