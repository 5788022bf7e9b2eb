"""What it costs that a model is an object: calls of compiled functions, and flattening.

Every model is a row of small dense layers, each with its static attributes; the
compiled function doubles all arrays and returns the model, so nearly all of the time
goes into taking the model apart and putting it together. The least that an object can
cost is what a class costs whose two functions do nothing but that. Run with
`python -m benchmarks.objects`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import harness

WIDTH = 4
DEPTHS = (50, 200, 1000)
DICT = "dictionaries"
OBJECT = "linsey treex"
LEAST = "the least"


def double(tree: Any) -> Any:
    """Do the arithmetic that everyone does."""
    return jax.tree.map(lambda x: 2 * x, tree)


def arrays() -> dict[str, jax.Array]:
    """Kernel and bias of a layer."""
    return {"kernel": jnp.ones((WIDTH, WIDTH)), "bias": jnp.zeros(WIDTH)}


def dictionaries(depth: int) -> list[Any]:
    """Prepare a dictionary for each layer."""
    return [arrays() for _ in range(depth)]


def treex(depth: int) -> Any:
    """Prepare layers of linsey in a `Sequential`."""
    import linsey.treex as tx

    model = tx.Sequential(*(tx.Linear(WIDTH) for _ in range(depth)))
    for layer in model.layers:
        vars(layer).update(arrays(), _initialized=True)
    vars(model)["_initialized"] = True
    return model


class Least:
    """A layer without static attributes, context or check, as JAX registers it."""

    def __init__(self, kernel: jax.Array, bias: jax.Array) -> None:
        self.kernel, self.bias = kernel, bias


jax.tree_util.register_pytree_node(
    Least,
    lambda layer: ((layer.kernel, layer.bias), None),
    lambda _, children: Least(*children),
)


def least(depth: int) -> Any:
    """Prepare a list of such layers."""
    return [Least(**arrays()) for _ in range(depth)]


def equinox(depth: int) -> Any:
    """Prepare layers of Equinox in a `Sequential`."""
    import equinox as eqx

    keys = jax.random.split(jax.random.key(0), depth)
    return eqx.nn.Sequential([eqx.nn.Linear(WIDTH, WIDTH, key=k) for k in keys])


def nnx(depth: int) -> Any:
    """Prepare layers of NNX in a list."""
    from flax import nnx as flax_nnx

    class Stack(flax_nnx.Module):
        def __init__(self, rngs):
            self.layers = flax_nnx.List(
                flax_nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(depth)
            )

    return Stack(flax_nnx.Rngs(0))


def stepping(step: Callable[[Any], Any], model: Any, calls: int) -> Callable:
    """Call a compiled function again and again on its own result."""
    model = step(model)

    def prepare():
        def call():
            current = model
            for _ in range(calls):
                current = step(current)
            jax.block_until_ready(jax.tree.leaves(current))

        return call

    return prepare


def nnx_stepping(depth: int, calls: int) -> Callable:
    """Do the same under `nnx.jit`, which updates the model in place."""
    from flax import nnx as flax_nnx

    model = nnx(depth)

    @flax_nnx.jit
    def step(model):
        flax_nnx.update(model, double(flax_nnx.state(model)))

    def prepare():
        def call():
            for _ in range(calls):
                step(model)
            jax.block_until_ready(jax.tree.leaves(flax_nnx.state(model)))

        return call

    return prepare


def equinox_filtered(depth: int, calls: int) -> Callable:
    """Do the same under `eqx.filter_jit`."""
    import equinox as eqx

    step = eqx.filter_jit(
        lambda model: jax.tree.map(lambda x: 2 * x if eqx.is_array(x) else x, model)
    )
    return stepping(step, equinox(depth), calls)


def flattening(model: Any, calls: int) -> Callable:
    """Flatten and unflatten a model again and again."""
    model = jax.tree.map(lambda leaf: leaf, model)  # as compiled functions return it

    def prepare():
        def call():
            for _ in range(calls):
                leaves, structure = jax.tree.flatten(model)
                jax.tree.unflatten(structure, leaves)

        return call

    return prepare


def dispatch_cases(depth: int, calls: int) -> list[harness.Case]:
    """Who calls compiled functions."""
    return harness.available(
        {
            DICT: lambda: stepping(jax.jit(double), dictionaries(depth), calls),
            OBJECT: lambda: stepping(jax.jit(double), treex(depth), calls),
            LEAST: lambda: stepping(jax.jit(double), least(depth), calls),
            "equinox, jax.jit": lambda: stepping(
                jax.jit(double), equinox(depth), calls
            ),
            "equinox, filter_jit": lambda: equinox_filtered(depth, calls),
            "nnx.jit": lambda: nnx_stepping(depth, calls),
        },
        calls=calls,
    )


def flatten_cases(depth: int, calls: int) -> list[harness.Case]:
    """Who is flattened."""
    return harness.available(
        {
            DICT: lambda: flattening(dictionaries(depth), calls),
            OBJECT: lambda: flattening(treex(depth), calls),
            LEAST: lambda: flattening(least(depth), calls),
            "equinox": lambda: flattening(equinox(depth), calls),
        },
        calls=calls,
    )


def run(rounds: int) -> list[harness.Row]:
    """Two tasks at three depths."""
    rows = []
    for depth in DEPTHS:
        calls = max(2, 2000 // depth)
        goals = {OBJECT: "<= 1.1"} if depth == 200 else {}
        rows += harness.measure(
            f"compiled call, {depth} layers",
            dispatch_cases(depth, calls),
            rounds,
            DICT,
            goals,
        )
        rows += harness.measure(
            f"flatten and unflatten, {depth} layers",
            flatten_cases(depth, calls),
            rounds,
            DICT,
        )
    return rows


if __name__ == "__main__":
    harness.main("objects", "models that are objects", run, rounds=30)
