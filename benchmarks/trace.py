"""What tracing costs: the seconds from a Python model to its jaxpr, with no compiling.

One task goes on to the lowered module: equal blocks under `nn.jit` share one function.

Tracing is Python in one thread, so the clock is that thread's processor time.
Run with `python -m benchmarks.trace`.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from functools import partial

import jax

from benchmarks import harness
from benchmarks.models import Work

RAW = "raw JAX"


def find_work(rival: str, name: str, **options: int) -> Work:
    """Return a rival's version of a work; ImportError where it is not installed."""
    if rival in ("linsey", "flax"):
        nn = importlib.import_module(f"{rival}.linen")
        try:
            works = importlib.import_module("benchmarks.models.linen")
            return getattr(works, name)(nn, **options)
        except AttributeError as error:
            raise ImportError(f"{rival}.linen lacks {error.name}") from error
    file = importlib.import_module(
        "benchmarks.models." + ("raw" if rival == RAW else rival)
    )
    if not hasattr(file, name):
        raise ImportError(f"no {name} is written for it")
    return getattr(file, name)(**options)


def tracing(work: Work) -> Callable[[], Callable[[], object]]:
    """Trace, in each round, a function object that jax has not seen."""

    def prepare():
        jitted = jax.jit(work.fresh())
        return lambda: jitted.trace(*work.arguments)

    return prepare


def shape_evaluation(work: Work) -> Callable[[], Callable[[], object]]:
    """Evaluate, in each round, the shapes of a function object new to jax."""

    def prepare():
        function = work.fresh()
        return lambda: jax.eval_shape(function, *work.arguments)

    return prepare


def lowering(work: Work) -> Callable[[], Callable[[], object]]:
    """Trace and lower, in each round, a model of which jax has seen no part."""

    def prepare():
        jax.clear_caches()
        jitted = jax.jit(work.fresh())
        return lambda: jitted.lower(*work.arguments)

    return prepare


TASKS = (
    ("apply, 200 Dense", "dense_apply", tracing, "<= 1.1"),
    ("24 residual blocks, training", "residual_forward", tracing, "<= 0.7"),
    ("gradient of these", "residual_grad", tracing, "<= 0.4"),
    ("eval_shape(init), 200 Dense", "dense_init", shape_evaluation, "<= 1.0"),
    ("24-layer transformer", "transformer", tracing, "<= 1.25"),
    ("the same by scan", "transformer_scan", tracing, "<= 1.3"),
    ("lower 12 blocks under nn.jit", "compiled_blocks", lowering, "<= 1"),
)
SIZES = (50, 200, 2000)  # layers: what one costs does not grow with their number
RIVALS = (RAW, "linsey", "flax", "haiku", "equinox")


def prepare(
    kind: Callable, rival: str, name: str, **options: int
) -> Callable[[], Callable]:
    """Return `prepare` of one case; ImportError where the rival is missing."""
    return kind(find_work(rival, name, **options))


def run(rounds: int) -> list[harness.Row]:
    """Time all tasks by all rivals."""
    rows = []
    for task, name, kind, goal in TASKS:
        cases = harness.available(
            {rival: partial(prepare, kind, rival, name) for rival in RIVALS}
        )
        baseline = "flax" if kind is lowering else RAW
        rows += harness.measure(
            task, cases, rounds, baseline, {"linsey": goal}, clock=time.thread_time
        )
    return rows + sizes(rounds)


def sizes(rounds: int) -> list[harness.Row]:
    """Return what one layer costs among few and many, in raw JAX and in linsey."""
    rows = []
    for rival in (RAW, "linsey"):
        cases = [
            harness.Case(
                f"{rival}, {layers} layers",
                prepare(tracing, rival, "dense_apply", layers=layers),
                calls=layers,
            )
            for layers in SIZES
        ]
        task, baseline = "a Dense among", cases[0].rival
        rows += harness.measure(task, cases, rounds, baseline, clock=time.thread_time)
    return rows


if __name__ == "__main__":
    harness.main("trace", "time to trace a model", run, rounds=15)
