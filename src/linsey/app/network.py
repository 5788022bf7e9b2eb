"""The models that a run trains, as pure functions of variables.

Variables are passed by collection: `params` is learned, and every other collection,
such as `batch_stats`, is state that a training call may change.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
from jax import numpy as jnp

from linsey import linen as nn
from linsey.batch_stats.calls import Call, Initializer
from linsey.batch_stats.objects import Variables
from linsey.batch_stats.subject import plain

Rngs = Mapping[str, jax.Array]
Interceptor = Callable[..., Any]


class Network(Protocol):
    """A model, ready to be trained."""

    def model_with(self, variables: Variables) -> object:
        """Return the model in the form that the tools of `linsey.batch_stats` take."""
        ...

    def init(self, key: jax.Array, example: jax.Array) -> Variables:
        """Make the variables.

        Args:
            key: a random key.
            example: (1, ...) float32, a batch of one.
        """
        ...

    def train(
        self, variables: Variables, x: jax.Array, rngs: Rngs
    ) -> tuple[jax.Array, Variables]:
        """Apply the model as in training.

        Args:
            variables: the variables by collection.
            x: (batch, ...) float32.
            rngs: keys of the random streams; there is one for `dropout`.

        Returns:
            Logits (batch, classes), and the collections that changed.
        """
        ...

    def evaluate(self, variables: Variables, x: jax.Array) -> jax.Array:
        """Apply the model as in evaluation, in which no variable changes.

        Args:
            variables: the variables by collection.
            x: (batch, ...) float32.

        Returns:
            Logits (batch, classes).
        """
        ...

    def intercept(
        self, interceptor: Interceptor
    ) -> contextlib.AbstractContextManager[None]:
        """Pass calls of Linen modules through a function, inside a `with` block."""
        ...


@dataclasses.dataclass(frozen=True)
class BuiltIn:
    """A model of linsey, called with a batch and a flag that is true in training."""

    module: nn.Module

    def model_with(self, variables: Variables) -> object:
        """Return the module."""
        return self.module

    def init(self, key: jax.Array, example: jax.Array) -> Variables:
        """Make the variables."""
        return jax.jit(self.module.init, static_argnums=2)(key, example, False)

    def train(
        self, variables: Variables, x: jax.Array, rngs: Rngs
    ) -> tuple[jax.Array, Variables]:
        """Apply the model as in training."""
        mutable = [name for name in variables if name != "params"]
        return self.module.apply(variables, x, True, rngs=rngs, mutable=mutable)

    def evaluate(self, variables: Variables, x: jax.Array) -> jax.Array:
        """Apply the model as in evaluation."""
        return self.module.apply(variables, x, False)

    def intercept(
        self, interceptor: Interceptor
    ) -> contextlib.AbstractContextManager[None]:
        """Pass calls of modules through a function."""
        return nn.intercept_methods(interceptor)


@dataclasses.dataclass(frozen=True, eq=False)
class Called:
    """A Linen module, of linsey or Flax, or a function, and how it is called.

    Networks of equal modules are equal, so that their steps share a compiled program.

    Attributes:
        call: how it is called, as was found out by trying.
        initializer: makes the variables from random streams and a batch.
    """

    call: Call
    initializer: Initializer | Callable[[Rngs, jax.Array], Variables]

    def model_with(self, variables: Variables) -> object:
        """Return the module or the function."""
        return self.call.model

    def init(self, key: jax.Array, example: jax.Array) -> Variables:
        """Make the variables that are kept."""
        rngs = {"params": key, "dropout": jax.random.fold_in(key, 1)}
        made = plain(jax.jit(self.initializer)(rngs, example))
        return {name: made[name] for name in ("params", *self.call.mutable)}

    def train(
        self, variables: Variables, x: jax.Array, rngs: Rngs
    ) -> tuple[jax.Array, Variables]:
        """Apply the model as in training."""
        # Streams other than `dropout` are drawn from `params`.
        rngs = {"params": jax.random.fold_in(rngs["dropout"], 1), **rngs}
        logits, changed = self.call.train(variables, x, rngs)
        return logits.astype(jnp.float32), like(variables, plain(changed))

    def evaluate(self, variables: Variables, x: jax.Array) -> jax.Array:
        """Apply the model as in evaluation."""
        return self.call.evaluate(variables, x).astype(jnp.float32)

    def intercept(
        self, interceptor: Interceptor
    ) -> contextlib.AbstractContextManager[None]:
        """Pass calls of modules through a function."""
        return self.call.intercept(interceptor)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Called) or hash(self) != hash(other):
            return False
        ours, theirs = self.call, other.call
        is_equal = ours.flags == theirs.flags and ours.model == theirs.model
        return is_equal if isinstance(is_equal, bool) else False

    def __hash__(self) -> int:
        return hash((type(self.call.model), self.call.mutable))


def like(variables: Variables, changed: Variables) -> dict[str, Any]:
    """Return changed collections in their old dtypes, which a step has to keep.

    Args:
        variables: the variables by collection, before the step.
        changed: some of the collections, after the step.
    """
    return {
        name: jax.tree.map(
            lambda new, old: jnp.asarray(new, old.dtype), tree, variables[name]
        )
        for name, tree in changed.items()
        if name in variables
    }
