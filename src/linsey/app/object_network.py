"""An object of `linsey.treex` as pure functions of variables.

Its parameters are `params`, its running statistics `batch_stats`, and the other arrays
in it, random keys and caches, are a collection of their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import numpy as jnp

from linsey import linen as nn
from linsey.app.network import Interceptor, Rngs, like
from linsey.batch_stats.objects import Variables, entry_name, variables_of

if TYPE_CHECKING:
    from linsey.treex import Module

OBJECT_STATE = "object_state"
"""The collection of arrays that are neither parameters nor running statistics."""


@dataclasses.dataclass(frozen=True, eq=False)
class ObjectNetwork:
    """An object whose arrays are kept outside of it.

    Attributes:
        given: the object passed by the user. It is not modified.
        structure: the structure of the initialized object.
        locations: collection and path of each leaf; `None` for Python numbers, which
            stay with the object.
        constants: these numbers, and `None` for arrays.
    """

    given: Module
    structure: jax.tree_util.PyTreeDef
    locations: tuple[tuple[str, ...] | None, ...]
    constants: tuple[object, ...]

    def model_with(self, variables: Variables) -> object:
        """Return an object that holds the variables."""
        leaves = [
            constant if place is None else _at(variables, place)
            for place, constant in zip(self.locations, self.constants, strict=True)
        ]
        return jax.tree.unflatten(self.structure, leaves)

    def init(self, key: jax.Array, example: jax.Array) -> Variables:
        """Make the variables."""
        make = functools.partial(_initialized, self.given)
        return jax.jit(lambda key, x: _variables(make(key, x)))(key, example)

    def train(
        self, variables: Variables, x: jax.Array, rngs: Rngs
    ) -> tuple[jax.Array, Variables]:
        """Apply the object as in training; it uses the random keys that it holds."""
        used = self._in_mode(variables, True)
        logits = used(x)
        after = _variables(used)
        changed = {name: after[name] for name in variables if name != "params"}
        return logits.astype(jnp.float32), like(variables, changed)

    def evaluate(self, variables: Variables, x: jax.Array) -> jax.Array:
        """Apply the object as in evaluation."""
        return self._in_mode(variables, False)(x).astype(jnp.float32)

    def outputs(self, variables: Variables, x: jax.Array) -> dict[str, Any]:
        """Return the outputs of the object in both modes, of whatever type."""
        modes = {"evaluation": False, "training": True}
        return {name: self._in_mode(variables, on)(x) for name, on in modes.items()}

    def intercept(
        self, interceptor: Interceptor
    ) -> contextlib.AbstractContextManager[None]:
        """Pass calls of the Linen modules behind its layers through a function."""
        return nn.intercept_methods(interceptor)

    def _in_mode(self, variables: Variables, train: bool) -> Any:
        used: Any = self.model_with(variables)
        return used.train(train)


def object_network(given: Module, example: jax.ShapeDtypeStruct) -> ObjectNetwork:
    """Make a network from an object.

    Args:
        given: an object; if it is initialized, it keeps the arrays that it has.
        example: a batch of examples.
    """
    made: list[Module] = []

    def init(key: jax.Array, x: jax.Array) -> Variables:
        made.append(_initialized(given, key, x))
        return _variables(made[0])

    jax.eval_shape(init, jax.random.key(0), example)
    placed = list(_placed(made[0]))
    structure = jax.tree.structure(made[0])
    locations = tuple(place for place, _ in placed)
    constants = tuple(leaf if place is None else None for place, leaf in placed)
    return ObjectNetwork(given, structure, locations, constants)


def _initialized(given: Module, key: jax.Array, x: jax.Array) -> Module:
    """Return the object with new arrays, made in evaluation mode to keep statistics."""
    fresh = given.train(False)
    # Keys as numbers, so that lists of a checkpoint can show them.
    return fresh.init(jax.random.key_data(key), x).train(True)


def _placed(made: Module) -> Iterator[tuple[tuple[str, ...] | None, Any]]:
    """List each leaf with its collection, `None` for Python numbers, and its path."""
    kinds = {
        tuple(map(entry_name, path[1:])): entry_name(path[0])
        for path, _ in jax.tree.leaves_with_path(variables_of(made))
    }
    for path, leaf in jax.tree.leaves_with_path(made):
        names = tuple(map(entry_name, path))
        is_array = isinstance(leaf, jax.Array | np.ndarray)
        yield (kinds.get(names, OBJECT_STATE), *names) if is_array else None, leaf


def _variables(made: Module) -> dict[str, Any]:
    variables: dict[str, Any] = {}
    for place, leaf in _placed(made):
        if place is not None:
            inner = variables
            for parent in place[:-1]:
                inner = inner.setdefault(parent, {})
            inner[place[-1]] = leaf
    return variables


def _at(variables: Variables, place: tuple[str, ...]) -> Any:
    inner: Any = variables
    for name in place:
        inner = inner[name]
    return inner
