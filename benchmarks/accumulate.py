"""Time and memory of gradients from microbatches, against the undivided batch.

The training loss of a classifier with batch normalization, in float32: a mlp of 6
hidden layers of 256 units with batch 2048, and, for images of 32 x 32, a cnn of 6
convolutions with batch 128 and a resnet of 15 with batch 64. Memory is the temporary
memory that XLA plans for the compiled program: all that it needs beside arguments and
results.

Run with `python -m benchmarks.accumulate`; with `NPROC=1` it runs in one thread and
counts processor time.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import harness
from linsey.app.config import ModelOptions
from linsey.app.models import make_model
from linsey.batch_stats import accumulate

SETTINGS: dict[str, tuple[int, int, int, tuple[int, int, int]]] = {
    "mlp": (64, 6, 2048, (8, 8, 3)),
    "cnn": (32, 3, 128, (32, 32, 3)),
    "resnet": (16, 3, 64, (32, 32, 3)),
}
PARTS = (1, 2, 4, 8)


def loss_and_arguments(name: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return the loss function of a model, and what it takes."""
    width, depth, examples, shape = SETTINGS[name]
    options = ModelOptions(model=name, width=width, depth=depth, dropout=0.0)
    model = make_model(options, shape, 10)
    x = jax.random.normal(jax.random.key(1), (examples, *shape))
    labels = jnp.arange(examples) % 10
    variables = model.init(jax.random.key(0), x[:2], False)

    def loss_fn(params: Any, batch_stats: Any, batch: Any) -> tuple[Any, Any]:
        x, labels = batch
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updates = model.apply(variables, x, True, mutable=["batch_stats"])
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
        return losses.mean(), updates["batch_stats"]

    return loss_fn, (variables["params"], variables["batch_stats"], (x, labels))


def measure(name: str, rounds: int) -> list[harness.Row]:
    """Time all ways to the gradient of one model, in turns that rotate."""
    loss_fn, args = loss_and_arguments(name)
    ways = {"undivided": jax.value_and_grad(loss_fn, has_aux=True)}
    ways |= {f"exact, k={k}": accumulate(loss_fn, k) for k in PARTS}
    ways |= {f"ghost, k={k}": accumulate(loss_fn, k, "ghost") for k in PARTS[1:]}
    programs = {way: jax.jit(f).lower(*args).compile() for way, f in ways.items()}
    times: dict[str, list[float]] = {way: [] for way in ways}
    order = list(ways)
    clock = time.process_time if os.environ.get("NPROC") == "1" else time.perf_counter
    for number in range(rounds + 1):
        turn = number % len(order)
        for way in order[turn:] + order[:turn]:
            start = clock()
            jax.block_until_ready(programs[way](*args))
            times[way].append(clock() - start)
    base = times["undivided"][1:]
    sizes = {
        way: program.memory_analysis().temp_size_in_bytes
        for way, program in programs.items()
    }
    whole = [sizes["undivided"]]
    return [
        harness.summarise(f"{name}, time", way, seconds, base)
        for way, (_, *seconds) in times.items()
    ] + [
        harness.summarise(f"{name}, memory", way, [sizes[way]], whole, unit="B")
        for way in ways
    ]


def main() -> None:
    """Run the command line: `--rounds N`, a table, a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    rounds = parser.parse_args().rounds
    rows = [row for name in SETTINGS for row in measure(name, rounds)]
    harness.print_table("accumulate: against the undivided batch", rows)
    path = harness.write_json("accumulate", rounds, rows)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
