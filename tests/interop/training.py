"""One training loop over Linen variables, which every bridge must be able to join."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import linsey.treex as tx
from linsey import serialization
from linsey.checkpoint import CheckpointStore

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (8, 3)) + 1
Y = jnp.sin(X.sum(axis=1, keepdims=True))
STEPS = 4
OPTIMIZER = optax.sgd(0.1, momentum=0.9)


def loss_of(outputs: jax.Array) -> jax.Array:
    return jnp.mean((outputs - Y) ** 2)


def descend(step: Any, *state: Any) -> tuple[list[float], Any]:
    """Repeats `step(*state) -> (loss, *state)`; returns the losses and the state."""
    losses = []
    for _ in range(STEPS):
        loss, *state = step(*state)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    return losses, state


def train(module: Any, variables: Any, **flags: bool) -> tuple[list[float], Any]:
    """Trains a Linen module with batch norm; returns the losses and the variables."""

    @jax.jit
    def step(variables: Any, opt_state: Any) -> Any:
        def loss_fn(params: Any) -> Any:
            outputs, updates = module.apply(
                {**variables, "params": params}, X, mutable=["batch_stats"], **flags
            )
            return loss_of(outputs), updates

        params = variables["params"]
        (loss, updates), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        steps, opt_state = OPTIMIZER.update(grads, opt_state)
        params = optax.apply_updates(params, steps)
        return loss, {**variables, **updates, "params": params}, opt_state

    opt_state = OPTIMIZER.init(variables["params"])
    losses, (variables, _) = descend(step, variables, opt_state)
    return losses, variables


def train_object(model: Any, *arguments: Any) -> tuple[list[float], Any]:
    """Trains an object of treex; returns the losses and the object."""

    @jax.jit
    def step(model: Any, optimizer: Any) -> Any:
        def loss_fn(params: Any, model: Any) -> Any:
            model = model.merge(params)
            return loss_of(model(X, *arguments)), model

        params = model.parameters()
        found = jax.value_and_grad(loss_fn, has_aux=True)(params, model)
        (loss, model), grads = found
        params = optimizer.update(grads, params)
        return loss, model.merge(params), optimizer

    optimizer = tx.Optimizer(OPTIMIZER).init(model.parameters())
    losses, (model, _) = descend(step, model, optimizer)
    return losses, model


def assert_close(a: Any, b: Any, rtol: float = 1e-5) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol, 1e-6), a, b)


def assert_equal(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_survives(variables: Any, folder: Path) -> None:
    """Saves variables in both ways and reads them back, as the same arrays."""
    template = jax.tree.map(jnp.zeros_like, variables)
    assert_equal(
        serialization.from_bytes(template, serialization.to_bytes(variables)), variables
    )
    store = CheckpointStore(folder)
    store.save(1, variables, metadata={})
    newest = store.newest()
    assert newest is not None
    assert_equal(newest.restore(template), variables)
