"""Haiku functions as Linen modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

import linsey.linen as nn
from linsey.errors.base import MismatchError
from linsey.treex.nn.haiku_module import transformed


def from_haiku(
    function: Callable[..., Any] | tuple[Any, Any], *, collection: str = "batch_stats"
) -> HaikuModule:
    """Return a Linen module that computes the same as a Haiku function.

    Args:
        function: a function that uses Haiku modules, or the result of `haiku.transform`
            or `haiku.transform_with_state`.
        collection: the collection of the state.

    Raises:
        MissingPackageError: Haiku is not installed.

    Example:
        >>> import haiku as hk, jax, jax.numpy as jnp
        >>> from linsey.interop import from_haiku
        >>> module = from_haiku(lambda x: hk.nets.MLP([8, 2])(x))
        >>> variables = module.init(jax.random.key(0), jnp.ones((5, 3)))
        >>> jax.tree.map(jnp.shape, variables["params"]["mlp/~/linear_1"])
        {'b': (2,), 'w': (8, 2)}
        >>> module.apply(variables, jnp.ones((5, 3))).shape
        (5, 2)
    """
    return HaikuModule(transformed(function), collection)


class HaikuModule(nn.Module):
    """A Haiku function with its arrays in collections; see `from_haiku`.

    Parameters and state have two levels, as in Haiku: the path of a module as a single
    name, such as `mlp/~/linear_1`, and the arrays in it.

    Attributes:
        transformed: the pair of functions `init` and `apply`.
        collection: the collection of the state.
    """

    transformed: Any
    collection: str = "batch_stats"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function with a key from the stream `dropout`.

        The function itself updates the state, as only it knows whether it is training.

        Args:
            *args: arguments of the function.
            **kwargs: keyword arguments, such as `is_training`.

        Raises:
            MismatchError: a part of the state is missing in the variables.
            ModifyScopeVariableError: the function changed its state, but the collection
                is immutable.
        """
        found = self.variables
        if self.is_initializing() and not any(found.values()):
            params, state = self.transformed.init(
                self.make_rng("params"), *args, **kwargs
            )
            self._store("params", params)
            self._store(self.collection, state)
        else:
            params, state = found.get("params", {}), found.get(self.collection, {})
        has_key = self.has_rng("dropout") or self.has_rng("params")
        key = self.make_rng("dropout") if has_key else None
        outputs, after = self.transformed.apply(params, state, key, *args, **kwargs)
        if not self.is_initializing():
            self._refuse_new(after.keys() - state.keys())
            # If the function did not change the state, it returns the same arrays.
            if _identities(after) != _identities(state):
                self._store(self.collection, after)
        return outputs

    @nn.nowrap
    def _refuse_new(self, names: set[str]) -> None:
        """Raise an error for state missing in the variables; Haiku would create it."""
        if names:
            raise MismatchError(
                f"`{self.collection}/{min(names)}` is missing among the variables.",
                "The function of Haiku has a state of this name, and would start anew.",
                "Pass all variables, as `init` returned them.",
            )

    @nn.nowrap
    def _store(self, collection: str, values: Any) -> None:
        for name, value in values.items():
            self.put_variable(collection, name, dict(value))


def _identities(tree: Any) -> list[int]:
    return [id(leaf) for leaf in jax.tree.leaves(tree)]
