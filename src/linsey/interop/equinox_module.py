"""Equinox modules as Linen modules."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax

import linsey.linen as nn
from linsey.interop.equinox_arrays import Blueprint, equinox


def from_equinox(
    make: Callable[[jax.Array], Any],
    *,
    collection: str = "batch_stats",
    axis_name: Hashable | None = "batch",
) -> EquinoxModule:
    """Return a Linen module that computes the same as an Equinox module.

    Args:
        make: a function of a random key that returns the module, or the module and its
            state as `eqx.nn.make_with_state` returns them.
        collection: the collection of the state.
        axis_name: Equinox modules take a single example, so they are mapped over the
            leading axis of each argument. This is the name of the mapped axis, and the
            `axis_name` of their batch norms. If `None`, the module is called with the
            arguments as they are.

    Raises:
        MissingPackageError: Equinox is not installed.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp
        >>> from linsey.interop import from_equinox
        >>> module = from_equinox(lambda key: eqx.nn.MLP(3, 2, 8, 1, key=key))
        >>> variables = module.init(jax.random.key(0), jnp.ones((5, 3)))
        >>> jax.tree.map(jnp.shape, variables["params"]["layers"]["1"])
        {'bias': (2,), 'weight': (2, 8)}
        >>> module.apply(variables, jnp.ones((5, 3))).shape
        (5, 2)
    """
    blueprint = Blueprint(make, collection)
    _ = blueprint.indices  # raises an error here if something is wrong with `make`
    return EquinoxModule(blueprint, axis_name)


class EquinoxModule(nn.Module):
    """An Equinox module with its arrays in collections; see `from_equinox`.

    Arrays are named by their paths in the module, and parts of the state by the path of
    their `StateIndex`. Arrays that have gradients are in `params`, others (integers,
    random keys) in `constants`.

    Attributes:
        blueprint: the function that makes the module, and the names of its arrays.
        axis_name: name of the axis over which the module is mapped.
    """

    blueprint: Blueprint
    axis_name: Hashable | None = "batch"

    def __call__(self, *args: Any, training: bool = False) -> Any:
        """Call the module.

        If it takes a `key`, it gets one from the stream `dropout`, a different one for
        each example.

        Args:
            *args: its arguments, in batches unless `axis_name` is `None`.
            training: whether to call the module in the mode in which it was made;
                otherwise it is called in inference mode. The state changes if this is
                True, or if its collection is mutable.

        Raises:
            MismatchError: a variable is missing or has another shape.
            ModifyScopeVariableError: in training, the collection of the state is
                immutable.
        """
        is_new = self.is_initializing() and not any(self.variables.values())
        if is_new:
            model, state = self.blueprint.build(self.make_rng("params"))
            self._store(self.split(model, state))
        else:
            model, state = self.merge(self.variables)
        if not training:
            model = equinox().nn.inference_mode(model)
        has_key = self.has_rng("dropout") or self.has_rng("params")
        key = self.make_rng("dropout") if has_key else None
        outputs, state = self._call(model, state, key, args)
        collection = self.blueprint.collection
        is_kept = training or self.is_mutable_collection(collection)
        if state is not None and is_kept and not self.is_initializing():
            stored = self.split(model, state)
            self._store({collection: stored.get(collection, {})})
        return outputs

    @nn.nowrap
    def split(self, model: Any, state: Any = None) -> dict[str, Any]:
        """Convert an Equinox module and its state to variables.

        Args:
            model: a module, as `make` returns it.
            state: its `eqx.nn.State`, if it has one.

        Returns:
            The variables of this Linen module, with the same arrays.
        """
        return self.blueprint.split(model, state)

    @nn.nowrap
    def merge(self, variables: Mapping[str, Any]) -> tuple[Any, Any]:
        """Convert variables to the module and its state: the inverse of `split`.

        Args:
            variables: the variables of this Linen module.

        Returns:
            The module, and its state (`None` if it has none).

        Raises:
            MismatchError: a variable is missing or has another shape.
        """
        return self.blueprint.merge(variables)

    @nn.nowrap
    def _call(
        self, model: Any, state: Any, key: jax.Array | None, args: tuple[Any, ...]
    ) -> tuple[Any, Any]:
        takes_key = "key" in inspect.signature(model).parameters

        def call(key: jax.Array | None, *args: Any) -> tuple[Any, Any]:
            options = {"key": key} if takes_key else {}
            if state is None:
                return model(*args, **options), None
            return model(*args, state, **options)

        if self.axis_name is None:
            return call(key, *args)
        size = jax.tree.leaves(args)[0].shape[0]
        keys = None if key is None else jax.random.split(key, size)
        # All examples share one state.
        mapped = jax.vmap(call, out_axes=(0, None), axis_name=self.axis_name)
        return mapped(keys, *args)

    @nn.nowrap
    def _store(self, variables: Mapping[str, Mapping[str, Any]]) -> None:
        for collection, values in variables.items():
            for name, value in values.items():
                self.put_variable(collection, name, value)
