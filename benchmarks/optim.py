"""What it costs to call a compiled update, by the object that holds the optimizer.

The parameters are those of 200 small dense layers and the step is one update with a
given gradient, so nearly all of the time goes into taking the object apart, starting
the program and putting the object together. `linsey.optim` keeps one small state for
each of the 400 leaves; a `TrainState` has the same numbers in a few large trees. Both
run the same transformation of optax. Run with `python -m benchmarks.optim`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import harness
from linsey import optim
from linsey.training.train_state import TrainState

LAYERS, WIDTH = 200, 4
CALLS = 10
TRAIN_STATE = "TrainState with optax"
OPTIMIZER = "linsey.optim"

DEFINITIONS: dict[str, Callable[[], optim.OptimizerDef]] = {
    "GradientDescent": lambda: optim.GradientDescent(1e-3),
    "Momentum": lambda: optim.Momentum(1e-3),
    "Adam": lambda: optim.Adam(1e-3),
}


def parameters() -> dict[str, dict[str, jax.Array]]:
    """Return kernels and biases of the layers, as Linen names them."""
    return {
        f"Dense_{i}": {"kernel": jnp.ones((WIDTH, WIDTH)), "bias": jnp.zeros(WIDTH)}
        for i in range(LAYERS)
    }


def repeated(step: Callable[[Any], Any], state: Any) -> Callable[[], Callable]:
    """Make CALLS updates in a round, each from the result of the one before."""

    def prepare():
        def call():
            current = state
            for _ in range(CALLS):
                current = step(current)
            jax.block_until_ready(jax.tree.leaves(current))

        return call

    return prepare


def train_state(definition: optim.OptimizerDef) -> Callable[[], Callable]:
    """Prepare a `TrainState` with the equivalent transformation."""
    state = TrainState.create(
        apply_fn=None, params=parameters(), tx=definition.to_optax()
    ).replace(step=jnp.zeros((), int))
    step = jax.jit(lambda state: state.apply_gradients(grads=state.params))
    return repeated(step, state)


def optimizer(definition: optim.OptimizerDef) -> Callable[[], Callable]:
    """Prepare an `Optimizer`."""
    step = jax.jit(lambda optimizer: optimizer.apply_gradient(optimizer.target))
    return repeated(step, definition.create(parameters()))


def run(rounds: int) -> list[harness.Row]:
    """Time a task for each definition by two rivals."""
    rows = []
    for name, make in DEFINITIONS.items():
        cases = [
            harness.Case(TRAIN_STATE, train_state(make()), CALLS),
            harness.Case(OPTIMIZER, optimizer(make()), CALLS),
        ]
        goals = {OPTIMIZER: "<= 1.1"}
        rows += harness.measure(name, cases, rounds, TRAIN_STATE, goals)
    return rows


if __name__ == "__main__":
    harness.main("optim", "calling a compiled update, 200 dense layers", run, rounds=40)
