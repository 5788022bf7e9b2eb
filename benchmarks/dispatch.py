"""What it costs to call a compiled training step, by the object that holds the state.

The state is that of 100 small dense layers and Adam (602 arrays) and the step is one
update with a given gradient, so nearly all of the time goes into taking the state
apart, starting the program and putting the state together. Every rival runs the same
arithmetic. Run with `python -m benchmarks.dispatch`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks import harness

LAYERS, WIDTH = 100, 4
CALLS = 20
RAW = "raw dict"


def parameters() -> dict[str, dict[str, jax.Array]]:
    """Return kernels and biases of the layers, as Linen names them."""
    return {
        f"Dense_{i}": {"kernel": jnp.ones((WIDTH, WIDTH)), "bias": jnp.zeros(WIDTH)}
        for i in range(LAYERS)
    }


def optimizer() -> optax.GradientTransformation:
    """Return the same optimizer for everyone."""
    return optax.adam(1e-3)


def repeated(step: Callable[[Any], Any], state: Any) -> Callable[[], Callable]:
    """Make CALLS steps in a round, each from the state of the step before."""

    def prepare():
        def call():
            current = state
            for _ in range(CALLS):
                current = step(current)
            jax.block_until_ready(jax.tree.leaves(current))

        return call

    return prepare


def raw() -> Callable[[], Callable]:
    """Prepare a dictionary of dictionaries and `jax.jit`."""
    tx = optimizer()
    params = parameters()
    state = {"params": params, "opt_state": tx.init(params), "step": jnp.zeros((), int)}

    @jax.jit
    def step(state):
        grads = state["params"]
        updates, opt_state = tx.update(grads, state["opt_state"], state["params"])
        return {
            "params": optax.apply_updates(state["params"], updates),
            "opt_state": opt_state,
            "step": state["step"] + 1,
        }

    return repeated(step, state)


def train_state(package: str) -> Callable[[], Callable]:
    """Prepare the `TrainState` of linsey or Flax and `jax.jit`."""
    module = __import__(f"{package}.training.train_state", fromlist=["TrainState"])
    state = module.TrainState.create(
        apply_fn=None, params=parameters(), tx=optimizer()
    ).replace(step=jnp.zeros((), int))
    step = jax.jit(lambda state: state.apply_gradients(grads=state.params))
    return repeated(step, state)


def equinox() -> Callable[[], Callable]:
    """Prepare an Equinox module with its optimizer state and `filter_jit`."""
    import equinox as eqx

    class Dense(eqx.Module):
        kernel: jax.Array
        bias: jax.Array

    tx = optimizer()
    model = {name: Dense(**arrays) for name, arrays in parameters().items()}
    state = (model, tx.init(model), jnp.zeros((), int))

    @eqx.filter_jit
    def step(state):
        model, opt_state, count = state
        updates, opt_state = tx.update(model, opt_state, model)
        return eqx.apply_updates(model, updates), opt_state, count + 1

    return repeated(step, state)


def nnx() -> Callable[[], Callable]:
    """Prepare an NNX model and optimizer, updated in place under `nnx.jit`."""
    from flax import nnx

    class Stack(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List(
                nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(LAYERS)
            )

    model = Stack(nnx.Rngs(0))
    state = (model, nnx.Optimizer(model, optimizer(), wrt=nnx.Param))

    @nnx.jit
    def update(model, optimizer):
        optimizer.update(model, nnx.state(model, nnx.Param))

    def step(state):
        update(*state)
        return state

    def prepare():
        def call():
            for _ in range(CALLS):
                step(state)
            jax.block_until_ready(jax.tree.leaves(nnx.state(model)))

        return call

    return prepare


def run(rounds: int) -> list[harness.Row]:
    """Time the one task by all rivals."""
    cases = harness.available(
        {
            RAW: raw,
            "linsey TrainState": lambda: train_state("linsey"),
            "flax TrainState": lambda: train_state("flax"),
            "equinox filter_jit": equinox,
            "flax nnx.jit": nnx,
        },
        calls=CALLS,
    )
    goals = {"linsey TrainState": "<= 1.1"}
    return harness.measure("one compiled step", cases, rounds, RAW, goals)


if __name__ == "__main__":
    harness.main("dispatch", "calling a compiled training step", run, rounds=30)
